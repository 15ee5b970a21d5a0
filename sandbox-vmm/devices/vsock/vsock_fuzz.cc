// A hostile guest with connections of both types open: packets of any header, credit and length,
// transport resets, and hosts that write, read and close.
// Input:   records of 16 B: operation, connection (even: stream, odd: seqpacket), op, flags, 4 B
//          length, 4 B buffer size, 4 B forwarded. Bit 7 of the first connection: packed rings.
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* guest = new VsockGuest();
  const uint64_t mark = guest->rig().ram().Mark();
  guest->rig().UseRing(size > 1 && (data[1] & 0x80U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  guest->Start(16);
  std::vector<VsockGuest::Stream> streams;
  for (uint32_t i = 0; i < 4; ++i) {
    streams.push_back(guest->Connect(i, 64 << 10, i % 2 == 0 ? SOCK_STREAM : SOCK_SEQPACKET));
  }
  std::string scrap(4096, 'f');
  for (size_t i = 0; size >= 16 && i < 64; data += 16, size -= 16, ++i) {
    auto& stream = streams[data[1] % streams.size()];
    switch (data[0] % 8) {
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
