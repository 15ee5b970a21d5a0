// Guests that break the rules of virtio sockets.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <thread>

#include "base/check.h"
#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

bool HostEnded(FdRef fd) {
  std::byte byte{};
  auto got = ReadSome(fd, std::span(&byte, 1));
  return !got || *got == 0;
}

class VsockHostileTest : public ::testing::Test {
 protected:
  VsockHostileTest() { guest_.Start(); }

  VsockHeader Stray(VsockOp op) {
    VsockHeader to;
    to.src_port = 4000;
    to.dst_port = 5000;
    return guest_.Reply(to, op);
  }

  // The stream is reset, host and guest both see it, and the device still serves others.
  void ExpectReset(VsockGuest::Stream& stream) {
    const auto reset = guest_.Expect(VsockOp::kReset);
    EXPECT_EQ(reset.header.src_port, stream.request.src_port);
    EXPECT_TRUE(HostEnded(stream.host));
    EXPECT_GE(guest_.rig().counter("bad_packets"), 1U);
    EXPECT_EQ(guest_.rig().counter("connections"), 0U);
    EXPECT_EQ(guest_.rig().core().status(), 15);
    auto next = guest_.Connect(9);
    ASSERT_TRUE(WriteAll(next.host, "alive"));
    EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "alive");
  }

  VsockGuest guest_;
};

TEST_F(VsockHostileTest, GuestInitiatedStreamIsRefused) {
  guest_.Send(Stray(VsockOp::kRequest));
  const auto reset = guest_.Expect(VsockOp::kReset);
  EXPECT_EQ(reset.header.dst_port, 5000U);
  EXPECT_EQ(reset.header.src_port, 4000U);
  EXPECT_EQ(guest_.rig().counter("guest_requests_refused"), 1U);
}

TEST_F(VsockHostileTest, PacketOfNoStreamIsResetAndResetIsNot) {
  guest_.Send(Stray(VsockOp::kReset));
  guest_.Send(Stray(VsockOp::kData));
  guest_.Expect(VsockOp::kReset);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
}

TEST_F(VsockHostileTest, WrongCidsAreDropped) {
  auto header = Stray(VsockOp::kRequest);
  header.src_cid = uint64_t{2};
  guest_.Send(header);
  header = Stray(VsockOp::kRequest);
  header.dst_cid = uint64_t{4};
  guest_.Send(header);
  header.dst_cid = ~uint64_t{0};
  guest_.Send(header);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 3U);
}

TEST_F(VsockHostileTest, UnknownTypeIsAnsweredWithResetOfThatType) {
  // VIRTIO §5.10.6.4.2
  auto header = Stray(VsockOp::kRequest);
  header.type = uint16_t{77};
  guest_.Send(header);
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.type, 77U);
}

TEST_F(VsockHostileTest, UnknownOperationResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, static_cast<VsockOp>(99)));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, SecondResponseResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kResponse));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, RequestOnAnOpenStreamResetsIt) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kRequest));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, DataBeforeTheResponseResetsTheStream) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
  const auto request = guest_.Expect(VsockOp::kRequest);
  VsockGuest::Stream stream{.request = request.header, .host = std::move(pair->first)};
  guest_.SendData(stream, "x");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, Ch7680_LengthBeyondThePacketResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.DataHeader(stream, 100), "short");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, LengthOf4GiBResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.DataHeader(stream, 0xffffffff), "x");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, MoreThanTheCreditResetsTheStream) {
  // The host never reads, so the socket fills up and then our buffer: nobody may send beyond it.
  auto stream = guest_.Connect(1);
  const std::string piece(64 << 10, 'x');
  bool reset = false;
  for (int i = 0; i < 64 && !reset; ++i) {
    guest_.SendData(stream, piece);
    while (auto packet = guest_.Next(std::chrono::milliseconds(1))) {
      reset = reset || packet->header.operation() == VsockOp::kReset;
    }
  }
  EXPECT_TRUE(reset);
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockHostileTest, DataAfterTheGuestsOwnEndResetsTheStream) {
  auto stream = guest_.Connect(1);
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownSend;
  guest_.Send(end);
  guest_.SendData(stream, "x");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, KernelCve202623069_ImpossibleForwardCountGivesNoCredit) {
  auto stream = guest_.Connect(1, 1000);
  guest_.consumed = 5000;  // more than was ever sent
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  ASSERT_TRUE(WriteAll(stream.host, "data"));
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(30)));
  guest_.consumed = 0;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "data");
}

