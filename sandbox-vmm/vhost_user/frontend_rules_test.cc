// Rules that hold for every reply, and for everything that a back-end asks.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>

#include "vhost_user/frontend.h"
#include "vhost_user/testing/scripted_backend.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;
using testing::ScriptedBackend;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;

constexpr uint64_t kNetMtu = uint64_t{1} << 3;  // VIRTIO §5.1.3

// Takes every mapping.
class OpenWindow final : public SharedMemoryWindow {
 public:
  Result<> Map(uint8_t, uint64_t, uint64_t, UniqueFd, uint64_t, bool) override {
    ++maps;
    return {};
  }

  Result<> Unmap(uint8_t, uint64_t, uint64_t) override {
    ++unmaps;
    return {};
  }

  std::atomic<int> maps{0};
  std::atomic<int> unmaps{0};
};

class FrontendRulesTest : public ::testing::Test {
 protected:
  FrontendOptions Options(milliseconds timeout = std::chrono::seconds(5)) const {
    FrontendOptions options;
    options.device_id = virtio::kDeviceBlock;
    options.features = virtio::kRingFeatures;
    options.queue_sizes = {64, 64};
    options.backend_config = 16;
    options.timeout = timeout;
    options.drain_timeout = timeout;
    options.track_inflight = true;
    options.mtu = 1500;
    options.window = window_;
    return options;
  }

  Result<> Start(Frontend& device, uint16_t index) {
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = driver_.config();
    resources.kick = kick_.fd();
    resources.interrupt = std::make_shared<FakeInterrupt>();
    return device.StartQueue(index, std::move(resources), virtio::kVersion1 | kNetMtu,
                             std::nullopt);
  }

  // All that a front-end ever asks; the first failure.
  Result<> Session(ScriptedBackend& backend, milliseconds timeout = std::chrono::seconds(5)) {
    WV_TRY(auto device, Frontend::Create(std::move(backend.front_end), Options(timeout)));
    const UniqueFd log = *MakeMemfd("log", 4096);
    WV_TRY_VOID(device->StartLog(log, 4096));
    WV_TRY_VOID(Start(*device, 0));
    const std::byte written{1};
    device->WriteConfig(0, std::span(&written, 1));
    // The base may be a lie, and the ring's own index is taken instead: the next request tells.
    device->StopQueue(0);
    WV_TRY_VOID(device->SaveState());
    WV_TRY_VOID(device->LoadState({}));
    WV_TRY_VOID(device->SendRarp({}));
    device->Reset();
    return Start(*device, 0);
  }

  std::shared_ptr<OpenWindow> window_ = std::make_shared<OpenWindow>();
  GuestRam ram_;
  FakeDriver driver_{ram_, 64};
  EventFd kick_ = *EventFd::Create();
};

TEST_F(FrontendRulesTest, HonestBackEndIsAskedEverything) {
  ScriptedBackend backend;
  const auto done = Session(backend);
  ASSERT_TRUE(done.has_value()) << done.error().message();
  const std::vector<Request> seen = backend.seen();
  for (const RequestRule& rule : RequestRules()) {
    const auto request = static_cast<Request>(rule.request);
    // RESET_OWNER is deprecated; SET_LOG_FD has no use for us; slots need more than 8 regions.
    const bool unused = request == Request::kResetOwner || request == Request::kSetLogFd ||
                        request == Request::kGetMaxMemSlots || request == Request::kAddMemReg ||
                        request == Request::kRemMemReg;
    EXPECT_EQ(std::ranges::count(seen, request) > 0, !unused) << rule.name;
  }
}

TEST_F(FrontendRulesTest, BitsThatWeDoNotKnowAreNotTaken) {
  ScriptedBackend backend({}, {}, ~uint64_t{0});
  const auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value());
  EXPECT_EQ((*device)->traits().features, virtio::kRingFeatures);
}

