// The client against the VMM's own service, with a machine that only remembers what it was told.
#include "hypervisor/vmm_client.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "api/virtual_machine.h"
#include "api/vmm_server.h"
#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class RecordingMachine : public api::VirtualMachine {
 public:
  Result<> Create(api::MachineSpec spec) override {
    created = std::move(spec);
    return {};
  }

  Result<api::AttachedDevice> Attach(const std::string& id, api::DeviceSpec spec,
                                     std::chrono::milliseconds /*patience*/) override {
    attached.emplace_back(id, spec.index());
    if (const auto* blk = std::get_if<api::BlkSpec>(&spec); blk != nullptr) {
      serial = blk->serial;
      read_only = blk->read_only;
    }
    if (auto* net_spec = std::get_if<api::NetSpec>(&spec); net_spec != nullptr) {
      net = std::move(*net_spec);
    }
    if (const auto* wanted = std::get_if<api::BalloonSpec>(&spec); wanted != nullptr) {
      balloon = *wanted;
    }
    return api::AttachedDevice{.pci_address = "0000:00:01.0", .node = ""};
  }

  Result<> Detach(const api::DetachOptions& /*options*/) override { return {}; }

  Result<api::ResizedVcpus> ResizeVcpus(uint32_t vcpus,
                                        std::chrono::milliseconds patience_given) override {
    patience = patience_given;
    if (vcpus > 8) {
      return Fail(Code::kInvalidArgument, "9 vCPUs: must be 1 to 8");
    }
    return api::ResizedVcpus{vcpus - 1, "CPU 3 is \x1b[1mbusy"};
  }

  Result<api::ResizedMemory> ResizeMemory(uint64_t bytes,
                                          std::chrono::milliseconds patience_given) override {
    patience = patience_given;
    std::this_thread::sleep_for(delay);
    return api::ResizedMemory{bytes, bytes, ""};
  }

  Result<api::MachineSize> Size() override {
    return api::MachineSize{96U << 20U, {{0, 7}, {1, 8}}};
  }

  void EndWaits() override {}

  Result<> Boot() override {
    for (api::MachineEvent& event : news) {
      listener(std::move(event));
    }
    listener({api::EventKind::kGuestPanic, "at once"});
    return {};
  }

  Result<> ConnectVsock(uint32_t port, UniqueFd socket) override {
    if (port != 100) {
      return Fail(Code::kUnavailable, "refused");
    }
    return WriteAll(socket, std::string_view("hello"));
  }

  Result<> ResizeDisk(const std::string& /*id*/) override { return {}; }

  Result<> Pause() override { return {}; }

  Result<> Resume() override { return {}; }

  api::MachineMetrics Metrics() override { return metrics; }

  void SetEventListener(std::function<void(api::MachineEvent)> new_listener) override {
    listener = std::move(new_listener);
  }

  api::MachineSpec created;
  api::MachineMetrics metrics;
  std::vector<api::MachineEvent> news;  // comes with Boot
  std::vector<std::pair<std::string, size_t>> attached;
  std::string serial;  // of the last disk
  bool read_only = false;
  api::BalloonSpec balloon;              // the last one
  api::NetSpec net;                      // the last one
  std::chrono::milliseconds patience{};  // of the last resize
  std::chrono::milliseconds delay{};
  std::function<void(api::MachineEvent)> listener = [](const api::MachineEvent&) {};
};

class VmmClientTest : public testing::Test {
 protected:
  void SetUp() override {
    SocketPair grpc = *MakeSocketPair(SOCK_STREAM);
    SocketPair donation = *MakeSocketPair(SOCK_SEQPACKET);
    server_ = std::thread([this, a = grpc.second.Release(), b = donation.second.Release()] {
      static_cast<void>(api::ServeVmm({UniqueFd(a), UniqueFd(b), "test"}, machine_));
    });
    client_ = std::make_unique<VmmClient>(std::move(grpc.first), std::move(donation.first),
                                          std::chrono::seconds(10));
    null_ = *Open("/dev/null", O_RDONLY);
  }

  void TearDown() override {
    client_.reset();
    if (server_.joinable()) {
      server_.join();
    }
  }

  Result<> Create(uint32_t vcpus) {
    CreateVm vm;
    vm.vcpus = vcpus;
    vm.memory_bytes = 64U << 20U;
    vm.kvm = null_;
    vm.kernel = null_;
    vm.cmdline = "quiet";
    vm.ram_pages = RamPages::k2MiB;
    return client_->Create(vm);
  }

  RecordingMachine machine_;
  std::thread server_;
  std::unique_ptr<VmmClient> client_;
  UniqueFd null_;
};

