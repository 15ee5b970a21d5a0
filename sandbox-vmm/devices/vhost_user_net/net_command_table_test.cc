// One table of control commands for the three devices that take them: in this process, before the
// kernel's vhost-net, before a vhost-user back-end. What a command means is one piece of code
// (net/net_control); here, that each device has it, and does with its rings what it says.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "net/testing/fake_vhost.h"
#include "net/testing/net_rig.h"
#include "net/vhost_net_device.h"
#include "vhost_user_net/testing/net_frontend.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using testing::FakeTap;
using testing::FakeVhost;
using testing::kGuestMac;
using testing::Raw;
using virtio::testing::GuestRam;

constexpr uint16_t kTablePairs = 4;
constexpr MacAddress kAnother = {0x02, 0, 0, 0, 0, 0x77};
constexpr MacAddress kOfAGroup = {0x01, 0, 0x5e, 0, 0, 0x07};

struct Rigged {
  FakeTap* tap = nullptr;  // packets are steered to the pairs that are active there
  std::unique_ptr<DeviceRig> rig;
};

Rigged MakeInProcess(const testing::RigOptions& options) {
  auto tap = std::make_unique<FakeTap>(kTablePairs);
  FakeTap* const kept = tap.get();
  auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                   .tap = std::move(tap),
                                   .interface = {.mac = kGuestMac}});
  WV_CHECK(device.has_value());
  return {kept, std::make_unique<DeviceRig>(*std::move(device), options)};
}

Rigged MakeVhostNet() {
  auto tap = std::make_unique<FakeTap>(kTablePairs);
  FakeTap* const kept = tap.get();
  std::vector<UniqueFd> fds;
  for (uint16_t i = 0; i < kTablePairs; ++i) {
    fds.push_back(*MakeMemfd("vhost", 0));
  }
  auto device = VhostNetDevice::Create({.worker = {.name = "vhost", .on_thread_start = nullptr},
                                        .tap = std::move(tap),
                                        .vhost = std::move(fds),
                                        .interface = {.mac = kGuestMac},
                                        .calls = std::make_unique<FakeVhost>()});
  WV_CHECK(device.has_value());
  return {kept, std::make_unique<DeviceRig>(*std::move(device))};
}

struct Maker {
  const char* name;
  std::function<Rigged()> make;
};

void PrintTo(const Maker& maker, std::ostream* out) {
  *out << maker.name;
}

struct Command {
  const char* what;
  NetClass command_class;
  uint8_t command;
  std::string data;
  bool good = false;
  uint64_t needs = 0;   // without these features it is refused
  uint16_t in_use = 0;  // pairs from then on; 0: as before
};

std::string Addresses(const std::vector<MacAddress>& addresses) {
  std::string bytes = Raw(Le32(static_cast<uint32_t>(addresses.size())));
  for (const MacAddress& address : addresses) {
    bytes += Raw(address);
  }
  return bytes;
}

std::string Pairs(uint16_t pairs) {
  return Raw(Le16(pairs));
}

std::vector<Command> PairCommands() {
  constexpr auto kMq = NetClass::kMq;
  const auto set = [](const char* what, uint16_t pairs) {
    return Command{what, kMq, kNetMqPairsSet, Pairs(pairs), true, kNetMq, pairs};
  };
  return {set("two pairs", 2),
          {"no pairs", kMq, kNetMqPairsSet, Pairs(0)},
          set("all pairs", kTablePairs),
          {"one more than there are", kMq, kNetMqPairsSet, Pairs(kTablePairs + 1)},
          {"as many as a number can be", kMq, kNetMqPairsSet, Pairs(0xffff)},
          {"half a number", kMq, kNetMqPairsSet, std::string(1, '\1')},
          {"no number", kMq, kNetMqPairsSet, ""},
          {"more than a number", kMq, kNetMqPairsSet, Pairs(1) + std::string(1, '\0')},
          {"RSS_CONFIG", kMq, 1, std::string(40, '\1')},
          {"HASH_CONFIG", kMq, 2, std::string(40, '\1')},
          set("three pairs", 3),
          set("one pair", 1),
          set("one pair again", 1)};
}

