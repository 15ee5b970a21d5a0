// Requests that wait for a lock: no thread waits with them, and each of them ends.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <ostream>
#include <thread>
#include <tuple>

#include "fs/fs_device.h"
#include "fs/testing/fs_test_base.h"
#include "fs/testing/fuse_guest.h"

namespace wyvern::fs {
namespace {

using testing::FuseGuest;

constexpr uint32_t kRoom = 8;  // of replies without payload

// A ring's format and how it suppresses notifications.
struct RingCase {
  const char* name;
  uint64_t features;
};

void PrintTo(const RingCase& ring, std::ostream* out) {
  *out << ring.name;
}

class LockWaitTest : public testing::FsTest, public ::testing::WithParamInterface<RingCase> {
 protected:
  void SetUp() override {
    FsTest::SetUp();
    Put("a", std::string(100, 'x'));
    host_ = UniqueFd(::open(Host("a").c_str(), O_RDWR | O_CLOEXEC));
    Start(64);
  }

  void TearDown() override {
    device_.reset();
    FsTest::TearDown();
  }

  void Start(size_t max_waits) {
    device_.reset();
    FileServerOptions options;
    options.features.posix_locks = true;
    options.features.flock_locks = true;
    options.features.max_lock_waits = max_waits;
    Serve(std::move(options));
    FsDeviceOptions device;
    device.tag = "share";
    device.threads = 1;
    auto made = FsDevice::Create(*server_, device);
    ASSERT_TRUE(made.has_value());
    device_ = std::move(*made);
    guest_ = std::make_unique<FuseGuest>(
        1, virtio::kVersion1 | virtio::kRingIndirectDesc | GetParam().features);
    ASSERT_TRUE(guest_->Start(*device_).has_value());
    ASSERT_TRUE(guest_->Init());
    // INIT of the guest asks for no locks: the client's, of the same server, does.
    ASSERT_EQ(client_->Init().error, 0);
    std::tie(node_, fh_) = OpenForWriting();
  }

  std::pair<uint64_t, uint64_t> OpenForWriting() {
    const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
    return {node, client_->Open(node, O_RDWR)};
  }

  std::string LockBody(uint64_t owner, int type, uint32_t flags = 0) const {
    fuse_lk_in in{};
    in.fh = fh_;
    in.owner = owner;
    in.lk.type = static_cast<uint32_t>(type);
    in.lk.end = INT64_MAX;
    in.lk_flags = flags;
    return FuseGuest::Bytes(in);
  }

  uint16_t SubmitWait(uint64_t owner, uint32_t flags = 0) {
    return guest_->Submit(FUSE_SETLKW, node_, LockBody(owner, F_WRLCK, flags), kRoom);
  }

  int EndOf(uint16_t request) {
    int error = -1;
    const std::string rest = guest_->Await(request, &error);
    return rest == "<no answer>" ? -1 : error;
  }

  // Answered while others wait.
  void ExpectServed() {
    EXPECT_EQ(
        guest_->Call(FUSE_GETATTR, FUSE_ROOT_ID, FuseGuest::Bytes(fuse_getattr_in{}), 104).size(),
        104U);
  }

  void HostLock(int type) const {
    struct flock lock {};

    lock.l_type = static_cast<short>(type);
    ASSERT_EQ(::fcntl(host_.get(), F_OFD_SETLK, &lock), 0);
  }

  // The region's first `size` bytes once more.
  static auto Map(const mem::RegionInfo& region, uint64_t size) {
    UniqueFd fd(::fcntl(region.fd.get(), F_DUPFD_CLOEXEC, 0));
    std::vector<mem::RegionSpec> specs;
    specs.push_back({.start = region.start, .size = size, .fd = std::move(fd)});
    return mem::GuestMemory::Create(std::move(specs));
  }