TEST_F(VmmClientTest, ErrorsKeepTheirCode) {
  auto created = Create(99);
  ASSERT_FALSE(created.has_value());
  EXPECT_EQ(created.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(created.error().message(), HasSubstr("vcpus"));
}

TEST_F(VmmClientTest, MachineAndDevicesArrive) {
  ASSERT_TRUE(Create(2).has_value());
  EXPECT_EQ(machine_.created.vcpus, 2U);
  EXPECT_TRUE(machine_.created.shared_memory);
  EXPECT_EQ(machine_.created.ram_pages, api::RamPages::k2MiB);
  EXPECT_TRUE(machine_.created.kernel.valid());
  EXPECT_FALSE(machine_.created.initrd.valid());
  SocketPair vhost = *MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(client_->AttachPmem("root", null_).has_value());
  ASSERT_TRUE(client_->AttachRng("rng").has_value());
  ASSERT_TRUE(client_->AttachVsock("vsock", 3).has_value());
  ASSERT_TRUE(client_->AttachFs("share", vhost.first, "wyvern", 1).has_value());
  EXPECT_EQ(machine_.attached, (std::vector<std::pair<std::string, size_t>>{
                                   {"root", 0}, {"rng", 1}, {"vsock", 2}, {"share", 4}}));
}

TEST_F(VmmClientTest, BalloonDeflatesForTheGuestAndReportsIfAsked) {
  ASSERT_TRUE(Create(1).has_value());
  for (const bool reporting : {true, false}) {
    ASSERT_TRUE(client_->AttachBalloon("balloon", reporting).has_value());
    EXPECT_TRUE(machine_.balloon.deflate_on_oom);
    EXPECT_EQ(machine_.balloon.page_reporting, reporting);
  }
}

TEST_F(VmmClientTest, DisksSerialIsItsId) {
  ASSERT_TRUE(Create(1).has_value());
  ASSERT_TRUE(client_->AttachBlk("c0-root", null_, /*read_only=*/true).has_value());
  EXPECT_EQ(machine_.attached.back().first, "c0-root");
  EXPECT_EQ(machine_.serial, "c0-root");
  EXPECT_TRUE(machine_.read_only);
}

TEST_F(VmmClientTest, InterfaceHasAllQueuesOfItsTap) {
  ASSERT_TRUE(Create(1).has_value());
  std::vector<UniqueFd> taps;
  taps.push_back(*Open("/dev/null", O_RDWR));
  taps.push_back(*Open("/dev/null", O_RDWR));
  const std::array<uint8_t, 6> mac = {2, 0, 0, 0, 0, 7};
  ASSERT_TRUE(client_
                  ->AttachNet("net-eth0", taps,
                              {.mac = mac, .mtu = 1450, .receive_rate = 3, .transmit_rate = 4})
                  .has_value());
  EXPECT_EQ(machine_.attached.back().first, "net-eth0");
  EXPECT_EQ(machine_.net.taps.size(), 2U);
  EXPECT_EQ(machine_.net.mac, mac);
  EXPECT_EQ(machine_.net.mtu, 1450);
  EXPECT_EQ(machine_.net.receive_rate, 3U);
  EXPECT_EQ(machine_.net.transmit_rate, 4U);
}

TEST_F(VmmClientTest, MachineIsMadeWithWhatItMayGrowTo) {
  CreateVm vm;
  vm.vcpus = 2;
  vm.max_vcpus = 16;
  vm.memory_bytes = 64U << 20U;
  vm.hotplug_memory_bytes = 128U << 20U;
  vm.kvm = null_;
  vm.kernel = null_;
  ASSERT_TRUE(client_->Create(vm).has_value());
  EXPECT_EQ(machine_.created.max_vcpus, 16U);
  EXPECT_EQ(machine_.created.hotplug_memory_bytes, 128U << 20U);
  ASSERT_TRUE(client_->AttachMem("mem").has_value());
  EXPECT_EQ(machine_.attached.back(), (std::pair<std::string, size_t>{"mem", 7}));
}

TEST_F(VmmClientTest, ResizeTellsHowFarItCameAndWhyInPlainText) {
  const auto vcpus = client_->ResizeVcpus(4, std::chrono::milliseconds(1234));
  ASSERT_TRUE(vcpus.has_value());
  EXPECT_EQ(machine_.patience, std::chrono::milliseconds(1234));
  EXPECT_EQ(vcpus->vcpus, 3U);
  EXPECT_EQ(vcpus->why, "CPU 3 is ?[1mbusy");
  const auto memory = client_->ResizeMemory(128U << 20U, std::chrono::milliseconds(0));
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(machine_.patience, std::chrono::milliseconds(1)) << "0 would be the VMM's own limit";
  EXPECT_EQ(memory->bytes, 128U << 20U);
  EXPECT_EQ(memory->why, "");
  ASSERT_TRUE(client_->ResizeMemory(128U << 20U, std::chrono::hours(9000)).has_value());
  EXPECT_EQ(machine_.patience, std::chrono::minutes(10)) << "the VMM takes no more";
  const auto refused = client_->ResizeVcpus(9, std::chrono::seconds(1));
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message(), HasSubstr("must be 1 to 8"));
  const auto size = client_->Size();
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->memory_bytes, 96U << 20U);
  ASSERT_EQ(size->vcpus.size(), 2U);
  EXPECT_EQ(size->vcpus[1].thread, 8);
}

