// Bytes both ways: whole, in order, and no more of them than both sides take.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "console/testing/console_guest.h"

namespace wyvern::devices {
namespace {

using testing::ConsoleGuest;

std::string ReadHost(FdRef fd, size_t bytes) {
  std::string text(bytes, '\0');
  EXPECT_TRUE(ReadExact(fd, std::as_writable_bytes(std::span(text))));
  return text;
}

// Bytes of which each place tells whether it is the right one.
std::string Pattern(size_t bytes, unsigned seed = 0) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) {
    text[i] = static_cast<char>((i * 31 + i / 251 + seed) & 0xff);
  }
  return text;
}

struct Pipes {
  PipePair input = *MakePipe();   // the test writes, the device reads
  PipePair output = *MakePipe();  // the device writes, the test reads

  ConsoleEnds Ends() {
    return {.in = std::move(input.read), .out = std::move(output.write), .in_is_out = false};
  }
};

TEST(ConsoleDataTest, OutputReachesTheHostAndInputTheGuest) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(0);
  const uint16_t head = guest.Output(0, "login: ");
  EXPECT_EQ(ReadHost(host, 7), "login: ");
  EXPECT_EQ(guest.rig().WaitUsed(ConsoleGuest::ToHost(0)).head, head);
  guest.OfferInput(0, 16);
  ASSERT_TRUE(WriteAll(host, "root\n"));
  EXPECT_EQ(guest.Input(0), "root\n");
  EXPECT_EQ(guest.rig().counter("bytes_from_guest"), 7U);
  EXPECT_EQ(guest.rig().counter("bytes_to_guest"), 5U);
}

TEST(ConsoleDataTest, DriverWithoutMultiportHasPort0) {
  ConsoleGuest guest;
  guest.Start(kConsoleFMultiport);
  auto host = guest.Attach(0);
  guest.OfferInput(0, 16);
  ASSERT_TRUE(WriteAll(host, "in"));
  EXPECT_EQ(guest.Input(0), "in");
  guest.Output(0, "out");
  EXPECT_EQ(ReadHost(host, 3), "out");
  EXPECT_TRUE(guest.Events(0).empty());
}

TEST(ConsoleDataTest, InputWaitsUntilTheGuestOpensThePort) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  guest.OfferInput(1, 64);
  ASSERT_TRUE(WriteAll(host, "early"));
  EXPECT_FALSE(guest.rig().WaitMaybe(ConsoleGuest::ToGuest(1), std::chrono::milliseconds(20)));
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  EXPECT_EQ(guest.Input(1), "early");
}

TEST(ConsoleDataTest, MegabyteOfOutputArrivesWholeThroughASmallPipe) {
  ConsoleGuest guest;
  guest.Up();
  Pipes pipes;
  ASSERT_GE(fcntl(pipes.output.write.get(), F_SETPIPE_SZ, 4096), 0);
  ASSERT_TRUE(guest.device().Attach(1, pipes.Ends()));
  const std::string all = Pattern(1 << 20);
  std::string got;
  const uint64_t mark = guest.rig().ram().Mark();
  for (size_t at = 0; at < all.size(); at += 1 << 18U) {
    // Whole, and in pieces of pages as Linux's splice makes them.
    auto build = guest.rig().queue(ConsoleGuest::ToHost(1)).Build();
    for (size_t piece = 0; piece < (1U << 18U); piece += 1 << 13U) {
      build.Readable(std::string_view(all).substr(at + piece, 1 << 13U));
    }
    build.Submit();
    guest.rig().KickAlways(ConsoleGuest::ToHost(1));
    got += ReadHost(pipes.output.read, 1 << 18U);
    guest.rig().WaitUsed(ConsoleGuest::ToHost(1));
    guest.rig().ram().Release(mark);
  }
  EXPECT_TRUE(got == all);
}

