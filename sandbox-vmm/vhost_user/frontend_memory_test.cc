// Memory that comes and goes beside a vhost-user device, as virtio-mem plugs it: chunks of one file.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#include "transport/transport_core.h"
#include "vhost_user/frontend.h"
#include "vhost_user/testing/backend_peer.h"
#include "vhost_user/testing/scripted_backend.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;
using testing::Peer;
using testing::ScriptedBackend;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;
using virtio::testing::MustPop;

class FrontendMemoryTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kChunk = 2 << 20;
  static constexpr uint64_t kWindow = uint64_t{1} << 32U;
  static constexpr uint64_t kChunks = 512;  // the most that ChunkedBacking has

  static FrontendOptions Options(milliseconds timeout = std::chrono::seconds(10)) {
    FrontendOptions options;
    options.device_id = virtio::kDeviceFs;
    options.features = virtio::kRingFeatures;
    options.queue_sizes = {64};
    options.timeout = timeout;
    options.drain_timeout = timeout;
    return options;
  }

  void Create(UniqueFd socket, FrontendOptions options = Options()) {
    auto device = Frontend::Create(std::move(socket), std::move(options));
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = device->get();
    core_ = std::make_unique<transport::TransportCore>(*std::move(device), memory_, interrupt_,
                                                       [this](uint16_t) { return kick_.fd(); });
    ASSERT_TRUE(core_->SetFeatures(virtio::kVersion1 | virtio::kRingIndirectDesc));
    ASSERT_TRUE(core_->ConfigureQueue(0, driver_.config()));
  }

  void Start() {
    const auto started = core_->StartQueue(0, std::nullopt);
    ASSERT_TRUE(started.has_value()) << started.error().message();
  }

  static mem::Gpa At(uint64_t chunk) { return mem::Gpa{kWindow + chunk * kChunk}; }

  // As Machine does; whether the rings had to be stopped for it.
  bool Plug(uint64_t chunk) {
    mem::RegionSpec spec;
    spec.start = At(chunk);
    spec.size = kChunk;
    spec.fd = *file_.Duplicate();
    spec.fd_offset = chunk * kChunk;
    memory_ = *memory_->WithRegion(std::move(spec));
    if (core_->GrowMemory(memory_)) {
      return false;
    }
    const auto changed = core_->ChangeMemory(memory_);
    EXPECT_TRUE(changed.has_value()) << changed.error().message();
    return true;
  }

  void Unplug(uint64_t chunk) {
    memory_ = *memory_->WithoutRegion(At(chunk));
    const auto changed = core_->ChangeMemory(memory_);
    EXPECT_TRUE(changed.has_value()) << changed.error().message();
  }

  // The guest lets the device read there: what the back-end sees; -1: that it refuses.
  int64_t ReadByBackEnd(Peer& peer, mem::Gpa address) {
    driver_.Build().ReadableAt(address, 8).Submit();
    auto chain = peer.state->queues[0]->Pop();
    if (!chain) {
      return -1;
    }
    const int64_t value = (*chain)->ReadAs<int64_t>(0).value_or(-2);
    peer.state->queues[0]->Push(**std::move(chain), 0);
    driver_.MustTakeUsed();
    return value;
  }

  GuestRam ram_{8 << 20};
  FakeDriver driver_{ram_, 64};
  EventFd kick_ = *EventFd::Create();
  std::shared_ptr<FakeInterrupt> interrupt_ = std::make_shared<FakeInterrupt>();
  UniqueFd file_ = *MakeMemfd("chunks", kChunks* kChunk);
  std::shared_ptr<const mem::GuestMemory> memory_ = ram_.memory();
  Frontend* device_ = nullptr;
  std::unique_ptr<transport::TransportCore> core_;
};

// The worst of what a guest can make of virtio-mem: no two chunks are neighbours.
TEST_F(FrontendMemoryTest, EverySecondOfManyChunksIsPluggedUnderARunningRing) {
  Peer peer;
  Create(std::move(peer.front_end));
  Start();
  for (uint64_t i = 0; i < kChunks; i += 2) {
    ASSERT_FALSE(Plug(i)) << i;
    ASSERT_TRUE(memory_->Write(At(i), int64_t(i) + 1));
  }
  EXPECT_EQ(peer.state->starts, 1);
  EXPECT_FALSE(device_->lost());
  for (uint64_t i = 0; i < kChunks; i += 2) {
    ASSERT_EQ(ReadByBackEnd(peer, At(i)), int64_t(i) + 1);
  }
  // What is not plugged is out of the guest's reach by way of the back-end, too.
  EXPECT_EQ(ReadByBackEnd(peer, At(1)), -1);
}

