#include "virtio_mem/mem_device.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "virtio_mem/testing/mem_guest.h"

namespace wyvern::devices {
namespace {

using testing::MemGuest;
using Calls = std::vector<std::string>;

constexpr uint64_t kBlock = MemGuest::kBlock;
constexpr auto kAck = MemResponseType::kAck;
constexpr auto kNack = MemResponseType::kNack;
constexpr auto kBusy = MemResponseType::kBusy;
constexpr auto kError = MemResponseType::kError;
// Blocks that are usable beside the requested ones.
constexpr uint64_t kExtraBlocks = MemDevice::kUsableExtra / kBlock;

Code MemCreateError(MemOptions options) {
  options.worker.name = "mem";
  auto device = MemDevice::Create(std::move(options));
  return device ? Code::kOk : device.error().code();
}

MemOptions WithBacking() {
  MemOptions options = MemGuest::Options();
  options.backing = std::make_unique<testing::RecordedBacking>(
      std::make_shared<testing::BackingLog>(), MemGuest::kStart, kBlock);
  return options;
}

// --- Configuration: VIRTIO §5.15.4.2 ---

TEST(MemDeviceTest, ConfigurationTellsTheRegion) {
  MemOptions options = MemGuest::Options();
  options.node = 3;
  options.requested_size = 8 * kBlock;
  MemGuest guest(std::move(options));
  const MemConfig config = guest.Config();
  EXPECT_EQ(config.block_size, kBlock);
  EXPECT_EQ(config.node, 3U);
  EXPECT_EQ(config.address, MemGuest::kStart);
  EXPECT_EQ(config.region_size, MemGuest::kBlocks * kBlock);
  EXPECT_EQ(config.usable_size, (8 + kExtraBlocks) * kBlock);
  EXPECT_EQ(config.plugged_size, 0U);
  EXPECT_EQ(config.requested_size, 8 * kBlock);
  EXPECT_EQ(guest.rig().Config<Le64>(56), 0U);
}

TEST(MemDeviceTest, ProximityDomainIsOfferedWhereThereIsOne) {
  EXPECT_EQ(MemGuest().device().traits().features & 3U, 2U);
  MemOptions options = MemGuest::Options();
  options.node = 0;
  EXPECT_EQ(MemGuest(std::move(options)).device().traits().features & 3U, 3U);
}

TEST(MemDeviceTest, BlockSizeIsAPowerOfTwo) {
  for (const uint64_t block : {uint64_t{0}, uint64_t{4096}, 3 * kBlock, kBlock + 1}) {
    MemOptions options = WithBacking();
    options.block_size = block;
    EXPECT_EQ(MemCreateError(std::move(options)), Code::kInvalidArgument) << block;
  }
}

TEST(MemDeviceTest, AddressAndSizesAreMultiplesOfTheBlockSize) {
  const auto error = [](uint64_t start, uint64_t size, uint64_t requested) {
    MemOptions options = WithBacking();
    options.region = {.start = mem::Gpa{start}, .size = size};
    options.requested_size = requested;
    return MemCreateError(std::move(options));
  };
  EXPECT_EQ(error(kBlock, 2 * kBlock, kBlock), Code::kOk);
  EXPECT_EQ(error(kBlock / 2, 2 * kBlock, 0), Code::kInvalidArgument);
  EXPECT_EQ(error(0, kBlock + 4096, 0), Code::kInvalidArgument);
  EXPECT_EQ(error(0, 0, 0), Code::kInvalidArgument);
  EXPECT_EQ(error(0, 2 * kBlock, 4096), Code::kInvalidArgument);
  EXPECT_EQ(error(0, 2 * kBlock, 3 * kBlock), Code::kInvalidArgument);
  EXPECT_EQ(error(0, 65537 * kBlock, 0), Code::kInvalidArgument);
  EXPECT_EQ(error(~uint64_t{0} - kBlock + 1, 2 * kBlock, 0), Code::kInvalidArgument);
  EXPECT_EQ(MemCreateError(MemGuest::Options()), Code::kInvalidArgument);  // no backing
}

TEST(MemDeviceTest, RequestedSizeGrowsTheUsableRegionAndInterrupts) {
  MemGuest guest;
  guest.rig().Start();
  const uint64_t signals = guest.rig().interrupt().config_signals();
  guest.Request(16);
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals + 1);
  EXPECT_EQ(guest.Config().requested_size, 16 * kBlock);
  EXPECT_EQ(guest.Config().usable_size, (16 + kExtraBlocks) * kBlock);
  guest.Request(MemGuest::kBlocks);
  EXPECT_EQ(guest.Config().usable_size, MemGuest::kBlocks * kBlock);
  EXPECT_EQ(guest.device().SetRequestedSize(4096).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.device().SetRequestedSize((MemGuest::kBlocks + 1) * kBlock).error().code(),
            Code::kInvalidArgument);
}

// Linux allocates requests, and after a reset the ring, wherever there is memory: in what it plugged.
TEST(MemDeviceTest, RequestsAndRingMayLieInPluggedMemory) {
  MemGuest guest;
  guest.rig().Start();
  mem::RegionSpec spec;
  spec.start = mem::Gpa{MemGuest::kStart};
  spec.size = kBlock;
  const auto memory = *guest.rig().ram().memory()->WithRegion(std::move(spec));
  guest.rig().core().SetMemory(memory);
  const std::string wire = MemGuest::Wire(MemRequestType::kState, MemGuest::kStart, 1);
  ASSERT_TRUE(memory->WriteBytes(mem::Gpa{MemGuest::kStart}, std::as_bytes(std::span(wire))));
  guest.rig()
      .queue(0)
      .Build()
      .ReadableAt(mem::Gpa{MemGuest::kStart}, sizeof(MemRequest))
      .WritableAt(mem::Gpa{MemGuest::kStart + 4096}, sizeof(MemResponse))
      .Submit();
  guest.rig().Kick(0);
  EXPECT_EQ(guest.rig().WaitUsed(0).written, sizeof(MemResponse));
  guest.rig().core().StopQueue(0);
  virtio::QueueConfig config = guest.rig().queue(0).config();
  config.device_area = mem::Gpa{MemGuest::kStart + 8192};
  ASSERT_TRUE(guest.rig().core().ConfigureQueue(0, config));
  EXPECT_TRUE(guest.rig().core().StartQueue(0, std::nullopt));
}

TEST(MemDeviceTest, UsableRegionShrinksOnlyByUnplugAllAndThenWithoutAnInterrupt) {
  MemGuest guest = MemGuest::Started(256);
  guest.Request(8);
  EXPECT_EQ(guest.Config().usable_size, (256 + kExtraBlocks) * kBlock);
  const uint64_t signals = guest.rig().interrupt().config_signals();
  EXPECT_EQ(guest.UnplugAll(), kAck);
  EXPECT_EQ(guest.Config().usable_size, (8 + kExtraBlocks) * kBlock);
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals);
}