TEST(ConsoleDataTest, MegabyteOfInputArrivesWhole) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  const std::string all = Pattern(1 << 20, 7);
  std::thread writer([&] { EXPECT_TRUE(WriteAll(host, all)); });
  std::string got;
  for (int i = 0; i < 16; ++i) {
    guest.OfferInput(1, 4096);
  }
  auto& driver = guest.rig().queue(ConsoleGuest::ToGuest(1));
  while (got.size() < all.size()) {
    const auto used = guest.rig().WaitUsed(ConsoleGuest::ToGuest(1));
    const mem::Gpa buffer = driver.WritableAddress(used.head);
    got += driver.Written(used.head, used.written);
    driver.Build().WritableAt(buffer, 4096).Submit();
    guest.rig().Kick(ConsoleGuest::ToGuest(1));
  }
  writer.join();
  EXPECT_TRUE(got == all);
}

TEST(ConsoleDataTest, OutputGoesOnWhereItWasAfterAPause) {
  ConsoleGuest guest;
  guest.Up();
  Pipes pipes;
  ASSERT_GE(fcntl(pipes.output.write.get(), F_SETPIPE_SZ, 4096), 0);
  ASSERT_TRUE(guest.device().Attach(1, pipes.Ends()));
  const std::string text = Pattern(20000, 3);
  guest.Output(1, text);
  ASSERT_TRUE(testing::WaitUntil([&] { return guest.rig().counter("bytes_from_guest") == 4096; }));
  (void)guest.rig().core().Pause();
  EXPECT_EQ(guest.device().state().ports[1].resume_at, 4096U);
  std::string got = ReadHost(pipes.output.read, 4096);
  ASSERT_TRUE(guest.rig().core().Resume());
  got += ReadHost(pipes.output.read, text.size() - 4096);
  EXPECT_TRUE(got == text);
  guest.rig().WaitUsed(ConsoleGuest::ToHost(1));
}

TEST(ConsoleDataTest, OutputOfADeviceThatIsRestoredGoesOnWhereItWas) {
  ConsoleGuest guest;
  guest.Up();
  ConsoleOptions options = ConsoleGuest::Options();
  ConsoleState state = guest.device().state();
  state.ports[1].resume_at = 6;
  options.resume = std::move(state);
  ConsoleGuest restored(std::move(options));
  restored.rig().Prepare();
  auto host = restored.Attach(1);
  // What the transport does with a restored ring: started with its state.
  EventFd kick = *EventFd::Create();
  virtio::testing::FakeDriver driver(restored.rig().ram(), 16, virtio::kVersion1);
  driver.Build().Readable("gone, here").Submit();
  ASSERT_TRUE(restored.device().StartQueue(
      ConsoleGuest::ToHost(1),
      {.memory = restored.rig().ram().memory(),
       .config = driver.config(),
       .kick = kick.fd(),
       .interrupt = std::make_shared<virtio::testing::FakeInterrupt>()},
      virtio::kVersion1 | kConsoleFMultiport, virtio::QueueState{}));
  EXPECT_EQ(ReadHost(host, 4), "here");
  EXPECT_TRUE(restored.device().StopQueue(ConsoleGuest::ToHost(1)));
}

TEST(ConsoleDataTest, InputMayEndBeforeOutput) {
  ConsoleGuest guest;
  guest.Up();
  Pipes pipes;
  ASSERT_TRUE(guest.device().Attach(1, pipes.Ends()));
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  guest.OfferInput(1, 16);
  ASSERT_TRUE(WriteAll(pipes.input.write, "last"));
  pipes.input.write.Reset();
  EXPECT_EQ(guest.Input(1), "last");
  guest.OfferInput(1, 16);
  guest.Output(1, "still here");
  EXPECT_EQ(ReadHost(pipes.output.read, 10), "still here");
  EXPECT_EQ(guest.rig().counter("ports_attached"), 1U);
  pipes.output.read.Reset();
  ASSERT_TRUE(testing::WaitUntil([&] { return guest.rig().counter("ports_attached") == 0; }));
  // Whatever comes now has nowhere to go, and keeps nobody waiting.
  guest.Output(1, "too late");
  guest.rig().WaitUsed(ConsoleGuest::ToHost(1));
  guest.rig().WaitUsed(ConsoleGuest::ToHost(1));
  EXPECT_EQ(guest.rig().counter("bytes_dropped"), 8U);
}

