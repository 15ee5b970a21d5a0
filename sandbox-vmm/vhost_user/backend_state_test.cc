// Reset, status, configuration, and what outlives a back-end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "vhost_user/state_file.h"
#include "vhost_user/testing/backend_rig.h"

namespace wyvern::vhost_user {
namespace {

class BackendStateTest : public testing::BackendRig {
 protected:
  // An end for the back-end's requests; ours.
  std::unique_ptr<Connection> GiveChannel() {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(DoneBytes(Request::kSetBackendReqFd, {}, {pair->second}));
    return std::make_unique<Connection>(std::move(pair->first));
  }

  Message AskInflight(const InflightArea& wanted) {
    return AskMessage(Request::kGetInflightFd, std::as_bytes(std::span(&wanted, 1)));
  }
};

TEST_F(BackendStateTest, ResetDeviceGoesBackToTheBeginning) {
  RunRing();
  EXPECT_TRUE(DoneBytes(Request::kResetDevice, {}));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(state_->resets, 1);
  EXPECT_EQ(Base(0), 0U);
  // The memory table is kept; everything of the ring is to be said again.
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(Enable(0));
  EXPECT_FALSE(state_->running[0]);
  EXPECT_TRUE(Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol));
  PrepareRing(0);
  EXPECT_TRUE(state_->running[0]);
}

TEST_F(BackendStateTest, StatusIsThatOfTheDeviceAndZeroResets) {
  Make({.offer_status = true});
  RunRing(kProtocolStatus);
  EXPECT_EQ(Ask<uint64_t>(Request::kGetStatus), 0U);
  EXPECT_TRUE(Done(Request::kSetStatus, uint64_t{11}));
  EXPECT_EQ(Ask<uint64_t>(Request::kGetStatus), 11U);
  EXPECT_TRUE(Done(Request::kSetStatus, uint64_t{15}));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_FALSE(Done(Request::kSetStatus, uint64_t{256}));
  EXPECT_TRUE(Done(Request::kSetStatus, uint64_t{0}));
  EXPECT_EQ(Ask<uint64_t>(Request::kGetStatus), 0U);
  EXPECT_FALSE(state_->running[0]);
  EXPECT_EQ(state_->resets, 1);
}

TEST_F(BackendStateTest, FeaturesOkStaysAwayWithoutVersion1) {
  Make({.offer_status = true});
  ASSERT_TRUE(Send(Request::kSetProtocolFeatures, kNegotiated | kProtocolStatus));
  EXPECT_TRUE(Done(Request::kSetStatus, uint64_t{11}));
  EXPECT_EQ(Ask<uint64_t>(Request::kGetStatus), 3U);
}

TEST_F(BackendStateTest, ConfigurationIsReadAndWritten) {
  Make({.offer_config = true});
  Negotiate(kProtocolConfig);

  struct {
    ConfigRange range;
    std::array<std::byte, 4> bytes{};
  } write{{2, 4, 0}, {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}}};

  EXPECT_TRUE(Done(Request::kSetConfig, write));
  const Message reply = AskMessage(Request::kGetConfig, std::as_bytes(std::span(&write, 1)));
  ASSERT_EQ(reply.payload.size(), 16U);
  EXPECT_EQ(std::memcmp(reply.payload.data() + 12, write.bytes.data(), 4), 0);
  // More than the device has reads as zero; a length of none is a failure.
  const ConfigRange all{0, 256, 0};
  const Message most = AskMessage(Request::kGetConfig, std::as_bytes(std::span(&all, 1)));
  EXPECT_EQ(most.payload.size(), sizeof(ConfigRange) + 256);
  for (const ConfigRange& bad : {ConfigRange{0, 257, 0}, ConfigRange{256, 1, 0},
                                 ConfigRange{~0U, 4, 0}, ConfigRange{4, ~0U, 0}}) {
    EXPECT_TRUE(AskMessage(Request::kGetConfig, std::as_bytes(std::span(&bad, 1))).payload.empty());
    EXPECT_FALSE(Done(Request::kSetConfig, bad));
  }
  write.range.size = 5;
  EXPECT_FALSE(Done(Request::kSetConfig, write));
  write.range = {2, 4, 2};
  EXPECT_FALSE(Done(Request::kSetConfig, write));
}