TEST_F(VmmClientTest, VmmHasTimeToAnswerBeyondThatOfTheGuest) {
  machine_.delay = std::chrono::milliseconds(300);
  EXPECT_TRUE(client_->ResizeMemory(128U << 20U, std::chrono::milliseconds(100)).has_value());
}

TEST_F(VmmClientTest, StreamsAreThoseOfTheSocketGiven) {
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  EXPECT_EQ(client_->ConnectVsock(7, pair.second).error().code(), Code::kUnavailable);
  ASSERT_TRUE(client_->ConnectVsock(100, pair.second).has_value());
  std::byte buffer[5];
  ASSERT_TRUE(ReadExact(pair.first, buffer).has_value());
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(buffer), 5), "hello");
}

TEST_F(VmmClientTest, EventsArriveAndStop) {
  std::mutex mu;
  std::condition_variable changed;
  std::vector<MachineEvent> events;
  std::thread reader([&] {
    client_->WatchEvents([&](const MachineEvent& event) {
      const std::lock_guard lock(mu);
      events.push_back(event);
      changed.notify_all();
    });
  });
  ASSERT_TRUE(client_->Boot().has_value());
  {
    std::unique_lock lock(mu);
    EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(10), [&] { return !events.empty(); }));
    EXPECT_EQ(events.at(0).kind, MachineEvent::Kind::kGuestPanic);
    EXPECT_THAT(events.at(0).text, HasSubstr("at once"));
  }
  client_->StopEvents();
  reader.join();
}

TEST_F(VmmClientTest, CountersOfDevicesAreApartFromThoseOfTheMachine) {
  machine_.metrics = {.counters = {{"exits.halt", 7}, {"pmem.dropped_writes", 1}},
                      .devices = {{"pmem", "pmem", {{"flushes", 2}}}},
                      .vcpus = {{0, {{"halt", 7}}}}};
  const auto usage = client_->Metrics(std::chrono::seconds(10));
  ASSERT_TRUE(usage.has_value()) << usage.error().message();
  EXPECT_EQ(usage->counters, (observe::Counters{{"exits.halt", 7}, {"pmem.dropped_writes", 1}}));
  ASSERT_EQ(usage->devices.size(), 1U);
  EXPECT_EQ(usage->devices[0].kind, "pmem");
  EXPECT_EQ(usage->devices[0].counters, (observe::Counters{{"flushes", 2}}));
  ASSERT_EQ(usage->vcpus.size(), 1U);
  EXPECT_EQ(usage->vcpus[0].exits, (observe::Counters{{"halt", 7}}));
}

TEST_F(VmmClientTest, NewsIsToldApartFromAnEnd) {
  machine_.news = {{api::EventKind::kResized, "2 vCPUs"},
                   {api::EventKind::kHotplugFailed, "attach disk: no"}};
  ASSERT_TRUE(client_->Boot().has_value());
  std::vector<MachineEvent> events;
  client_->WatchEvents([&](const MachineEvent& event) {
    events.push_back(event);
    if (events.size() == 2) {
      client_->StopEvents();
    }
  });
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].kind, MachineEvent::Kind::kResized);
  EXPECT_EQ(events[0].text, "2 vCPUs");
  EXPECT_TRUE(events[0].IsNews());
  EXPECT_EQ(events[1].kind, MachineEvent::Kind::kHotplugFailed);
}

TEST_F(VmmClientTest, VmmThatIsGoneIsUnavailable) {
  ASSERT_TRUE(client_->Shutdown(std::chrono::seconds(5)).has_value());
  server_.join();  // it answers before it ends
  EXPECT_FALSE(client_->AttachRng("rng").has_value());
}

}  // namespace
}  // namespace wyvern::runtime
