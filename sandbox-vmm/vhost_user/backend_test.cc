#include "vhost_user/backend.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unix_socket.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;

// Records what the back-end makes of the messages.
class RecordingDevice final : public virtio::VirtioDevice {
 public:
  struct State {
    std::vector<bool> running = {false, false};
    std::vector<virtio::QueueResources> resources{2};
    std::optional<virtio::QueueState> resumed;
    uint16_t next_available = 0;
    int resets = 0;
  };

  explicit RecordingDevice(std::shared_ptr<State> state) : state_(std::move(state)) {
    traits_.device_id = virtio::kDeviceFs;
    traits_.features = virtio::kRingFeatures;
    traits_.queue_sizes = {256, 256};
    traits_.config_length = 8;
    traits_.name = "recording";
  }

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t /*offset*/, std::span<std::byte> out) override {
    std::fill(out.begin(), out.end(), std::byte{7});
  }

  void WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t /*features*/,
                      std::optional<virtio::QueueState> resume) override {
    state_->running[index] = true;
    state_->resources[index] = std::move(resources);
    state_->resumed = resume;
    return {};
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    state_->running[index] = false;
    state_->resources[index] = {};
    return virtio::QueueState{state_->next_available, 3};
  }

  void Reset() override { ++state_->resets; }

 private:
  std::shared_ptr<State> state_;
  virtio::DeviceTraits traits_;
};

class BackendTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kUser = 0x7f0000000000;
  static constexpr uint64_t kGuest = 0x100000;
  static constexpr uint64_t kSize = 0x100000;

  void SetUp() override {
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair.has_value());
    peer_ = std::make_unique<Connection>(std::move(pair->first));
    state_ = std::make_shared<RecordingDevice::State>();
    backend_ = std::make_unique<Backend>(std::move(pair->second),
                                         std::make_unique<RecordingDevice>(state_),
                                         BackendOptions{.timeout = milliseconds(200)});
  }

  static Connection::Clock::time_point Soon() {
    return Connection::Clock::now() + milliseconds(500);
  }

  Wire<> SendBytes(Request request, std::span<const std::byte> payload,
                   const std::vector<FdRef>& fds = {}, uint32_t flags = 0) {
    EXPECT_TRUE(peer_->Send(request, flags, payload, fds, Soon()).has_value());
    return backend_->Serve();
  }

  template <typename T>
  Wire<> Send(Request request, const T& value, const std::vector<FdRef>& fds = {},
              uint32_t flags = 0) {
    return SendBytes(request, std::as_bytes(std::span(&value, 1)), fds, flags);
  }

  // A request with REPLY_ACK; true if it was carried out.
  template <typename T>
  bool Done(Request request, const T& value, std::vector<FdRef> fds = {}) {
    EXPECT_TRUE(Send(request, value, std::move(fds), kFlagNeedReply).has_value());
    const auto reply = peer_->Receive(Soon());
    EXPECT_TRUE(reply.has_value());
    return reply && reply->As<uint64_t>() == 0;
  }

  template <typename T>
  T Ask(Request request, std::span<const std::byte> payload = {}) {
    EXPECT_TRUE(SendBytes(request, payload).has_value());
    const auto reply = peer_->Receive(Soon());
    EXPECT_TRUE(reply.has_value());
    return reply ? reply->As<T>() : T{};
  }

  uint64_t Base(uint32_t index) {
    const VringState state{index, 0};
    return Ask<VringState>(Request::kGetVringBase, std::as_bytes(std::span(&state, 1))).num;
  }

  void Negotiate() {
    ASSERT_TRUE(Send(Request::kSetProtocolFeatures, kProtocolMq | kProtocolReplyAck |
                                                        kProtocolConfigureMemSlots |
                                                        kProtocolResetDevice));
    ASSERT_TRUE(Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol));
  }

  static UniqueFd Memfd(uint64_t size) { return *MakeMemfd("guest", size); }

  bool SetMemory(std::vector<MemoryRegion> regions) {
    MemoryTable table;
    table.count = static_cast<uint32_t>(regions.size());
    std::copy(regions.begin(), regions.end(), table.regions);
    std::vector<UniqueFd> memory;
    std::vector<FdRef> fds;
    for (size_t i = 0; i < regions.size(); ++i) {
      memory.push_back(Memfd(kSize));
      fds.emplace_back(memory.back());
    }
    return Done(Request::kSetMemTable, table, fds);
  }

  // Everything a ring needs but the kick.
  void PrepareRing(uint32_t index) {
    ASSERT_TRUE(Done(Request::kSetVringNum, VringState{index, 256}));
    ASSERT_TRUE(Done(Request::kSetVringBase, VringState{index, 0}));
    const uint64_t at = kUser + uint64_t{index} * 0x10000;
    ASSERT_TRUE(
        Done(Request::kSetVringAddr, VringAddress{index, 0, at, at + 0x2000, at + 0x1000, 0}));
  }

  bool Kick(uint64_t index) {
    auto kick = EventFd::Create();
    return Done(Request::kSetVringKick, index, {kick->fd()});
  }

  std::shared_ptr<RecordingDevice::State> state_;
  std::unique_ptr<Connection> peer_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(BackendTest, OffersWhatItHas) {
  const uint64_t features = Ask<uint64_t>(Request::kGetFeatures);
  EXPECT_EQ(features, virtio::kRingFeatures | virtio::kVersion1 | kFeatureProtocol);
  // QEMU 7.1 to 8.0 crash on a file system back-end that offers CONFIG.
  EXPECT_EQ(Ask<uint64_t>(Request::kGetProtocolFeatures) & kProtocolConfig, 0U);
  EXPECT_EQ(Ask<uint64_t>(Request::kGetQueueNum), 2U);
  EXPECT_EQ(Ask<uint64_t>(Request::kGetMaxMemSlots), SharedMemory::kMaxSlots);
}

