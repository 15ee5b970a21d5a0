// fcntl(2) and flock(2) locks: between owners in a guest, between guests, and with the host.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <cerrno>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::FuseClient;

constexpr uint64_t kEnd = INT64_MAX;

// A file that a guest has open, and its locks.
struct LockedFile {
  FuseClient* client;
  uint64_t node;
  uint64_t fh;

  int Lock(uint64_t owner, int type, uint64_t start, uint64_t end, uint32_t flags = 0,
           uint32_t opcode = FUSE_SETLK) const {
    return client->Call(opcode, node, Body().Put(Args(owner, type, start, end, flags))).error;
  }

  int Flock(int type) const { return Lock(fh, type, 0, kEnd, FUSE_LK_FLOCK); }

  fuse_file_lock Get(uint64_t owner, int type, uint64_t start, uint64_t end) const {
    return client->Call(FUSE_GETLK, node, Body().Put(Args(owner, type, start, end, 0)))
        .As<fuse_lk_out>()
        .lk;
  }

  void Flush(uint64_t owner) const {
    fuse_flush_in in{};
    in.fh = fh;
    in.lock_owner = owner;
    client->Call(FUSE_FLUSH, node, Body().Put(in));
  }

  fuse_lk_in Args(uint64_t owner, int type, uint64_t start, uint64_t end, uint32_t flags) const {
    fuse_lk_in in{};
    in.fh = fh;
    in.owner = owner;
    in.lk.type = static_cast<uint32_t>(type);
    in.lk.start = start;
    in.lk.end = end;
    in.lk_flags = flags;
    return in;
  }
};

class LockTest : public testing::FsTest {
 protected:
  void SetUp() override {
    FsTest::SetUp();
    Put("a", std::string(100, 'x'));
    Serve(WithLocks());
  }

  static FileServerOptions WithLocks() {
    FileServerOptions options;
    options.features.posix_locks = true;
    options.features.flock_locks = true;
    return options;
  }

  LockedFile OpenIn(FuseClient& client, uint32_t flags = O_RDWR) const {
    const uint64_t node = client.Lookup(FUSE_ROOT_ID, "a");
    return {&client, node, client.Open(node, flags)};
  }

  LockedFile OpenFile(uint32_t flags = O_RDWR) const { return OpenIn(*client_, flags); }

  UniqueFd OnHost() const { return *Open(Host("a"), O_RDWR); }

  static int HostLock(FdRef fd, int type) {
    struct flock lock {};

    lock.l_type = static_cast<short>(type);
    return ::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0 ? 0 : errno;
  }
};

TEST_F(LockTest, OffUnlessAskedFor) {
  const auto with = client_->Init().As<fuse_init_out>();
  EXPECT_EQ(with.flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS),
            uint32_t{FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS});
  Serve();
  const auto without = client_->Init().As<fuse_init_out>();
  EXPECT_EQ(without.flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS), 0U);
  const LockedFile file = OpenFile();
  EXPECT_EQ(file.Lock(1, F_RDLCK, 0, 9), ENOSYS);
  EXPECT_EQ(file.Flock(F_RDLCK), ENOSYS);
  EXPECT_EQ(client_->Call(FUSE_GETLK, file.node, Body().Put(fuse_lk_in{})).error, ENOSYS);
}

TEST_F(LockTest, OwnersOfAGuestExcludeEachOther) {
  const LockedFile file = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 9, 20), EAGAIN);
  EXPECT_EQ(file.Lock(2, F_RDLCK, 5, 5), EAGAIN);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 10, kEnd), 0);
  EXPECT_EQ(file.Lock(1, F_RDLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(2, F_RDLCK, 0, 9), 0);
  EXPECT_EQ(server_->stats().lock_owners, 2U);
}

TEST_F(LockTest, RangesOfAnOwnerSplitAndMerge) {
  const LockedFile file = OpenFile();
  const LockedFile again = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 99), 0);
  EXPECT_EQ(again.Lock(1, F_UNLCK, 40, 59), 0);  // an owner is not bound to an open file
  EXPECT_EQ(file.Lock(2, F_WRLCK, 40, 59), 0);
  const fuse_file_lock after = file.Get(2, F_RDLCK, 60, kEnd);
  EXPECT_EQ(after.type, uint32_t{F_WRLCK});
  EXPECT_EQ(after.start, 60U);
  EXPECT_EQ(after.end, 99U);
  EXPECT_EQ(file.Get(1, F_WRLCK, 0, 39).type, uint32_t{F_UNLCK});
}