// Slots run out before the chunks do; then neighbours become one, and it goes on.
TEST_F(FrontendMemoryTest, AllChunksArePluggedOneByOneWithHardlyAStop) {
  Peer peer;
  Create(std::move(peer.front_end));
  Start();
  int stops = 0;
  for (uint64_t i = 0; i < kChunks; ++i) {
    stops += Plug(i) ? 1 : 0;
    ASSERT_TRUE(memory_->Write(At(i), int64_t(i) + 1));
  }
  EXPECT_EQ(stops, 1);
  EXPECT_EQ(peer.state->starts, 2);
  for (uint64_t i = 0; i < kChunks; ++i) {
    ASSERT_EQ(ReadByBackEnd(peer, At(i)), int64_t(i) + 1);
  }
  // A buffer across chunks that came by themselves.
  EXPECT_TRUE(memory_->Contains(At(3), 2 * kChunk));
  EXPECT_EQ(ReadByBackEnd(peer, mem::Gpa{mem::Raw(At(9)) - 4}), int64_t{10} << 32U);
}

TEST_F(FrontendMemoryTest, ChunkThatWentIsOutOfReachAndTheOthersStay) {
  Peer peer;
  Create(std::move(peer.front_end));
  Start();
  for (uint64_t i = 0; i < 24; ++i) {
    Plug(i);
    ASSERT_TRUE(memory_->Write(At(i), int64_t(i) + 1));
  }
  for (uint64_t i = 1; i < 24; i += 2) {
    Unplug(i);
  }
  for (uint64_t i = 0; i < 24; i += 2) {
    ASSERT_EQ(ReadByBackEnd(peer, At(i)), int64_t(i) + 1) << i;
  }
  // And comes again, with what is in the file.
  Plug(5);
  EXPECT_EQ(ReadByBackEnd(peer, At(5)), 6);
  EXPECT_EQ(ReadByBackEnd(peer, At(7)), -1);
}

// Each chunk is told once: as much work for the last as for the first.
TEST_F(FrontendMemoryTest, PluggingTellsOnlyWhatIsNew) {
  ScriptedBackend backend;
  Create(std::move(backend.front_end));
  Start();
  for (uint64_t i = 0; i < 60; i += 2) {
    Plug(i);
  }
  const auto seen = backend.seen();
  EXPECT_EQ(std::ranges::count(seen, Request::kAddMemReg), 30);
  EXPECT_EQ(std::ranges::count(seen, Request::kRemMemReg), 0);
  EXPECT_EQ(std::ranges::count(seen, Request::kSetMemTable), 1);
  EXPECT_EQ(std::ranges::count(seen, Request::kGetMaxMemSlots), 1);
  EXPECT_EQ(std::ranges::count(seen, Request::kGetVringBase), 0);
  core_.reset();  // hangs up
}

TEST_F(FrontendMemoryTest, BackEndWithoutSlotsIsStoppedForATable) {
  ScriptedBackend backend({}, {},
                          ScriptedBackend::kProtocol & ~uint64_t{kProtocolConfigureMemSlots});
  Create(std::move(backend.front_end));
  Start();
  // Seven neighbours are one region: nine chunks and the memory of the start are four.
  for (const uint64_t chunk : {0, 1, 2, 3, 4, 5, 6, 8, 10}) {
    EXPECT_TRUE(Plug(chunk));
  }
  const auto seen = backend.seen();
  EXPECT_EQ(std::ranges::count(seen, Request::kSetMemTable), 10);
  EXPECT_EQ(std::ranges::count(seen, Request::kAddMemReg), 0);
  core_.reset();  // hangs up
}

// Rather less memory than no device: who plugs asks first.
TEST_F(FrontendMemoryTest, MoreRegionsThanTheBackEndTakesAreRefusedBeforehand) {
  ScriptedBackend backend;  // says 64
  Create(std::move(backend.front_end));
  Start();
  for (uint64_t i = 0; i < 2 * 63; i += 2) {
    ASSERT_TRUE(core_->TakesMemory(*memory_)) << i;
    ASSERT_FALSE(Plug(i));
  }
  const auto before = memory_;
  mem::RegionSpec spec;
  spec.start = At(200);
  spec.size = kChunk;
  spec.fd = *file_.Duplicate();
  spec.fd_offset = 200 * kChunk;
  EXPECT_FALSE(core_->TakesMemory(**before->WithRegion(std::move(spec))));
  // What fills a gap makes it one less.
  EXPECT_TRUE(Plug(1));
  EXPECT_TRUE(core_->TakesMemory(*memory_));
  EXPECT_FALSE(device_->lost());
  core_.reset();  // hangs up
}

// Some back-ends drop their memory by a reset.
TEST_F(FrontendMemoryTest, AfterAResetAllIsToldAgain) {
  ScriptedBackend backend;
  Create(std::move(backend.front_end));
  Start();
  for (uint64_t i = 0; i < 40; i += 2) {
    Plug(i);
  }
  core_->StopQueue(0);
  device_->Reset();
  Plug(40);  // nobody is told while nothing runs
  const auto before = backend.seen();
  Start();
  auto seen = backend.seen();
  seen.erase(seen.begin(), seen.begin() + static_cast<std::ptrdiff_t>(before.size()));
  EXPECT_EQ(std::ranges::count(before, Request::kResetDevice), 1);
  EXPECT_EQ(std::ranges::count(before, Request::kAddMemReg), 20);
  EXPECT_EQ(std::ranges::count(seen, Request::kSetMemTable), 1);
  EXPECT_EQ(std::ranges::count(seen, Request::kAddMemReg), 22 - int64_t{kMaxTableRegions});
  EXPECT_EQ(std::ranges::count(seen, Request::kRemMemReg), 0);
  core_.reset();  // hangs up
}