  UniqueFd host_;
  std::unique_ptr<FsDevice> device_;
  std::unique_ptr<FuseGuest> guest_;
  uint64_t node_ = 0;
  uint64_t fh_ = 0;
};

INSTANTIATE_TEST_SUITE_P(
    Rings, LockWaitTest,
    ::testing::Values(RingCase{"Split", 0}, RingCase{"SplitEventIdx", virtio::kRingEventIdx},
                      RingCase{"Packed", virtio::kRingPacked},
                      RingCase{"PackedEventIdx", virtio::kRingPacked | virtio::kRingEventIdx}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(LockWaitTest, LockOfTheHostIsWaitedForWithoutAThread) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  EXPECT_EQ(server_->stats().lock_waits, 1U);
  HostLock(F_UNLCK);
  EXPECT_EQ(EndOf(request), 0);
  EXPECT_EQ(server_->stats().lock_waits, 0U);

  struct flock lock {};

  lock.l_type = F_RDLCK;
  EXPECT_NE(::fcntl(host_.get(), F_OFD_SETLK, &lock), 0);
}

// The answer comes by the timer, not by who serves the queue and looks at it again: the queue must
// go on asking for the kick of the next request.
TEST_P(LockWaitTest, QueueIsServedAfterAnAnswerByTheTimer) {
  for (uint64_t owner = 1; owner < 4; ++owner) {
    HostLock(F_WRLCK);
    const uint16_t request = SubmitWait(owner);
    ExpectServed();
    HostLock(F_UNLCK);
    EXPECT_EQ(EndOf(request), 0);
    int error = -1;
    guest_->Call(FUSE_SETLK, node_, LockBody(owner, F_UNLCK), kRoom, &error);
    ASSERT_EQ(error, 0);
  }
}

// As above, by who serves the other queue.
TEST_P(LockWaitTest, QueueIsServedAfterAnAnswerFromAnotherQueue) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  const uint64_t unique = guest_->last_unique();
  ExpectServed();
  guest_->UseQueue(0);
  guest_->Submit(FUSE_INTERRUPT, 0, FuseGuest::Bytes(fuse_interrupt_in{unique}), kRoom);
  guest_->UseQueue(1);
  EXPECT_EQ(EndOf(request), EINTR);
  ExpectServed();
}

TEST_P(LockWaitTest, LockOfTheGuestIsGivenOnAtOnce) {
  int error = -1;
  guest_->Call(FUSE_SETLK, node_, LockBody(1, F_WRLCK), kRoom, &error);
  ASSERT_EQ(error, 0);
  const uint16_t first = SubmitWait(2);
  const uint16_t second = SubmitWait(3);
  ExpectServed();
  const uint16_t unlock = guest_->Submit(FUSE_SETLK, node_, LockBody(1, F_UNLCK), kRoom);
  EXPECT_EQ(EndOf(unlock), 0);
  EXPECT_EQ(EndOf(first), 0);  // in the order of arrival
  EXPECT_EQ(server_->stats().lock_waits, 1U);
  const uint16_t again = guest_->Submit(FUSE_SETLK, node_, LockBody(2, F_UNLCK), kRoom);
  EXPECT_EQ(EndOf(again), 0);
  EXPECT_EQ(EndOf(second), 0);
}

TEST_P(LockWaitTest, FlockIsWaitedForToo) {
  ASSERT_EQ(::flock(host_.get(), LOCK_EX), 0);
  const uint16_t request = SubmitWait(1, FUSE_LK_FLOCK);
  ExpectServed();
  ASSERT_EQ(::flock(host_.get(), LOCK_UN), 0);
  EXPECT_EQ(EndOf(request), 0);
}

TEST_P(LockWaitTest, InterruptEndsTheWaitAndNoOther) {
  HostLock(F_WRLCK);
  const uint16_t other = SubmitWait(1);
  const uint16_t request = SubmitWait(2);
  const uint64_t unique = guest_->last_unique();
  ExpectServed();
  guest_->UseQueue(0);
  const uint16_t interrupt =
      guest_->Submit(FUSE_INTERRUPT, 0, FuseGuest::Bytes(fuse_interrupt_in{unique}), kRoom);
  EXPECT_EQ(guest_->Await(interrupt), "");  // given back empty
  guest_->UseQueue(1);
  EXPECT_EQ(EndOf(request), EINTR);
  ExpectServed();
  EXPECT_EQ(server_->stats().lock_waits, 1U);
  HostLock(F_UNLCK);
  EXPECT_EQ(EndOf(other), 0);
}

TEST_P(LockWaitTest, InterruptOfNothingIsIgnored) {
  guest_->UseQueue(0);
  const uint16_t interrupt =
      guest_->Submit(FUSE_INTERRUPT, 0, FuseGuest::Bytes(fuse_interrupt_in{77}), kRoom);
  EXPECT_EQ(guest_->Await(interrupt), "");
  guest_->UseQueue(1);
  ExpectServed();
}

TEST_P(LockWaitTest, WaitsOutliveAStopOfTheQueue) {
  HostLock(F_WRLCK);
  const uint16_t first = SubmitWait(1);
  const uint16_t second = SubmitWait(2);
  ExpectServed();
  guest_->Stop(*device_);
  EXPECT_EQ(server_->stats().lock_waits, 2U);
  HostLock(F_UNLCK);
  std::this_thread::sleep_for(5 * LockWaits::kFirstRetry);
  HostLock(F_WRLCK);  // nobody takes it for a guest that stands still
  ASSERT_TRUE(guest_->Resume(*device_));
  ExpectServed();
  HostLock(F_UNLCK);
  // In the order of arrival, unless the host's lock went after the first was tried and before the second was.
  const bool in_order = EndOf(first) == 0;
  EXPECT_EQ(server_->stats().lock_waits, 1U);
  const uint16_t unlock =
      guest_->Submit(FUSE_SETLK, node_, LockBody(in_order ? 1 : 2, F_UNLCK), kRoom);
  EXPECT_EQ(EndOf(unlock), 0);
  EXPECT_EQ(EndOf(in_order ? second : first), 0);
  ExpectServed();
}

TEST_P(LockWaitTest, WaitsAreAnsweredInTheMemoryThatIsThereThen) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  guest_->Stop(*device_);
  // The same bytes elsewhere in our address space.
  const mem::RegionInfo& old = guest_->ram().memory()->regions().front();
  auto memory = Map(old, old.size);
  ASSERT_TRUE(memory.has_value());
  ASSERT_NE((*memory)->regions().front().host_address, old.host_address);
  ASSERT_TRUE(guest_->Resume(*device_, *memory));
  HostLock(F_UNLCK);
  EXPECT_EQ(EndOf(request), 0);
  ExpectServed();
}

// The memory that the answer was to go to is gone: no answer, and nothing is touched.
TEST_P(LockWaitTest, WaitWithoutItsMemoryIsGivenBackEmpty) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  guest_->Stop(*device_);
  const mem::RegionInfo& old = guest_->ram().memory()->regions().front();
  const uint64_t rings = mem::Raw(guest_->ram_after_rings()) - mem::Raw(old.start);
  auto memory = Map(old, rings);
  ASSERT_TRUE(memory.has_value());
  ASSERT_TRUE(guest_->Resume(*device_, *memory));
  HostLock(F_UNLCK);
  int error = -1;
  EXPECT_EQ(guest_->Await(request, &error), "");
  EXPECT_EQ(server_->stats().lock_waits, 0U);
}

