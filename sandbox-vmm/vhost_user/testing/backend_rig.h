// vhost_user/testing/backend_rig.h — a back-end over a RecordingDevice, and a front-end that says
// what a test wants.
// Threads: one; every message is served at once.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/unix_socket.h"
#include "vhost_user/backend.h"
#include "vhost_user/testing/recording_device.h"

namespace wyvern::vhost_user::testing {

class BackendRig : public ::testing::Test {
 public:
  static constexpr uint64_t kUser = 0x7f0000000000;
  static constexpr uint64_t kGuest = 0x100000;
  static constexpr uint64_t kSize = 0x100000;
  static constexpr uint64_t kControl = uint64_t{1} << 17;  // VIRTIO_NET_F_CTRL_VQ
  static constexpr uint64_t kNegotiated = kProtocolMq | kProtocolReplyAck | kProtocolLogShmfd |
                                          kProtocolConfigureMemSlots | kProtocolResetDevice;

 protected:
  void SetUp() override { Make({}); }

  // A new session with a new device; ends the last one.
  void Make(BackendOptions options, uint64_t device_features = 0,
            std::vector<virtio::SharedMemoryRegion> shared = {}, bool runs_disabled = false) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair.has_value());
    backend_.reset();
    peer_ = std::make_unique<Connection>(std::move(pair->first));
    state_ = std::make_shared<RecordingDevice::State>();
    options.timeout = std::chrono::milliseconds(200);
    auto device = std::make_unique<RecordingDevice>(state_, device_features, std::move(shared));
    if (runs_disabled) {
      device->set_runs_disabled();
    }
    if (pairs_ > 0) {
      device->set_pairs(pairs_, kControl);
    }
    backend_ =
        std::make_unique<Backend>(std::move(pair->second), std::move(device), std::move(options));
  }

  // Of the next Make: a network device; 0: none.
  void UsePairs(uint16_t pairs) { pairs_ = pairs; }

  static Connection::Clock::time_point Soon() {
    return Connection::Clock::now() + std::chrono::milliseconds(500);
  }

  Wire<> SendBytes(uint32_t request, std::span<const std::byte> payload,
                   const std::vector<FdRef>& fds = {}, uint32_t flags = 0) {
    EXPECT_TRUE(peer_->Send(request, flags, payload, fds, Soon()).has_value());
    return backend_->Serve();
  }

  Wire<> SendBytes(Request request, std::span<const std::byte> payload,
                   const std::vector<FdRef>& fds = {}, uint32_t flags = 0) {
    return SendBytes(static_cast<uint32_t>(request), payload, fds, flags);
  }

  template <typename T>
  Wire<> Send(Request request, const T& value, const std::vector<FdRef>& fds = {},
              uint32_t flags = 0) {
    return SendBytes(request, std::as_bytes(std::span(&value, 1)), fds, flags);
  }

  // A request with REPLY_ACK; true if it was carried out.
  bool DoneBytes(Request request, std::span<const std::byte> payload,
                 const std::vector<FdRef>& fds = {}) {
    EXPECT_TRUE(SendBytes(request, payload, fds, kFlagNeedReply).has_value());
    const auto reply = peer_->Receive(Soon());
    EXPECT_TRUE(reply.has_value());
    return reply && reply->As<uint64_t>() == 0;
  }

  template <typename T>
  bool Done(Request request, const T& value, const std::vector<FdRef>& fds = {}) {
    return DoneBytes(request, std::as_bytes(std::span(&value, 1)), fds);
  }

  Message AskMessage(Request request, std::span<const std::byte> payload = {},
                     const std::vector<FdRef>& fds = {}) {
    EXPECT_TRUE(SendBytes(request, payload, fds).has_value());
    auto reply = peer_->Receive(Soon());
    EXPECT_TRUE(reply.has_value());
    return reply ? *std::move(reply) : Message{};
  }

  template <typename T>
  T Ask(Request request, std::span<const std::byte> payload = {}) {
    return AskMessage(request, payload).As<T>();
  }

  template <typename T, typename P>
  T AskWith(Request request, const P& payload) {
    return Ask<T>(request, std::as_bytes(std::span(&payload, 1)));
  }

  uint32_t Base(uint32_t index) {
    return AskWith<VringState>(Request::kGetVringBase, VringState{index, 0}).num;
  }

  void Negotiate(uint64_t more_protocol = 0, uint64_t more_features = 0) {
    ASSERT_TRUE(Send(Request::kSetProtocolFeatures, kNegotiated | more_protocol));
    ASSERT_TRUE(Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol | more_features));
  }

  static UniqueFd Memfd(uint64_t size) { return *MakeMemfd("guest", size); }

  bool SetMemory(const std::vector<MemoryRegion>& regions) {
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

  void SetOneRegion() { ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}})); }

  static VringAddress AddressOf(uint32_t index, uint32_t flags = 0) {
    const uint64_t at = kUser + uint64_t{index} * 0x10000;
    return {index, flags, at, at + 0x2000, at + 0x1000, kGuest + (at + 0x2000 - kUser)};
  }

  // Everything a ring needs but the kick.
  void PrepareRing(uint32_t index, uint32_t base = 0) {
    ASSERT_TRUE(Done(Request::kSetVringNum, VringState{index, 256}));
    ASSERT_TRUE(Done(Request::kSetVringBase, VringState{index, base}));
    ASSERT_TRUE(Done(Request::kSetVringAddr, AddressOf(index)));
  }

  bool Kick(uint64_t index) {
    auto kick = EventFd::Create();
    return Done(Request::kSetVringKick, index, {kick->fd()});
  }

  bool Enable(uint32_t index, bool on = true) {
    return Done(Request::kSetVringEnable, VringState{index, on ? 1U : 0U});
  }

  // Negotiated, with memory and ring 0 running.
  void RunRing(uint64_t more_protocol = 0, uint64_t more_features = 0) {
    Negotiate(more_protocol, more_features);
    SetOneRegion();
    PrepareRing(0);
    ASSERT_TRUE(Enable(0));
    ASSERT_TRUE(Kick(0));
    ASSERT_TRUE(state_->running[0]);
  }

  uint16_t pairs_ = 0;
  std::shared_ptr<RecordingDevice::State> state_;
  std::unique_ptr<Connection> peer_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace wyvern::vhost_user::testing