TEST(MemDeviceTest, FixedFieldsNeverChangeAndTheDriverWritesNone) {
  MemGuest guest;
  const MemConfig before = guest.Config();
  guest.rig().Start();
  guest.Request(64);
  EXPECT_EQ(guest.Plug(0, 64), kAck);
  const std::string ones(56, '\xff');
  guest.rig().core().WriteConfig(0, std::as_bytes(std::span(ones)));
  EXPECT_EQ(guest.UnplugAll(), kAck);
  const MemConfig after = guest.Config();
  EXPECT_EQ(after.block_size, before.block_size.value());
  EXPECT_EQ(after.node, before.node.value());
  EXPECT_EQ(after.address, before.address.value());
  EXPECT_EQ(after.region_size, before.region_size.value());
  EXPECT_EQ(after.requested_size, 64 * kBlock);
}

TEST(MemDeviceTest, BlocksAreAsSmallAs512SlotsAllow) {
  EXPECT_EQ(MemDevice::BlockSizeFor(uint64_t{1} << 30U), uint64_t{2} << 20U);
  EXPECT_EQ(MemDevice::BlockSizeFor(uint64_t{8} << 30U), uint64_t{16} << 20U);
  EXPECT_EQ(MemDevice::BlockSizeFor(uint64_t{1} << 40U), uint64_t{128} << 20U);
}

// --- Initialisation: VIRTIO §5.15.5.2 ---

TEST(MemDeviceTest, DriverWithoutUnpluggedInaccessibleIsNotServed) {
  MemGuest guest;
  guest.rig().Prepare(uint64_t{2});
  guest.rig().core().WriteStatus(15);
  EXPECT_TRUE(guest.rig().WaitNeedsReset());
  guest.rig().Start();
  EXPECT_EQ(guest.State(0, 1), MemBlockState::kUnplugged);
}

TEST(MemDeviceTest, DeviceResetLeavesBlocksAsTheyAre) {
  MemGuest guest = MemGuest::Started(8);
  EXPECT_EQ(guest.Plug(2, 3), kAck);
  guest.rig().core().WriteStatus(0);
  EXPECT_EQ(guest.Config().plugged_size, 3 * kBlock);
  EXPECT_EQ(guest.log().calls(), Calls{"plug 2+3"});
  guest.rig().Start();
  EXPECT_EQ(guest.State(2, 3), MemBlockState::kPlugged);
}

// --- PLUG: VIRTIO §5.15.6.3.2 ---