TEST_F(FrontendRulesTest, SharedMemoryNeedsItsOwnBit) {
  // Bit 21 is what some call SHMEM.
  ScriptedBackend backend({}, {},
                          (ScriptedBackend::kProtocol & ~kProtocolShmem) | uint64_t{1} << 21);
  const auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value());
  EXPECT_TRUE((*device)->traits().shared_memory.empty());
  const std::vector<Request> seen = backend.seen();
  EXPECT_EQ(std::ranges::count(seen, Request::kGetShmemConfig), 0);
}

struct Lie {
  const char* name;
  ScriptedBackend::Twist twist;
};

void PutHeader(ScriptedBackend::Reply* reply, const std::function<void(Header*)>& change) {
  Header header;
  std::memcpy(&header, reply->bytes.data(), sizeof(header));
  change(&header);
  std::memcpy(reply->bytes.data(), &header, sizeof(header));
}

ScriptedBackend::Twist Cut(size_t bytes) {
  return [bytes](ScriptedBackend::Reply* reply) {
    reply->bytes.resize(std::min(bytes, reply->bytes.size() - 1));
    reply->fds = reply->bytes.empty() ? 0 : reply->fds;
    reply->hang_up = true;
  };
}

std::vector<Lie> Lies() {
  using Reply = ScriptedBackend::Reply;
  return {
      {"another request", [](Reply* r) { PutHeader(r, [](Header* h) { h->request ^= 0x40U; }); }},
      {"no reply flag", [](Reply* r) { PutHeader(r, [](Header* h) { h->flags = kVersion; }); }},
      {"another version", [](Reply* r) { PutHeader(r, [](Header* h) { h->flags ^= 3U; }); }},
      {"a size beyond any",
       [](Reply* r) { PutHeader(r, [](Header* h) { h->size = 0xffffffff; }); }},
      {"too long",
       [](Reply* r) {
         PutHeader(r, [](Header* h) { h->size += 9; });
         r->bytes.resize(r->bytes.size() + 9);
       }},
      {"one descriptor too many", [](Reply* r) { ++r->fds; }},
      {"more descriptors than any", [](Reply* r) { r->fds = 20; }},
      {"gone", Cut(0)},
      {"gone after a byte", Cut(1)},
      {"gone within the header", Cut(11)},
      {"gone after the header", Cut(12)},
      {"gone within the payload", Cut(~size_t{0})},
  };
}

// Each reply of a session, each lie: it fails as UNAVAILABLE, and in time.
TEST_F(FrontendRulesTest, EveryReplyThatBreaksTheProtocolEndsTheSession) {
  std::set<Request> asked;
  {
    ScriptedBackend backend;
    ASSERT_TRUE(Session(backend).has_value());
    const std::vector<Request> seen = backend.seen();
    asked.insert(seen.begin(), seen.end());
  }
  for (const Request request : asked) {
    for (const Lie& lie : Lies()) {
      // Without REPLY_ACK yet these have no reply at all.
      if (request == Request::kSetProtocolFeatures) {
        continue;
      }
      ScriptedBackend backend(request, lie.twist);
      const auto done = Session(backend);
      ASSERT_FALSE(done.has_value())
          << RequestName(static_cast<uint32_t>(request)) << ": " << lie.name;
      EXPECT_EQ(done.error().code(), Code::kUnavailable)
          << RequestName(static_cast<uint32_t>(request)) << ": " << lie.name << ": "
          << done.error().message();
    }
  }
}

TEST_F(FrontendRulesTest, SilenceEndsEveryRequestInTime) {
  for (const Request request : {Request::kGetFeatures, Request::kSetOwner, Request::kGetConfig,
                                Request::kSetMemTable, Request::kSetVringKick}) {
    ScriptedBackend backend(request, [](ScriptedBackend::Reply* reply) { reply->silent = true; });
    const auto begun = Connection::Clock::now();
    EXPECT_EQ(Session(backend, milliseconds(50)).error().code(), Code::kUnavailable);
    EXPECT_LT(Connection::Clock::now() - begun, std::chrono::seconds(5));
  }
}

