#include "hotplug/device_set.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <random>
#include <thread>

#include "base/unix_socket.h"
#include "upcall/testing/fake_agent.h"
#include "virtio/testing/fake_device.h"

namespace wyvern::hotplug {
namespace {

using namespace std::chrono_literals;
using agent::v1::DeviceIdentity;
using agent::v1::PciRemoveRequest;
using agent::v1::PciRemoveResponse;
using agent::v1::PciRescanRequest;
using agent::v1::PciRescanResponse;

// A device that holds a descriptor, as all do that are made of donated ones.
class HoldingDevice final : public virtio::testing::FakeDevice {
 public:
  explicit HoldingDevice(UniqueFd fd) : fd_(std::move(fd)) {}

  std::vector<virtio::CounterValue> counters() const override { return {{"requests", 7}}; }

 private:
  UniqueFd fd_;
};

class FakeBus final : public Bus {
 public:
  Result<std::string> Add(std::unique_ptr<virtio::VirtioDevice> device,
                          std::shared_ptr<mem::FileWindow> /*window*/) override {
    const std::lock_guard lock(mu_);
    for (int slot = 1; slot < 32; ++slot) {
      const std::string address = fmt::format("0000:00:{:02x}.0", slot);
      if (!devices_.contains(address)) {
        devices_[address] = std::move(device);
        return address;
      }
    }
    return Fail(Code::kResourceExhausted, "the bus is full");
  }

  Result<> Remove(const std::string& address) override {
    const std::lock_guard lock(mu_);
    if (stuck) {
      return Fail(Code::kInternal, "stuck");
    }
    return devices_.erase(address) == 1 ? Result<>() : Fail(Code::kNotFound, address);
  }

  Result<> Abandon(const std::string& address) override {
    const std::lock_guard lock(mu_);
    if (stuck) {
      return Fail(Code::kInternal, "stuck");
    }
    devices_.at(address).reset();
    return {};
  }

  // Without what is abandoned.
  size_t size() const {
    const std::lock_guard lock(mu_);
    return static_cast<size_t>(
        std::ranges::count_if(devices_, [](const auto& entry) { return entry.second != nullptr; }));
  }

  bool stuck = false;

 private:
  mutable std::mutex mu_;
  std::map<std::string, std::unique_ptr<virtio::VirtioDevice>> devices_;
};

DeviceIdentity Disk(const std::string& serial) {
  DeviceIdentity identity;
  identity.mutable_blk()->set_serial(serial);
  return identity;
}

Time In(std::chrono::milliseconds time) {
  return Clock::now() + time;
}

class DeviceSetTest : public testing::Test {
 protected:
  DeviceSetTest() { BeGood(); }

  void BeGood() {
    agent_.On<PciRescanRequest, PciRescanResponse>(
        "PciRescan", [this](const auto& request, const auto& answer) {
          Note("+" + request.address());
          PciRescanResponse response;
          response.set_pci_address(request.address());
          response.set_node("vd-" + request.identity().blk().serial());
          answer.Ok(response);
        });
    agent_.On<PciRemoveRequest, PciRemoveResponse>(
        "PciRemove", [this](const auto& request, const auto& answer) {
          Note("-" + request.address() + (request.force() ? "!" : ""));
          answer.Ok({});
        });
  }

  template <typename Req, typename Resp>
  void Fails(const char* method, Code code) {
    agent_.On<Req, Resp>(
        method, [code](const auto&, const auto& answer) { answer.Fail(Error(code, "no")); });
  }

  template <typename Req, typename Resp>
  void Stalls(const char* method) {
    agent_.On<Req, Resp>(method, [](const auto&, const auto& answer) {
      static std::vector<ttrpc::Responder<Resp>> kept;  // one thread: the loop's
      kept.push_back(answer);
    });
  }

  void Note(std::string what) {
    const std::lock_guard lock(mu_);
    told_.push_back(std::move(what));
  }

  std::vector<std::string> Told() {
    const std::lock_guard lock(mu_);
    return std::exchange(told_, {});
  }

  // A device with our other end of its descriptor, which is at its end when the device is gone.
  DeviceSet::Make Maker() {
    return [this]() -> Result<NewDevice> {
      SocketPair pair = *MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
      {
        const std::lock_guard lock(mu_);
        ends_.push_back(std::move(pair.first));
      }
      return NewDevice{.device = std::make_unique<HoldingDevice>(std::move(pair.second))};
    };
  }

  // How many devices hold their descriptor.
  size_t Held() {
    const std::lock_guard lock(mu_);
    size_t held = 0;
    for (const UniqueFd& end : ends_) {
      char byte = 0;
      held += read(end.get(), &byte, 1) < 0 ? 1 : 0;
    }
    return held;
  }

