// One read of a host's socket fills several receive buffers of the guest: packets, credit, order,
// what goes back unused.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <string_view>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr size_t kPayload = 1000;
constexpr uint32_t kWholeBuffer = kVsockHeaderSize + kPayload;

std::string Counting(size_t size, size_t from = 0) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((from + i) * 31 >> 3U);
  }
  return text;
}

// Every test begins with a ring without buffers, so that what is written to a host's end waits.
// Buffers are given while the device pauses: it sees all of them at once, so reads can be counted.
class VsockReadTest : public ::testing::Test {
 protected:
  static constexpr auto kQuiet = std::chrono::milliseconds(30);

  struct Filled {
    uint16_t head = 0;
    VsockHeader header;
    std::string data;
  };

  VsockReadTest() { guest_.Start(1); }

  VsockGuest::Stream Open(uint32_t port, uint32_t buffer = 16 << 20) {
    return guest_.Connect(port, buffer);
  }

  // Takes the buffer that Connect leaves.
  void Empty(VsockGuest::Stream& stream) {
    EXPECT_TRUE(WriteAll(stream.host, "x"));
    EXPECT_EQ(Take().data, "x");
    mark_ = guest_.rig().ram().Mark();
  }

  // Two full reads: from then on the device expects 128 KiB of the stream.
  void Warm(VsockGuest::Stream& stream) {
    constexpr size_t kLarge = 64 << 10;
    EXPECT_TRUE(WriteAll(stream.host, std::string(2 * kLarge, 'w')));
    Give(2, kVsockHeaderSize + kLarge);
    EXPECT_EQ(Take().data.size(), kLarge);
    EXPECT_EQ(Take().data.size(), kLarge);
    guest_.rig().ram().Release(mark_);
  }

  // A warm stream in which the first `size` bytes of Counting wait for buffers.
  VsockGuest::Stream Primed(size_t size, uint32_t buffer = 16 << 20) {
    auto stream = Open(100, buffer);
    Empty(stream);
    Warm(stream);
    EXPECT_TRUE(WriteAll(stream.host, Counting(size)));
    return stream;
  }

  std::vector<uint16_t> Give(int count, uint32_t size = kWholeBuffer) {
    std::vector<uint16_t> heads;
    heads.reserve(static_cast<size_t>(count));
    auto& ring = PausedRing();
    for (int i = 0; i < count; ++i) {
      heads.push_back(ring.Build().Writable(size).Submit());
    }
    Resume();
    return heads;
  }

  // The receive queue's driver; the device sees what it submits when it resumes.
  virtio::testing::FakeDriver& PausedRing() {
    guest_.rig().core().Pause();
    return guest_.rig().queue(0);
  }

  void Resume() { EXPECT_TRUE(guest_.rig().core().Resume()); }

  Filled Take() {
    const auto used = guest_.rig().WaitUsed(0);
    Filled filled{.head = used.head, .header = {}, .data = {}};
    const std::string bytes = guest_.rig().queue(0).Written(used.head, used.written);
    if (bytes.size() >= kVsockHeaderSize) {
      std::memcpy(&filled.header, bytes.data(), kVsockHeaderSize);
      filled.data = bytes.substr(kVsockHeaderSize);
      EXPECT_EQ(filled.header.length, filled.data.size());
    }
    return filled;
  }

  // The next packets in the buffers of `heads`, in that order, all data.
  std::string TakeData(std::span<const uint16_t> heads) {
    std::string all;
    for (const uint16_t head : heads) {
      const Filled filled = Take();
      EXPECT_EQ(filled.head, head);
      EXPECT_EQ(filled.header.operation(), VsockOp::kData);
      all += filled.data;
    }
    return all;
  }