TEST_F(FrontendRulesTest, RefusalIsAnErrorAndTheSessionGoesOn) {
  ScriptedBackend backend(Request::kSetVringNum,
                          [](ScriptedBackend::Reply* reply) { reply->bytes[12] = std::byte{1}; });
  auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value());
  EXPECT_EQ(Start(**device, 0).error().code(), Code::kInternal);
  EXPECT_FALSE((*device)->lost());
  EXPECT_FALSE((*device)->StopQueue(0).has_value());
}

TEST_F(FrontendRulesTest, ConfigurationThatIsRefusedIsAFailedPrecondition) {
  ScriptedBackend backend(Request::kGetConfig, [](ScriptedBackend::Reply* reply) {
    PutHeader(reply, [](Header* header) { header->size = 0; });
    reply->bytes.resize(sizeof(Header));
  });
  EXPECT_EQ(Frontend::Create(std::move(backend.front_end), Options()).error().code(),
            Code::kFailedPrecondition);
}

TEST_F(FrontendRulesTest, InflightMemoryThatIsNoneIsAFailedPrecondition) {
  for (const size_t fds : {0U, 1U}) {
    ScriptedBackend backend(Request::kGetInflightFd, [fds](ScriptedBackend::Reply* reply) {
      reply->fds = fds;
      if (fds == 1) {
        std::fill_n(reply->bytes.begin() + sizeof(Header), 8, std::byte{0});
      }
    });
    auto device = Frontend::Create(std::move(backend.front_end), Options());
    ASSERT_TRUE(device.has_value());
    EXPECT_EQ(Start(**device, 0).error().code(), Code::kFailedPrecondition);
  }
}

TEST_F(FrontendRulesTest, BaseOfAnotherRingIsNotTaken) {
  ScriptedBackend backend(Request::kGetVringBase,
                          [](ScriptedBackend::Reply* reply) { reply->bytes[12] = std::byte{1}; });
  auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value());
  ASSERT_TRUE(Start(**device, 0));
  EXPECT_EQ((*device)->StopQueue(0).value_or(virtio::QueueState{9, 9}).next_available, 0U);
  EXPECT_FALSE(Start(**device, 0));
}

class BackendRequestRulesTest : public FrontendRulesTest {
 protected:
  void Connect(uint64_t protocol = ScriptedBackend::kProtocol) {
    device_.reset();
    backend_ = std::make_unique<ScriptedBackend>(std::nullopt, ScriptedBackend::Twist(), protocol);
    auto device = Frontend::Create(std::move(backend_->front_end), Options());
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = *std::move(device);
    channel_ = std::make_unique<Connection>(backend_->TakeChannel());
  }

  void TearDown() override { device_.reset(); }

  bool WaitLost() const {
    for (int i = 0; i < 500 && !device_->lost(); ++i) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    return device_->lost();
  }

  static Connection::Clock::time_point Soon() {
    return Connection::Clock::now() + std::chrono::seconds(5);
  }

  bool Send(uint32_t id, std::span<const std::byte> payload, size_t fds,
            uint32_t flags = kFlagNeedReply) {
    return channel_->Send(id, flags, payload, std::vector<FdRef>(fds, kick_.fd()), Soon())
        .has_value();
  }

  // The code of the reply; nothing when there is none.
  std::optional<uint64_t> Ask(uint32_t id, std::span<const std::byte> payload, size_t fds) {
    EXPECT_TRUE(Send(id, payload, fds));
    const auto reply = channel_->Receive(Soon());
    if (!reply || reply->header.request != id || reply->payload.size() != sizeof(uint64_t)) {
      return std::nullopt;
    }
    return reply->As<uint64_t>();
  }

  std::optional<uint64_t> Map(const ShmemMapping& mapping) {
    return Ask(static_cast<uint32_t>(BackendRequest::kShmemMap),
               std::as_bytes(std::span(&mapping, 1)), 1);
  }

