#include "console/console_device.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "console/testing/console_guest.h"

namespace wyvern::devices {
namespace {

using testing::ConsoleGuest;
using Lines = std::vector<std::string>;
using Event = std::pair<uint32_t, ConsolePortEvent>;

Code ConsoleCreateError(ConsoleOptions options) {
  options.worker.name = "console";
  auto device = ConsoleDevice::Create(std::move(options));
  return device ? Code::kOk : device.error().code();
}

// --- Configuration ---

TEST(ConsoleDeviceTest, ConfigurationTellsSizeAndPorts) {
  ConsoleOptions options = ConsoleGuest::Options();
  options.columns = 132;
  options.rows = 43;
  ConsoleGuest guest(std::move(options));
  EXPECT_EQ(guest.rig().Config<Le16>(0), 132U);
  EXPECT_EQ(guest.rig().Config<Le16>(2), 43U);
  EXPECT_EQ(guest.rig().Config<Le32>(4), 4U);
  EXPECT_EQ(guest.rig().Config<Le32>(8), 0U);
  EXPECT_EQ(guest.device().traits().features & 7U, 7U);
  EXPECT_EQ(guest.device().traits().queue_sizes.size(), 10U);
}

TEST(ConsoleDeviceTest, EmergencyWritesWorkOnAnUnconfiguredDevice) {
  // VIRTIO §5.3.5.1: also the lower byte only.
  ConsoleGuest guest;
  const Le32 letter(uint32_t{0x21212100} | 'H');
  guest.rig().core().WriteConfig(8, std::as_bytes(std::span(&letter, 1)));
  const char next = 'i';
  guest.rig().core().WriteConfig(8, std::as_bytes(std::span(&next, 1)));
  guest.Up();
  guest.rig().core().WriteConfig(8, std::as_bytes(std::span(&letter, 1)));
  EXPECT_EQ(guest.emergency(), "HiH");
  EXPECT_EQ(guest.rig().counter("emergency_writes"), 3U);
}

TEST(ConsoleDeviceTest, EmergencyWritesThatNobodyTakesAreNotOffered) {
  ConsoleOptions options;
  options.worker.name = "console";
  auto device = ConsoleDevice::Create(std::move(options));
  ASSERT_TRUE(device);
  EXPECT_EQ((*device)->traits().features & 7U, 3U);
  const char letter = 'x';
  (*device)->WriteConfig(8, std::as_bytes(std::span(&letter, 1)));
}

TEST(ConsoleDeviceTest, OptionsThatCannotBeAreRefused) {
  ConsoleOptions none;
  none.max_ports = 0;
  EXPECT_EQ(ConsoleCreateError(std::move(none)), Code::kInvalidArgument);
  ConsoleOptions many;
  many.max_ports = 32;
  EXPECT_EQ(ConsoleCreateError(std::move(many)), Code::kInvalidArgument);
  for (const std::string& name :
       {std::string(129, 'n'), std::string("a\0b", 3), std::string("\xff")}) {
    ConsoleOptions options;
    options.ports = {{.name = name}};
    EXPECT_EQ(ConsoleCreateError(std::move(options)), Code::kInvalidArgument) << name;
  }
  ConsoleOptions full;
  full.max_ports = ConsoleDevice::kMaxPorts;
  full.ports = {{.name = std::string(128, 'n')}};
  EXPECT_EQ(ConsoleCreateError(std::move(full)), Code::kOk);
}

TEST(ConsoleDeviceTest, NewSizeOfPort0InterruptsADriverThatWantsIt) {
  ConsoleGuest guest;
  guest.Start(kConsoleFMultiport);
  const uint64_t signals = guest.rig().interrupt().config_signals();
  ASSERT_TRUE(guest.device().Resize(0, 100, 30));
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals + 1);
  EXPECT_EQ(guest.rig().Config<Le16>(0), 100U);
  EXPECT_EQ(guest.rig().Config<Le16>(2), 30U);
  guest.Start(kConsoleFMultiport | kConsoleFSize);
  ASSERT_TRUE(guest.device().Resize(0, 101, 31));
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals + 1);
}

// --- Ports come and go ---