TEST_P(LockWaitTest, RingThatBeginsAnewForgetsWaits) {
  HostLock(F_WRLCK);
  SubmitWait(1);
  ExpectServed();
  guest_->Stop(*device_);
  guest_ = std::make_unique<FuseGuest>(1, guest_->features());
  ASSERT_TRUE(guest_->Start(*device_));
  EXPECT_EQ(server_->stats().lock_waits, 0U);
  HostLock(F_UNLCK);
  ExpectServed();
}

TEST_P(LockWaitTest, ResetForgetsWaits) {
  HostLock(F_WRLCK);
  SubmitWait(1);
  ExpectServed();
  guest_->Stop(*device_);
  device_->Reset();
  EXPECT_EQ(server_->stats().lock_waits, 0U);
}

TEST_P(LockWaitTest, EndOfTheDeviceForgetsWaits) {
  HostLock(F_WRLCK);
  SubmitWait(1);
  ExpectServed();
  device_.reset();
  EXPECT_EQ(server_->stats().lock_waits, 0U);
}

// What happens to a wait while its queue stands still is told afterwards.
TEST_P(LockWaitTest, SessionThatEndsWhileStoppedEndsWaits) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  guest_->Stop(*device_);
  ASSERT_EQ(client_->Init().error, 0);
  ASSERT_TRUE(guest_->Resume(*device_));
  EXPECT_EQ(EndOf(request), ESTALE);
}

