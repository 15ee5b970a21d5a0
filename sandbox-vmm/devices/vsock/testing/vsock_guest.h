// vsock/testing/vsock_guest.h — the guest's side of virtio sockets for tests: buffers for packets,
// credit, packets by hand.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "testing/device_rig.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices::testing {

class VsockGuest {
 public:
  static constexpr uint64_t kCid = 3;
  static constexpr uint32_t kBuffer = 4096;

  struct Packet {
    VsockHeader header;
    std::string data;
  };

  explicit VsockGuest(const VsockOptions& options = {
                          .worker = {.name = "vsock", .on_thread_start = nullptr}});

  // Starts the driver with `buffers` receive buffers.
  void Start(int buffers = 32, uint64_t refused = 0);

  VsockDevice& device() { return *device_; }

  DeviceRig& rig() { return *rig_; }

  // The next packet from the device; nothing after `timeout`. Its buffer goes back to the device.
  std::optional<Packet> Next(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // The next packet, credit updates passed over unless `op` is one; aborts when it is another operation.
  Packet Expect(VsockOp op);
  void GiveBuffers(int count);

  // An answer or a packet on the stream of `to`: ports, type and credit are filled in.
  VsockHeader Reply(const VsockHeader& to, VsockOp op);
  void Send(const VsockHeader& header, std::string_view data = {});

  // Many packets, a ring full of them with one notification.
  void SendAll(std::span<const std::string> packets);
  static std::string Bytes(const VsockHeader& header, std::string_view data = {});

  // A stream to `port`, accepted: the guest's view of it and the host's end.
  struct Stream {
    VsockHeader request;
    UniqueFd host;
  };

  Stream Connect(uint32_t port, uint32_t guest_buffer = 64 << 10, int type = SOCK_STREAM);

  // The same, not accepted yet.
  Stream Request(uint32_t port, int type = SOCK_STREAM);

  // `count` streams to `port`, accepted a few at a time.
  std::vector<Stream> ConnectMany(size_t count, uint32_t port, uint32_t guest_buffer);

  // A data packet on `stream`.
  void SendData(const Stream& stream, std::string_view data, uint32_t flags = 0);
  VsockHeader DataHeader(const Stream& stream, size_t length, uint32_t flags = 0);

  uint32_t guest_buffer = 64 << 10;  // what Reply announces
  uint32_t consumed = 0;             // fwd_cnt that Reply announces

 private:
  VsockDevice* device_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
