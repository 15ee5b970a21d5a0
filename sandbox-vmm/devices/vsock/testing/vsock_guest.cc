#include "vsock/testing/vsock_guest.h"

#include <algorithm>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::devices::testing {

VsockGuest::VsockGuest(const VsockOptions& options) {
  auto device = VsockDevice::Create(options);
  WV_CHECK(device.has_value());
  device_ = device->get();
  rig_ = std::make_unique<DeviceRig>(*std::move(device));
}

void VsockGuest::Start(int buffers, uint64_t refused) {
  rig_->Start(refused);
  GiveBuffers(buffers);
}

void VsockGuest::GiveBuffers(int count) {
  for (int i = 0; i < count; ++i) {
    rig_->queue(0).Build().Writable(kBuffer).Submit();
  }
  rig_->Kick(0);
}

std::optional<VsockGuest::Packet> VsockGuest::Next(std::chrono::milliseconds timeout) {
  const auto used = rig_->WaitMaybe(0, timeout);
  if (!used) {
    return std::nullopt;
  }
  const std::string bytes = rig_->queue(0).Written(used->head, used->written);
  WV_CHECK(bytes.size() >= sizeof(VsockHeader));
  Packet packet;
  std::memcpy(&packet.header, bytes.data(), sizeof(packet.header));
  packet.data = bytes.substr(sizeof(packet.header));
  WV_CHECK(packet.data.size() == packet.header.length);
  // The same memory again: tests run for longer than the allocator has room.
  const uint64_t mark = rig_->ram().Mark();
  const mem::Gpa again = rig_->queue(0).WritableAddress(used->head);
  rig_->queue(0).Build().WritableAt(again, kBuffer).Submit();
  rig_->Kick(0);
  rig_->ram().Release(mark);
  return packet;
}

VsockGuest::Packet VsockGuest::Expect(VsockOp op) {
  for (;;) {
    auto packet = Next();
    WV_CHECK(packet.has_value());
    if (packet->header.operation() == VsockOp::kCreditUpdate && op != VsockOp::kCreditUpdate) {
      continue;
    }
    WV_CHECK(packet->header.operation() == op);
    return *packet;
  }
}

VsockHeader VsockGuest::Reply(const VsockHeader& to, VsockOp op) {
  VsockHeader header;
  header.src_cid = kCid;
  header.dst_cid = kHostCid;
  header.src_port = to.dst_port;
  header.dst_port = to.src_port;
  header.type = to.type;
  header.op = static_cast<uint16_t>(op);
  header.buffer_size = guest_buffer;
  header.forwarded = consumed;
  return header;
}

std::string VsockGuest::Bytes(const VsockHeader& header, std::string_view data) {
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes += data;
  return bytes;
}

void VsockGuest::Send(const VsockHeader& header, std::string_view data) {
  const std::string packet = Bytes(header, data);
  SendAll(std::span(&packet, 1));
}

void VsockGuest::SendAll(std::span<const std::string> packets) {
  while (!packets.empty()) {
    const uint64_t mark = rig_->ram().Mark();
    const size_t count = std::min<size_t>(packets.size(), rig_->queue(1).free_descriptors());
    for (const std::string& packet : packets.first(count)) {
      rig_->queue(1).Build().Readable(packet).Submit();
    }
    rig_->Kick(1);
    for (size_t i = 0; i < count; ++i) {
      rig_->WaitUsed(1);
    }
    packets = packets.subspan(count);
    rig_->ram().Release(mark);
  }
}

VsockHeader VsockGuest::DataHeader(const Stream& stream, size_t length, uint32_t flags) {
  VsockHeader header = Reply(stream.request, VsockOp::kData);
  header.length = static_cast<uint32_t>(length);
  header.flags = flags;
  return header;
}

void VsockGuest::SendData(const Stream& stream, std::string_view data, uint32_t flags) {
  Send(DataHeader(stream, data.size(), flags), data);
}

std::vector<VsockGuest::Stream> VsockGuest::ConnectMany(size_t count, uint32_t port,
                                                        uint32_t buffer) {
  constexpr size_t kAtATime = 32;
  guest_buffer = buffer;
  consumed = 0;
  std::vector<Stream> streams;
  streams.reserve(count);
  while (streams.size() < count) {
    const size_t first = streams.size();
    for (; streams.size() < std::min(count, first + kAtATime);) {
      auto pair = MakeSocketPair(SOCK_STREAM);
      WV_CHECK(pair.has_value());
      WV_CHECK(device_->ConnectStream(port, std::move(pair->second), [](Result<>) {}).has_value());
      streams.push_back({.request = {}, .host = std::move(pair->first)});
    }
    std::vector<std::string> answers;
    for (size_t i = first; i < streams.size(); ++i) {
      streams[i].request = Expect(VsockOp::kRequest).header;
      answers.push_back(Bytes(Reply(streams[i].request, VsockOp::kResponse)));
    }
    SendAll(answers);
  }
  return streams;
}

VsockGuest::Stream VsockGuest::Request(uint32_t port, int type) {
  auto pair = MakeSocketPair(type);
  WV_CHECK(pair.has_value());
  WV_CHECK(device_->ConnectStream(port, std::move(pair->second), [](Result<>) {}).has_value());
  return {.request = Expect(VsockOp::kRequest).header, .host = std::move(pair->first)};
}

VsockGuest::Stream VsockGuest::Connect(uint32_t port, uint32_t buffer, int type) {
  guest_buffer = buffer;
  consumed = 0;
  Stream stream = Request(port, type);
  Send(Reply(stream.request, VsockOp::kResponse));
  return stream;
}

}  // namespace wyvern::devices::testing