TEST(MemDeviceTest, PlugIsOneCallAndReflectedInPluggedSize) {
  MemGuest guest = MemGuest::Started(16);
  const uint64_t signals = guest.rig().interrupt().config_signals();
  EXPECT_EQ(guest.Plug(4, 8), kAck);
  EXPECT_EQ(guest.log().calls(), Calls{"plug 4+8"});
  EXPECT_EQ(guest.Config().plugged_size, 8 * kBlock);
  EXPECT_EQ(guest.device().plugged_size(), 8 * kBlock);
  // §5.15.4.2: no notification for a change of plugged_size.
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals);
}

TEST(MemDeviceTest, PlugOfWhatIsPluggedIsAnError) {
  MemGuest guest = MemGuest::Started(16);
  EXPECT_EQ(guest.Plug(4, 2), kAck);
  EXPECT_EQ(guest.Plug(4, 1), kError);
  EXPECT_EQ(guest.Plug(3, 2), kError);
  EXPECT_EQ(guest.Plug(5, 2), kError);
  EXPECT_EQ(guest.Plug(6, 2), kAck);
  EXPECT_EQ(guest.rig().counter("refused"), 3U);
}

TEST(MemDeviceTest, PlugBeyondTheRequestedSizeIsNacked) {
  MemGuest guest;
  guest.rig().Start();
  EXPECT_EQ(guest.Plug(0, 1), kNack);
  guest.Request(4);
  EXPECT_EQ(guest.Plug(0, 5), kNack);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  EXPECT_EQ(guest.Plug(4, 1), kNack);
  guest.Request(2);
  EXPECT_EQ(guest.Plug(4, 1), kNack);
  EXPECT_EQ(guest.log().calls(), Calls{"plug 0+4"});
  EXPECT_EQ(guest.rig().counter("over_requested"), 4U);
}

TEST(MemDeviceTest, PlugThatTheHostCannotDoIsBusyAndChangesNothing) {
  MemGuest guest = MemGuest::Started(4);
  guest.log().set_failing(true);
  EXPECT_EQ(guest.Plug(0, 4), kBusy);
  EXPECT_EQ(guest.Config().plugged_size, 0U);
  guest.log().set_failing(false);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  EXPECT_EQ(guest.rig().counter("host_failures"), 1U);
}

// --- UNPLUG: VIRTIO §5.15.6.4.2 ---

TEST(MemDeviceTest, UnplugIsOneCallAndReflectedInPluggedSize) {
  MemGuest guest = MemGuest::Started(16);
  EXPECT_EQ(guest.Plug(0, 16), kAck);
  EXPECT_EQ(guest.Unplug(3, 9), kAck);
  EXPECT_EQ(guest.log().calls(), (Calls{"plug 0+16", "unplug 3+9"}));
  EXPECT_EQ(guest.Config().plugged_size, 7 * kBlock);
}

TEST(MemDeviceTest, UnplugOfWhatIsUnpluggedIsAnError) {
  MemGuest guest = MemGuest::Started(16);
  EXPECT_EQ(guest.Plug(4, 2), kAck);
  EXPECT_EQ(guest.Unplug(4, 3), kError);
  EXPECT_EQ(guest.Unplug(3, 2), kError);
  EXPECT_EQ(guest.Unplug(0, 1), kError);
  EXPECT_EQ(guest.Config().plugged_size, 2 * kBlock);
}

TEST(MemDeviceTest, UnplugThatTheHostCannotDoIsBusyAndChangesNothing) {
  MemGuest guest = MemGuest::Started(4);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  guest.log().set_failing(true);
  EXPECT_EQ(guest.Unplug(0, 2), kBusy);
  EXPECT_EQ(guest.UnplugAll(), kBusy);
  EXPECT_EQ(guest.Config().plugged_size, 4 * kBlock);
}

// --- UNPLUG ALL: VIRTIO §5.15.6.5.2 ---

TEST(MemDeviceTest, UnplugAllIsOneCallAndLeavesNothing) {
  MemGuest guest = MemGuest::Started(16);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  EXPECT_EQ(guest.Plug(8, 4), kAck);
  EXPECT_EQ(guest.UnplugAll(), kAck);
  EXPECT_EQ(guest.log().calls(), (Calls{"plug 0+4", "plug 8+4", "unplug all"}));
  EXPECT_EQ(guest.Config().plugged_size, 0U);
  EXPECT_EQ(guest.UnplugAll(), kAck);  // nothing is plugged: nobody needs to be asked
  EXPECT_EQ(guest.log().calls().size(), 3U);
}

TEST(MemDeviceTest, UnplugAllIgnoresEverythingButItsType) {
  MemGuest guest = MemGuest::Started(4);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  const auto response =
      guest.Send(MemGuest::Wire(MemRequestType::kUnplugAll, ~uint64_t{0}, 0xffff, '\x5a'));
  EXPECT_EQ(response.type, static_cast<uint16_t>(kAck));
}