TEST_F(VsockHostileTest, ShrinkingBufferBelowWhatIsInFlightGivesNoCredit) {
  auto stream = guest_.Connect(1, 1000);
  ASSERT_TRUE(WriteAll(stream.host, std::string(1500, 'x')));
  guest_.Expect(VsockOp::kData);
  guest_.guest_buffer = 10;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(30)));
}

TEST_F(VsockHostileTest, PacketShorterThanItsHeaderIsDropped) {
  guest_.rig().queue(1).Build().Readable("short").Submit();
  guest_.rig().KickAlways(1);
  guest_.rig().WaitUsed(1);
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 1U);
  EXPECT_EQ(guest_.rig().core().status(), 15);
}

TEST_F(VsockHostileTest, Ch7680_HeaderInPiecesIsReadWhole) {
  const auto header = Stray(VsockOp::kRequest);
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  auto build = guest_.rig().queue(1).Build();
  for (const char byte : bytes) {
    build.Readable(std::string_view(&byte, 1));
  }
  build.Submit();
  guest_.rig().KickAlways(1);
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.dst_port, 5000U);
}

TEST_F(VsockHostileTest, Cve201918960_DataInPiecesReachesTheHostWhole) {
  auto stream = guest_.Connect(1);
  const VsockHeader header = guest_.DataHeader(stream, 26);
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes += "abcdefghijklmnopqrstuvwxyz";
  auto build = guest_.rig().queue(1).Build();
  for (size_t at = 0; at < bytes.size(); at += 7) {
    build.Readable(std::string_view(bytes).substr(at, 7));
  }
  build.Submit();
  guest_.rig().KickAlways(1);
  std::string got(26, '\0');
  ASSERT_TRUE(ReadExact(stream.host, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, "abcdefghijklmnopqrstuvwxyz");
}

TEST_F(VsockHostileTest, Cve201918960_DataThatEndsOutsideMemoryNeedsReset) {
  auto stream = guest_.Connect(1);
  const VsockHeader header = guest_.DataHeader(stream, 4096);
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  const mem::Gpa last{virtio::testing::GuestRam::kBase + testing::DeviceRig::kRamSize - 100};
  guest_.rig().queue(1).Build().Readable(bytes).ReadableAt(last, 4096).Submit();
  guest_.rig().KickAlways(1);
  EXPECT_TRUE(guest_.rig().WaitNeedsReset());
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), 0U);
}

TEST_F(VsockHostileTest, Cve202226354_BadPacketsAllComeBack) {
  // QEMU left the buffer of an invalid packet detached: the ring ran dry.
  auto other_cid = Stray(VsockOp::kRequest);
  other_cid.src_cid = uint64_t{9};
  for (int i = 0; i < 100; ++i) {
    guest_.Send(other_cid);
    guest_.Send(Stray(static_cast<VsockOp>(i)));
    guest_.rig().queue(1).Build().Readable("short").Submit();
    guest_.rig().queue(1).Build().Writable(100).Submit();
    guest_.rig().KickAlways(1);
    guest_.rig().WaitUsed(1);
    EXPECT_EQ(guest_.rig().WaitUsed(1).written, 0U);
    while (guest_.Next(std::chrono::milliseconds(0))) {
    }
  }
  EXPECT_EQ(guest_.rig().core().status(), 15);
  EXPECT_EQ(guest_.rig().queue(1).free_descriptors(), 64U);
}

