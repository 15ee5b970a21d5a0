// A hostile guest with connections of both types open: packets of any header, credit and length,
// transport resets, and hosts that write, read and close.
// Input:   records of 16 B: operation, connection (even: stream, odd: seqpacket), op, flags, 4 B
//          length, 4 B buffer size, 4 B forwarded. The first connection also says: packed rings (bit
//          7), no seqpacket connections (bit 6).
//          Operations (modulo 10): packets, what hosts do, part of a message, transport reset, event
//          buffers; a connection that the guest does not answer, pause and configuration.
#include <sys/socket.h>

#include <array>

#include "base/check.h"
#include "base/endian.h"
#include "base/unix_socket.h"
#include "testing/fuzz_records.h"
#include "vsock/testing/vsock_guest.h"

namespace {

using wyvern::Le32;
using wyvern::UniqueFd;
using wyvern::devices::VsockHeader;
using wyvern::devices::VsockOp;
using wyvern::devices::testing::ForEachRecord;
using wyvern::devices::testing::RingKind;
using wyvern::devices::testing::VsockGuest;

struct Record {
  uint8_t operation;
  uint8_t connection;
  uint8_t op;
  uint8_t flags;
  Le32 length;
  Le32 buffer_size;
  Le32 forwarded;
};

const std::string kScrap(4096, 'f');

std::string_view Scrap(const Record& record) {
  return std::string_view(kScrap).substr(0, record.length.value() % 4097);
}

// A connection that the guest may refuse, answer late or never; the host's end of it.
UniqueFd Ask(VsockGuest& guest, const Record& record) {
  const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
  auto pair = *wyvern::MakeSocketPair(types[record.op % 3]);
  (void)guest.device().ConnectStream(record.flags, std::move(pair.second),
                                     [](const wyvern::Result<>& /*connected*/) {});
  return (record.op & 0x80U) != 0 ? UniqueFd() : std::move(pair.first);
}

void Pause(VsockGuest& guest, const Record& record) {
  auto& core = guest.rig().core();
  if ((record.op & 1U) != 0) {
    (void)core.Pause();
    if ((record.op & 2U) != 0) {
      guest.device().ResetTransport();
    }
    WV_CHECK(core.Resume().has_value());
  }
  core.WriteConfig(record.flags % 16, std::as_bytes(std::span(&record.length, 1)));
  WV_CHECK(guest.rig().Config<uint64_t>(0) == VsockGuest::kCid);
}

void Send(VsockGuest& guest, const VsockGuest::Stream& stream, const Record& record) {
  VsockHeader header = guest.Reply(stream.request, static_cast<VsockOp>(record.op));
  header.flags = record.flags;
  header.length = record.length;
  header.buffer_size = record.buffer_size;
  header.forwarded = record.forwarded;
  if (record.operation == 0xf0) {
    header.dst_port = record.forwarded;
    header.type = record.flags;
  }
  guest.Send(header, Scrap(record));
}

void GiveEventBuffer(VsockGuest& guest, const Record& record) {
  if (guest.rig().queue(2).free_descriptors() > 0) {
    guest.rig().queue(2).Build().Writable(record.length.value() % 8).Submit();
    guest.rig().KickAlways(2);
  }
  (void)guest.rig().WaitMaybe(2, std::chrono::milliseconds(0));
}

void Step(VsockGuest& guest, VsockGuest::Stream& stream, const Record& record) {
  switch (record.operation % 10) {
    case 0:
    case 1:
      return Send(guest, stream, record);
    case 2:
      (void)send(stream.host.get(), kScrap.data(), record.length.value() % 256 * 16,
                 MSG_DONTWAIT | MSG_NOSIGNAL);
      return;
    case 3: {
      std::array<char, 4096> received;
      (void)recv(stream.host.get(), received.data(), received.size(), MSG_DONTWAIT);
      return;
    }
    case 5:  // parts of messages, honest but for their end
      return guest.SendData(stream, Scrap(record), record.flags);
    case 6:
      return guest.device().ResetTransport();
    case 7:
      return GiveEventBuffer(guest, record);
    case 9:
      return Pause(guest, record);
    default:
      if ((record.op & 3U) == 3) {
        stream.host.Reset();
      } else {
        (void)shutdown(stream.host.get(), record.op & 3);
      }
      return;
  }
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
  std::vector<UniqueFd> unanswered;
  ForEachRecord<Record>({data, size}, 64, [&](const Record& record) {
    if (record.operation % 10 == 8) {
      unanswered.push_back(Ask(*guest, record));
    } else {
      Step(*guest, streams[record.connection % streams.size()], record);
    }
    (void)guest->Next(std::chrono::milliseconds(0));
  });
  guest->rig().core().WriteStatus(0);
  guest->rig().ram().Release(mark);
  return 0;
}