TEST_F(LockTest, GuestsOfOneVolumeExcludeEachOther) {
  FileServerOptions options = WithLocks();
  options.root = UniqueFd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto other_server = *FileServer::Create(std::move(options));
  FuseClient other_client(*other_server);
  ASSERT_EQ(other_client.Init().error, 0);
  const LockedFile file = OpenFile();
  const LockedFile other = OpenIn(other_client);
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(other.Lock(1, F_WRLCK, 0, 9), EAGAIN);
  EXPECT_EQ(other.Get(1, F_WRLCK, 0, kEnd).end, 9U);
  EXPECT_EQ(file.Lock(1, F_UNLCK, 0, kEnd), 0);
  EXPECT_EQ(other.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(file.Flock(F_WRLCK), 0);
  EXPECT_EQ(other.Flock(F_RDLCK), EAGAIN);
}

TEST_F(LockTest, GuestAndHostExcludeEachOther) {
  const LockedFile file = OpenFile();
  const UniqueFd host = OnHost();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, kEnd), 0);
  EXPECT_EQ(HostLock(host, F_RDLCK), EAGAIN);
  EXPECT_EQ(file.Lock(1, F_UNLCK, 0, kEnd), 0);
  EXPECT_EQ(HostLock(host, F_RDLCK), 0);
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, kEnd), EAGAIN);
  EXPECT_EQ(file.Lock(1, F_RDLCK, 0, kEnd), 0);
  ASSERT_EQ(::flock(host.get(), LOCK_EX), 0);
  EXPECT_EQ(file.Flock(F_RDLCK), EAGAIN);
}

// A process that closes any descriptor of a file gives up its locks on it, however it got them.
TEST_F(LockTest, FlushDropsTheOwnersLocks) {
  const LockedFile file = OpenFile();
  const LockedFile again = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(3, F_WRLCK, 50, 59), 0);
  again.Flush(2);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 0, 9), EAGAIN);
  again.Flush(1);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 50, 59), EAGAIN);
}

TEST_F(LockTest, ReleaseDropsWhatNoFlushDid) {
  const LockedFile file = OpenFile();
  const LockedFile other = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(other.Lock(2, F_WRLCK, 20, 29), 0);
  client_->Release(file.node, file.fh);
  EXPECT_EQ(other.Lock(3, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(other.Lock(3, F_WRLCK, 20, 29), EAGAIN);
  client_->Release(other.node, other.fh);
  EXPECT_EQ(server_->stats().lock_owners, 0U);
  EXPECT_EQ(HostLock(OnHost(), F_WRLCK), 0);
}

TEST_F(LockTest, FlockIsTheOpenFiles) {
  const LockedFile file = OpenFile();
  const LockedFile other = OpenFile(O_RDONLY);
  EXPECT_EQ(other.Flock(F_WRLCK), 0);
  EXPECT_EQ(file.Flock(F_RDLCK), EAGAIN);
  EXPECT_EQ(other.Flock(F_RDLCK), 0);
  EXPECT_EQ(file.Flock(F_RDLCK), 0);
  EXPECT_EQ(other.Flock(F_UNLCK), 0);
  EXPECT_EQ(file.Flock(F_WRLCK), 0);
  fuse_release_in release{};
  release.fh = file.fh;
  release.release_flags = FUSE_RELEASE_FLOCK_UNLOCK;
  client_->Call(FUSE_RELEASE, file.node, Body().Put(release));
  EXPECT_EQ(other.Flock(F_WRLCK), 0);
  EXPECT_EQ(server_->stats().lock_owners, 0U);
}

TEST_F(LockTest, EveryCloseIsFlushed) {
  const auto flags = [&] {
    fuse_open_in in{};
    in.flags = O_RDWR;
    return client_->Call(FUSE_OPEN, client_->Lookup(FUSE_ROOT_ID, "a"), Body().Put(in))
        .As<fuse_open_out>()
        .open_flags;
  };
  EXPECT_EQ(flags() & FOPEN_NOFLUSH, 0U);
  ASSERT_EQ(client_->Init(~uint64_t{FUSE_POSIX_LOCKS}).error, 0);
  EXPECT_NE(flags() & FOPEN_NOFLUSH, 0U);
}

TEST_F(LockTest, ReadOnlyShareGivesSharedLocksOnly) {
  FileServerOptions options = WithLocks();
  options.policy.read_only = true;
  Serve(std::move(options));
  const LockedFile file = OpenFile(O_RDONLY);
  EXPECT_EQ(file.Lock(1, F_RDLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), EBADF);
  EXPECT_EQ(file.Flock(F_WRLCK), 0);
}

TEST_F(LockTest, WaitOfWhoCannotWaitIsAgain) {
  const LockedFile file = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, 9), 0);
  EXPECT_EQ(file.Lock(2, F_WRLCK, 0, 9, 0, FUSE_SETLKW), EAGAIN);
  EXPECT_EQ(server_->stats().lock_waits, 0U);
}