TEST(ConsoleDeviceTest, PortsAreAnnouncedOnceTheDriverIsReady) {
  ConsoleGuest guest;
  guest.Start();
  EXPECT_EQ(guest.Messages(), Lines{});
  guest.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"add 0", "add 1", "add 2"}));
  guest.Send(1, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), Lines{"name 1 org.wyvern.agent"});
  guest.Send(0, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), Lines{"console 0"});
  guest.Send(2, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), Lines{});
}

TEST(ConsoleDeviceTest, PortsThatExistAreNotAddedAgain) {
  // VIRTIO §5.3.6.2.1: neither after a second DEVICE_READY nor beyond max_nr_ports.
  ConsoleGuest guest;
  guest.Up();
  guest.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  EXPECT_EQ(guest.Messages(), Lines{});
  EXPECT_EQ(guest.device().AddPort(1, {}).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(guest.device().AddPort(4, {}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.device().AddPort(0xffffffff, {}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.Messages(), Lines{});
}

TEST(ConsoleDeviceTest, PortsThatWereNotAddedAreNotRemoved) {
  // VIRTIO §5.3.6.2.1
  ConsoleGuest guest;
  guest.Start();
  ASSERT_TRUE(guest.device().RemovePort(2));
  guest.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"add 0", "add 1"}));
  EXPECT_EQ(guest.device().RemovePort(2).error().code(), Code::kNotFound);
  ASSERT_TRUE(guest.device().RemovePort(1));
  EXPECT_EQ(guest.Messages(), Lines{"remove 1"});
}

TEST(ConsoleDeviceTest, PortIsHotPlugged) {
  ConsoleGuest guest;
  guest.Up();
  ASSERT_TRUE(guest.device().AddPort(3, {.name = "späti"}));
  EXPECT_EQ(guest.Messages(), Lines{"add 3"});
  auto host = guest.Attach(3);
  guest.Send(3, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"name 3 späti", "open 3 1"}));
  guest.Output(3, "hello");
  std::array<std::byte, 5> bytes;
  ASSERT_TRUE(ReadExact(host, bytes));
  ASSERT_TRUE(guest.device().RemovePort(3));
  EXPECT_EQ(guest.Messages(), Lines{"remove 3"});
  EXPECT_EQ(*ReadSome(host, bytes), 0U);
  // What is written to a port that is gone comes back.
  guest.rig().WaitUsed(ConsoleGuest::ToHost(3));
  guest.Output(3, "anybody?");
  guest.rig().WaitUsed(ConsoleGuest::ToHost(3));
  EXPECT_EQ(guest.rig().counter("bytes_dropped"), 8U);
}

TEST(ConsoleDeviceTest, ConsolesAreToldTheirSize) {
  ConsoleOptions options = ConsoleGuest::Options();
  options.columns = 80;
  options.rows = 25;
  ConsoleGuest guest(std::move(options));
  guest.Start();
  guest.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  (void)guest.Messages();
  guest.Send(0, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"console 0", "size 0 80x25"}));
  ASSERT_TRUE(guest.device().Resize(0, 81, 26));
  EXPECT_EQ(guest.Messages(), Lines{"size 0 81x26"});
  ASSERT_TRUE(guest.device().Resize(0, 1, 1));
  ASSERT_TRUE(guest.device().Resize(0, 82, 27));
  EXPECT_EQ(guest.Messages().back(), "size 0 82x27");
  EXPECT_EQ(guest.device().Resize(3, 1, 1).error().code(), Code::kNotFound);
}

// --- Open and closed ---

TEST(ConsoleDeviceTest, EachSideIsToldOfTheOther) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  EXPECT_EQ(guest.Messages(), Lines{"open 1 1"});
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  guest.Send(1, ConsoleEvent::kPortOpen, 0);
  EXPECT_EQ(guest.Events(3), (std::vector<Event>{{0, ConsolePortEvent::kGuestOpened},
                                                 {1, ConsolePortEvent::kGuestOpened},
                                                 {1, ConsolePortEvent::kGuestClosed}}));
  ASSERT_TRUE(guest.device().Detach(1));
  ASSERT_TRUE(guest.device().Detach(1));
  EXPECT_EQ(guest.Messages(), Lines{"open 1 0"});
}