  // What the device answers to a packet that asks for its credit.
  Filled TakeCredit(const VsockGuest::Stream& stream) {
    guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditRequest));
    Filled credit = Take();
    EXPECT_EQ(credit.header.operation(), VsockOp::kCreditUpdate);
    return credit;
  }

  bool Quiet() { return !guest_.rig().WaitMaybe(0, kQuiet).has_value(); }

  uint64_t Reads() { return guest_.rig().counter("socket_reads"); }

  VsockGuest guest_;
  uint64_t mark_ = 0;
};

TEST_F(VsockReadTest, OneReadFillsSeveralBuffersEachWithItsHeader) {
  const auto stream = Primed(10 * kPayload);
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 5;
  guest_.Send(data, "hello");  // what the headers' fwd_cnt tells
  const uint64_t before = Reads();
  const uint64_t packets = guest_.rig().counter("packets_to_guest");
  const auto heads = Give(10);
  for (size_t i = 0; i < heads.size(); ++i) {
    const Filled filled = Take();
    EXPECT_EQ(filled.head, heads[i]);
    EXPECT_EQ(filled.header.operation(), VsockOp::kData);
    EXPECT_EQ(filled.header.src_cid, kHostCid);
    EXPECT_EQ(filled.header.dst_cid, VsockGuest::kCid);
    EXPECT_EQ(filled.header.src_port, stream.request.src_port);
    EXPECT_EQ(filled.header.dst_port, 100U);
    EXPECT_EQ(filled.header.type, kVsockStream);
    EXPECT_EQ(filled.header.flags, 0U);
    EXPECT_EQ(filled.header.buffer_size, 256U << 10U);
    EXPECT_EQ(filled.header.forwarded, 5U);
    EXPECT_EQ(filled.data, Counting(kPayload, i * kPayload));
  }
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(Reads() - before, 1U);
  EXPECT_EQ(guest_.rig().counter("packets_to_guest") - packets, 10U);
  EXPECT_EQ(guest_.rig().counter("bytes_to_guest"), 1U + (128U << 10U) + 10U * kPayload);
}

TEST_F(VsockReadTest, BuffersThatWereNotNeededComeNextInTheirOrder) {
  const auto stream = Primed(1500);
  const auto heads = Give(10);
  const std::span<const uint16_t> all(heads);
  EXPECT_EQ(TakeData(all.first(2)), Counting(1500));
  EXPECT_TRUE(Quiet());
  ASSERT_TRUE(WriteAll(stream.host, "y"));
  EXPECT_EQ(TakeData(all.subspan(2, 1)), "y");
  // A packet without data, and another stream, find them too.
  EXPECT_EQ(TakeCredit(stream).head, heads[3]);
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  ASSERT_TRUE(guest_.device().ConnectStream(7, std::move(pair->second), [](Result<>) {}));
  const Filled request = Take();
  EXPECT_EQ(request.head, heads[4]);
  EXPECT_EQ(request.header.operation(), VsockOp::kRequest);
  EXPECT_EQ(guest_.rig().core().status(), 15);
}

TEST_F(VsockReadTest, NothingToReadGivesEveryBufferBack) {
  // The first read finds the last byte, the next one nothing, with many buffers in hand.
  const auto stream = Primed(0);
  const auto heads = Give(60);
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(TakeCredit(stream).head, heads[0]);
  ASSERT_TRUE(WriteAll(stream.host, "abc"));
  EXPECT_EQ(TakeData(std::span(heads).subspan(1, 1)), "abc");
}

TEST_F(VsockReadTest, CreditEndsAReadInTheMiddleOfABuffer) {
  const auto stream = Primed(4000, 140000);
  guest_.consumed = (128 << 10) + 1;
  guest_.guest_buffer = 2500;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  const auto heads = Give(10);
  const std::span<const uint16_t> all(heads);
  EXPECT_EQ(TakeData(all.first(3)), Counting(2500));
  EXPECT_TRUE(Quiet());
  guest_.consumed += 1100;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(TakeData(all.subspan(3, 2)), Counting(1100, 2500));
  EXPECT_TRUE(Quiet());
}