  std::optional<uint64_t> Unmap(const ShmemMapping& mapping) {
    return Ask(static_cast<uint32_t>(BackendRequest::kShmemUnmap),
               std::as_bytes(std::span(&mapping, 1)), 0);
  }

  std::unique_ptr<ScriptedBackend> backend_;
  std::unique_ptr<Connection> channel_;
  std::unique_ptr<Frontend> device_;
};

TEST_F(BackendRequestRulesTest, EachIsAnsweredOnce) {
  Connect();
  for (const RequestRule& rule : BackendRequestRules()) {
    const std::vector<std::byte> payload(rule.min_size);
    EXPECT_TRUE(Ask(rule.request, payload, rule.min_fds).has_value()) << rule.name;
    EXPECT_EQ(channel_->Receive(Connection::Clock::now()).error(), Fault::kTimeout) << rule.name;
    EXPECT_TRUE(Send(rule.request, payload, rule.min_fds, 0));
    EXPECT_EQ(channel_->Receive(Connection::Clock::now() + milliseconds(50)).error(),
              Fault::kTimeout)
        << rule.name;
  }
  EXPECT_FALSE(device_->lost());
}

TEST_F(BackendRequestRulesTest, UnknownOnesAreRefusedAndTheSessionGoesOn) {
  Connect();
  for (const uint32_t id : {0U, 1U, 3U, 4U, 5U, 6U, 8U, 11U, 999U, 0xffffffffU}) {
    EXPECT_EQ(Ask(id, {}, 0), 1U) << id;
  }
  EXPECT_EQ(Ask(2, {}, 0), 0U);
  EXPECT_FALSE(device_->lost());
}

TEST_F(BackendRequestRulesTest, OnesThatWereNotNegotiatedAreRefused) {
  Connect(ScriptedBackend::kProtocol & ~kProtocolShmem);
  EXPECT_EQ(Map({0, {}, 0, 0, 4096, 0}), 1U);
  EXPECT_EQ(window_->maps, 0);
  EXPECT_FALSE(device_->lost());
}

TEST_F(BackendRequestRulesTest, FramingFaultsEndTheSession) {
  for (const RequestRule& rule : BackendRequestRules()) {
    const std::vector<std::byte> right(rule.max_size);
    Connect();
    EXPECT_TRUE(Send(rule.request, std::vector<std::byte>(rule.max_size + 1), rule.min_fds));
    EXPECT_TRUE(WaitLost()) << rule.name;
    Connect();
    EXPECT_TRUE(Send(rule.request, right, rule.max_fds + 1));
    EXPECT_TRUE(WaitLost()) << rule.name;
    if (rule.min_fds > 0) {
      Connect();
      EXPECT_TRUE(Send(rule.request, right, rule.min_fds - 1));
      EXPECT_TRUE(WaitLost()) << rule.name;
    }
    Connect();
    const Header header{rule.request, kVersion, rule.max_size + 1};
    ASSERT_TRUE(SendMessage(channel_->fd(), std::as_bytes(std::span(&header, 1)), {}));
    channel_.reset();  // within the message
    EXPECT_TRUE(WaitLost()) << rule.name;
  }
}

TEST_F(BackendRequestRulesTest, ClosingTheChannelIsNoFault) {
  Connect();
  channel_.reset();
  ASSERT_TRUE(Start(*device_, 0));
  EXPECT_FALSE(device_->lost());
}