TEST(ConsoleDeviceTest, PortThatTheHostClosesCanBeOpenedAgain) {
  ConsoleGuest guest;
  guest.Up();
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  for (int round = 0; round < 3; ++round) {
    auto host = guest.Attach(1);
    EXPECT_EQ(guest.Messages(), Lines{"open 1 1"});
    guest.OfferInput(1, 64);
    ASSERT_TRUE(WriteAll(host, "to the guest"));
    EXPECT_EQ(guest.Input(1), "to the guest");
    guest.OfferInput(1, 64);
    host.Reset();
    EXPECT_EQ(guest.MustGet(ConsoleEvent::kPortOpen).value, 0U);
    EXPECT_EQ(guest.rig().counter("ports_attached"), 0U);
    // The buffer that was offered is the first of the next round.
  }
  const auto events = guest.Events(5);
  EXPECT_EQ(std::count(events.begin(), events.end(), Event(1, ConsolePortEvent::kHostClosed)), 3);
}

TEST(ConsoleDeviceTest, AttachedPortIsNotAttachedAgain) {
  ConsoleGuest guest;
  auto host = guest.Attach(1);
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  EXPECT_EQ(guest.device()
                .Attach(1, {.in = std::move(pair->second), .out = {}, .in_is_out = true})
                .error()
                .code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(guest.device().Attach(1, {}).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(guest.device().Attach(2, {}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.device().Attach(3, {}).error().code(), Code::kNotFound);
}

TEST(ConsoleDeviceTest, InputThatCannotBeWaitedForIsRefused) {
  ConsoleGuest guest;
  ConsoleEnds ends;
  ends.in = *MakeMemfd("input", 4096);
  EXPECT_EQ(guest.device().Attach(1, std::move(ends)).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.rig().counter("ports_attached"), 0U);
  auto host = guest.Attach(1);  // the port is as good as before
}

TEST(ConsoleDeviceTest, ResetForgetsWhatTheDriverHad) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  (void)guest.Messages();
  guest.rig().core().WriteStatus(0);
  EXPECT_EQ(guest.Events(4).back(), Event(1, ConsolePortEvent::kGuestClosed));
  guest.Start();
  guest.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"add 0", "add 1", "add 2"}));
  guest.Send(1, ConsoleEvent::kPortReady, 1);
  EXPECT_EQ(guest.Messages(), (Lines{"name 1 org.wyvern.agent", "open 1 1"}));
}

// --- State ---

TEST(ConsoleDeviceTest, StateComesBackInANewDevice) {
  ConsoleGuest guest;
  guest.Up();
  auto host = guest.Attach(1);
  (void)guest.Messages();
  guest.Send(1, ConsoleEvent::kPortOpen, 1);
  ASSERT_TRUE(guest.device().Resize(0, 90, 40));
  (void)guest.Messages();
  (void)guest.rig().core().Pause();
  ConsoleOptions options = ConsoleGuest::Options();
  options.ports.clear();
  options.resume = guest.device().state();
  ConsoleGuest restored(std::move(options));
  EXPECT_EQ(restored.rig().Config<Le16>(0), 90U);
  const ConsoleState state = restored.device().state();
  ASSERT_EQ(state.ports.size(), 4U);
  EXPECT_TRUE(state.driver_ready);
  EXPECT_EQ(state.ports[1].control.name, "org.wyvern.agent");
  EXPECT_TRUE(state.ports[1].control.guest_open);
  EXPECT_TRUE(state.ports[0].control.console);
  EXPECT_FALSE(state.ports[3].control.exists);
}

TEST(ConsoleDeviceTest, StateOfAnotherDeviceIsRefused) {
  ConsoleGuest guest;
  ConsoleOptions options;
  options.max_ports = 3;
  options.resume = guest.device().state();
  EXPECT_EQ(ConsoleCreateError(std::move(options)), Code::kInvalidArgument);
  ConsoleOptions later = ConsoleGuest::Options();
  later.resume = guest.device().state();
  later.resume->version = 2;
  EXPECT_EQ(ConsoleCreateError(std::move(later)), Code::kInvalidArgument);
}

TEST(ConsoleDeviceTest, ThreadStartsWithItsHook) {
  std::string kind;
  ConsoleOptions options;
  options.worker = {.name = "console", .on_thread_start = [&](const char* k) { kind = k; }};
  auto device = ConsoleDevice::Create(std::move(options));
  ASSERT_TRUE(device);
  device->reset();
  EXPECT_EQ(kind, "worker");
}

}  // namespace
}  // namespace wyvern::devices