TEST_F(BackendTest, RefusesBitsNotOffered) {
  Negotiate();
  EXPECT_FALSE(Done(Request::kSetFeatures, ~uint64_t{0}));
  EXPECT_FALSE(Done(Request::kSetProtocolFeatures, ~uint64_t{0}));
  EXPECT_EQ(backend_->refused(), 2U);
}

TEST_F(BackendTest, RunsWhenKickedAndEnabledInAnyOrder) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  PrepareRing(0);
  PrepareRing(1);
  EXPECT_TRUE(Kick(0));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Done(Request::kSetVringEnable, VringState{0, 1}));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_TRUE(Done(Request::kSetVringEnable, VringState{1, 1}));
  EXPECT_FALSE(state_->running[1]);
  EXPECT_TRUE(Kick(1));
  EXPECT_TRUE(state_->running[1]);
  EXPECT_EQ(mem::Raw(state_->resources[1].config.driver_area), kGuest + 0x11000);
}

TEST_F(BackendTest, GetVringBaseStopsAndMayBeRepeated) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  PrepareRing(0);
  EXPECT_TRUE(Done(Request::kSetVringEnable, VringState{0, 1}));
  EXPECT_TRUE(Kick(0));
  state_->next_available = 42;
  EXPECT_EQ(Base(0), 42U);
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(Base(0), 42U);
  EXPECT_EQ(Base(1), 0U);
  // With a new kick it goes on there.
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 42U);
}

TEST_F(BackendTest, NewMemoryTableStopsRingsForTheChange) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  PrepareRing(0);
  EXPECT_TRUE(Done(Request::kSetVringEnable, VringState{0, 1}));
  EXPECT_TRUE(Kick(0));
  const auto before = state_->resources[0].memory;
  state_->next_available = 9;
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}, {kGuest * 16, kSize, kUser + kSize, 0}}));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_NE(state_->resources[0].memory, before);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 9U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 3U);
}

TEST_F(BackendTest, BadMemoryTablesLeaveTheOldOne) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  EXPECT_FALSE(SetMemory({{kGuest, kSize, kUser, 0}, {kGuest + 0x1000, kSize, kUser * 2, 0}}));
  EXPECT_FALSE(SetMemory({{kGuest, kSize, kUser, 0}, {kGuest * 16, kSize, kUser + 0x1000, 0}}));
  EXPECT_FALSE(SetMemory({{kGuest, ~uint64_t{0}, kUser, 0}}));
  EXPECT_FALSE(SetMemory({{~uint64_t{0xfff}, kSize, kUser, 0}}));
  EXPECT_FALSE(SetMemory({{kGuest, kSize, kUser, kSize}}));  // beyond the file
  EXPECT_FALSE(SetMemory({{kGuest, kSize, kUser, ~uint64_t{0xfff}}}));
  EXPECT_FALSE(SetMemory({{kGuest, 0, kUser, 0}}));
  EXPECT_FALSE(SetMemory({{kGuest, 0x1001, kUser, 0}}));
  PrepareRing(0);  // still within the first table
}