TEST_F(BackendStateTest, ConfigurationChangeIsToldButNotWhileSuspended) {
  Make({.offer_config = true});
  RunRing(kProtocolConfig | kProtocolBackendReq);
  const auto channel = GiveChannel();
  const auto interrupt = state_->resources[0].interrupt;
  interrupt->SignalConfig();
  const auto told = channel->Receive(Soon());
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->header.request, static_cast<uint32_t>(BackendRequest::kConfigChange));
  EXPECT_EQ(told->header.flags, kVersion);
  EXPECT_TRUE(told->payload.empty());
  EXPECT_EQ(Base(0), 0U);
  interrupt->SignalConfig();
  EXPECT_EQ(channel->Receive(Connection::Clock::now()).error(), Fault::kTimeout);
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(channel->Receive(Soon()).has_value());
  EXPECT_EQ(channel->Receive(Connection::Clock::now()).error(), Fault::kTimeout);
}

TEST_F(BackendStateTest, SharedMemoryIsShownAndMapped) {
  Make({}, 0, {{.id = 0, .length = 0x10000}, {.id = 255, .length = 0x1000}});
  Negotiate(kProtocolShmem | kProtocolBackendReq | kProtocolBackendSendFd);
  const auto config = Ask<ShmemConfig>(Request::kGetShmemConfig);
  EXPECT_EQ(config.count, 2U);
  EXPECT_EQ(config.sizes[0], 0x10000U);
  EXPECT_EQ(config.sizes[1], 0U);
  EXPECT_EQ(config.sizes[255], 0x1000U);
  const UniqueFd file = Memfd(0x1000);
  EXPECT_EQ(backend_->requests()->MapShared(0, 0, file, 0, 0x1000, true).error().code(),
            Code::kFailedPrecondition);
  const auto channel = GiveChannel();
  // The answer is there before the question.
  const uint64_t ok = 0;
  ASSERT_TRUE(channel->Send(BackendRequest::kShmemMap, kFlagReply, std::as_bytes(std::span(&ok, 1)),
                            {}, Soon()));
  EXPECT_TRUE(backend_->requests()->MapShared(0, 0x2000, file, 0x3000, 0x1000, true));
  const auto asked = channel->Receive(Soon());
  ASSERT_TRUE(asked.has_value());
  EXPECT_EQ(asked->header.flags, kVersion | kFlagNeedReply);
  EXPECT_EQ(asked->fds.size(), 1U);
  const auto mapping = asked->As<ShmemMapping>();
  EXPECT_EQ(mapping.shm_offset, 0x2000U);
  EXPECT_EQ(mapping.fd_offset, 0x3000U);
  EXPECT_EQ(mapping.flags, kShmemWritable);
  const uint64_t no = 1;
  ASSERT_TRUE(channel->Send(BackendRequest::kShmemUnmap, kFlagReply,
                            std::as_bytes(std::span(&no, 1)), {}, Soon()));
  EXPECT_EQ(backend_->requests()->UnmapShared(0, 0, 0x1000).error().code(), Code::kInternal);
}

struct LyingAnswer {
  const char* name;
  Header header;
  size_t bytes;
  size_t fds;
};