TEST_F(BackendRequestRulesTest, MappingsStayInTheirRegionAndApart) {
  Connect();
  constexpr uint64_t kEnd = 1 << 20;
  ASSERT_EQ(Map({0, {}, 0, 0x4000, 0x4000, 1}), 0U);
  const ShmemMapping bad[] = {
      {1, {}, 0, 0, 0x1000, 0},                 // no such region
      {0, {}, 0, 0, 0, 0},                      // empty
      {0, {}, 0, 0, 0x1001, 0},                 // no whole pages
      {0, {}, 0x800, 0, 0x1000, 0},             //
      {0, {}, 0, 0x800, 0x1000, 0},             //
      {0, {}, 0, kEnd, 0x1000, 0},              // behind its end
      {0, {}, 0, kEnd - 0x1000, 0x2000, 0},     // over its end
      {0, {}, 0, ~uint64_t{0xfff}, 0x2000, 0},  // wraps
      {0, {}, 0, 0, ~uint64_t{0xfff}, 0},       //
      {0, {}, ~uint64_t{0xfff}, 0, 0x1000, 0},  // the file's offset wraps
      {0, {}, 0, 0, 0x1000, 2},                 // flags that do not exist
      {0, {}, 0, 0x4000, 0x4000, 0},            // where something is
      {0, {}, 0, 0x7000, 0x1000, 0},            // within it
      {0, {}, 0, 0, 0x5000, 0},                 // over its beginning
      {0, {}, 0, 0x7000, 0x5000, 0},            // over its end
      {0, {}, 0, 0, kEnd, 0},                   // around it
  };
  for (size_t i = 0; i < std::size(bad); ++i) {
    EXPECT_EQ(Map(bad[i]), 1U) << i;
  }
  EXPECT_EQ(window_->maps, 1);
  EXPECT_EQ(Map({0, {}, 0, 0, 0x4000, 0}), 0U);
  EXPECT_EQ(Map({0, {}, 0, 0x8000, kEnd - 0x8000, 0}), 0U);
  EXPECT_EQ(Unmap({0, {}, 0, 0x4000, 0x2000, 0}), 1U);
  EXPECT_EQ(Unmap({0, {}, 0, 0x5000, 0x3000, 0}), 1U);
  EXPECT_EQ(Unmap({0, {}, 0, 0x4000, 0x4000, 0}), 0U);
  EXPECT_EQ(Unmap({0, {}, 0, 0x4000, 0x4000, 0}), 1U);
  device_->Reset();
  EXPECT_EQ(window_->unmaps, 3);
}

// While the front-end waits for its answer, a back-end still says what it likes.
TEST_F(BackendRequestRulesTest, MappingMadeWhileTheDeviceIsResetGoesWithIt) {
  std::atomic<int> mapped{-1};
  ScriptedBackend backend(Request::kResetDevice, [&](ScriptedBackend::Reply* /*reply*/) {
    mapped = static_cast<int>(Map({0, {}, 0, 0x4000, 0x4000, 1}).value_or(99));
  });
  auto device = Frontend::Create(std::move(backend.front_end), Options());
  ASSERT_TRUE(device.has_value()) << device.error().message();
  channel_ = std::make_unique<Connection>(backend.TakeChannel());
  ASSERT_TRUE(Start(**device, 0));
  EXPECT_EQ(Map({0, {}, 0, 0, 0x1000, 0}), 0U);
  (*device)->StopQueue(0);
  (*device)->Reset();
  EXPECT_EQ(mapped, 0);
  EXPECT_EQ(window_->maps, 2);
  EXPECT_EQ(window_->unmaps, 2);
  EXPECT_EQ(Map({0, {}, 0, 0x4000, 0x4000, 1}), 0U);  // where something was
}

TEST(SharedMappingsTest, MappingsAreBounded) {
  const auto window = std::make_shared<OpenWindow>();
  SharedMappings mappings(window);
  mappings.SetRegions({{.id = 0, .length = uint64_t{1} << 34}});
  const auto page = [](uint64_t number) {
    return ShmemMapping{0, {}, 0, number * 0x2000, 0x1000, 0};  // apart, which costs most
  };
  for (uint64_t i = 0; i < SharedMappings::kMaxMappings; ++i) {
    ASSERT_TRUE(mappings.Map(page(i), UniqueFd()).has_value()) << i;
  }
  const ShmemMapping one_more = page(SharedMappings::kMaxMappings);
  const auto refused = mappings.Map(one_more, UniqueFd());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(mappings.Unmap(page(7)).has_value());
  EXPECT_TRUE(mappings.Map(one_more, UniqueFd()).has_value());
  mappings.UnmapAll();
  EXPECT_EQ(window->unmaps, window->maps);
}