TEST_P(LockWaitTest, EndOfTheSessionEndsWaits) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  const uint16_t destroy = guest_->Submit(FUSE_DESTROY, 0, "", kRoom);
  EXPECT_EQ(EndOf(destroy), 0);
  EXPECT_EQ(EndOf(request), ESTALE);
}

TEST_P(LockWaitTest, CloseOfTheFileEndsItsWaits) {
  HostLock(F_WRLCK);
  const uint16_t request = SubmitWait(1);
  ExpectServed();
  fuse_release_in release{};
  release.fh = fh_;
  const uint16_t released = guest_->Submit(FUSE_RELEASE, node_, FuseGuest::Bytes(release), kRoom);
  EXPECT_EQ(EndOf(released), 0);
  EXPECT_EQ(EndOf(request), EBADF);
}

TEST_P(LockWaitTest, WaitsAreBounded) {
  Start(2);
  HostLock(F_WRLCK);
  const uint16_t first = SubmitWait(1);
  const uint16_t second = SubmitWait(2);
  ExpectServed();
  EXPECT_EQ(EndOf(SubmitWait(3)), ENOLCK);
  EXPECT_EQ(server_->stats().lock_waits, 2U);
  // Those that are kept count.
  guest_->Stop(*device_);
  ASSERT_TRUE(guest_->Resume(*device_));
  EXPECT_EQ(EndOf(SubmitWait(3)), ENOLCK);
  HostLock(F_UNLCK);
  EXPECT_EQ(EndOf(first), 0);
  EXPECT_EQ(server_->stats().lock_waits, 1U);
  int error = -1;
  guest_->Call(FUSE_SETLK, node_, LockBody(1, F_UNLCK), kRoom, &error);
  EXPECT_EQ(error, 0);
  EXPECT_EQ(EndOf(second), 0);
}

// A host that takes and gives the lock up while the queue starts, stops and waits: nothing is lost,
// nothing hangs.
TEST_P(LockWaitTest, StopAmongChanges) {
  std::atomic<bool> end{false};
  std::thread host([&] {
    struct flock lock {};

    while (!end.load()) {
      lock.l_type = F_WRLCK;
      ::fcntl(host_.get(), F_OFD_SETLK, &lock);  // not while the guest has it
      lock.l_type = F_UNLCK;
      ::fcntl(host_.get(), F_OFD_SETLK, &lock);
      std::this_thread::yield();  // free most of the time: who asks again and again may starve
    }
  });
  for (int round = 0; round < 50; ++round) {
    const uint16_t request = SubmitWait(static_cast<uint64_t>(round));
    std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
    guest_->Stop(*device_);
    ASSERT_TRUE(guest_->Resume(*device_));
    EXPECT_EQ(EndOf(request), 0);  // not taken yet, waiting, or about to be answered
    const fuse_flush_in flush{fh_, 0, 0, static_cast<uint64_t>(round)};
    client_->Call(FUSE_FLUSH, node_, testing::Body().Put(flush));
  }
  end.store(true);
  host.join();
}

}  // namespace
}  // namespace wyvern::fs