TEST_F(BackendStateTest, FrontEndThatAnswersWrongLosesTheChannel) {
  constexpr auto kMap = static_cast<uint32_t>(BackendRequest::kShmemMap);
  constexpr uint32_t kReply = kVersion | kFlagReply;
  const LyingAnswer answers[] = {
      {"another request", {kMap + 1, kReply, 8}, 8, 0}, {"no reply", {kMap, kVersion, 8}, 8, 0},
      {"another version", {kMap, kFlagReply, 8}, 8, 0}, {"too short", {kMap, kReply, 4}, 4, 0},
      {"too long", {kMap, kReply, 16}, 16, 0},          {"a descriptor", {kMap, kReply, 8}, 8, 1},
      {"half of it", {kMap, kReply, 8}, 5, 0},
  };
  const UniqueFd file = Memfd(0x1000);
  for (const LyingAnswer& answer : answers) {
    Make({}, 0, {{.id = 0, .length = 0x10000}});
    Negotiate(kProtocolShmem | kProtocolBackendReq | kProtocolBackendSendFd);
    const auto channel = GiveChannel();
    std::vector<std::byte> bytes(sizeof(Header) + answer.bytes);
    std::memcpy(bytes.data(), &answer.header, sizeof(Header));
    ASSERT_TRUE(SendMessage(channel->fd(), bytes, std::vector<FdRef>(answer.fds, FdRef(file))));
    const auto requests = backend_->requests();
    EXPECT_EQ(requests->MapShared(0, 0, file, 0, 0x1000, false).error().code(), Code::kUnavailable)
        << answer.name;
    EXPECT_EQ(requests->MapShared(0, 0, file, 0, 0x1000, false).error().code(),
              Code::kFailedPrecondition)
        << answer.name;
  }
}

TEST_F(BackendStateTest, InflightMemoryIsMadeAndTakenBack) {
  Make({.track_inflight = true});
  RunRing(kProtocolInflightShmfd);
  EXPECT_EQ(Base(0), 0U);
  const Message made = AskInflight({0, 0, 2, 256, 0});
  ASSERT_EQ(made.fds.size(), 1U);
  const auto area = made.As<InflightArea>();
  EXPECT_EQ(area.mmap_size, 2U * (64 + 256 * 16));
  EXPECT_EQ(area.queues, 2U);
  EXPECT_EQ(area.queue_size, 256U);
  EXPECT_TRUE(Done(Request::kSetInflightFd, area, {made.fds[0]}));
  EXPECT_TRUE(Kick(0));
  EXPECT_NE(state_->resources[0].config.maker, nullptr);
  // Nobody cuts it short under us.
  EXPECT_NE(::ftruncate(made.fds[0].get(), 0), 0);
}

// CVE-2021-3839: the number of queues was not checked.
TEST_F(BackendStateTest, BadInflightMemoryIsRefused) {
  Make({.track_inflight = true});
  Negotiate(kProtocolInflightShmfd);
  for (const InflightArea& wanted :
       {InflightArea{0, 0, 0, 256, 0}, InflightArea{0, 0, 3, 256, 0},
        InflightArea{0, 0, 0xffff, 256, 0}, InflightArea{0, 0, 1, 0, 0},
        InflightArea{0, 0, 1, 100, 0}, InflightArea{0, 0, 1, 0xffff, 0}}) {
    const Message reply = AskInflight(wanted);
    EXPECT_TRUE(reply.fds.empty());
    EXPECT_EQ(reply.As<InflightArea>().mmap_size, 0U);
    EXPECT_FALSE(Done(Request::kSetInflightFd, wanted, {Memfd(1 << 20)}));
  }
  constexpr uint64_t kNeeded = 64 + 256 * 16;
  const UniqueFd file = Memfd(0x3000);
  for (const InflightArea& given :
       {InflightArea{kNeeded - 1, 0, 1, 256, 0}, InflightArea{0x3001, 0, 1, 256, 0},
        InflightArea{0x3000, 64, 1, 256, 0}, InflightArea{kNeeded, ~uint64_t{63}, 1, 256, 0},
        InflightArea{~uint64_t{0}, 0, 1, 256, 0}, InflightArea{kNeeded, 8, 1, 256, 0},
        InflightArea{kNeeded, 0, 3, 256, 0}}) {
    EXPECT_FALSE(Done(Request::kSetInflightFd, given, {file}));
  }
  EXPECT_TRUE(Done(Request::kSetInflightFd, InflightArea{kNeeded, 64, 1, 256, 0}, {file}));
}