TEST_F(VsockReadTest, EndOfFileComesAfterTheLastOfSeveralPackets) {
  const auto stream = Primed(2500);
  ASSERT_EQ(shutdown(stream.host.get(), SHUT_WR), 0);
  const auto heads = Give(10);
  EXPECT_EQ(TakeData(std::span(heads).first(3)), Counting(2500));
  const Filled end = Take();
  EXPECT_EQ(end.head, heads[3]);
  EXPECT_EQ(end.header.operation(), VsockOp::kShutdown);
  EXPECT_EQ(end.header.flags, kShutdownSend);
  EXPECT_TRUE(Quiet());
}

TEST_F(VsockReadTest, DescriptorsOfTheHostDoNotHideTheBytesBehindThem) {
  const auto stream = Primed(0);
  // Nobody takes the descriptor, but the kernel ends a read where one came along.
  const FdRef along[] = {stream.host};
  for (const std::string_view text : {"ab", "cd"}) {
    ASSERT_TRUE(SendMessage(stream.host, std::as_bytes(std::span(text)), along));
  }
  ASSERT_TRUE(WriteAll(stream.host, "ef"));
  Give(10);
  std::string got;
  while (got.size() < 6) {
    got += Take().data;
  }
  EXPECT_EQ(got, "abcdef");
}

TEST_F(VsockReadTest, ClosedHostsBytesComeBeforeShutdownOfBoth) {
  auto stream = Primed(2000);
  stream.host.Reset();
  const auto heads = Give(10);
  EXPECT_EQ(TakeData(std::span(heads).first(2)), Counting(2000));
  const Filled end = Take();
  EXPECT_EQ(end.header.operation(), VsockOp::kShutdown);
  EXPECT_EQ(end.header.flags, kShutdownBoth);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kReset));
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockReadTest, BuffersOfAllSizesTakeWhatTheyHold) {
  const auto stream = Primed(1000);
  auto& ring = PausedRing();
  ring.Build().Writable(45).Submit();
  ring.Build().Readable("not for us").Writable(43).Writable(100).Writable(1).Submit();
  ring.Build().Writable(0).Writable(144).Writable(0).Submit();
  auto pieces = ring.Build().Indirect();
  for (int i = 0; i < 24; ++i) {
    pieces.Writable(7);
  }
  pieces.Submit();
  ring.Build().Writable(1 << 20).Submit();
  const uint64_t before = Reads();
  Resume();
  size_t at = 0;
  for (const size_t size : {1U, 100U, 100U, 124U, 675U}) {
    EXPECT_EQ(Take().data, Counting(size, at));
    at += size;
  }
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(Reads() - before, 1U);
}

TEST_F(VsockReadTest, BufferTooSmallForAHeaderAmongOthersComesBackEmpty) {
  const auto stream = Primed(2000);
  auto& ring = PausedRing();
  ring.Build().Writable(kWholeBuffer).Submit();
  const uint16_t small = ring.Build().Writable(43).Submit();
  const uint16_t readable = ring.Build().Readable("no room at all").Submit();
  ring.Build().Writable(kWholeBuffer).Submit();
  Resume();
  EXPECT_EQ(Take().data, Counting(kPayload));
  EXPECT_EQ(Take().head, small);
  EXPECT_EQ(Take().head, readable);
  EXPECT_EQ(Take().data, Counting(kPayload, kPayload));
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 2U);
}

TEST_F(VsockReadTest, HeaderOnlyBufferAmongOthersWaitsForAPacketWithoutData) {
  const auto stream = Primed(2000);
  auto& ring = PausedRing();
  ring.Build().Writable(kWholeBuffer).Submit();
  const uint16_t bare = ring.Build().Writable(kVsockHeaderSize).Submit();
  ring.Build().Writable(kWholeBuffer).Submit();
  Resume();
  EXPECT_EQ(Take().data, Counting(kPayload));
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(TakeCredit(stream).head, bare);
  EXPECT_EQ(Take().data, Counting(kPayload, kPayload));
}