std::vector<Command> OtherCommands() {
  constexpr auto kMac = NetClass::kMac;
  constexpr auto kRx = NetClass::kRx;
  const std::string on(1, '\1');
  return {
      {"address", kMac, kNetMacAddrSet, Raw(kAnother), true, kNetCtrlMacAddr},
      {"address of a group", kMac, kNetMacAddrSet, Raw(kOfAGroup)},
      {"most of an address", kMac, kNetMacAddrSet, Raw(kAnother).substr(0, 5)},
      {"tables", kMac, kNetMacTableSet, Addresses({kAnother}) + Addresses({}), true, kNetCtrlRx},
      {"one table", kMac, kNetMacTableSet, Addresses({kAnother})},
      {"a table that says more", kMac, kNetMacTableSet, Raw(Le32(9U)) + Addresses({})},
      {"promiscuous", kRx, kNetRxPromiscuous, on, true, kNetCtrlRx},
      {"neither on nor off", kRx, kNetRxPromiscuous, std::string(1, '\2')},
      {"no unicast", kRx, kNetRxNoUnicast, on, true, kNetCtrlRx | kNetCtrlRxExtra},
      {"a mode that is none", kRx, 6, on},
      {"VLAN comes", NetClass::kVlan, 0, Pairs(7)},
      {"VLAN goes", NetClass::kVlan, 1, Pairs(7)},
      {"announced", NetClass::kAnnounce, kNetAnnounceAck, "", true, kNetGuestAnnounce},
      {"announced, and more", NetClass::kAnnounce, kNetAnnounceAck, on},
      {"offloads off", NetClass::kOffloads, kNetOffloadsSet, Raw(Le64(uint64_t{0})), true,
       kNetCtrlGuestOffloads},
      {"offload that is none", NetClass::kOffloads, kNetOffloadsSet, Raw(Le64(kNetMq))},
      {"class that is none", static_cast<NetClass>(200), 0, on}};
}

class NetCommandTableTest : public ::testing::TestWithParam<Maker> {
 protected:
  // How the readable part lies in memory.
  enum class Shape : uint8_t { kOne, kHeaderApart, kByteByByte };

  void SetUp() override { rigged_ = GetParam().make(); }

  DeviceRig& rig() { return *rigged_.rig; }

  uint16_t control() { return static_cast<uint16_t>(rig().queue_count() - 1); }

  uint16_t InUse() const {
    uint16_t pairs = 1;  // the first always is
    for (uint16_t i = 1; i < kTablePairs; ++i) {
      pairs = static_cast<uint16_t>(pairs + (rigged_.tap->active(i) ? 1 : 0));
    }
    return pairs;
  }

  uint8_t Ask(const Command& command, Shape shape) {
    const std::string header =
        Raw(NetCommand{static_cast<uint8_t>(command.command_class), command.command});
    auto build = rig().queue(control()).Build();
    const std::string all = header + command.data;
    switch (shape) {
      case Shape::kOne:
        build.Readable(all);
        break;
      case Shape::kHeaderApart:
        build.Readable(header);
        if (!command.data.empty()) {
          build.Readable(command.data);
        }
        break;
      case Shape::kByteByByte:
        for (const char& byte : all) {
          build.Readable(std::string_view(&byte, 1));
        }
        break;
    }
    const uint16_t head = build.Writable(1).Submit();
    rig().Kick(control());
    EXPECT_EQ(rig().WaitUsed(control()).written, 1U) << command.what;
    return static_cast<uint8_t>(rig().queue(control()).Written(head, 1)[0]);
  }

  void Try(const std::vector<Command>& commands, Shape shape) {
    uint16_t in_use = InUse();
    for (const Command& command : commands) {
      const bool done = command.good && (rig().features() & command.needs) == command.needs;
      EXPECT_EQ(Ask(command, shape), done ? 0 : 1) << command.what;
      in_use = done && command.in_use != 0 ? command.in_use : in_use;
      EXPECT_EQ(InUse(), in_use) << command.what;
    }
  }

  // After whatever happened the device takes a driver, which sets its pairs.
  void ExpectUsable() {
    rig().Start();
    EXPECT_EQ(rig().Status(), 15);
    EXPECT_EQ(InUse(), 1);
    Try(PairCommands(), Shape::kOne);
  }

  Rigged rigged_;
};