  Result<Attached> Attach(const std::string& id, std::chrono::milliseconds time = 10s) {
    return set_.Attach(id, Disk(id), Maker(), In(time));
  }

  Result<Detached> Detach(const std::string& id, bool force = false,
                          std::chrono::milliseconds time = 10s) {
    return set_.Detach(id, force, In(time));
  }

  void Boot() {
    ASSERT_TRUE(set_.Boot([] { return Result<>(); }).has_value());
  }

  std::mutex mu_;
  std::vector<std::string> told_;
  std::vector<UniqueFd> ends_;
  upcall::FakeAgent agent_;
  FakeBus bus_;
  upcall::Session upcall_{{.open = agent_.channel()}};
  DeviceSet set_{bus_, upcall_};
};

TEST_F(DeviceSetTest, BeforeBootNobodyIsTold) {
  const auto attached = Attach("a");
  ASSERT_TRUE(attached.has_value()) << attached.error().message();
  EXPECT_EQ(attached->pci_address, "0000:00:01.0");
  ASSERT_TRUE(Attach("b").has_value());
  EXPECT_FALSE(Detach("a")->surprise);
  EXPECT_EQ(agent_.opened(), 0);
  EXPECT_EQ(bus_.size(), 1U);
  EXPECT_EQ(Held(), 1U);
}

TEST_F(DeviceSetTest, AttachedDeviceHasTheNodeThatTheGuestGaveIt) {
  Boot();
  const auto attached = Attach("a");
  ASSERT_TRUE(attached.has_value()) << attached.error().message();
  EXPECT_EQ(attached->node, "vd-a");
  EXPECT_FALSE(Detach("a")->surprise);
  EXPECT_EQ(Told(), (std::vector<std::string>{"+0000:00:01.0", "-0000:00:01.0"}));
  EXPECT_EQ(bus_.size(), 0U);
  EXPECT_EQ(Held(), 0U);
}

TEST_F(DeviceSetTest, IdsAreUniqueAndKnown) {
  Boot();
  ASSERT_TRUE(Attach("a").has_value());
  EXPECT_EQ(Attach("a").error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Detach("b").error().code(), Code::kNotFound);
  EXPECT_EQ(bus_.size(), 1U);
}

TEST_F(DeviceSetTest, DeviceThatTheGuestDoesNotFindIsTakenBack) {
  Boot();
  for (const Code code : {Code::kNotFound, Code::kUnimplemented, Code::kUnavailable}) {
    Fails<PciRescanRequest, PciRescanResponse>("PciRescan", code);
    const auto attached = Attach("a");
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), code);
    EXPECT_EQ(attached.error().message(), "device a: PciRescan: the guest's agent: no");
    EXPECT_EQ(Told(), (std::vector<std::string>{"-0000:00:01.0!"}));
    EXPECT_EQ(bus_.size(), 0U);
    EXPECT_EQ(Held(), 0U);
  }
  BeGood();
  EXPECT_EQ(Attach("a")->address, "0000:00:01.0");
  EXPECT_EQ(set_.counters().at("hotplug.rolled_back"), 3U);
}

TEST_F(DeviceSetTest, GuestThatLiesAboutThePlaceIsNotBelieved) {
  Boot();
  agent_.On<PciRescanRequest, PciRescanResponse>("PciRescan", [](const auto&, const auto& answer) {
    PciRescanResponse response;
    response.set_pci_address("0000:00:1f.0");
    answer.Ok(response);
  });
  EXPECT_EQ(Attach("a").error().code(), Code::kDataLoss);
  EXPECT_EQ(bus_.size(), 0U);
  EXPECT_EQ(Held(), 0U);
}

