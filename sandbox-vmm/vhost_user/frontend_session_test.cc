// Our front-end and our back-end: what passes between them besides requests.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "vhost_user/testing/frontend_rig.h"
#include "virtio/memory_feed.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;
using testing::Peer;
using virtio::testing::FakeDriver;
using virtio::testing::GuestRam;

using FrontendSessionTest = testing::FrontendRig;

TEST_F(FrontendSessionTest, ConfigurationIsTheBackEndsAndItsChangesAreTold) {
  Peer peer({.offer_config = true});
  FrontendOptions options = Options();
  options.backend_config = 8;
  options.config = {std::byte{1}, std::byte{2}};
  options.config_offset = 6;
  Create(peer, options);
  std::array<std::byte, 12> config{};
  device_->ReadConfig(0, config);
  EXPECT_EQ(config[5], std::byte{7});
  EXPECT_EQ(config[6], std::byte{1});
  EXPECT_EQ(config[8], std::byte{0});
  ASSERT_TRUE(Start());
  peer.state->config[0] = std::byte{9};
  peer.state->resources[0].interrupt->SignalConfig();
  for (int i = 0; i < 500 && interrupt_->config_signals() == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(interrupt_->config_signals(), 1U);
  device_->ReadConfig(0, config);
  EXPECT_EQ(config[0], std::byte{9});
  EXPECT_EQ(config[7], std::byte{2});
  const std::array<std::byte, 2> written{std::byte{3}, std::byte{4}};
  device_->WriteConfig(1, written);
  device_->WriteConfig(7, written);  // past the end: ignored
  device_->ReadConfig(0, config);
  EXPECT_EQ(config[1], std::byte{3});
  EXPECT_EQ(config[2], std::byte{4});
  EXPECT_EQ(peer.state->config[7], std::byte{7});
}

struct Mapped {
  uint8_t id;
  uint64_t offset;
  uint64_t length;
  bool writable;
};

class RecordingWindow final : public SharedMemoryWindow {
 public:
  Result<> Map(uint8_t id, uint64_t offset, uint64_t length, UniqueFd fd, uint64_t fd_offset,
               bool writable) override {
    EXPECT_TRUE(fd.valid());
    EXPECT_EQ(fd_offset, 0x5000U);
    const std::lock_guard lock(mu_);
    mapped_.push_back({id, offset, length, writable});
    return {};
  }

  Result<> Unmap(uint8_t /*id*/, uint64_t offset, uint64_t /*length*/) override {
    const std::lock_guard lock(mu_);
    std::erase_if(mapped_, [&](const Mapped& m) { return m.offset == offset; });
    return {};
  }

  std::vector<Mapped> mapped() const {
    const std::lock_guard lock(mu_);
    return mapped_;
  }

 private:
  mutable std::mutex mu_;
  std::vector<Mapped> mapped_;
};

TEST_F(FrontendSessionTest, SharedMemoryIsMappedWhileTheDriverWaits) {
  const auto window = std::make_shared<RecordingWindow>();
  Peer peer({}, 0, {{.id = 0, .length = 1 << 20}});
  FrontendOptions options = Options();
  options.window = window;
  Create(peer, options);
  ASSERT_EQ(device_->traits().shared_memory.size(), 1U);
  EXPECT_EQ(device_->traits().shared_memory[0].length, 1U << 20);
  ASSERT_TRUE(Start());
  const UniqueFd file = *MakeMemfd("file", 1 << 16);
  ASSERT_TRUE(peer.requests->MapShared(0, 0x2000, file, 0x5000, 0x1000, true));
  ASSERT_TRUE(peer.requests->MapShared(0, 0x8000, file, 0x5000, 0x2000, false));
  EXPECT_EQ(peer.requests->MapShared(0, 0x9000, file, 0x5000, 0x1000, false).error().code(),
            Code::kInternal);
  ASSERT_EQ(window->mapped().size(), 2U);
  EXPECT_TRUE(window->mapped()[0].writable);
  EXPECT_FALSE(window->mapped()[1].writable);
  ASSERT_TRUE(peer.requests->UnmapShared(0, 0x2000, 0x1000));
  EXPECT_EQ(window->mapped().size(), 1U);
  // What a back-end that is gone has shown is taken away.
  peer.Kill();
  EXPECT_TRUE(WaitLost(1));
  EXPECT_TRUE(window->mapped().empty());
}

TEST_F(FrontendSessionTest, DirtyPagesAreLoggedWhileWeAsk) {
  Peer peer;
  Create(peer, Options());
  ASSERT_TRUE(Start());
  const UniqueFd file = *MakeMemfd("log", 4096);
  const Mapping log = *Mapping::Create(4096, PROT_READ | PROT_WRITE, MAP_SHARED, file);
  const auto dirty = [&](mem::Gpa address) {
    const uint64_t page = mem::Raw(address) / 4096;
    return (std::to_integer<unsigned>(log.data()[page / 8]) >> (page % 8) & 1U) != 0;
  };
  const auto write = [&] {
    const uint16_t head = Submit();
    Serve(peer);
    return driver_->WritableAddress(head);
  };
  EXPECT_FALSE(dirty(write()));
  ASSERT_TRUE(device_->StartLog(file, 4096));
  EXPECT_TRUE(dirty(write()));
  EXPECT_TRUE(dirty(driver_->config().device_area));
  ASSERT_TRUE(device_->StopLog());
  std::fill_n(log.data(), 4096, std::byte{0});
  EXPECT_FALSE(dirty(write()));
  EXPECT_FALSE(dirty(driver_->config().device_area));
}

TEST_F(FrontendSessionTest, PackedIndicesPassBothWays) {
  Peer peer({}, virtio::kRingPacked);
  peer.state->open_rings = false;
  FrontendOptions options = Options();
  options.features |= virtio::kRingPacked;
  Create(peer, options);
  ASSERT_TRUE(Start(0, kFeatures | virtio::kRingPacked));
  EXPECT_EQ(peer.state->resumed.value_or(virtio::QueueState{}).next_available, 0x8000U);
  EXPECT_EQ(peer.state->resumed.value_or(virtio::QueueState{}).next_used, 0x8000U);
  peer.state->stopped = {0x0009, 0x8007};
  const auto left = device_->StopQueue(0).value_or(virtio::QueueState{});
  EXPECT_EQ(left.next_available, 0x0009U);
  EXPECT_EQ(left.next_used, 0x8007U);
  ASSERT_TRUE(Start(0, kFeatures | virtio::kRingPacked, left));
  EXPECT_EQ(peer.state->resumed.value_or(virtio::QueueState{}).next_used, 0x8007U);
  // Where a lost one was, nobody knows but by where it began.
  peer.Kill();
  EXPECT_EQ(device_->StopQueue(0).value_or(virtio::QueueState{}).next_used, 0x8007U);
}

TEST_F(FrontendSessionTest, StatusAndResetReachTheDevice) {
  Peer peer({.offer_status = true});
  Create(peer, Options());
  ASSERT_TRUE(Start());
  EXPECT_TRUE(device_->StopQueue(0).has_value());
  device_->Reset();
  EXPECT_GT(peer.state->resets, 0);
  ASSERT_TRUE(Start());
  const uint16_t head = Submit();
  EXPECT_EQ(Serve(peer), head);
}

TEST_F(FrontendSessionTest, RingThatTheDriverBrokeNeedsReset) {
  Peer peer;
  Create(peer, Options());
  ASSERT_TRUE(Start());
  EXPECT_EQ(needs_reset_, 0);
  peer.BreakDevice();
  for (int i = 0; i < 500 && needs_reset_ == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(needs_reset_, 1);
  EXPECT_FALSE(device_->lost());
}

TEST_F(FrontendSessionTest, RingThatWasBrokenBeforeAResetDoesNotBreakTheNextOne) {
  Peer peer;
  Create(peer, Options());
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(Start());
    peer.BreakDevice();
    device_->StopQueue(0);
    device_->Reset();
    const int before = needs_reset_;
    ASSERT_TRUE(Start());
    std::this_thread::sleep_for(milliseconds(2));
    ASSERT_EQ(needs_reset_, before);
    device_->StopQueue(0);
    device_->Reset();
  }
}

TEST_F(FrontendSessionTest, QueueWithoutAKickIsPolled) {
  Peer peer({.poll_interval = milliseconds(1)});
  Create(peer, Options());
  virtio::QueueResources resources;
  resources.memory = ram_.memory();
  resources.config = driver_->config();
  resources.interrupt = interrupt_;
  ASSERT_TRUE(device_->StartQueue(0, std::move(resources), kFeatures, std::nullopt));
  EXPECT_TRUE(peer.state->resources[0].kick.valid());
}

// More regions than a table has: they go as slots, and only what changed goes again.
TEST_F(FrontendSessionTest, ManyRegionsGoAsSlots) {
  std::vector<std::pair<mem::Gpa, uint64_t>> regions;
  for (uint64_t i = 0; i < 10; ++i) {
    regions.emplace_back(mem::Gpa{GuestRam::kBase + i * (1 << 20)}, 1 << 16);
  }
  GuestRam many(regions);
  FakeDriver driver(many, 64);
  Peer peer;
  Create(peer, Options());
  const auto start = [&](uint16_t index, std::shared_ptr<const mem::GuestMemory> memory) {
    virtio::QueueResources resources;
    resources.memory = std::move(memory);
    resources.config = driver.config();
    resources.kick = kick_.fd();
    resources.interrupt = interrupt_;
    return device_->StartQueue(index, std::move(resources), kFeatures, std::nullopt);
  };
  ASSERT_TRUE(start(0, many.memory()));
  EXPECT_EQ(peer.state->resources[0].memory->regions().size(), 10U);
  mem::RegionSpec more;
  more.start = mem::Gpa{uint64_t{1} << 32};
  more.size = 1 << 16;
  more.fd = *MakeMemfd("more", more.size);
  auto larger = many.memory()->WithRegion(std::move(more));
  ASSERT_TRUE(larger.has_value());
  ASSERT_TRUE(start(1, *larger));
  EXPECT_EQ(peer.state->resources[1].memory->regions().size(), 11U);
  // The ring that runs sees it, too, and is not stopped for it.
  EXPECT_EQ(peer.state->resources[0].config.feed->memory(), peer.state->resources[1].memory);
  EXPECT_TRUE(peer.state->running[0]);
  EXPECT_EQ(peer.state->starts, 2);
}

TEST_F(FrontendSessionTest, BlockDeviceShowsTheBackEndsDiskAndOurQueues) {
  Peer peer({.offer_config = true}, uint64_t{1} << 12 | uint64_t{1} << 9);
  auto device = Frontend::CreateBlk(std::move(peer.front_end), 2, 64, {});
  ASSERT_TRUE(device.has_value()) << device.error().message();
  EXPECT_EQ((*device)->traits().device_id, virtio::kDeviceBlock);
  EXPECT_EQ((*device)->traits().config_length, 60U);
  EXPECT_EQ((*device)->traits().features,
            virtio::kRingFeatures | uint64_t{1} << 12 | uint64_t{1} << 9);
  std::array<std::byte, 60> config{};
  (*device)->ReadConfig(0, config);
  EXPECT_EQ(config[0], std::byte{7});
  EXPECT_EQ(config[34], std::byte{2});
  EXPECT_EQ(config[35], std::byte{0});
  Peer silent;
  EXPECT_EQ(Frontend::CreateBlk(std::move(silent.front_end), 1, 64, {}).error().code(),
            Code::kFailedPrecondition);
}

TEST_F(FrontendSessionTest, VsockKeepsItsEventsToItself) {
  Peer peer({.offer_config = true}, 1);
  auto device = Frontend::CreateVsock(std::move(peer.front_end), 64, {});
  ASSERT_TRUE(device.has_value()) << device.error().message();
  device_ = *std::move(device);
  EXPECT_EQ(device_->traits().queue_sizes.size(), 3U);
  EXPECT_EQ(device_->traits().config_length, 8U);
  ASSERT_TRUE(Start(2, virtio::kVersion1, virtio::QueueState{4, 4}));
  EXPECT_FALSE(peer.state->running[0]);
  const auto left = device_->StopQueue(2).value_or(virtio::QueueState{});
  EXPECT_EQ(left.next_available, 4U);
  ASSERT_TRUE(Start(1));
  EXPECT_TRUE(peer.state->running[1]);
}

}  // namespace
}  // namespace wyvern::vhost_user