TEST_P(NetCommandTableTest, EveryCommandInEveryShapeIsAnsweredAlike) {
  for (const Shape shape : {Shape::kOne, Shape::kHeaderApart, Shape::kByteByByte}) {
    const uint64_t mark = rig().ram().Mark();
    rig().Start();
    EXPECT_EQ(rig().features() & (kNetCtrlVq | kNetMq | kNetCtrlMacAddr | kNetGuestAnnounce),
              kNetCtrlVq | kNetMq | kNetCtrlMacAddr | kNetGuestAnnounce);
    EXPECT_EQ(rig().Config<Le16>(8).value(), kTablePairs);
    Try(PairCommands(), shape);
    Try(OtherCommands(), shape);
    EXPECT_EQ(rig().Config<MacAddress>(0), kAnother);
    rig().Reset();
    EXPECT_EQ(rig().Config<MacAddress>(0), kGuestMac);
    rig().ram().Release(mark);
  }
}

TEST_P(NetCommandTableTest, WhatWasNotNegotiatedIsRefused) {
  rig().Start(kNetMq | kNetGuestAnnounce | (kNetControlFeatures & ~kNetCtrlVq));
  const uint16_t last = control();
  // The control queue follows the one pair (§5.1.2).
  for (const Command& command : OtherCommands()) {
    const std::string all =
        Raw(NetCommand{static_cast<uint8_t>(command.command_class), command.command}) +
        command.data;
    const uint16_t head = rig().queue(2).Build().Readable(all).Writable(1).Submit();
    rig().Kick(2);
    EXPECT_EQ(rig().WaitUsed(2).written, 1U) << command.what;
    EXPECT_EQ(rig().queue(2).Written(head, 1)[0], '\1') << command.what;
  }
  // And where it was with MQ there is nobody.
  rig().queue(last).Build().Readable(Raw(NetCommand{4, 0}) + Pairs(2)).Writable(1).Submit();
  rig().KickAlways(last);
  EXPECT_FALSE(rig().WaitMaybe(last, std::chrono::milliseconds(5)));
  EXPECT_EQ(InUse(), 1);
}

TEST_P(NetCommandTableTest, CommandsWithoutAHeaderOrRoomForAnAnswerDoNothing) {
  rig().Start();
  auto& driver = rig().queue(control());
  driver.Build().Readable(Raw(NetCommand{4, 0}) + Pairs(3)).Submit();
  rig().Kick(control());
  EXPECT_EQ(rig().WaitUsed(control()).written, 0U) << "nowhere to answer";
  for (const std::string_view bytes : {"", "\4"}) {
    auto build = driver.Build();
    if (!bytes.empty()) {
      build.Readable(bytes);
    }
    const uint16_t head = build.Writable(1).Submit();
    rig().Kick(control());
    EXPECT_EQ(rig().WaitUsed(control()).written, 1U);
    EXPECT_EQ(driver.Written(head, 1)[0], '\1');
  }
  EXPECT_EQ(InUse(), 1);
  Try(PairCommands(), Shape::kOne);
}

TEST_P(NetCommandTableTest, ControlQueueWithABrokenChainNeedsAResetAndNoMore) {
  using virtio::testing::kNext;
  using virtio::testing::kWrite;
  rig().Start();
  EXPECT_EQ(Ask({"", NetClass::kMq, kNetMqPairsSet, Pairs(3)}, Shape::kOne), 0);
  rig().queue(control()).WriteDescriptor(0, {GuestRam::kBase, 16, kNext, 0});  // round and round
  rig().queue(control()).MakeAvailable(0);
  rig().KickAlways(control());
  EXPECT_TRUE(rig().WaitNeedsReset());
  ExpectUsable();
  rig().queue(control()).WriteDescriptor(0, {GuestRam::kBase, 16, kWrite | kNext, 1});
  rig().queue(control()).WriteDescriptor(1,
                                         {GuestRam::kBase, 16, 0, 0});  // readable after writable
  rig().queue(control()).MakeAvailable(0);
  rig().KickAlways(control());
  EXPECT_TRUE(rig().WaitNeedsReset());
  ExpectUsable();
  rig().queue(control()).SetAvailableIndex(0x8000);
  rig().KickAlways(control());
  EXPECT_TRUE(rig().WaitNeedsReset());
  ExpectUsable();
}

std::vector<Maker> Makers() {
  return {{"InProcess", [] { return MakeInProcess({}); }},
          {"VhostNet", MakeVhostNet},
          {"VhostUser", [] {
             return MakeInProcess({.transport = testing::TransportKind::kVhostUser,
                                   .frontend = testing::MakeNetFrontend});
           }}};
}

INSTANTIATE_TEST_SUITE_P(Devices, NetCommandTableTest, ::testing::ValuesIn(Makers()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wyvern::devices