// No device comes where the guest still sees another.
TEST_F(DeviceSetTest, AddressThatASilentGuestWasNotToldIsSettledFirst) {
  Boot();
  Stalls<PciRescanRequest, PciRescanResponse>("PciRescan");
  Stalls<PciRemoveRequest, PciRemoveResponse>("PciRemove");
  EXPECT_EQ(Attach("a", 200ms).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(bus_.size(), 0U);
  EXPECT_EQ(Held(), 0U);
  EXPECT_EQ(set_.counters().at("hotplug.unsettled_addresses"), 1U);
  // Still silent: nothing is put anywhere, and the maker is not asked.
  const auto again = Attach("b", 200ms);
  EXPECT_EQ(again.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(again.error().message().find("first let go of the device that was at 0000:00:01.0"),
            std::string::npos)
      << again.error().message();
  EXPECT_EQ(ends_.size(), 1U);
  Told();
  BeGood();
  ASSERT_TRUE(Attach("b").has_value());
  EXPECT_EQ(Told(), (std::vector<std::string>{"-0000:00:01.0!", "+0000:00:01.0"}));
  EXPECT_EQ(set_.counters().at("hotplug.unsettled_addresses"), 0U);
}

TEST_F(DeviceSetTest, MakerAndBusThatFailLeaveNothing) {
  Boot();
  const auto made = set_.Attach(
      "a", Disk("a"), []() -> Result<NewDevice> { return Fail(Code::kInvalidArgument, "bad"); },
      In(10s));
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  for (int i = 0; i < 31; ++i) {
    ASSERT_TRUE(Attach("d" + std::to_string(i)).has_value());
  }
  EXPECT_EQ(Attach("a").error().code(), Code::kResourceExhausted);
  EXPECT_EQ(Held(), 31U);
  ASSERT_TRUE(Detach("d7").has_value());
  EXPECT_EQ(Attach("a")->address, "0000:00:08.0");
}

TEST_F(DeviceSetTest, DeviceInUseStaysUnlessForced) {
  Boot();
  ASSERT_TRUE(Attach("a").has_value());
  agent_.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [](const auto& request, const auto& answer) {
        if (request.force()) {
          answer.Ok({});
        } else {
          answer.Fail(Error(Code::kFailedPrecondition, "mounted at /data"));
        }
      });
  const auto detached = Detach("a");
  EXPECT_EQ(detached.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(bus_.size(), 1U);
  EXPECT_EQ(Held(), 1U);
  const auto forced = Detach("a", true);
  ASSERT_TRUE(forced.has_value());
  EXPECT_FALSE(forced->surprise);
  EXPECT_EQ(Held(), 0U);
}

TEST_F(DeviceSetTest, SilentGuestKeepsADeviceUnlessForced) {
  Boot();
  ASSERT_TRUE(Attach("a").has_value());
  Told();
  Stalls<PciRemoveRequest, PciRemoveResponse>("PciRemove");
  EXPECT_EQ(Detach("a", false, 200ms).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Held(), 1U);
  EXPECT_EQ(Told(), (std::vector<std::string>{"+0000:00:01.0"}));  // it may have let go
  const auto forced = Detach("a", true, 200ms);
  ASSERT_TRUE(forced.has_value()) << forced.error().message();
  EXPECT_TRUE(forced->surprise);
  EXPECT_EQ(Held(), 0U);
  EXPECT_EQ(bus_.size(), 0U);
  BeGood();
  ASSERT_TRUE(Attach("b").has_value());
  EXPECT_EQ(Told(), (std::vector<std::string>{"-0000:00:01.0!", "+0000:00:01.0"}));
}

TEST_F(DeviceSetTest, DeviceThatTheBusKeepsIsInTheList) {
  Boot();
  ASSERT_TRUE(Attach("a").has_value());
  bus_.stuck = true;
  EXPECT_EQ(Detach("a").error().code(), Code::kInternal);
  EXPECT_EQ(set_.Count(DeviceIdentity::kBlk), 1U);
  bus_.stuck = false;
  EXPECT_TRUE(Detach("a").has_value());
  EXPECT_EQ(Held(), 0U);
}

TEST_F(DeviceSetTest, AttachThatWaitsForTheGuestHoldsNobodyUp) {
  Boot();
  std::promise<ttrpc::Responder<PciRescanResponse>> kept;
  bool first = true;
  agent_.On<PciRescanRequest, PciRescanResponse>("PciRescan",
                                                 [&](const auto& request, const auto& answer) {
                                                   if (std::exchange(first, false)) {
                                                     kept.set_value(answer);
                                                     return;
                                                   }
                                                   PciRescanResponse response;
                                                   response.set_pci_address(request.address());
                                                   answer.Ok(response);
                                                 });
  auto slow = std::async(std::launch::async, [&] { return Attach("slow", 60s); });
  const auto answer = kept.get_future().get();
  EXPECT_TRUE(Attach("quick").has_value());
  EXPECT_TRUE(Detach("quick").has_value());
  size_t seen = 0;
  set_.ForEach([&](const std::string& id, virtio::VirtioDevice& device) {
    EXPECT_EQ(id, "slow");
    seen += device.counters().at(0).value;
  });
  EXPECT_EQ(seen, 7U);
  // Not for use yet, and not to be detached before that is decided.
  EXPECT_EQ(set_.WithUsable([](const auto& identity) { return identity.has_blk(); },
                            [](auto&) { return Result<>(); })
                .error()
                .code(),
            Code::kNotFound);
  EXPECT_EQ(Detach("slow", true, 50ms).error().code(), Code::kDeadlineExceeded);
  auto later = std::async(std::launch::async, [&] { return Detach("slow", false, 60s); });
  PciRescanResponse response;
  response.set_pci_address("0000:00:01.0");
  answer.Ok(response);
  EXPECT_TRUE(slow.get().has_value());
  EXPECT_TRUE(later.get().has_value());
  EXPECT_EQ(Held(), 0U);
}

TEST_F(DeviceSetTest, CloseOfTheUpcallEndsWhatWaitsAndRollsItBack) {
  Boot();
  std::promise<void> arrived;
  std::vector<ttrpc::Responder<PciRescanResponse>> kept;
  agent_.On<PciRescanRequest, PciRescanResponse>("PciRescan", [&](const auto&, const auto& answer) {
    kept.push_back(answer);
    arrived.set_value();
  });
  auto attach = std::async(std::launch::async, [&] { return Attach("a", 60s); });
  arrived.get_future().get();
  upcall_.Close();
  EXPECT_EQ(attach.get().error().code(), Code::kUnavailable);
  EXPECT_EQ(bus_.size(), 0U);
  EXPECT_EQ(Held(), 0U);
  agent_.CutAll();
  kept.clear();
}

TEST_F(DeviceSetTest, DeviceThatCarriesTheUpcallIsNotUsedWhileItGoes) {
  DeviceIdentity vsock;
  vsock.mutable_vsock()->set_guest_cid(3);
  ASSERT_TRUE(set_.Attach("v", vsock, Maker(), In(10s)).has_value());
  Boot();
  ASSERT_TRUE(Attach("a").has_value());
  bool usable = true;
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove", [&](const auto&, const auto& answer) {
    usable = set_.WithUsable([](const auto& identity) { return identity.has_vsock(); },
                             [](auto&) { return Result<>(); })
                 .has_value();
    answer.Ok({});
  });
  ASSERT_TRUE(Detach("v").has_value());
  EXPECT_FALSE(usable);
  EXPECT_EQ(agent_.opened(), 2);  // another stream
}