TEST(MemDeviceTest, UnplugAllByTheOwnerIsForASystemReset) {
  // VIRTIO §5.15.6.2
  MemGuest guest = MemGuest::Started(4);
  EXPECT_EQ(guest.Plug(0, 4), kAck);
  guest.rig().core().WriteStatus(0);
  guest.log().set_failing(true);
  EXPECT_EQ(guest.device().UnplugAll().error().code(), Code::kUnavailable);
  guest.log().set_failing(false);
  EXPECT_TRUE(guest.device().UnplugAll());
  EXPECT_EQ(guest.device().plugged_size(), 0U);
}

// --- STATE: VIRTIO §5.15.6.6.2 ---

TEST(MemDeviceTest, StateIsPluggedUnpluggedOrMixed) {
  MemGuest guest = MemGuest::Started(8);
  EXPECT_EQ(guest.Plug(60, 8), kAck);
  EXPECT_EQ(guest.State(60, 8), MemBlockState::kPlugged);
  EXPECT_EQ(guest.State(64, 1), MemBlockState::kPlugged);
  EXPECT_EQ(guest.State(0, 60), MemBlockState::kUnplugged);
  EXPECT_EQ(guest.State(59, 2), MemBlockState::kMixed);
  EXPECT_EQ(guest.State(67, 2), MemBlockState::kMixed);
  EXPECT_EQ(guest.log().calls().size(), 1U);
}

TEST(MemDeviceTest, PaddingOfRequestsIsIgnored) {
  // VIRTIO §5.15.6.3.2 and the same for each request.
  MemGuest guest = MemGuest::Started(4);
  for (const MemRequestType type :
       {MemRequestType::kPlug, MemRequestType::kState, MemRequestType::kUnplug}) {
    const auto response = guest.Send(MemGuest::Wire(type, MemGuest::kStart, 4, '\xa5'));
    EXPECT_EQ(response.type, static_cast<uint16_t>(kAck));
  }
}

// --- State of the device ---

TEST(MemDeviceTest, StateComesBackInANewDevice) {
  MemGuest guest = MemGuest::Started(32);
  EXPECT_EQ(guest.Plug(1, 2), kAck);
  EXPECT_EQ(guest.Plug(70, 4), kAck);
  (void)guest.rig().core().Pause();
  MemOptions options = MemGuest::Options();
  options.resume = guest.device().state();
  MemGuest restored(std::move(options));
  EXPECT_EQ(restored.log().calls(), (Calls{"plug 1+2", "plug 70+4"}));
  EXPECT_EQ(restored.Config().plugged_size, 6 * kBlock);
  EXPECT_EQ(restored.Config().usable_size, guest.Config().usable_size.value());
  restored.rig().Start();
  EXPECT_EQ(restored.State(70, 4), MemBlockState::kPlugged);
  EXPECT_EQ(restored.Unplug(1, 2), kAck);
}

TEST(MemDeviceTest, StateThatDoesNotFitIsRefused) {
  MemGuest guest;
  const MemState good = guest.device().state();
  const auto error = [&](auto spoil) {
    MemState state = good;
    spoil(state);
    MemOptions options = WithBacking();
    options.resume = std::move(state);
    return MemCreateError(std::move(options));
  };
  EXPECT_EQ(error([](MemState&) {}), Code::kOk);
  EXPECT_EQ(error([](MemState& s) { s.version = 2; }), Code::kInvalidArgument);
  EXPECT_EQ(error([](MemState& s) { s.block_size *= 2; }), Code::kInvalidArgument);
  EXPECT_EQ(error([](MemState& s) { s.region_size += kBlock; }), Code::kInvalidArgument);
  EXPECT_EQ(error([](MemState& s) { s.usable_size += 1; }), Code::kInvalidArgument);
  EXPECT_EQ(error([](MemState& s) { s.requested_size = s.usable_size + kBlock; }),
            Code::kInvalidArgument);
  EXPECT_EQ(error([](MemState& s) { s.plugged.pop_back(); }), Code::kInvalidArgument);
  // A plugged block that is not usable.
  EXPECT_EQ(error([](MemState& s) { s.plugged.back() = uint64_t{1} << 63U; }),
            Code::kInvalidArgument);
}

TEST(MemDeviceTest, ThreadStartsWithItsHook) {
  std::string kind;
  MemOptions options = WithBacking();
  options.worker = {.name = "mem", .on_thread_start = [&](const char* k) { kind = k; }};
  auto device = MemDevice::Create(std::move(options));
  ASSERT_TRUE(device);
  device->reset();
  EXPECT_EQ(kind, "worker");
}

}  // namespace
}  // namespace wyvern::devices
