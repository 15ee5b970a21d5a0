// A hostile guest with connections of both types open: packets of any header, credit and length,
// transport resets, and hosts that write, read and close.
// Input:   records of 16 B: operation, connection (even: stream, odd: seqpacket), op, flags, 4 B
//          length, 4 B buffer size, 4 B forwarded. The first connection also says: packed rings (bit
//          7), no seqpacket connections (bit 6).
//          Operations (modulo 10): packets, what hosts do, part of a message, transport reset, event
//          buffers; a connection that the guest does not answer, pause and configuration.
#include <sys/socket.h>

#include "base/check.h"
#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"

namespace {

using wyvern::devices::VsockHeader;
using wyvern::devices::VsockOp;
using wyvern::devices::testing::RingKind;
using wyvern::devices::testing::VsockGuest;

uint32_t Load(const uint8_t* data) {
  uint32_t value = 0;
  std::memcpy(&value, data, 4);
  return value;
}

// A connection that the guest may refuse, answer late or never; the host's end of it.
wyvern::UniqueFd Ask(VsockGuest& guest, const uint8_t* data) {
  const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
  auto pair = *wyvern::MakeSocketPair(types[data[2] % 3]);
  (void)guest.device().ConnectStream(data[3], std::move(pair.second),
                                     [](const wyvern::Result<>& /*connected*/) {});
  return (data[2] & 0x80U) != 0 ? wyvern::UniqueFd() : std::move(pair.first);
}

void Pause(VsockGuest& guest, const uint8_t* data) {
  auto& core = guest.rig().core();
  if ((data[2] & 1U) != 0) {
    (void)core.Pause();
    if ((data[2] & 2U) != 0) {
      guest.device().ResetTransport();
    }
    WV_CHECK(core.Resume().has_value());
  }
  core.WriteConfig(data[3] % 16, std::as_bytes(std::span(data, 4)));
  WV_CHECK(guest.rig().Config<uint64_t>(0) == VsockGuest::kCid);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* guest = new VsockGuest();
  const uint64_t mark = guest->rig().ram().Mark();
  guest->rig().UseRing(size > 1 && (data[1] & 0x80U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  const bool streams_only = size > 1 && (data[1] & 0x40U) != 0;
  guest->Start(16, streams_only ? wyvern::devices::kVsockFeatureSeqpacket : 0);
  std::vector<VsockGuest::Stream> streams;
  for (uint32_t i = 0; i < 4; ++i) {
    const int type = i % 2 == 0 || streams_only ? SOCK_STREAM : SOCK_SEQPACKET;
    streams.push_back(guest->Connect(i, 64 << 10, type));
  }
  std::vector<wyvern::UniqueFd> unanswered;
  std::string scrap(4096, 'f');
  for (size_t i = 0; size >= 16 && i < 64; data += 16, size -= 16, ++i) {
    auto& stream = streams[data[1] % streams.size()];
    switch (data[0] % 10) {
      case 0:
      case 1: {
        VsockHeader header = guest->Reply(stream.request, static_cast<VsockOp>(data[2]));
        header.flags = data[3];
        header.length = Load(data + 4);
        header.buffer_size = Load(data + 8);
        header.forwarded = Load(data + 12);
        if (data[0] == 0xf0) {
          header.dst_port = Load(data + 12);
          header.type = data[3];
        }
        guest->Send(header, std::string_view(scrap).substr(0, Load(data + 4) % 4097));
        break;
      }
      case 2:
        (void)send(stream.host.get(), scrap.data(), data[4] * 16U, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
      case 3:
        (void)recv(stream.host.get(), scrap.data(), scrap.size(), MSG_DONTWAIT);
        break;
      case 5:  // parts of messages, honest but for their end
        guest->SendData(stream, std::string_view(scrap).substr(0, Load(data + 4) % 4097), data[3]);
        break;
      case 6:
        guest->device().ResetTransport();
        break;
      case 7:
        if (guest->rig().queue(2).free_descriptors() > 0) {
          guest->rig().queue(2).Build().Writable(data[4] % 8).Submit();
          guest->rig().KickAlways(2);
        }
        (void)guest->rig().WaitMaybe(2, std::chrono::milliseconds(0));
        break;
      case 8:
        unanswered.push_back(Ask(*guest, data));
        break;
      case 9:
        Pause(*guest, data);
        break;
      default:
        if ((data[2] & 3U) == 3) {
          stream.host.Reset();
        } else {
          (void)shutdown(stream.host.get(), data[2] & 3);
        }
        break;
    }
    (void)guest->Next(std::chrono::milliseconds(0));
  }
  guest->rig().core().WriteStatus(0);
  guest->rig().ram().Release(mark);
  return 0;
}