// Whatever the guest does: the list is what is on the bus, and only what is on the bus holds descriptors.
TEST_F(DeviceSetTest, RandomChangesUnderFaultsLeaveListAndBusInAgreement) {
  Boot();
  std::atomic<uint32_t> dice = 1;
  const auto roll = [&dice] {
    uint32_t seen = dice;
    seen = seen * 1664525U + 1013904223U;
    dice = seen;
    return seen >> 24U;
  };
  agent_.On<PciRescanRequest, PciRescanResponse>(
      "PciRescan", [&](const auto& request, const auto& answer) {
        PciRescanResponse response;
        response.set_pci_address(roll() % 5 == 0 ? "nonsense" : request.address());
        if (roll() % 6 == 0) {
          agent_.CutSoon();
        } else if (roll() % 6 == 0) {
          answer.Fail(Error(Code::kUnavailable, "no driver"));
        } else {
          answer.Ok(response);
        }
      });
  agent_.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [&](const auto& request, const auto& answer) {
        if (roll() % 6 == 0) {
          agent_.CutSoon();
        } else if (!request.force() && roll() % 3 == 0) {
          answer.Fail(Error(Code::kFailedPrecondition, "in use"));
        } else {
          answer.Ok({});
        }
      });
  std::vector<std::future<void>> workers;
  for (unsigned worker = 0; worker < 4; ++worker) {
    workers.push_back(std::async(std::launch::async, [this, worker] {
      std::minstd_rand random(worker + 1);
      for (int i = 0; i < 50; ++i) {
        const std::string id = "d" + std::to_string(random() % 6);
        if (random() % 2 == 0) {
          (void)Attach(id, 2s);
        } else {
          (void)Detach(id, random() % 2 == 0, 2s);
        }
      }
    }));
  }
  for (auto& worker : workers) {
    worker.get();
  }
  size_t listed = 0;
  set_.ForEach([&](const auto&, auto&) { ++listed; });
  EXPECT_EQ(listed, bus_.size());
  EXPECT_EQ(Held(), listed);
  EXPECT_EQ(set_.Count(DeviceIdentity::kBlk), listed);
  BeGood();
  for (int i = 0; i < 6; ++i) {
    (void)Detach("d" + std::to_string(i));
  }
  EXPECT_EQ(bus_.size(), 0U);
  EXPECT_EQ(Held(), 0U);
}

}  // namespace
}  // namespace wyvern::hotplug