TEST_F(BackendTest, SlotsComeAndGo) {
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  const SingleRegion region{0, {kGuest, kSize, kUser, 0}};
  EXPECT_TRUE(Done(Request::kAddMemReg, region, {memory}));
  EXPECT_FALSE(Done(Request::kAddMemReg, region, {memory}));
  PrepareRing(0);
  EXPECT_TRUE(Done(Request::kRemMemReg, region));
  EXPECT_FALSE(Done(Request::kRemMemReg, region));
}

TEST_F(BackendTest, RingsOutsideMemoryAreRefused) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  for (const uint64_t bad : {uint64_t{0}, kUser - 1, kUser + kSize, ~uint64_t{0}}) {
    EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{0, 0, kUser, bad, kUser, 0}));
  }
  EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{2, 0, kUser, kUser, kUser, 0}));
  EXPECT_FALSE(Done(Request::kSetVringAddr, VringAddress{0, 1, kUser, kUser, kUser, 0}));
}

TEST_F(BackendTest, BadRingNumbersAreRefused) {
  Negotiate();
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0, 0}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0, 512}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{2, 256}));
  EXPECT_FALSE(Done(Request::kSetVringNum, VringState{0xffffffff, 256}));
  EXPECT_FALSE(Done(Request::kSetVringBase, VringState{0, 0x10000}));
  EXPECT_FALSE(Done(Request::kSetVringEnable, VringState{0, 2}));
  EXPECT_FALSE(Kick(2));
  EXPECT_FALSE(Done(Request::kSetVringKick, kVringNoFd));
  auto kick = EventFd::Create();
  EXPECT_FALSE(Done(Request::kSetVringCall, kVringNoFd, {kick->fd()}));
  EXPECT_FALSE(Done(Request::kSetVringCall, uint64_t{0}));
}

TEST_F(BackendTest, UnknownRequestIsRefusedAndTheSessionGoesOn) {
  Negotiate();
  EXPECT_FALSE(Done(static_cast<Request>(999), uint64_t{1}));
  EXPECT_FALSE(Done(Request::kSetLogBase, VringState{}));
  EXPECT_EQ(Ask<uint64_t>(Request::kGetQueueNum), 2U);
}

TEST_F(BackendTest, ResetDeviceStopsEverything) {
  Negotiate();
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}}));
  PrepareRing(0);
  EXPECT_TRUE(Done(Request::kSetVringEnable, VringState{0, 1}));
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(SendBytes(Request::kResetDevice, {}).has_value());
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(state_->resets, 1);
}

// Every request with every wrong length and number of descriptors ends the session, and nothing
// else happens.
TEST_F(BackendTest, FramingFaultsEndTheSession) {
  for (const RequestRule& rule : RequestRules()) {
    SetUp();
    const std::vector<std::byte> longer(rule.max_size + 1);
    EXPECT_EQ(SendBytes(rule.request, longer).error(), Fault::kPayloadSize);
    SetUp();
    const std::vector<std::byte> right(rule.max_size);
    auto event = EventFd::Create();
    const std::vector<FdRef> many(std::min<size_t>(rule.max_fds + 1, 250), event->fd());
    EXPECT_EQ(SendBytes(rule.request, right, many).error(), Fault::kFdCount);
    if (rule.min_size > 0) {
      SetUp();
      EXPECT_EQ(SendBytes(rule.request, std::span(right).first(rule.min_size - 1)).error(),
                Fault::kPayloadSize);
    }
    if (rule.min_fds > 0) {
      SetUp();
      EXPECT_EQ(SendBytes(rule.request, right).error(), Fault::kFdCount);
    }
  }
}

TEST_F(BackendTest, HeaderOfAnotherVersionEndsTheSession) {
  const Header header{1, 2, 0};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kBadVersion);
}

TEST_F(BackendTest, HugePayloadIsNotWaitedFor) {
  const Header header{1, 1, 0xffffffff};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kPayloadSize);
}

TEST_F(BackendTest, StalledMessageTimesOut) {
  const Header header{2, 1, 8};
  ASSERT_EQ(::write(peer_->fd().get(), &header, sizeof(header)), 12);
  EXPECT_EQ(backend_->Serve().error(), Fault::kTimeout);
}

TEST_F(BackendTest, HangUpWithinAMessageIsTruncation) {
  const Header header{2, 1, 8};
  ASSERT_EQ(::write(peer_->fd().get(), &header, 7), 7);
  peer_.reset();
  EXPECT_EQ(backend_->Serve().error(), Fault::kTruncated);
}

TEST_F(BackendTest, HangUpIsTheOrderlyEnd) {
  peer_.reset();
  EXPECT_EQ(backend_->Serve().error(), Fault::kClosed);
}

}  // namespace
}  // namespace wyvern::vhost_user