class DaxWindowRulesTest : public FrontendRulesTest {
 protected:
  static constexpr uint64_t kWindow = 4 << 20;

  // The back-end says that it has regions of these sizes.
  Result<std::unique_ptr<Frontend>> CreateFs(const std::vector<uint64_t>& sizes,
                                             uint64_t protocol) {
    backend_ = std::make_unique<ScriptedBackend>(
        Request::kGetShmemConfig,
        [sizes](ScriptedBackend::Reply* reply) {
          ShmemConfig config;
          config.count = static_cast<uint32_t>(sizes.size());
          std::ranges::copy(sizes, config.sizes);
          std::memcpy(reply->bytes.data() + sizeof(Header), &config, sizeof(config));
        },
        protocol);
    return Frontend::CreateFs(std::move(backend_->front_end), "t", 1, 64, {}, files_);
  }

  std::shared_ptr<mem::FileWindow> files_ = *mem::FileWindow::Create(kWindow);
  std::unique_ptr<ScriptedBackend> backend_;
};

TEST_F(DaxWindowRulesTest, BackEndHasOneWindowOfTheSizeThatTheMachineGave) {
  const std::vector<uint64_t> wrong[] = {
      {}, {kWindow / 2}, {2 * kWindow}, {0, kWindow}, {kWindow, kWindow}};
  for (const std::vector<uint64_t>& sizes : wrong) {
    const auto device = CreateFs(sizes, ScriptedBackend::kProtocol);
    ASSERT_FALSE(device.has_value()) << sizes.size();
    EXPECT_EQ(device.error().code(), Code::kFailedPrecondition);
  }
  for (const uint64_t lacks : {kProtocolShmem, kProtocolBackendReq, kProtocolBackendSendFd}) {
    const auto device = CreateFs({kWindow}, ScriptedBackend::kProtocol & ~lacks);
    ASSERT_FALSE(device.has_value()) << lacks;
    EXPECT_EQ(device.error().code(), Code::kFailedPrecondition);
  }
  const auto device = CreateFs({kWindow}, ScriptedBackend::kProtocol);
  ASSERT_TRUE(device.has_value()) << device.error().message();
  EXPECT_EQ((*device)->traits().shared_memory.at(0).length, kWindow);
}

TEST_F(DaxWindowRulesTest, DescriptorsThatAreNoFilesAreRefusedAndTheSessionGoesOn) {
  const auto device = CreateFs({kWindow}, ScriptedBackend::kProtocol);
  ASSERT_TRUE(device.has_value()) << device.error().message();
  Connection channel(backend_->TakeChannel());
  const auto soon = Connection::Clock::now() + std::chrono::seconds(10);
  const auto map = [&](FdRef fd, uint64_t flags) {
    const ShmemMapping mapping{0, {}, 0, 0, 0x1000, flags};
    const FdRef fds[] = {fd};
    EXPECT_TRUE(channel.Send(BackendRequest::kShmemMap, kFlagNeedReply,
                             std::as_bytes(std::span(&mapping, 1)), fds, soon));
    const auto reply = channel.Receive(soon);
    return reply ? reply->As<uint64_t>() : 99;
  };
  const UniqueFd file = *MakeMemfd("file", 4096);
  const UniqueFd reader = *Open("/proc/self/fd/" + std::to_string(file.get()), O_RDONLY);
  const UniqueFd zeros = *Open("/dev/zero", O_RDWR);
  const PipePair pipe = *MakePipe();
  for (const FdRef bad : {kick_.fd(), FdRef(zeros), FdRef(pipe.read), channel.fd()}) {
    EXPECT_EQ(map(bad, 0), 1U);
  }
  EXPECT_EQ(map(reader, kShmemWritable), 1U);
  EXPECT_EQ(map(file, kShmemWritable), 0U);
  EXPECT_FALSE((*device)->lost());
}

}  // namespace
}  // namespace wyvern::vhost_user