TEST_F(FrontendMemoryTest, SuccessorHasWhatWasPluggedWhileThereWasNone) {
  Peer first;
  FrontendOptions options = Options();
  options.reconnects = true;
  Create(std::move(first.front_end), options);
  Start();
  Plug(0);
  first.Kill();
  for (int i = 0; i < 500 && !device_->lost(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  Plug(2);
  ASSERT_TRUE(memory_->Write(At(2), int64_t{7}));
  Peer next;
  ASSERT_TRUE(device_->Reconnect(std::move(next.front_end)));
  EXPECT_EQ(ReadByBackEnd(next, At(2)), 7);
}

// A lost back-end's place in a packed ring is known to nobody.
TEST_F(FrontendMemoryTest, BackEndThatMayBeReplacedHasNoPackedRings) {
  for (const bool reconnects : {false, true}) {
    ScriptedBackend backend;
    FrontendOptions options = Options();
    options.features |= virtio::kRingPacked;
    options.reconnects = reconnects;
    const auto device = Frontend::Create(std::move(backend.front_end), std::move(options));
    ASSERT_TRUE(device.has_value());
    EXPECT_EQ(((*device)->traits().features & virtio::kRingPacked) == 0, reconnects);
  }
}

// What the guest has asked for may take longer than a message.
TEST_F(FrontendMemoryTest, BackEndThatFinishesItsRequestsFirstIsNotLost) {
  for (const Request request : {Request::kGetVringBase, Request::kResetDevice}) {
    ScriptedBackend backend(
        request, [](ScriptedBackend::Reply*) { std::this_thread::sleep_for(milliseconds(700)); });
    FrontendOptions options = Options(milliseconds(200));
    options.drain_timeout = std::chrono::seconds(20);
    Create(std::move(backend.front_end), std::move(options));
    Start();
    EXPECT_TRUE(core_->StopQueue(0).has_value());
    device_->Reset();
    Start();
    EXPECT_FALSE(device_->lost());
    core_.reset();
  }
}

// As above, for what a back-end stops its rings for by itself.
TEST_F(FrontendMemoryTest, BackEndThatFinishesItsRequestsBeforeAChangeIsNotLost) {
  for (const Request request :
       {Request::kSetLogBase, Request::kSetFeatures, Request::kSetVringAddr, Request::kAddMemReg}) {
    std::atomic<bool> busy{false};
    ScriptedBackend backend(request, [&busy](ScriptedBackend::Reply*) {
      if (busy) {
        std::this_thread::sleep_for(milliseconds(700));
      }
    });
    FrontendOptions options = Options(milliseconds(200));
    options.drain_timeout = std::chrono::seconds(20);
    Create(std::move(backend.front_end), std::move(options));
    Start();
    busy = true;
    const UniqueFd log = *MakeMemfd("log", 4096);
    const auto logs = device_->StartLog(log, 4096);
    EXPECT_TRUE(logs.has_value()) << RequestName(static_cast<uint32_t>(request));
    EXPECT_FALSE(Plug(0)) << RequestName(static_cast<uint32_t>(request));
    EXPECT_FALSE(device_->lost());
    busy = false;
    core_.reset();
    memory_ = ram_.memory();
  }
}

// Before there is anything to finish.
TEST_F(FrontendMemoryTest, BackEndThatIsSilentBeforeItsRingsRunIsLostInTime) {
  for (const Request request : {Request::kSetFeatures, Request::kSetMemTable}) {
    ScriptedBackend backend(request, [](ScriptedBackend::Reply* reply) { reply->silent = true; });
    FrontendOptions options = Options(milliseconds(50));
    options.drain_timeout = std::chrono::seconds(20);
    Create(std::move(backend.front_end), std::move(options));
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_FALSE(core_->StartQueue(0, std::nullopt).has_value());
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
    core_.reset();
  }
}

TEST_F(FrontendMemoryTest, BackEndThatNeverStopsIsLostAllTheSame) {
  ScriptedBackend backend(Request::kGetVringBase,
                          [](ScriptedBackend::Reply* reply) { reply->silent = true; });
  FrontendOptions options = Options(milliseconds(50));
  options.drain_timeout = milliseconds(170);
  Create(std::move(backend.front_end), std::move(options));
  Start();
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_TRUE(core_->StopQueue(0).has_value());
  EXPECT_GE(std::chrono::steady_clock::now() - begun, milliseconds(170));
  for (int i = 0; i < 500 && !device_->lost(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_TRUE(device_->lost());
}

}  // namespace
}  // namespace wyvern::vhost_user
