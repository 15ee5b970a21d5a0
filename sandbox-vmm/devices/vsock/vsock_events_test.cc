// The transport reset and what must not happen beside it; pauses, which are none.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr auto kQuiet = std::chrono::milliseconds(30);

class VsockEventsTest : public ::testing::Test {
 protected:
  VsockEventsTest() { guest_.Start(); }

  uint16_t GiveEventBuffer(uint32_t size = 4) {
    const uint16_t head = guest_.rig().queue(2).Build().Writable(size).Submit();
    guest_.rig().KickAlways(2);
    return head;
  }

  void ExpectEvent() {
    const auto used = guest_.rig().WaitUsed(2);
    EXPECT_EQ(used.written, 4U);
    EXPECT_EQ(guest_.rig().queue(2).Written(used.head, 4), std::string(4, '\0'));
  }

  // A connection that the host asks for; its other end stays open.
  void Ask(uint32_t port) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair);
    ASSERT_TRUE(guest_.device().ConnectStream(port, std::move(pair->second), [](Result<>) {}));
    hosts_.push_back(std::move(pair->first));
  }

  // Within five seconds the device has seen all there is and wants to be told of more.
  static bool AsksForNotification(const virtio::testing::FakeDriver& ring) {
    for (int i = 0; i < 5000 && ring.AvailEvent() != ring.available_index(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return ring.AvailEvent() == ring.available_index();
  }

  VsockGuest guest_;
  std::vector<UniqueFd> hosts_;
};

TEST_F(VsockEventsTest, Firecracker5882_NothingIsSentBeforeTheDriverTookTheTransportReset) {
  // The driver ends all its connections when it sees the event, also one that it accepted since.
  for (int i = 0; i < 4; ++i) {
    GiveEventBuffer();
  }
  guest_.device().ResetTransport();
  Ask(7);
  ExpectEvent();
  EXPECT_FALSE(guest_.Next(kQuiet));
  guest_.rig().KickAlways(2);  // a notification is no answer
  EXPECT_FALSE(guest_.Next(kQuiet));
  GiveEventBuffer();  // a buffer is: the driver gives it when it has dealt with the event
  EXPECT_EQ(guest_.Expect(VsockOp::kRequest).header.dst_port, 7U);
}

TEST_F(VsockEventsTest, Firecracker6100_PauseAndResumeAloneHoldNothingBack) {
  for (int i = 0; i < 4; ++i) {
    GiveEventBuffer();
  }
  guest_.rig().core().Pause();
  Ask(7);
  ASSERT_TRUE(guest_.rig().core().Resume());
  EXPECT_EQ(guest_.Expect(VsockOp::kRequest).header.dst_port, 7U);
  EXPECT_FALSE(guest_.rig().WaitMaybe(2, kQuiet));
}

TEST_F(VsockEventsTest, PauseWhileTheEventIsUnreadNeitherAnswersNorRepeatsIt) {
  GiveEventBuffer();
  GiveEventBuffer();
  guest_.device().ResetTransport();
  Ask(7);
  ExpectEvent();
  guest_.rig().core().Pause();
  ASSERT_TRUE(guest_.rig().core().Resume());
  EXPECT_FALSE(guest_.Next(kQuiet));
  EXPECT_FALSE(guest_.rig().WaitMaybe(2, kQuiet));
  GiveEventBuffer();
  guest_.Expect(VsockOp::kRequest);
}

TEST_F(VsockEventsTest, Firecracker5958_PacketInFlightAtAPauseIsTakenOnResume) {
  auto stream = guest_.Connect(7);
  VsockHeader data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 4;
  std::string packet(reinterpret_cast<const char*>(&data), sizeof(data));
  packet += "ping";
  auto& ring = guest_.rig().queue(1);
  guest_.rig().core().Pause();
  ring.Build().Readable(packet).Submit();
  (void)ring.ShouldNotify();  // the notification is lost with the process that was paused
  ASSERT_TRUE(guest_.rig().core().Resume());
  guest_.rig().WaitUsed(1);
  EXPECT_TRUE(AsksForNotification(ring));
  ring.Build().Readable(packet).Submit();
  EXPECT_TRUE(ring.ShouldNotify());
  guest_.rig().KickAlways(1);
  guest_.rig().WaitUsed(1);
  std::string got(8, '\0');
  ASSERT_TRUE(ReadExact(stream.host, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, "pingping");
}

TEST_F(VsockEventsTest, EventWaitsForABufferThatHoldsIt) {
  guest_.device().ResetTransport();
  GiveEventBuffer(3);
  EXPECT_EQ(guest_.rig().WaitUsed(2).written, 0U);
  EXPECT_FALSE(guest_.rig().WaitMaybe(2, kQuiet));
  GiveEventBuffer(16);
  ExpectEvent();
}

TEST_F(VsockEventsTest, EventPassesOverBuffersThatAreTooSmall) {
  GiveEventBuffer(1);
  GiveEventBuffer(2);
  GiveEventBuffer(4);
  guest_.device().ResetTransport();
  EXPECT_EQ(guest_.rig().WaitUsed(2).written, 0U);
  EXPECT_EQ(guest_.rig().WaitUsed(2).written, 0U);
  ExpectEvent();
}

TEST_F(VsockEventsTest, ResetOfTheDeviceForgetsTheEvent) {
  GiveEventBuffer();
  guest_.device().ResetTransport();
  ExpectEvent();
  Ask(7);
  guest_.Start();
  guest_.Expect(VsockOp::kRequest);
  EXPECT_FALSE(guest_.rig().WaitMaybe(2, kQuiet));
}

TEST_F(VsockEventsTest, ConnectionsOfBeforeAreUnknownAfterwards) {
  auto stream = guest_.Connect(7);
  GiveEventBuffer();
  guest_.device().ResetTransport();
  ExpectEvent();
  GiveEventBuffer();
  guest_.SendData(stream, "late");
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.dst_port, 7U);
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockEventsTest, ChainThatIsNoneInTheEventQueueNeedsReset) {
  guest_.rig().queue(2).Build().WritableAt(mem::Gpa{uint64_t{1} << 40U}, 4).Submit();
  guest_.device().ResetTransport();
  EXPECT_TRUE(guest_.rig().WaitNeedsReset());
}

}  // namespace
}  // namespace wyvern::devices
