// vsock/vsock_device.h — virtio socket device whose streams are all opened by the host.
// Spec:    VIRTIO 1.3 §5.10.
// Shape:   queues: 0 to the guest, 1 from the guest, 2 events. Each stream is a donated unix socket
//          on the host side; payload moves between
//          socket and guest memory without a copy of ours; one read of a socket fills several of the
//          guest's buffers. A stream that the guest opens is refused with RST.
// Bounds:  kMaxConnections; what the guest sent and a socket does not take yet is at most the
// credit we gave (buffer_size per stream);
//          answers to packets without a stream at most kMaxStrayResets.
// Errors:  a packet against the rules resets its stream; a broken ring needs a reset of the device.
//          Both are counted.
// Threads: ConnectStream from any thread; everything else on the worker, callbacks too.
// Trust:   every packet is the guest's; its header is copied once.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
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
  // What the guest may send ahead on a stream, in bytes.
  uint32_t buffer_size = 256 << 10;
  // From the request reaching the guest's driver to its answer.
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(10);
};

class VsockDevice final : public virtio::VirtioDevice {
 public:
  static constexpr size_t kMaxConnections = 4096;
  static constexpr size_t kMaxStrayResets = 256;

  using Connected = VsockConnection::Connected;

  static Result<std::unique_ptr<VsockDevice>> Create(const VsockOptions& options);
  ~VsockDevice() override;
  VsockDevice(const VsockDevice&) = delete;
  VsockDevice& operator=(const VsockDevice&) = delete;

  // Opens a stream to `port` in the guest and joins it with `socket`, a connected stream socket
  // that this takes. `connected` runs once,
  // on the worker: success, UNAVAILABLE (nobody listens, the device was reset, or the socket's other
  // end is closed before the driver is up),
  // DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, CANCELLED (device
  // gone). Before the guest's driver is up the request waits for it, without a deadline.
  // INVALID_ARGUMENT at once: no stream socket.
  Result<> ConnectStream(uint32_t port, UniqueFd socket, Connected connected);

  // Tells the driver that every stream is gone (after a restore, VIRTIO §5.10.6.7), and drops them.
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
  static uint64_t Key(VsockConnection::Ports ports);

  // vsock_device.cc
  void Open(uint32_t port, UniqueFd socket, Connected connected);
  bool MakeRoom();
  void ArmTimer(VsockConnection& connection);
  void DropStreams();
  void OnKick(uint16_t index);
  void SendEvents();

  // vsock_packets.cc
  void TakePackets();
  void OnPacket(const VsockHeader& header, const virtio::Chain& chain);
  void RefuseStray(const VsockHeader& header);
  void MakeReady(VsockConnection& connection);
  void SendPackets();
  void FillNext(ActiveQueue& queue);
  void FillStrayReset();
  std::span<virtio::Chain> Gather(ActiveQueue& queue, uint32_t wanted);
  void GiveBack(virtio::Queue& queue);
  // True when it is no more.
  bool RemoveIfFinished(VsockConnection& connection);

  const VsockOptions options_;
  virtio::DeviceTraits traits_;
  // All below: worker's thread, except the counters.
  std::unique_ptr<ActiveQueue> queues_[3];
  std::unordered_map<uint64_t, std::unique_ptr<VsockConnection>> connections_;
  std::deque<uint64_t> ready_;  // keys of streams with a packet for the guest; each at most once
  std::deque<VsockHeader> stray_resets_;  // complete answers
  std::vector<iovec> scratch_;
  // Empty outside SendPackets: chains in the order of their Pop, and what was written into the first
  // of them.
  std::vector<virtio::Chain> batch_;
  std::vector<uint32_t> written_;
  uint32_t next_host_port_ = 0x40000000;
  bool event_due_ = false;

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
