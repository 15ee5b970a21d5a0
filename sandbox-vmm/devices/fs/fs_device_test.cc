#include "fs/fs_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <thread>

#include "fs/testing/fs_test_base.h"
#include "fs/testing/fuse_guest.h"

namespace wyvern::fs {
namespace {

using testing::FuseGuest;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;

virtio::QueueResources ResourcesOf(const GuestRam& ram, const FakeDriver& driver,
                                   const EventFd& kick,
                                   std::shared_ptr<virtio::Interrupt> interrupt) {
  virtio::QueueResources resources;
  resources.memory = ram.memory();
  resources.config = driver.config();
  resources.kick = kick.fd();
  resources.interrupt = std::move(interrupt);
  return resources;
}

class FsDeviceTest : public testing::FsTest {
 protected:
  std::unique_ptr<FsDevice> Make(uint16_t queues, unsigned threads) {
    FsDeviceOptions options;
    options.tag = "share";
    options.request_queues = queues;
    options.threads = threads;
    auto device = FsDevice::Create(*server_, options);
    EXPECT_TRUE(device.has_value());
    return *std::move(device);
  }
};

TEST_F(FsDeviceTest, BadOptionsAreRefused) {
  for (const FsDeviceOptions& options :
       {FsDeviceOptions{std::string(37, 't'), 1, 1}, FsDeviceOptions{"t", 0, 1},
        FsDeviceOptions{"t", 65, 1}, FsDeviceOptions{"t", 1, 0}, FsDeviceOptions{"t", 1, 65}}) {
    EXPECT_EQ(FsDevice::Create(*server_, options).error().code(), Code::kInvalidArgument);
  }
}

TEST_F(FsDeviceTest, ConfigurationHasTagAndQueues) {
  const auto device = Make(3, 1);
  std::array<std::byte, 64> config{};
  device->ReadConfig(0, config);
  EXPECT_EQ(std::memcmp(config.data(), "share\0", 6), 0);
  EXPECT_EQ(config[36], std::byte{3});
  device->ReadConfig(~0U, config);
  EXPECT_EQ(config, (std::array<std::byte, 64>{}));
  EXPECT_EQ(device->traits().queue_sizes.size(), 4U);
}

TEST_F(FsDeviceTest, ServesOverRings) {
  Put("hello", "from the host");
  const auto device = Make(1, 2);
  FuseGuest guest;
  ASSERT_TRUE(guest.Start(*device).has_value());
  ASSERT_TRUE(guest.Init());
  EXPECT_EQ(guest.ReadFile("hello"), "from the host");
  ASSERT_TRUE(device->StopQueue(0).has_value());
  EXPECT_EQ(device->StopQueue(1).value_or(virtio::QueueState{}).next_used, 4U);
  EXPECT_FALSE(device->StopQueue(1).has_value());
  EXPECT_FALSE(device->StopQueue(77).has_value());
}

TEST_F(FsDeviceTest, ChainOutsideMemoryNeedsAReset) {
  const auto device = Make(1, 2);
  std::atomic<int> faults{0};
  device->set_fault_callback([&] { ++faults; });
  GuestRam ram;
  FakeDriver driver(ram, 8);
  const auto kick = EventFd::Create();
  auto resources = ResourcesOf(ram, driver, *kick, std::make_shared<FakeInterrupt>());
  ASSERT_TRUE(device->StartQueue(1, std::move(resources), virtio::kVersion1, {}).has_value());
  driver.Build().ReadableAt(mem::Gpa{~uint64_t{0} - 100}, 4096).Submit();
  kick->Signal();
  for (int i = 0; i < 500 && faults == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(faults, 1);
  EXPECT_TRUE(device->StopQueue(1).has_value());
}

// A report after the stop would break the device that the driver has reset meanwhile.
TEST_F(FsDeviceTest, QueueThatBreaksIsReportedBeforeItsStopReturns) {
  const auto device = Make(1, 2);
  std::latch reporting(1);
  std::latch go_on(1);
  device->set_fault_callback([&] {
    reporting.count_down();
    go_on.wait();
  });
  GuestRam ram;
  FakeDriver driver(ram, 8, 0);
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick.has_value());
  ASSERT_TRUE(device->StartQueue(
      1, ResourcesOf(ram, driver, *kick, std::make_shared<FakeInterrupt>()), 0, std::nullopt));
  driver.WriteDescriptor(0, {1ULL << 60, 16, 0, 0});
  driver.MakeAvailable(0);
  kick->Signal();
  reporting.wait();
  auto stop = std::async(std::launch::async, [&] { return device->StopQueue(1).has_value(); });
  EXPECT_EQ(stop.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  go_on.count_down();
  EXPECT_TRUE(stop.get());
}

TEST_F(FsDeviceTest, RequestsThatAreNoneAreGivenBackEmpty) {
  const auto device = Make(1, 1);
  auto interrupt = std::make_shared<FakeInterrupt>();
  GuestRam ram;
  FakeDriver driver(ram, 8);
  const auto kick = EventFd::Create();
  auto resources = ResourcesOf(ram, driver, *kick, interrupt);
  ASSERT_TRUE(device->StartQueue(1, std::move(resources), virtio::kVersion1, {}).has_value());
  driver.Build().Writable(64).Submit();
  kick->Signal();
  ASSERT_TRUE(interrupt->WaitQueue(1, 0));
  EXPECT_EQ(driver.TakeUsed().value_or(virtio::testing::Used{.written = 1}).written, 0U);
}

// Whose signal takes until the test lets it go.
class SlowInterrupt final : public virtio::Interrupt {
 public:
  void SignalQueue(uint16_t /*index*/) override {
    entered.count_down();
    leave.wait();
    left = true;
  }

  void SignalConfig() override {}

  FdRef QueueCallFd(uint16_t /*index*/) override { return FdRef(-1); }

  std::latch entered{1};
  std::latch leave{1};
  std::atomic<bool> left{false};
};

TEST_F(FsDeviceTest, NoSignalComesAfterStop) {
  const auto device = Make(1, 1);
  auto interrupt = std::make_shared<SlowInterrupt>();
  GuestRam ram;
  FakeDriver driver(ram, 8, virtio::kRingEventIdx);
  const auto kick = EventFd::Create();
  auto resources = ResourcesOf(ram, driver, *kick, interrupt);
  ASSERT_TRUE(device->StartQueue(1, std::move(resources), virtio::kRingEventIdx, {}).has_value());
  driver.Build().Writable(64).Submit();
  EXPECT_TRUE(driver.ShouldNotify());
  kick->Signal();
  interrupt->entered.wait();
  // Who signals looks at the ring again, so it asks for no kick meanwhile.
  driver.Build().Writable(64).Submit();
  EXPECT_FALSE(driver.ShouldNotify());
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    interrupt->leave.count_down();
  });
  EXPECT_EQ(device->StopQueue(1).value_or(virtio::QueueState{}).next_used, 1U);
  EXPECT_TRUE(interrupt->left);
  later.join();
}

// Every answer brings the next request, so the queue is never seen empty.
class EndlessRequests final : public virtio::Interrupt {
 public:
  EndlessRequests(GuestRam& ram, FakeDriver& driver, const std::string& request)
      : driver_(driver),
        request_(ram.Put(request)),
        length_(static_cast<uint32_t>(request.size())),
        reply_(ram.Allocate(kRoom)) {}

