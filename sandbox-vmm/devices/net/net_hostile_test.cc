// Hostile drivers, floods, and a tap that fails. Named after the bugs of others where there was one.
#include <gtest/gtest.h>

#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <thread>

#include "net/testing/net_rig.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::Frame;
using testing::NetRig;
using testing::Raw;
using testing::TsoHeader;
using virtio::testing::GuestRam;
using virtio::testing::kNext;
using virtio::testing::kWrite;

constexpr uint32_t kRoom = 2048;

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// Runs `body` again and again in a thread of its own until it goes.
class Flood {
 public:
  template <typename F>
  explicit Flood(F body)
      : thread_([this, body] {
          while (!stop_) {
            body();
          }
        }) {}

  ~Flood() {
    stop_ = true;
    thread_.join();
  }

  Flood(const Flood&) = delete;
  Flood& operator=(const Flood&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(NetHostileTest, Cve202016843_FloodOfPacketsDoesNotFreezeTheReceiveQueue) {
  // The tap is full all the time; the driver gives buffers one at a time, is late with each, and
  // must get a packet for every one.
  NetRig rig;
  rig.Start(0, 16);
  const std::string frame = Frame(1000);
  const Flood flood([&] {
    if (!rig.HostSend(frame)) {
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < 500; ++i) {
    rig.Offer(kRoom);
    const auto packet = rig.Next();
    ASSERT_EQ(packet.bytes, frame);
  }
}

TEST(NetHostileTest, Cve202016843_PacketThatNeverFitsDoesNotFreezeTheReceiveQueue) {
  NetRig rig({.room_wait = milliseconds(1)});
  rig.Start();
  rig.OfferMany(2, kRoom);
  for (uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(rig.HostSend(Frame(10000), TsoHeader()));
    ASSERT_TRUE(rig.WaitCounter("rx_no_room", i));
  }
  ASSERT_TRUE(rig.HostSend(Frame(100)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(100));
}

TEST(NetHostileTest, Firecracker5260_ReceiveFloodDoesNotStarveTransmission) {
  NetRig rig;
  rig.Start(0, 256);
  const Flood flood([&] {
    if (!rig.HostSend(Frame(60))) {
      std::this_thread::yield();
    }
  });
  const mem::Gpa buffer = rig.device().ram().Allocate(kRoom);
  auto& receive = rig.device().queue(0);
  for (int i = 0; i < 200; ++i) {
    while (receive.TakeUsed()) {
    }
    while (receive.free_descriptors() > 0) {
      receive.Build().WritableAt(buffer, kRoom).Submit();
    }
    rig.device().KickAlways(0);
    const uint64_t mark = rig.device().ram().Mark();
    rig.Transmit(Frame(80));
    ASSERT_TRUE(rig.device().WaitMaybe(1, std::chrono::seconds(5))) << i;
    (void)rig.HostReceive();
    rig.device().ram().Release(mark);
  }
}

TEST(NetHostileTest, Cve20193900_TransmitFloodDoesNotStarveReception) {
  // The transmit ring never runs empty: what comes back is at once there again, and bad.
  NetRig rig;
  rig.Start(0, 256);
  auto& transmit = rig.device().queue(1);
  for (uint16_t i = 0; i < 256; ++i) {
    transmit.WriteDescriptor(i, {GuestRam::kBase, 4, 0, 0});
  }
  std::atomic<uint16_t> next{0};
  const Flood flood([&] {
    const auto used = static_cast<uint16_t>(transmit.UsedIndexInRing() + 128);
    while (next != used) {
      transmit.MakeAvailable(static_cast<uint16_t>(next % 256));
      ++next;
    }
    rig.device().KickAlways(1);
  });
  ASSERT_TRUE(rig.WaitCounter("tx_bad_lengths", 1)) << "there is no flood";
  for (int i = 0; i < 200; ++i) {
    rig.Offer(kRoom);
    ASSERT_TRUE(rig.HostSend(Frame(100)));
    (void)rig.Next();
  }
}

TEST(NetHostileTest, Cve20213748_BuffersOutsideMemoryBreakTheQueueOnly) {
  NetRig rig;
  rig.Start();
  rig.device().queue(0).WriteDescriptor(0, {0xfeb00000, 4096, kWrite, 0});
  rig.device().queue(0).MakeAvailable(0);
  rig.device().KickAlways(0);
  ASSERT_TRUE(rig.HostSend(Frame(100)));
  EXPECT_TRUE(rig.device().WaitNeedsReset());
  EXPECT_EQ(rig.counter("faults"), 1U);
  rig.Transmit(Frame(60));
  (void)rig.HostReceive();
  rig.Start();
  rig.Offer(kRoom);
  (void)rig.Next();
}

TEST(NetHostileTest, Cve20213748_ResetWhileAPacketWaitsForBuffers) {
  NetRig rig;
  for (int round = 0; round < 20; ++round) {
    const uint64_t mark = rig.device().ram().Mark();
    rig.Start();
    rig.OfferMany(2, kRoom);
    (void)rig.HostSend(Frame(10000), TsoHeader());
    ASSERT_FALSE(rig.NextMaybe(0, milliseconds(round % 3)));
    rig.device().core().WriteStatus(0);
    rig.device().ram().Release(mark);
  }
  rig.Start();
  rig.OfferMany(30, kRoom);
  // Some of the long packets may not have been read when their driver went.
  for (;;) {
    const auto late = rig.NextMaybe(0, milliseconds(50));
    if (!late) {
      break;
    }
    EXPECT_EQ(late->bytes.size(), 10000U);
    rig.OfferMany(static_cast<int>(late->chains), kRoom);
  }
  ASSERT_TRUE(rig.HostSend(Frame(100)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(100));
}

TEST(NetHostileTest, Cve20236693_HeaderHasTwelveBytesAndTheHashIsNotOffered) {
  NetRig rig;
  auto& core = rig.device().core();
  core.WriteStatus(0);
  core.WriteStatus(1);
  core.WriteStatus(3);
  const uint64_t wanted = core.device_features() | kNetHashReport;
  core.WriteDriverFeatures(0, static_cast<uint32_t>(wanted));
  core.WriteDriverFeatures(1, static_cast<uint32_t>(wanted >> 32U));
  core.WriteStatus(11);
  EXPECT_EQ(core.status(), 3) << "FEATURES_OK does not stay";
  rig.Start();
  // Buffers too small for the larger header, for the smaller, and for none.
  for (const uint32_t size : {20U, 13U, 12U}) {
    rig.OfferMany(40, size);
    ASSERT_TRUE(rig.HostSend(Frame(60)));
    const auto packet = rig.Next();
    EXPECT_EQ(packet.bytes, Frame(60));
    EXPECT_EQ(packet.chains, (72 + size - 1) / size);
    rig.Start();
  }
}

TEST(NetHostileTest, BuffersWithoutRoomForAHeaderComeBackEmpty) {
  NetRig rig;
  rig.Start();
  rig.Offer(11);
  rig.device().queue(0).Build().Readable("nothing to write to").Submit();
  rig.Offer(kRoom);
  ASSERT_TRUE(rig.HostSend(Frame(100)));
  for (int i = 0; i < 2; ++i) {
    const auto empty = rig.Next();
    EXPECT_EQ(empty.chains, 0U);
  }
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(100));
  EXPECT_EQ(rig.counter("rx_bad_buffers"), 2U);
}

TEST(NetHostileTest, BuffersWithoutAnyRoomInTheMiddleOfAPacket) {
  NetRig rig;
  rig.Start();
  rig.Offer(100);
  rig.device().queue(0).Build().Readable("x").Submit();
  rig.OfferMany(2, 100);
  ASSERT_TRUE(rig.HostSend(Frame(150)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.chains, 3U);
  EXPECT_EQ(packet.bytes, Frame(150));
}

TEST(NetHostileTest, Cve20246505_RssIsNotOfferedAndItsCommandsChangeNothing) {
  NetRig rig({.pairs = 2});
  rig.Start();
  // A table whose entries point far beyond any queue.
  const std::string config = Raw(Le32(0xffU)) + Raw(Le16(uint16_t{127})) +
                             std::string(size_t{2} * 129, '\xff') + Raw(Le16(uint16_t{0xffff})) +
                             '\x28' + std::string(40, 'k');
  EXPECT_EQ(rig.Command(NetClass::kMq, 1, config), 1);
  EXPECT_EQ(rig.Command(NetClass::kMq, 2, config), 1);
  EXPECT_EQ(rig.Command(NetClass::kMq, 1, Raw(Le16(uint16_t{2}))), 1);
  EXPECT_FALSE(rig.tap().active(1));
  rig.Offer(kRoom);
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  (void)rig.Next();
}

TEST(NetHostileTest, Cve202226353_FailuresGiveEveryBufferBackAndLeakNothing) {
  NetRig rig;
  rig.Start(0, 64);
  const size_t before = OpenDescriptors();
  NetHeader bad = TsoHeader();
  bad.gso_size = uint16_t{0};
  for (int i = 0; i < 600; ++i) {
    const uint64_t mark = rig.device().ram().Mark();
    if (i % 3 == 0) {
      rig.tap().FailSend(i % 2 == 0 ? EIO : EINVAL, 1);
    }
    rig.Transmit(Frame(100), i % 3 == 1 ? bad : NetHeader{});
    rig.device().WaitUsed(1);
    if (i % 3 == 2) {
      (void)rig.HostReceive();
    }
    rig.device().ram().Release(mark);
  }
  EXPECT_EQ(rig.device().queue(1).free_descriptors(), 64);
  EXPECT_EQ(rig.counter("tx_errors"), 200U);
  EXPECT_EQ(rig.counter("tx_bad_headers"), 200U);
  rig.OfferMany(4, kRoom);
  rig.tap().FailReceive(EFAULT, 3);
  ASSERT_TRUE(rig.HostSend(Frame(100)));
  (void)rig.Next();
  EXPECT_EQ(rig.counter("rx_errors"), 3U);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(NetHostileTest, TapThatIsGoneIsAskedOnce) {
  NetRig rig;
  rig.Start();
  rig.tap().FailReceive(EBADFD, 1000000);
  rig.OfferMany(4, kRoom);
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  ASSERT_TRUE(rig.WaitCounter("rx_errors", 1));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_LE(rig.counter("rx_errors"), 2U);
}

TEST(NetHostileTest, Firecracker5485_PacketIsSentOnceThoughTheTapWasFull) {
  NetRig rig;
  rig.Start();
  rig.tap().FailSend(EAGAIN, 3);
  rig.Transmit(Frame(100));
  rig.Transmit(Frame(101));
  for (const size_t length : {100U, 101U}) {
    const auto packet = rig.HostReceive();
    EXPECT_EQ(packet.bytes, Frame(length));
  }
  EXPECT_FALSE(rig.HostReceiveMaybe(0, milliseconds(10)));
  EXPECT_EQ(rig.counter("tx_blocked"), 3U);
  EXPECT_EQ(rig.counter("tx_packets"), 2U);
}

TEST(NetHostileTest, FullTapHoldsPacketsBackUntilItIsRead) {
  NetRig rig;
  rig.Start(0, 64);
  constexpr int kPackets = 20;  // of 60 KiB: more than a socket takes
  const mem::Gpa bytes = rig.device().ram().Put(Raw(NetHeader{}) + Frame(60000));
  for (int i = 0; i < kPackets; ++i) {
    rig.device().queue(1).Build().ReadableAt(bytes, 60012).Submit();
  }
  rig.device().KickAlways(1);
  ASSERT_TRUE(rig.WaitCounter("tx_blocked", 1));
  for (int i = 0; i < kPackets; ++i) {
    const auto packet = rig.HostReceive();
    EXPECT_EQ(packet.bytes.size(), 60000U);
  }
  for (int i = 0; i < kPackets; ++i) {
    rig.device().WaitUsed(1);
  }
}

TEST(NetHostileTest, Cve20222132_HeaderAndPacketInTinyPieces) {
  NetRig rig;
  rig.Start(0, 256);
  const std::string packet = Raw(TsoHeader()) + Frame(80);
  auto build = rig.device().queue(1).Build();
  for (const char byte : packet) {
    build.Readable(std::string_view(&byte, 1));
  }
  build.Submit();
  rig.device().Kick(1);
  const auto sent = rig.HostReceive();
  EXPECT_EQ(sent.bytes, Frame(80));
  EXPECT_EQ(Raw(sent.header), Raw(TsoHeader()));

  auto room = rig.device().queue(0).Build();
  for (int i = 0; i < 100; ++i) {
    room.Writable(1);
  }
  room.Submit();
  rig.device().Kick(0);
  ASSERT_TRUE(rig.HostSend(Frame(80)));
  const auto received = rig.Next();
  EXPECT_EQ(received.bytes, Frame(80));
}

TEST(NetHostileTest, Cve201918960_BuffersAcrossTheEndOfARegionAreWhole) {
  constexpr uint64_t kRegion = uint64_t{1} << 20;
  const mem::Gpa edge{GuestRam::kBase + kRegion - 100};
  GuestRam ram(
      {{mem::Gpa{GuestRam::kBase}, kRegion}, {mem::Gpa{GuestRam::kBase + kRegion}, kRegion}});
  auto tap = std::make_unique<testing::FakeTap>(1);
  const testing::FakeTap& host = *tap;
  auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                   .tap = std::move(tap),
                                   .interface = {.mac = testing::kGuestMac}});
  ASSERT_TRUE(device);
  virtio::testing::FakeDriver receive(ram, 16);
  virtio::testing::FakeDriver transmit(ram, 16);
  const std::string packet = Raw(NetHeader{}) + Frame(1000);
  ASSERT_TRUE(ram.memory()->WriteBytes(edge, std::as_bytes(std::span(packet))));
  receive.Build().WritableAt(edge, 1012).Submit();
  transmit.Build().ReadableAt(edge, 1012).Submit();
  auto kicks = std::pair(EventFd::Create(), EventFd::Create());
  ASSERT_TRUE(kicks.first && kicks.second);
  const auto start = [&](uint16_t index, const virtio::testing::FakeDriver& driver,
                         const EventFd& kick) {
    return (*device)->StartQueue(index,
                                 {.memory = ram.memory(),
                                  .config = driver.config(),
                                  .kick = kick.fd(),
                                  .interrupt = std::make_shared<virtio::testing::FakeInterrupt>()},
                                 virtio::kVersion1 | kNetMrgRxbuf, std::nullopt);
  };
  ASSERT_TRUE(start(1, transmit, *kicks.first));  // sends before it returns
  std::string bytes(2000, '\0');
  ASSERT_EQ(recv(host.host(0).get(), bytes.data(), bytes.size(), 0), 1012);
  EXPECT_EQ(bytes.substr(0, 1012), packet);
  ram.Fill(edge, 1012, std::byte{0});
  ASSERT_EQ(send(host.host(0).get(), packet.data(), packet.size(), 0), 1012);
  ASSERT_TRUE(start(0, receive, *kicks.second));  // and receives
  EXPECT_EQ(receive.MustTakeUsed().written, 1012U);
  std::string received(1000, '\0');
  ASSERT_TRUE(ram.memory()->ReadBytes(mem::Gpa{mem::Raw(edge) + kNetHeaderSize},
                                      std::as_writable_bytes(std::span(received))));
  EXPECT_EQ(received, Frame(1000));
}

TEST(NetHostileTest, Cve201914835_ChainsOfMorePartsThanOneCallTakes) {
  NetRig rig({.queue_size = 1024});
  rig.Start(0, 1024);
  const std::string packet = Raw(NetHeader{}) + Frame(1012);
  auto build = rig.device().queue(1).Build();
  build.Indirect();
  for (const char byte : packet) {
    build.Readable(std::string_view(&byte, 1));
  }
  build.Submit();
  rig.device().Kick(1);
  const auto sent = rig.HostReceive();
  EXPECT_EQ(sent.bytes, Frame(1012));

  auto room = rig.device().queue(0).Build();
  room.Indirect();
  for (int i = 0; i < 1024; ++i) {
    room.Writable(1);
  }
  room.Submit();
  rig.device().Kick(0);
  ASSERT_TRUE(rig.HostSend(Frame(1000)));
  const auto received = rig.Next();
  EXPECT_EQ(received.bytes, Frame(1000));
}

TEST(NetHostileTest, Firecracker4392a8d19_OverlappingBuffersAreNotAsMuchMemory) {
  // 63 descriptors of 15 MiB that all name the same memory.
  NetRig rig;
  rig.Start();
  for (uint16_t i = 0; i < 63; ++i) {
    rig.device().queue(0).WriteDescriptor(
        i,
        {GuestRam::kBase + (1 << 20), 15 << 20,
         static_cast<uint16_t>(i == 62 ? kWrite : kWrite | kNext), static_cast<uint16_t>(i + 1)});
  }
  rig.device().queue(0).MakeAvailable(0);
  rig.device().KickAlways(0);
  ASSERT_TRUE(rig.HostSend(Frame(60000), TsoHeader()));
  EXPECT_EQ(rig.device().WaitUsed(0).written, 60012U);
}

TEST(NetHostileTest, PacketsThatAreNoneAreDroppedAndCounted) {
  NetRig rig;
  rig.Start(0, 64);
  auto& driver = rig.device().queue(1);
  driver.Build().Readable("short").Submit();
  driver.Build().Writable(100).Submit();
  driver.Build().Readable(std::string(kNetHeaderSize + kEthernetHeader - 1, '\0')).Submit();
  const mem::Gpa long_packet = rig.device().ram().Allocate(kNetMaxPacket + 13);
  rig.device().ram().Fill(long_packet, kNetMaxPacket + 13, std::byte{0});
  driver.Build().ReadableAt(long_packet, kNetMaxPacket + 13).Submit();
  for (int i = 0; i < 60; ++i) {
    driver.Build().ReadableAt(mem::Gpa{GuestRam::kBase}, 15 << 20).Submit();
  }
  rig.device().KickAlways(1);
  for (int i = 0; i < 64; ++i) {
    rig.device().WaitUsed(1);
  }
  EXPECT_EQ(rig.counter("tx_bad_lengths"), 64U);
  EXPECT_FALSE(rig.HostReceiveMaybe(0, milliseconds(1)));
}

TEST(NetHostileTest, TapPacketsThatTheDriverMustNotGetAreDropped) {
  NetRig rig;
  rig.Start(kNetGuestTso4 | kNetGuestTso6 | kNetGuestEcn);
  rig.OfferMany(4, kRoom);
  ASSERT_TRUE(rig.HostSend(Frame(4000), TsoHeader()));  // of a time when another driver ran
  ASSERT_TRUE(rig.HostSend(std::string(13, 'r')));      // runt
  ASSERT_TRUE(rig.HostSend(""));
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(60));
  EXPECT_EQ(rig.counter("rx_bad_packets"), 3U);
}

TEST(NetHostileTest, PacketLongerThanAnyIsDroppedNotCut) {
  NetRig rig;
  rig.Start(0, 256);
  rig.OfferMany(60, 2 * kRoom);
  ASSERT_TRUE(rig.HostSend(Frame(kNetMaxPacket + 1), TsoHeader()));
  ASSERT_TRUE(rig.WaitCounter("rx_too_long", 1));
  ASSERT_TRUE(rig.HostSend(Frame(140000), TsoHeader()));
  ASSERT_TRUE(rig.WaitCounter("rx_too_long", 2));
  ASSERT_TRUE(rig.HostSend(Frame(60)));
  const auto packet = rig.Next();
  EXPECT_EQ(packet.bytes, Frame(60));
  EXPECT_EQ(rig.counter("rx_too_long"), 2U);
}

TEST(NetHostileTest, QueuesBeyondThoseInUseDiscardWhatIsSent) {
  // vhost-user's rule for rings that are started but disabled.
  NetRig rig({.pairs = 2});
  rig.Start();
  rig.Transmit(Frame(60), {}, 1);
  EXPECT_EQ(rig.device().WaitUsed(3).written, 0U);
  EXPECT_EQ(rig.counter("tx_inactive"), 1U);
  EXPECT_FALSE(rig.HostReceiveMaybe(1, milliseconds(1)));
}

TEST(NetHostileTest, QueuesWithoutAPurposeAreQuiet) {
  // Two pairs, MQ refused: queues 3 and 4 do not exist, but a driver may set them up.
  NetRig rig({.pairs = 2});
  rig.Start(kNetMq);
  for (uint16_t q = 3; q < 5; ++q) {
    rig.device().queue(q).WriteDescriptor(0, {GuestRam::kBase, 16, kWrite | kNext, 0});
    rig.device().queue(q).MakeAvailable(0);
    rig.device().KickAlways(q);
  }
  rig.Transmit(Frame(60));
  (void)rig.HostReceive();
  EXPECT_EQ(rig.counter("faults"), 0U);
}

TEST(NetHostileTest, NotificationsBeforeTheStartAreHarmless) {
  NetRig rig;
  rig.device().Prepare();
  rig.Transmit(Frame(60));
  rig.device().KickAlways(0);
  rig.device().KickAlways(1);
  EXPECT_FALSE(rig.HostReceiveMaybe(0, milliseconds(5)));
  rig.device().DriverOk();
  (void)rig.HostReceive();
}

TEST(NetHostileTest, Ch7e2e7a164_ResetUnderTrafficBothWays) {
  NetRig rig({.pairs = 2});
  const Flood flood([&] {
    (void)rig.HostSend(Frame(200));
    (void)rig.HostSend(Frame(5000), TsoHeader());
    while (rig.HostReceiveMaybe(0, milliseconds(0))) {
    }
  });
  for (int round = 0; round < 60; ++round) {
    const uint64_t mark = rig.device().ram().Mark();
    rig.Start();
    rig.OfferMany(round % 40, 1526);
    for (int i = 0; i < 20; ++i) {
      rig.Transmit(Frame(300));
    }
    if (round % 3 == 0) {
      (void)rig.device().core().Pause();
      ASSERT_TRUE(rig.device().core().Resume());
    }
    rig.device().core().WriteStatus(0);
    rig.device().ram().Release(mark);
  }
}

TEST(NetHostileTest, LinkLimitsAndCommandsUnderTraffic) {
  NetRig rig({.pairs = 2});
  rig.Start();
  rig.OfferMany(60, kRoom);
  const Flood flood([&] {
    (void)rig.HostSend(Frame(200));
    (void)rig.HostReceiveMaybe(0, milliseconds(0));
  });
  for (int i = 0; i < 100; ++i) {
    rig.net().SetLinkUp(i % 2 == 0);
    rig.net().SetLimits({.ops = {.size = 10, .refill_time = milliseconds(i % 3)}}, {});
    (void)rig.Command(NetClass::kMq, kNetMqPairsSet, Raw(Le16(static_cast<uint16_t>(1 + i % 2))));
    (void)rig.net().Save();
  }
}

}  // namespace
}  // namespace wyvern::devices