TEST_F(LockTest, HostileRangesTypesAndHandles) {
  const LockedFile file = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 10, 9), EINVAL);
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, kEnd + 1), EINVAL);
  EXPECT_EQ(file.Lock(1, F_WRLCK, ~uint64_t{0}, ~uint64_t{0}), EINVAL);
  EXPECT_EQ(file.Lock(1, 77, 0, 9), EINVAL);
  EXPECT_EQ(file.Flock(77), EINVAL);
  EXPECT_EQ(file.Lock(1, F_UNLCK, 0, kEnd), 0);  // holds nothing
  EXPECT_EQ(client_->Call(FUSE_GETLK, file.node, Body().Put(file.Args(1, F_UNLCK, 0, 9, 0))).error,
            EINVAL);
  Put("b", "x");
  const LockedFile wrong_node{client_.get(), client_->Lookup(FUSE_ROOT_ID, "b"), file.fh};
  EXPECT_EQ(wrong_node.Lock(1, F_RDLCK, 0, 9), EBADF);
  EXPECT_EQ((LockedFile{client_.get(), file.node, 4711}.Lock(1, F_RDLCK, 0, 9)), EBADF);
  EXPECT_EQ((LockedFile{client_.get(), 4711, file.fh}.Lock(1, F_RDLCK, 0, 9)), ESTALE);
  EXPECT_EQ(server_->stats().lock_owners, 0U);
}

TEST_F(LockTest, OwnersAreBoundedAsOpenFiles) {
  FileServerOptions options = WithLocks();
  options.max_handles = 8;  // one export may have half of them
  Serve(std::move(options));
  const LockedFile file = OpenFile();
  for (uint64_t owner = 1; owner <= 3; ++owner) {
    EXPECT_EQ(file.Lock(owner, F_RDLCK, 0, 9), 0);
  }
  EXPECT_EQ(file.Lock(4, F_RDLCK, 0, 9), ENOLCK);
  client_->Open(file.node, O_RDONLY);
  EXPECT_EQ(client_->error(), ENFILE);
  file.Flush(1);
  EXPECT_EQ(file.Lock(4, F_RDLCK, 0, 9), 0);
  client_->Call(FUSE_DESTROY, 0, Body());
  ASSERT_EQ(client_->Init().error, 0);
  const LockedFile fresh = OpenFile();
  EXPECT_EQ(fresh.Lock(1, F_WRLCK, 0, 9), 0);
}

TEST_F(LockTest, DestroyGivesUpAllLocks) {
  const LockedFile file = OpenFile();
  EXPECT_EQ(file.Lock(1, F_WRLCK, 0, kEnd), 0);
  EXPECT_EQ(file.Flock(F_WRLCK), 0);
  client_->Call(FUSE_DESTROY, 0, Body());
  const UniqueFd host = OnHost();
  EXPECT_EQ(HostLock(host, F_WRLCK), 0);
  EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
}

// A thread that knows of the old waits only, and arms the timer after the one that added a wait and
// armed it, would make that wait for the longest interval.
TEST(LockWaitsTest, TimerIsArmedLastByWhoKnowsOfEveryWait) {
  using std::chrono::milliseconds;
  LockWaits waits(2);
  ASSERT_TRUE(waits.Add(1, {}));
  for (milliseconds interval = LockWaits::kFirstRetry; interval < LockWaits::kLastRetry;
       interval *= 2) {
    waits.NoteChange();
    EXPECT_TRUE(waits.Retry([](const auto&) { return FsResult<>(FsError(EAGAIN)); }).empty());
  }
  std::mutex mu;
  std::vector<milliseconds> armed;
  const auto arm = [&](milliseconds next) {
    const std::lock_guard lock(mu);
    armed.push_back(next);
  };
  std::promise<void> arming;
  std::thread slow([&] {
    waits.ArmNext([&](milliseconds next) {
      arming.set_value();
      std::this_thread::sleep_for(milliseconds(100));
      arm(next);
    });
  });
  arming.get_future().wait();
  EXPECT_TRUE(waits.Add(2, {}));
  waits.ArmNext(arm);
  slow.join();
  ASSERT_EQ(armed.size(), 2U);
  EXPECT_LE(armed[1], LockWaits::kFirstRetry);
  EXPECT_GT(armed[0], 10 * LockWaits::kFirstRetry);
  waits.Drop(1);
  waits.Drop(2);
  waits.ArmNext(arm);
  EXPECT_EQ(armed.size(), 2U);  // nothing to wait for
}

// Who has waited for long asks rarely: a newcomer must not be served before it by asking often.
TEST(LockWaitsTest, NewcomerIsNotTriedBeforeWhoWaitsForTheSameFile) {
  LockWaits waits(3);
  ASSERT_TRUE(waits.Add(1, {.unique = 1, .node = 5}));
  ASSERT_TRUE(waits.Add(2, {.unique = 2, .node = 6}));
  std::vector<uint64_t> tried;
  const auto attempt = [&](const LockWaits::Request& wait) {
    tried.push_back(wait.unique);
    return FsResult<>(FsError(EAGAIN));
  };
  for (auto interval = LockWaits::kFirstRetry; interval < LockWaits::kLastRetry; interval *= 2) {
    waits.NoteChange();
    EXPECT_TRUE(waits.Retry(attempt).empty());
  }
  tried.clear();
  ASSERT_TRUE(waits.Add(3, {.unique = 3, .node = 5}));
  std::this_thread::sleep_for(2 * LockWaits::kFirstRetry);
  EXPECT_TRUE(waits.Retry(attempt).empty());
  EXPECT_EQ(tried, (std::vector<uint64_t>{1, 3}));
}

}  // namespace
}  // namespace wyvern::fs