TEST_F(VsockHostileTest, ChDoubleFetch929df76e1_HeaderThatChangesMeanwhileIsOneHeader) {
  // The length flips between right and far too large while packets are taken: each is one or the
  // other, none is checked as the one and used as the other.
  VsockHeader header;
  const std::string payload(64, 'p');
  auto& ram = guest_.rig().ram();
  const mem::Gpa packet = ram.Allocate(sizeof(header) + payload.size());
  const mem::Gpa length_field{mem::Raw(packet) + offsetof(VsockHeader, length)};
  ASSERT_TRUE(ram.memory()->WriteBytes(mem::Gpa{mem::Raw(packet) + sizeof(header)},
                                       std::as_bytes(std::span(payload))));
  uint64_t whole = 0;
  for (int round = 0; round < 20; ++round) {
    auto stream = guest_.Connect(1);
    ram.Write(packet, guest_.Reply(stream.request, VsockOp::kData));
    std::atomic<bool> stop{false};
    std::thread flipper([&] {
      while (!stop.load(std::memory_order_relaxed)) {
        ram.Write(length_field, Le32(64U));
        ram.Write(length_field, Le32(0xffff0000U));
      }
    });
    for (int i = 0; i < 50; ++i) {
      guest_.rig()
          .queue(1)
          .Build()
          .ReadableAt(packet, sizeof(header) + static_cast<uint32_t>(payload.size()))
          .Submit();
      guest_.rig().Kick(1);
      guest_.rig().WaitUsed(1);
    }
    stop = true;
    flipper.join();
    std::string got(4096, '\0');
    for (;;) {
      const ssize_t count = recv(stream.host.get(), got.data(), got.size(), MSG_DONTWAIT);
      if (count <= 0) {
        break;
      }
      whole += static_cast<uint64_t>(count);
    }
    guest_.rig().core().WriteStatus(0);
    guest_.Start();
  }
  EXPECT_EQ(whole % payload.size(), 0U);
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), whole);
}

TEST_F(VsockHostileTest, KernelCve202623086_HugeBufferOfTheGuestCostsNoMemoryOfOurs) {
  // What a guest claims to have room for waits where the host wrote it.
  guest_.rig().core().WriteStatus(0);
  guest_.Start(1);
  auto stream = guest_.Connect(1, 0xffffffff);
  const std::string block(64 << 10, 'b');
  size_t taken = 0;
  for (;;) {
    const ssize_t sent =
        send(stream.host.get(), block.data(), block.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) {
      break;
    }
    taken += static_cast<size_t>(sent);
    ASSERT_LT(taken, size_t{8} << 20U);
  }
  EXPECT_LE(guest_.rig().counter("bytes_to_guest"), size_t{VsockGuest::kBuffer});
}

TEST_F(VsockHostileTest, KernelCve202646214_RefusedConnectionsUseUpNothing) {
  auto header = Stray(VsockOp::kRequest);
  for (uint32_t round = 0; round < 100; ++round) {
    std::vector<std::string> packets;
    for (uint32_t i = 0; i < 50; ++i) {
      header.src_port = round * 50 + i;
      packets.push_back(VsockGuest::Bytes(header));
    }
    guest_.SendAll(packets);
    for (uint32_t i = 0; i < 50; ++i) {
      guest_.Expect(VsockOp::kReset);
    }
  }
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
  EXPECT_EQ(guest_.rig().counter("guest_requests_refused"), 5000U);
  auto stream = guest_.Connect(9);
  ASSERT_TRUE(WriteAll(stream.host, "alive"));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "alive");
}

TEST_F(VsockHostileTest, KernelCve202450264_NothingFollowsAResetWhileConnecting) {
  for (const VsockOp op : {VsockOp::kResponse, VsockOp::kData, VsockOp::kShutdown,
                           VsockOp::kCreditUpdate, VsockOp::kCreditRequest, VsockOp::kRequest}) {
    auto stream = guest_.Request(1);
    guest_.Send(guest_.Reply(stream.request, VsockOp::kReset));
    EXPECT_TRUE(HostEnded(stream.host));
    auto late = guest_.Reply(stream.request, op);
    late.flags = kShutdownBoth;
    guest_.Send(late);
    EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.src_port, stream.request.src_port);
    guest_.Send(guest_.Reply(stream.request, VsockOp::kReset));
  }
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockHostileTest, KernelCve202521756_EveryOrderOfEndsLeavesNothing) {
  // Both ends, the guest's reset and the host's close, in all orders.
  std::array<int, 4> order{0, 1, 2, 3};
  do {
    auto stream = guest_.Connect(1);
    for (const int step : order) {
      auto packet = guest_.Reply(stream.request, step == 3 ? VsockOp::kReset : VsockOp::kShutdown);
      packet.flags = step == 0 ? kShutdownSend : kShutdownReceive;
      if (step == 2) {
        stream.host.Reset();
      } else {
        guest_.Send(packet);
      }
    }
    while (guest_.Next(std::chrono::milliseconds(1))) {
    }
    EXPECT_EQ(guest_.rig().counter("connections"), 0U);
  } while (std::ranges::next_permutation(order).found);
}