TEST(ConsoleDataTest, HalfClosedSocketStillTakesOutput) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  guest.OfferInput(1, 16);
  ASSERT_EQ(shutdown(host.get(), SHUT_WR), 0);
  guest.Output(1, "answer");
  EXPECT_EQ(ReadHost(host, 6), "answer");
  EXPECT_EQ(guest.rig().counter("ports_attached"), 1U);
}

TEST(ConsoleDataTest, OutputToAFileNeverWaits) {
  ConsoleGuest guest;
  guest.Up();
  auto file = MakeMemfd("log", 0);
  ASSERT_TRUE(file);
  ConsoleEnds ends;
  ends.out = *file->Duplicate();
  ASSERT_TRUE(guest.device().Attach(0, std::move(ends)));
  guest.Output(0, "one\n");
  guest.Output(0, "two\n");
  guest.rig().WaitUsed(ConsoleGuest::ToHost(0));
  guest.rig().WaitUsed(ConsoleGuest::ToHost(0));
  std::array<char, 9> text{};
  ASSERT_EQ(pread(file->get(), text.data(), text.size(), 0), 8);
  EXPECT_STREQ(text.data(), "one\ntwo\n");
}

TEST(ConsoleDataTest, ConsoleThatDropsNeverKeepsTheGuestWaiting) {
  ConsoleOptions options = ConsoleGuest::Options();
  options.ports[0].overflow = ConsoleOverflow::kDrop;
  ConsoleGuest guest(std::move(options));
  guest.Up();
  Pipes pipes;
  ASSERT_GE(fcntl(pipes.output.write.get(), F_SETPIPE_SZ, 4096), 0);
  ASSERT_TRUE(guest.device().Attach(0, pipes.Ends()));
  const std::string text = Pattern(3000, 1);
  for (int i = 0; i < 5; ++i) {
    guest.Output(0, text);
    guest.rig().WaitUsed(ConsoleGuest::ToHost(0));
  }
  EXPECT_EQ(guest.rig().counter("bytes_from_guest") + guest.rig().counter("bytes_dropped"), 15000U);
  EXPECT_GE(guest.rig().counter("bytes_dropped"), 10000U);
  EXPECT_TRUE(ReadHost(pipes.output.read, 3000) == text);
  (void)ReadHost(pipes.output.read, guest.rig().counter("bytes_from_guest") - 3000);
  guest.Output(0, "again");
  EXPECT_EQ(ReadHost(pipes.output.read, 5), "again");
}

TEST(ConsoleDataTest, PortsDoNotWaitForEachOther) {
  ConsoleGuest guest;
  guest.Up();
  Pipes stuck;
  ASSERT_TRUE(guest.device().Attach(1, stuck.Ends()));
  guest.Output(1, Pattern(1 << 18));  // more than the pipe takes
  auto host = guest.Attach(2);
  guest.Output(2, "free");
  EXPECT_EQ(ReadHost(host, 4), "free");
  guest.rig().WaitUsed(ConsoleGuest::ToHost(2));
  EXPECT_FALSE(guest.rig().WaitMaybe(ConsoleGuest::ToHost(1), std::chrono::milliseconds(5)));
}

TEST(ConsoleDataTest, WaitingCostsNoSystemCalls) {
  ConsoleGuest guest;
  guest.Up();
  Pipes pipes;
  ASSERT_TRUE(guest.device().Attach(1, pipes.Ends()));
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  guest.Output(1, Pattern(1 << 18));
  ASSERT_TRUE(WriteAll(pipes.input.write, "nobody has room for this"));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const uint64_t reads = guest.rig().counter("reads");
  const uint64_t writes = guest.rig().counter("writes");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(guest.rig().counter("reads"), reads);
  EXPECT_EQ(guest.rig().counter("writes"), writes);
}

}  // namespace
}  // namespace wyvern::devices
