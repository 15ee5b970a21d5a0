// vsock/vsock_device.h — virtio socket device whose connections are all opened by the host.
// Spec:    VIRTIO 1.4 §5.10.
// Shape:   queues: 0 to the guest, 1 from the guest, 2 events. Each connection, a stream or a
//          seqpacket one, is a donated unix socket on the host side; payload moves between socket
//          and guest memory without a copy of ours; one read of a socket fills several of the
//          guest's buffers. What the guest opens is refused with RST.
//          A connection is in one of four lists (what is to be sent, connecting, lingering, idle)
//          and in a table by its ports: no packet costs more when there are more connections.
// Bounds:  kMaxConnections; what the guest sent and a socket does not take yet is at most the
//          credit we gave: buffer_size per connection, kSmallBuffer for those beyond
//          kFullBuffers full ones; answers to packets without a connection at most
//          kMaxStrayResets.
// Errors:  a packet against the rules resets its stream; a broken ring needs a reset of the device.
//          Both are counted.
// Threads: ConnectStream from any thread; everything else on the worker, callbacks too.
// Trust:   every packet is the guest's; its header is copied once.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "virtio/device.h"
#include "vsock/vsock_connection.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct VsockOptions {
  WorkerOptions worker;
  uint64_t guest_cid = 3;
  // What the guest may send ahead on a connection, in bytes; also the longest message that it can
  // send on a seqpacket one.
  uint32_t buffer_size = 256 << 10;
  // From the request reaching the guest's driver to its answer.
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(10);
};

class VsockDevice final : public virtio::VirtioDevice {
 public:
  static constexpr size_t kMaxConnections = 4096;
  static constexpr size_t kMaxStrayResets = 256;
  // Of options.buffer_size: so many connections at once have it whole, others kSmallBuffer.
  static constexpr size_t kFullBuffers = 256;
  static constexpr uint32_t kSmallBuffer = 16 << 10;

  using Connected = VsockConnection::Connected;

  // INVALID_ARGUMENT: a CID that is reserved (VIRTIO §5.10.4) or has more than 32 bits.
  static Result<std::unique_ptr<VsockDevice>> Create(const VsockOptions& options);
  ~VsockDevice() override;
  VsockDevice(const VsockDevice&) = delete;
  VsockDevice& operator=(const VsockDevice&) = delete;

  // Opens a connection to `port` in the guest and joins it with `socket`, a connected unix socket
  // that this takes: of type SOCK_STREAM, or SOCK_SEQPACKET for a connection of messages.
  // `connected` runs once, on the worker: success, UNAVAILABLE (nobody listens, the device was
  // reset, the driver does not do this type, or the socket's other end is closed before the driver
  // is up), DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, CANCELLED (device gone). Before the guest's
  // driver is up the request waits for it, without a deadline.
  // INVALID_ARGUMENT at once: a socket of neither type.
  Result<> ConnectStream(uint32_t port, UniqueFd socket, Connected connected);

  // Tells the driver that every connection is gone (after a restore, VIRTIO §5.10.6.7), and drops
  // them. Nothing is sent until the driver has taken that event: it would drop with the old
  // connections one that was opened meanwhile.
  void ResetTransport();

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  std::vector<virtio::CounterValue> counters() const override;

 private:
  static constexpr uint16_t kToGuest = 0;
  static constexpr uint16_t kFromGuest = 1;
  static constexpr uint16_t kEvents = 2;

  VsockDevice(const VsockOptions& options, std::unique_ptr<LoopThread> worker);

  using Connections = std::list<VsockConnection>;
  using Connection = Connections::iterator;
  using Place = VsockConnection::Place;

  static uint64_t Key(VsockConnection::Ports ports);

  Connections& list(Place place) { return lists_[static_cast<size_t>(place)]; }

  // connection_table.cc
  void Open(uint32_t port, std::unique_ptr<HostSocket> host, Connected connected);
  uint32_t BufferForNext() const;
  bool MakeRoom();
  void WatchDeadlines();
  void OnDeadline();
  void DropConnections();
  bool Speaks(uint16_t type) const;
  // Puts it into the list where it belongs now. True: it was finished, and is no more.
  bool Sort(Connection connection);
  void MoveToEnd(Connection connection, Place place);
  void Forget(Connection connection);

  // vsock_device.cc
  void OnKick(uint16_t index);
  void OnEvents(ActiveQueue& queue);
  void TakeEventBuffers(ActiveQueue& queue);

  // vsock_packets.cc
  void TakePackets();
  void OnPacket(const VsockHeader& header, const virtio::Chain& chain);
  void RefuseStray(const VsockHeader& header);
  void AnswerWithReset(VsockConnection::Ports ports, uint16_t type);
  void SendPackets();
  void FillNext(ActiveQueue& queue);
  void FillFrom(Connection connection, ActiveQueue& queue);
  void FillStrayReset();
  std::span<virtio::Chain> Gather(ActiveQueue& queue, uint32_t wanted);
  void GiveBack(virtio::Queue& queue);

  const VsockOptions options_;
  virtio::DeviceTraits traits_;
  // All below: worker's thread, except the counters.
  std::unique_ptr<ActiveQueue> queues_[3];
  uint64_t features_ = 0;  // negotiated
  // By Place. Ready ones take turns in their order; connecting ones end in theirs, as all have the
  // same time; of lingering ones the first goes first.
  std::array<Connections, 4> lists_;
  std::unordered_map<uint64_t, Connection> connections_;
  size_t full_buffers_ = 0;
  EventLoop::Token deadline_timer_ = EventLoop::Token::kNone;
  std::deque<VsockHeader> stray_resets_;  // complete answers
  bool stray_was_last_ = false;
  VsockScratch scratch_;
  // Empty outside SendPackets and OnEvents: chains in the order of their Pop, and what was written
  // into the first of them.
  std::vector<virtio::Chain> batch_;
  std::vector<uint32_t> written_;
  uint32_t next_host_port_ = 0x40000000;
  // The transport reset: to be told; told, and the driver has not been seen to take it.
  bool event_due_ = false;
  bool event_unread_ = false;
  size_t event_buffers_left_ = 0;

  struct Counters {
    std::atomic<uint64_t> connections{0};
    std::atomic<uint64_t> connected{0};
    std::atomic<uint64_t> packets_to_guest{0};
    std::atomic<uint64_t> packets_from_guest{0};
    std::atomic<uint64_t> bytes_to_guest{0};
    std::atomic<uint64_t> bytes_from_guest{0};
    std::atomic<uint64_t> socket_reads{0};
    std::atomic<uint64_t> guest_requests_refused{0};
    std::atomic<uint64_t> bad_packets{0};
    std::atomic<uint64_t> resets_dropped{0};
    std::atomic<uint64_t> faults{0};
  };

  Counters counters_;
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