TEST_F(VsockReadTest, BrokenChainAmongOthersLeavesThoseBeforeItFilled) {
  const auto stream = Primed(3000);
  auto& ring = PausedRing();
  const uint16_t first = ring.Build().Writable(kWholeBuffer).Submit();
  const uint16_t second = ring.Build().Writable(kWholeBuffer).Submit();
  ring.Build().WritableAt(mem::Gpa{uint64_t{1} << 40U}, kWholeBuffer).Submit();
  ring.Build().Writable(kWholeBuffer).Submit();
  Resume();
  EXPECT_EQ(TakeData(std::vector{first, second}), Counting(2000));
  EXPECT_TRUE(guest_.rig().WaitNeedsReset());
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(guest_.rig().counter("faults"), 1U);
}

TEST_F(VsockReadTest, SameBufferTwiceIsTheGuestsLossAlone) {
  // Payload over payload and headers over payload: the lengths that we report are our own.
  const auto stream = Primed(4 * kPayload);
  auto& ring = PausedRing();
  const mem::Gpa shared = guest_.rig().ram().Allocate(kWholeBuffer + 8);
  for (uint64_t shift = 0; shift < 8; shift += 2) {
    ring.Build().WritableAt(mem::Gpa{mem::Raw(shared) + shift}, kWholeBuffer).Submit();
  }
  Resume();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(guest_.rig().WaitUsed(0).written, kWholeBuffer);
  }
  ASSERT_TRUE(WriteAll(stream.host, "alive"));
  Give(1);
  EXPECT_EQ(Take().data, "alive");
}

TEST_F(VsockReadTest, StreamsThatBothHaveMuchTakeTurns) {
  auto one = Open(1);
  auto two = Open(2);
  Empty(one);
  Warm(one);
  Warm(two);
  constexpr size_t kPage = 4096;
  ASSERT_TRUE(WriteAll(one.host, std::string(32 * kPage, '1')));
  ASSERT_TRUE(WriteAll(two.host, std::string(32 * kPage, '2')));
  Give(60, kVsockHeaderSize + kPage);
  uint32_t run = 0;
  uint32_t longest = 0;
  uint32_t last = 0;
  size_t of_two = 0;
  for (int i = 0; i < 60; ++i) {
    const Filled filled = Take();
    EXPECT_EQ(filled.data, std::string(kPage, filled.header.dst_port == 1U ? '1' : '2'));
    run = filled.header.dst_port == last ? run + 1 : 1;
    last = filled.header.dst_port;
    longest = std::max(longest, run);
    of_two += last == 2U ? 1 : 0;
  }
  EXPECT_LE(longest, 16U);  // 64 KiB, as one packet may have
  EXPECT_GE(of_two, 28U);
}

TEST_F(VsockReadTest, MebibyteIntoBuffersOfLinuxCostsFewReads) {
  // Linux gives a page less what its skb needs; a read per buffer was 283 of them.
  constexpr uint32_t kLinuxBuffer = 3712 + kVsockHeaderSize;
  constexpr size_t kPart = 128 << 10;
  auto stream = Open(100);
  Empty(stream);
  const uint64_t before = Reads();
  size_t got = 0;
  bool right = true;
  for (int part = 0; part < 8; ++part) {
    ASSERT_TRUE(WriteAll(stream.host, Counting(kPart, got)));
    for (size_t packets = Give(36, kLinuxBuffer).size(); packets > 0; --packets) {
      const Filled filled = Take();
      right = right && filled.data == Counting(filled.data.size(), got);
      got += filled.data.size();
    }
    guest_.rig().ram().Release(mark_);
  }
  EXPECT_EQ(got, 8 * kPart);
  EXPECT_TRUE(right);
  EXPECT_LE(Reads() - before, 20U);
}

}  // namespace
}  // namespace wyvern::devices