  void Submit() {
    driver_.Build().ReadableAt(request_, length_).WritableAt(reply_, kRoom).Submit();
  }

  void SignalQueue(uint16_t /*index*/) override {
    while (driver_.TakeUsed()) {
      Submit();
    }
    ++answered;
  }

  void SignalConfig() override {}

  FdRef QueueCallFd(uint16_t /*index*/) override { return FdRef(-1); }

  std::atomic<int> answered{0};

 private:
  static constexpr uint32_t kRoom = 256;

  FakeDriver& driver_;  // the device's thread uses it once the queue runs
  const mem::Gpa request_;
  const uint32_t length_;
  const mem::Gpa reply_;
};

TEST_F(FsDeviceTest, EndlessRequestsLeaveTheHiprioQueueItsTurn) {
  // VIRTIO §5.11.6.2.1
  Put("file", "");
  const auto device = Make(1, 1);
  GuestRam ram;
  fuse_in_header header{};
  header.len = sizeof(header) + sizeof(fuse_getattr_in);
  header.opcode = FUSE_GETATTR;
  header.nodeid = FUSE_ROOT_ID;
  FakeDriver requests(ram, 8);
  auto endless = std::make_shared<EndlessRequests>(
      ram, requests, FuseGuest::Bytes(header) + FuseGuest::Bytes(fuse_getattr_in{}));
  endless->Submit();
  const auto kick = EventFd::Create();
  ASSERT_TRUE(device->StartQueue(1, ResourcesOf(ram, requests, *kick, endless), virtio::kVersion1,
                                 std::nullopt));
  for (int i = 0; i < 500 && endless->answered == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(endless->answered, 0);

  header.len = sizeof(header) + sizeof(fuse_forget_in);
  header.opcode = FUSE_FORGET;
  header.nodeid = client_->Lookup(FUSE_ROOT_ID, "file");
  FakeDriver hiprio(ram, 8);
  hiprio.Build()
      .Readable(FuseGuest::Bytes(header) + FuseGuest::Bytes(fuse_forget_in{.nlookup = 1}))
      .Submit();
  auto interrupt = std::make_shared<FakeInterrupt>();
  const auto hiprio_kick = EventFd::Create();
  ASSERT_TRUE(device->StartQueue(0, ResourcesOf(ram, hiprio, *hiprio_kick, interrupt),
                                 virtio::kVersion1, std::nullopt));
  EXPECT_TRUE(interrupt->WaitQueue(0, 0));
  EXPECT_TRUE(hiprio.TakeUsed());
  EXPECT_TRUE(device->StopQueue(0).has_value());
  EXPECT_TRUE(device->StopQueue(1).has_value());
}

// Many requests at once from several queues: each is answered once, and stopping waits for what is
// under way.
TEST_F(FsDeviceTest, QueuesInParallelLoseNothing) {
  constexpr uint16_t kQueues = 4;
  constexpr int kRounds = 200;
  constexpr int kBatch = 8;
  Put("data", std::string(4096, 'x'));
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "data");
  const uint64_t fh = client_->Open(node, O_RDONLY);
  const auto device = Make(kQueues, 4);
  const auto drive = [&](uint16_t index) {
    auto interrupt = std::make_shared<FakeInterrupt>();
    GuestRam ram(4 << 20);
    FakeDriver driver(ram, 32, virtio::kRingEventIdx);
    const auto kick = EventFd::Create();
    auto resources = ResourcesOf(ram, driver, *kick, interrupt);
    ASSERT_TRUE(
        device->StartQueue(index, std::move(resources), virtio::kRingEventIdx, {}).has_value());
    fuse_in_header header{};
    header.len = sizeof(header) + sizeof(fuse_read_in);
    header.opcode = FUSE_READ;
    header.nodeid = node;
    fuse_read_in in{};
    in.fh = fh;
    in.size = 512;
    const std::string request = FuseGuest::Bytes(header) + FuseGuest::Bytes(in);
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t mark = ram.Mark();
      driver.SetUsedEvent(static_cast<uint16_t>((round + 1) * kBatch - 1));
      for (int i = 0; i < kBatch; ++i) {
        driver.Build().Readable(request).Writable(16 + 512).Submit();
      }
      if (driver.ShouldNotify()) {
        kick->Signal();
      }
      // An interrupt may come early, but none may be missing after the last.
      for (int taken = 0; taken < kBatch;) {
        const uint64_t seen = interrupt->queue_signals(index);
        if (const auto used = driver.TakeUsed(); used.has_value()) {
          ASSERT_EQ(used->written, 16U + 512);
          ++taken;
          continue;
        }
        ASSERT_TRUE(interrupt->WaitQueue(index, seen)) << "round " << round;
      }
      ram.Release(mark);
    }
    EXPECT_EQ(device->StopQueue(index)->next_used, uint16_t{kRounds * kBatch});
  };

  std::vector<std::thread> drivers;
  for (uint16_t i = 1; i <= kQueues; ++i) {
    drivers.emplace_back(drive, i);
  }
  for (auto& thread : drivers) {
    thread.join();
  }
}

}  // namespace
}  // namespace wyvern::fs