TEST_F(VsockHostileTest, GuestWithoutBufferIsSentNothingUntilItHasOne) {
  auto stream = guest_.Connect(1, 0);
  ASSERT_TRUE(WriteAll(stream.host, "data"));
  ASSERT_EQ(shutdown(stream.host.get(), SHUT_WR), 0);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(30)));
  guest_.guest_buffer = 2;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "da");
  guest_.guest_buffer = 0xffffffff;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "ta");
  EXPECT_EQ(guest_.Expect(VsockOp::kShutdown).header.flags, kShutdownSend);
}

TEST_F(VsockHostileTest, StrayPacketsDoNotKeepConnectionsFromTheirTurn) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(1);
  auto stream = guest_.Connect(1);
  ASSERT_TRUE(WriteAll(stream.host, "x"));
  guest_.rig().WaitUsed(0);  // the ring is empty now
  ASSERT_TRUE(WriteAll(stream.host, "mine"));
  for (int i = 0; i < 40; ++i) {
    guest_.Send(Stray(VsockOp::kRequest));
  }
  guest_.GiveBuffers(48);
  int before = 0;
  for (auto packet = guest_.Next(); packet->header.operation() != VsockOp::kData;
       packet = guest_.Next()) {
    ASSERT_EQ(packet->header.operation(), VsockOp::kReset);
    ++before;
  }
  EXPECT_LE(before, 2);
}

TEST_F(VsockHostileTest, ReceiveBufferTooSmallForAHeaderComesBackEmpty) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0);
  guest_.rig().queue(0).Build().Writable(43).Submit();
  guest_.rig().queue(0).Build().Readable("not even writable").Submit();
  guest_.rig().KickAlways(0);
  guest_.Send(Stray(VsockOp::kRequest));
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  guest_.GiveBuffers(1);
  guest_.Expect(VsockOp::kReset);
}

TEST_F(VsockHostileTest, HeaderOnlyReceiveBuffersMoveNoDataButEndNothing) {
  auto stream = guest_.Connect(1);
  guest_.rig().core().WriteStatus(0);
  EXPECT_TRUE(HostEnded(stream.host));
  guest_.Start(0);
  guest_.rig().queue(0).Build().Writable(44).Submit();
  guest_.rig().Kick(0);
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 44U);
}

TEST_F(VsockHostileTest, FloodOfStrayPacketsWithoutReceiveBuffersIsBounded) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0);
  for (int i = 0; i < 1000; ++i) {
    guest_.Send(Stray(VsockOp::kRequest));
  }
  EXPECT_EQ(guest_.rig().counter("resets_dropped"), 1000U - VsockDevice::kMaxStrayResets);
}

TEST_F(VsockHostileTest, GuestThatNeverAnswersACloseCannotFillTheTable) {
  // Kata-style leak: the host opens and closes, the guest keeps every stream half alive.
  guest_.rig().core().WriteStatus(0);
  guest_.Start(48);
  constexpr size_t kStreams = VsockDevice::kMaxConnections + 64;
  for (size_t opened = 0; opened < kStreams; opened += 32) {
    std::vector<UniqueFd> hosts;
    for (int i = 0; i < 32; ++i) {
      auto pair = MakeSocketPair(SOCK_STREAM);
      ASSERT_TRUE(pair);
      ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
      hosts.push_back(std::move(pair->first));
    }
    std::vector<std::string> answers;
    while (answers.size() < hosts.size()) {
      const auto packet = guest_.Next();
      WV_CHECK(packet.has_value());
      if (packet->header.operation() == VsockOp::kRequest) {
        answers.push_back(VsockGuest::Bytes(guest_.Reply(packet->header, VsockOp::kResponse)));
      }
    }
    guest_.SendAll(answers);
    hosts.clear();
    // Only its answer is missing once the guest has been told both ends.
    for (size_t told = 0; told < answers.size();) {
      const auto packet = guest_.Next();
      WV_CHECK(packet.has_value());
      told +=
          packet->header.operation() == VsockOp::kShutdown && packet->header.flags == kShutdownBoth
              ? 1
              : 0;
    }
  }
  EXPECT_LE(guest_.rig().counter("connections"), VsockDevice::kMaxConnections);
  EXPECT_EQ(guest_.rig().counter("connected"), kStreams);
}

}  // namespace
}  // namespace wyvern::devices
