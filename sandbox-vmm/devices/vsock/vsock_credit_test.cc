// Credit, as arithmetic: with counters anywhere, honest and lying peers.
#include "vsock/vsock_credit.h"

#include <gtest/gtest.h>

#include <random>

namespace wyvern::devices {
namespace {

VsockHeader Told(uint32_t buffer_size, uint32_t forwarded) {
  VsockHeader header;
  header.buffer_size = buffer_size;
  header.forwarded = forwarded;
  return header;
}

TEST(VsockCreditTest, KernelCve202623069_PeerThatTookMoreThanItWasSentGetsNoCredit) {
  // An unsigned difference that went below zero was a huge credit.
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const auto start = static_cast<uint32_t>(random());
    const uint32_t sent = random() % (1U << 20U);
    const uint32_t buffer = random() % (1U << 30U);
    const auto forwarded = static_cast<uint32_t>(random());
    VsockCredit credit(4096, start);
    credit.Sent(sent);
    credit.PeerTold(Told(buffer, forwarded));
    const uint32_t in_flight = start + sent - forwarded;
    ASSERT_LE(credit.ToSend(), buffer);
    ASSERT_EQ(credit.ToSend() > 0, in_flight < buffer);
  }
}

TEST(VsockCreditTest, NothingIsSentToAPeerWithoutBuffer) {
  VsockCredit credit(4096);
  EXPECT_EQ(credit.ToSend(), 0U);  // that has told nothing
  credit.PeerTold(Told(0, 0));
  EXPECT_EQ(credit.ToSend(), 0U);
  credit.PeerTold(Told(0, 0xffffffff));
  EXPECT_EQ(credit.ToSend(), 0U);
}

TEST(VsockCreditTest, BufferThatShrinksBelowWhatIsInFlightIsNoCredit) {
  VsockCredit credit(4096);
  credit.PeerTold(Told(1000, 0));
  credit.Sent(900);
  credit.PeerTold(Told(100, 0));
  EXPECT_EQ(credit.ToSend(), 0U);
  credit.PeerTold(Told(100, 850));
  EXPECT_EQ(credit.ToSend(), 50U);
}

TEST(VsockCreditTest, MoreThanTheBufferIsRefusedAndNotCounted) {
  VsockCredit credit(1000, 0xffffff00);
  EXPECT_TRUE(credit.Receive(600));
  credit.SetHeld(600);
  EXPECT_FALSE(credit.Receive(401));
  EXPECT_FALSE(credit.Receive(0xffffffff));
  EXPECT_EQ(credit.held(), 600U);
  EXPECT_TRUE(credit.Receive(400));
  EXPECT_EQ(credit.held(), 1000U);
  EXPECT_FALSE(credit.Receive(1));
  EXPECT_TRUE(credit.Receive(0));
}

TEST(VsockCreditTest, UpdateIsDueWhenThreeQuartersOfTheBufferAreFreeAgain) {
  VsockCredit credit(1000);
  ASSERT_TRUE(credit.Receive(1000));
  credit.SetHeld(251);
  EXPECT_FALSE(credit.UpdateDue());
  credit.SetHeld(250);
  EXPECT_TRUE(credit.UpdateDue());
  VsockHeader header;
  credit.Tell(&header);
  EXPECT_EQ(header.forwarded, 750U);
  EXPECT_EQ(header.buffer_size, 1000U);
  EXPECT_FALSE(credit.UpdateDue());
}

TEST(VsockCreditTest, InAMessageTheLastNewsAreToldBeforeThePeerRunsDry) {
  VsockCredit credit(1000);
  ASSERT_TRUE(credit.Receive(100));
  credit.SetHeld(0);
  EXPECT_FALSE(credit.UpdateDueInMessage());  // it believes in 900
  ASSERT_TRUE(credit.Receive(500));
  EXPECT_FALSE(credit.UpdateDue());
  EXPECT_TRUE(credit.UpdateDueInMessage());
  VsockHeader header;
  credit.Tell(&header);
  EXPECT_EQ(header.forwarded, 100U);
  ASSERT_TRUE(credit.Receive(500));
  EXPECT_FALSE(credit.UpdateDueInMessage());  // there are no news
}

// Two honest ends over each other's credit, with counters that wrap.
TEST(VsockCreditTest, HonestPeersNeverOverrunEachOtherAndNeverStall) {
  std::mt19937 random(2);
  for (const uint32_t start : {0U, 0xffffffffU, 0x7fffff00U, 0xfffff000U}) {
    VsockCredit sender(1, start);
    VsockCredit receiver(4096, start);
    uint64_t sent = 0;
    for (int i = 0; i < 20'000; ++i) {
      VsockHeader told;
      receiver.Tell(&told);
      sender.PeerTold(told);
      const uint32_t room = sender.ToSend();
      ASSERT_EQ(room, 4096 - receiver.held());
      const uint32_t bytes = room == 0 ? 0 : random() % (room + 1);
      sender.Sent(bytes);
      ASSERT_TRUE(receiver.Receive(bytes));
      sent += bytes;
      receiver.SetHeld(receiver.held() == 0 ? 0 : random() % (receiver.held() + 1));
    }
    EXPECT_GT(sent, 1'000'000U);
  }
}

}  // namespace
}  // namespace wyvern::devices