// The region says what is in flight, whatever the front-end makes of the base.
TEST_F(BackendStateTest, RecordOfTheLastBackEndDecidesWhereARingGoesOn) {
  Make({.track_inflight = true});
  Negotiate(kProtocolInflightShmfd);
  SetOneRegion();
  const Message made = AskInflight({0, 0, 2, 256, 0});
  auto region = InflightRegion::Map(*made.fds.at(0).Duplicate(), made.As<InflightArea>(), 2);
  ASSERT_TRUE(region.has_value());
  auto ring = (*region)->ring(0);
  ASSERT_TRUE(ring->Recover(0, 256).has_value());
  ring->Taken(5);
  ring->Taken(3);
  PrepareRing(0, 77);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(Kick(0));
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 2U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 0U);
}

TEST_F(BackendStateTest, RingThatIsLargerThanItsInflightMemoryRunsWithout) {
  Make({.track_inflight = true});
  Negotiate(kProtocolInflightShmfd);
  SetOneRegion();
  EXPECT_EQ(AskInflight({0, 0, 2, 128, 0}).fds.size(), 1U);
  PrepareRing(0);
  EXPECT_TRUE(Enable(0));
  EXPECT_TRUE(Kick(0));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_EQ(state_->resources[0].config.maker, nullptr);
}

class TextState final : public DeviceState {
 public:
  Result<std::vector<std::byte>> Save() override {
    const auto bytes = std::as_bytes(std::span(text));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }

  Result<> Load(std::span<const std::byte> state) override {
    loaded.assign(reinterpret_cast<const char*>(state.data()), state.size());
    return loaded == "bad" ? Result<>(Fail(Code::kInvalidArgument, "bad")) : Result<>();
  }

  std::string text = std::string(100000, 's');
  std::string loaded;
};

TEST_F(BackendStateTest, DeviceStateIsSavedAndLoaded) {
  auto text = std::make_shared<TextState>();
  Make({.state = text});
  Negotiate(kProtocolDeviceState);
  PipePair pipe = *MakePipe();
  const DeviceStateTransfer save{0, 0};
  const Message saved =
      AskMessage(Request::kSetDeviceStateFd, std::as_bytes(std::span(&save, 1)), {pipe.write});
  EXPECT_EQ(saved.As<uint64_t>(), 0U);
  ASSERT_EQ(saved.fds.size(), 1U);
  EXPECT_EQ(*ReadToEnd(saved.fds[0], 1 << 20), text->text);
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 0U);
  for (const std::string& state : {std::string("state of another"), std::string("bad")}) {
    const DeviceStateTransfer load{1, 0};
    const Message loading =
        AskMessage(Request::kSetDeviceStateFd, std::as_bytes(std::span(&load, 1)), {pipe.read});
    ASSERT_EQ(loading.fds.size(), 1U);
    ASSERT_TRUE(WriteAll(loading.fds[0], std::string_view(state)));
    EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), state == "bad" ? 1U : 0U);
    EXPECT_EQ(text->loaded, state);
  }
  // Once only.
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 1U);
}

TEST_F(BackendStateTest, SealedStateOfTheFrontEndIsReadWhereItIs) {
  auto text = std::make_shared<TextState>();
  Make({.state = text});
  Negotiate(kProtocolDeviceState);
  const std::string given(200000, 'g');
  const DeviceStateTransfer load{1, 0};
  const auto ask = [&](const UniqueFd& file) {
    return AskMessage(Request::kSetDeviceStateFd, std::as_bytes(std::span(&load, 1)), {file});
  };
  const UniqueFd sealed = *SealState(std::as_bytes(std::span(given)));
  const Message taken = ask(sealed);
  EXPECT_TRUE(taken.fds.empty());
  EXPECT_EQ(taken.As<uint64_t>(), kNoFd);
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 0U);
  EXPECT_EQ(text->loaded, given);
  // What could change meanwhile, or block, is not read.
  const UniqueFd open = *MakeMemfd("open", 100);
  EXPECT_EQ(ask(open).fds.size(), 1U);
  // What is larger than any state is not, either: it may be nothing but holes.
  const UniqueFd large = *MakeMemfd("large", DeviceState::kMaxBytes + 1, MFD_ALLOW_SEALING);
  ASSERT_EQ(::fcntl(large.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
  EXPECT_TRUE(ask(large).fds.empty());
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 1U);
  EXPECT_EQ(text->loaded, given);
}

