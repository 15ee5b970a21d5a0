// net/net_receiver.h — a receive queue: packets from the tap into the driver's buffers.
// Spec:    VIRTIO 1.4 §5.1.9.3, §5.1.9.4.
// Shape:   one readv per packet, into [header and Ethernet header: ours][buffers][spill: ours].
//          Buffers are taken for the size that is expected, judged by the last packets; what is
//          longer runs into the spill and is copied from there. So a packet is never cut, its
//          first bytes are judged where the driver cannot change them, and a small packet costs
//          one buffer's parts, not 64 KiB of them.
//          Chains that were taken and not needed stay held for the next packet; StopQueue undoes
//          them. Without buffers packets stay in the tap.
// Bounds:  kBudget packets a turn, then others run; held chains: the ring; nothing is allocated per
//          packet. A packet that needs more buffers than the driver has given waits for room_wait
//          at most: a driver that gives no more before it gets something (Linux refills in
//          batches) must not be silent for ever.
// Threads: the device's worker.   Trust: buffers are the guest's.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "net/net_shared.h"
#include "worker/active_queue.h"

namespace wyvern::devices {

class NetReceiver {
 public:
  static constexpr uint32_t kBudget = ActiveQueue::kBudget;

  NetReceiver(NetShared& shared, uint16_t pair) : shared_(shared), pair_(pair) {}

  bool running() const { return queue_ != nullptr; }

  void Start(std::unique_ptr<ActiveQueue> queue);
  // A packet that waits for room is dropped.
  std::optional<virtio::QueueState> Stop();

  // The tap may have packets.
  void OnReadable();
  // The driver may have given buffers, or it is this queue's turn again.
  void Serve();
  // While disabled, packets stay in the tap.
  void SetEnabled(bool enabled);

  bool enabled() const { return enabled_; }

  // Looks again at once instead of when the old limit said.
  void LimitChanged();

 private:
  static constexpr uint32_t kSignalEvery = 32;

  // What is read in front of the driver's buffers.
  struct Prefix {
    NetHeader header;
    MacAddress destination{};
    MacAddress source{};
    Be16 ethertype = 0;
  };

  static constexpr uint32_t kPrefix = sizeof(Prefix);
  static_assert(kPrefix == kNetHeaderSize + kEthernetHeader);
  // More than any packet: what fills it to the end is too long.
  static constexpr uint32_t kSpill = kNetMaxPacket;

  // A packet that has been read; in bytes with the header.
  struct Packet {
    uint32_t total = 0;
    uint32_t in_place = 0;  // the prefix and what lies in held chains; the rest is in the spill
  };

  bool mergeable() const { return (shared_.features & kNetMrgRxbuf) != 0; }

  // These say false when the turn is over: nothing more can be received now.
  bool ReceiveOne();
  bool Discard();
  bool WaitForBuffers();
  bool OnError(int error);
  bool Accept(uint32_t total);
  bool Deliver();
  bool WaitForRoom();
  bool MayReceive();

  bool Gather(uint64_t wanted);
  void BuildParts();
  bool DriverMayHave(uint32_t length);
  bool Scatter(uint64_t position, std::span<const std::byte> bytes);
  uint16_t ChainsFor(uint64_t total) const;
  void PushFirst(uint32_t count, uint32_t total);
  void CancelTimer(EventLoop::Token& timer);

  NetShared& shared_;
  const uint16_t pair_;
  std::unique_ptr<ActiveQueue> queue_;
  // Chains in the order of their Pop; those before first_ are gone.
  std::vector<virtio::Chain> held_;
  size_t first_ = 0;
  uint64_t room_ = 0;  // writable bytes of the held chains
  std::vector<iovec> parts_;
  Prefix prefix_;
  uint32_t direct_ = 0;  // bytes that parts_ has in held chains
  std::unique_ptr<std::byte[]> spill_;
  std::optional<Packet> packet_;  // waits for room
  uint32_t expected_ = kPrefix;   // bytes of the next packet, header and all
  bool readable_ = false;         // the tap may have packets
  bool enabled_ = true;
  bool notifications_ = true;  // the driver notifies us
  EventLoop::Token throttle_ = EventLoop::Token::kNone;
  EventLoop::Token room_timer_ = EventLoop::Token::kNone;
};

}  // namespace wyvern::devices