TEST_F(BackendStateTest, RoomForAStateDoesNotGrow) {
  auto text = std::make_shared<TextState>();
  Make({.state = text});
  Negotiate(kProtocolDeviceState);
  const PipePair pipe = *MakePipe();
  const DeviceStateTransfer load{1, 0};
  const Message loading =
      AskMessage(Request::kSetDeviceStateFd, std::as_bytes(std::span(&load, 1)), {pipe.read});
  ASSERT_EQ(loading.fds.size(), 1U);
  const int room = loading.fds[0].get();
  constexpr auto kEnd = static_cast<off_t>(DeviceState::kMaxBytes);
  EXPECT_NE(::ftruncate(room, kEnd + 1), 0);
  EXPECT_NE(::ftruncate(room, 0), 0);
  EXPECT_EQ(::pwrite(room, "x", 1, kEnd), -1);
  EXPECT_NE(::fallocate(room, 0, 0, kEnd + 4096), 0);
  EXPECT_NE(::fcntl(room, F_ADD_SEALS, F_SEAL_WRITE), 0);
  // As QEMU writes: one piece after the other, until the room ends.
  ASSERT_EQ(::write(room, "first, ", 7), 7);
  ASSERT_EQ(::write(room, "second", 6), 6);
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 0U);
  EXPECT_EQ(text->loaded, "first, second");
  const Message again =
      AskMessage(Request::kSetDeviceStateFd, std::as_bytes(std::span(&load, 1)), {pipe.read});
  ASSERT_EQ(again.fds.size(), 1U);
  ASSERT_EQ(::lseek(again.fds[0].get(), kEnd, SEEK_SET), kEnd);
  EXPECT_EQ(::write(again.fds[0].get(), "x", 1), -1);
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 0U);
  EXPECT_EQ(text->loaded.size(), DeviceState::kMaxBytes);
}

TEST_F(BackendStateTest, StateIsNotMovedWhileARingRunsOrInAnotherPhase) {
  Make({.state = NoDeviceState()});
  RunRing(kProtocolDeviceState);
  const PipePair pipe = *MakePipe();
  const auto ask = [&](const DeviceStateTransfer& transfer) {
    const Message reply = AskMessage(Request::kSetDeviceStateFd,
                                     std::as_bytes(std::span(&transfer, 1)), {pipe.write});
    EXPECT_EQ(reply.fds.empty(), reply.As<uint64_t>() != 0);
    return reply.As<uint64_t>();
  };
  EXPECT_EQ(ask({0, 0}), kNoFd | 1);
  EXPECT_EQ(Ask<uint64_t>(Request::kCheckDeviceState), 1U);
  Base(0);
  EXPECT_EQ(ask({0, 1}), kNoFd | 1);
  EXPECT_EQ(ask({2, 0}), kNoFd | 1);
  EXPECT_EQ(ask({0, 0}), 0U);
}

TEST_F(BackendStateTest, NetRequestsReachTheDevice) {
  uint16_t mtu = 0;
  std::array<uint8_t, 6> address{};
  Make({.set_mtu =
            [&](uint16_t value) {
              mtu = value;
              return Result<>();
            },
        .send_rarp =
            [&](std::array<uint8_t, 6> mac) {
              address = mac;
              return Result<>();
            }});
  Negotiate(kProtocolMtu | kProtocolRarp);
  EXPECT_TRUE(Done(Request::kNetSetMtu, uint64_t{1500}));
  EXPECT_EQ(mtu, 1500U);
  for (const uint64_t bad : {uint64_t{0}, uint64_t{67}, uint64_t{65536}, ~uint64_t{0}}) {
    EXPECT_FALSE(Done(Request::kNetSetMtu, bad)) << bad;
  }
  EXPECT_TRUE(Done(Request::kSendRarp, std::array<uint8_t, 8>{2, 0, 0, 1, 2, 3, 9, 9}));
  EXPECT_EQ(address, (std::array<uint8_t, 6>{2, 0, 0, 1, 2, 3}));
}

}  // namespace
}  // namespace wyvern::vhost_user
