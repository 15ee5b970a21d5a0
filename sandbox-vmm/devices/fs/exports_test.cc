// Exports that come and go, as mounts under the server's root. Needs root and a mount namespace of
// its own.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <linux/loop.h>
#include <linux/userfaultfd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "fs/testing/fake_dax_window.h"
#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using std::chrono::milliseconds;
using testing::Body;

class ExportsTest : public testing::FsTest {
 protected:
  void SetUp() override {
    if (!IsRoot() || ::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      GTEST_SKIP() << "needs root and mount namespaces";
    }
    FsTest::SetUp();
    ASSERT_EQ(::mount("tmpfs", dir_.c_str(), "tmpfs", 0, nullptr), 0);
    FileServerOptions options;
    options.exports = true;
    options.inodes.nameless = 64;
    options.max_handles = 64;
    Serve(std::move(options));
  }

  void TearDown() override {
    if (server_ != nullptr) {
      client_.reset();
      server_.reset();
      ::umount2(dir_.c_str(), MNT_DETACH);
      FsTest::TearDown();
    }
  }

  void Mount(const std::string& name) {
    ASSERT_EQ(::mkdir(Host(name).c_str(), 0755), 0);
    ASSERT_EQ(::mount("tmpfs", Host(name).c_str(), "tmpfs", 0, nullptr), 0);
    Put(name + "/file", name);
  }
};

TEST_F(ExportsTest, OnlyAttachedNamesExist) {
  Mount("one");
  Mount("two");
  client_->Lookup(FUSE_ROOT_ID, "one");
  EXPECT_EQ(client_->error(), ENOENT);
  ASSERT_TRUE(server_->Attach("one", {}).has_value());
  EXPECT_NE(client_->Lookup(FUSE_ROOT_ID, "one"), 0U);
  client_->Lookup(FUSE_ROOT_ID, "two");
  EXPECT_EQ(client_->error(), ENOENT);
  EXPECT_EQ(server_->Attach("one", {}).error().code(), Code::kAlreadyExists);
  for (const char* bad : {"", ".", "..", "a/b"}) {
    EXPECT_EQ(server_->Attach(bad, {}).error().code(), Code::kInvalidArgument) << bad;
  }
}

TEST_F(ExportsTest, MountPointWithoutItsMountDoesNotExist) {
  ASSERT_EQ(::mkdir(Host("one").c_str(), 0755), 0);
  ASSERT_TRUE(server_->Attach("one", {}).has_value());
  client_->Lookup(FUSE_ROOT_ID, "one");
  EXPECT_EQ(client_->error(), ENOENT);
}

TEST_F(ExportsTest, TheRootItselfTakesNothing) {
  client_->Mkdir(FUSE_ROOT_ID, "new");
  EXPECT_EQ(client_->error(), EROFS);
  client_->Create(FUSE_ROOT_ID, "new", O_RDWR, 0644);
  EXPECT_EQ(client_->error(), EROFS);
}

TEST_F(ExportsTest, PoliciesAreTheExportsOwn) {
  Mount("ro");
  Mount("rw");
  ASSERT_TRUE(server_->Attach("ro", {.cache = milliseconds(3600000), .read_only = true}));
  ASSERT_TRUE(server_->Attach("rw", {.cache = milliseconds(0)}));
  const fuse_entry_out ro = client_->LookupEntry(FUSE_ROOT_ID, "ro");
  EXPECT_EQ(ro.entry_valid, 0U);
  EXPECT_EQ(ro.attr.flags & FUSE_ATTR_SUBMOUNT, uint32_t{FUSE_ATTR_SUBMOUNT});
  const fuse_entry_out file = client_->LookupEntry(ro.nodeid, "file");
  EXPECT_EQ(file.entry_valid, 3600U);
  EXPECT_EQ(file.attr.flags, 0U);
  client_->Open(file.nodeid, O_RDWR);
  EXPECT_EQ(client_->error(), EROFS);
  const uint64_t rw = client_->Lookup(FUSE_ROOT_ID, "rw");
  EXPECT_EQ(client_->LookupEntry(rw, "file").entry_valid, 0U);
  EXPECT_NE(client_->Create(rw, "new", O_RDWR, 0644), 0U);
  // From one export into another.
  fuse_rename_in in{};
  in.newdir = rw;
  EXPECT_EQ(client_->Call(FUSE_RENAME, ro.nodeid, Body().Put(in).Name("file").Name("f")).error,
            EROFS);
  fuse_link_in link{};
  link.oldnodeid = file.nodeid;
  EXPECT_EQ(client_->Call(FUSE_LINK, rw, Body().Put(link).Name("f")).error, EXDEV);
}

TEST_F(ExportsTest, NoExportTakesAllDescriptors) {
  Mount("greedy");
  Mount("modest");
  ASSERT_TRUE(server_->Attach("greedy", {}));
  ASSERT_TRUE(server_->Attach("modest", {}));
  const uint64_t greedy = client_->Lookup(FUSE_ROOT_ID, "greedy");
  int open = 0;
  // Unlinked but open, as many as there may be.
  while (open < 100 && client_->Create(greedy, "f", O_RDWR | O_EXCL, 0644) != 0 &&
         client_->Unlink(greedy, "f") == 0) {
    ++open;
  }
  EXPECT_EQ(open, 32);
  EXPECT_EQ(client_->error(), ENFILE);
  const uint64_t modest = client_->Lookup(FUSE_ROOT_ID, "modest");
  const uint64_t file = client_->Lookup(modest, "file");
  const uint64_t fh = client_->Open(file, O_RDONLY);
  EXPECT_EQ(client_->Read(file, fh, 0, 100), "modest");
  EXPECT_EQ(client_->Unlink(modest, "file"), 0);
  // What it held is free when it is gone.
  ASSERT_TRUE(server_->Detach("greedy", milliseconds(1000)).has_value());
  EXPECT_EQ(server_->stats().handles, 1U);
  for (int i = 1; i < 32; ++i) {
    ASSERT_NE(client_->Create(modest, "f", O_RDWR | O_EXCL, 0644), 0U);
    ASSERT_EQ(client_->Unlink(modest, "f"), 0);
  }
}

TEST_F(ExportsTest, NothingOfAnUncachedFileIsBelieved) {
  Mount("rw");
  ASSERT_TRUE(server_->Attach("rw", {.cache = milliseconds(0)}));
  const fuse_entry_out root = client_->LookupEntry(FUSE_ROOT_ID, "rw");
  client_->Mkdir(root.nodeid, "dir");
  const fuse_entry_out directory = client_->LookupEntry(root.nodeid, "dir");
  EXPECT_EQ(directory.entry_valid + directory.entry_valid_nsec, 0U);
  // For the permission check that follows the lookup; a tick of the guest's clock.
  EXPECT_EQ(directory.attr_valid, 0U);
  EXPECT_EQ(directory.attr_valid_nsec, 1'000'000U);
  const fuse_entry_out file = client_->LookupEntry(root.nodeid, "file");
  EXPECT_EQ(file.entry_valid + file.entry_valid_nsec + file.attr_valid + file.attr_valid_nsec, 0U);
}

// A close without FLUSH leaves what was written by mmap in the guest for a while.
TEST_F(ExportsTest, OnlyACloseThatTheHostMayWaitForIsFlushed) {
  const auto open_flags = [&](uint64_t node, uint32_t flags) {
    fuse_open_in in{};
    in.flags = flags;
    return client_->Call(FUSE_OPEN, node, Body().Put(in)).As<fuse_open_out>().open_flags;
  };
  Mount("volume");
  Mount("root");
  ASSERT_TRUE(server_->Attach("volume", {.cache = milliseconds(0)}));
  ASSERT_TRUE(server_->Attach("root", {.cache = milliseconds(1000)}));
  const uint64_t volume = client_->Lookup(client_->Lookup(FUSE_ROOT_ID, "volume"), "file");
  EXPECT_EQ(open_flags(volume, O_RDWR) & FOPEN_NOFLUSH, 0U);
  EXPECT_EQ(open_flags(volume, O_WRONLY) & FOPEN_NOFLUSH, 0U);
  EXPECT_NE(open_flags(volume, O_RDONLY) & FOPEN_NOFLUSH, 0U);
  const uint64_t root = client_->Lookup(client_->Lookup(FUSE_ROOT_ID, "root"), "file");
  EXPECT_NE(open_flags(root, O_RDWR) & FOPEN_NOFLUSH, 0U);
}

TEST_F(ExportsTest, SubmountsAreMarkedInsideAnExportToo) {
  Mount("one");
  ASSERT_EQ(::mkdir(Host("one/sub").c_str(), 0755), 0);
  ASSERT_EQ(::mount("tmpfs", Host("one/sub").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(server_->Attach("one", {}));
  const uint64_t one = client_->Lookup(FUSE_ROOT_ID, "one");
  EXPECT_NE(client_->LookupEntry(one, "sub").attr.flags & FUSE_ATTR_SUBMOUNT, 0U);
  for (const auto& entry : client_->ReadAll(one, true)) {
    EXPECT_EQ(entry.entry.attr.flags != 0, entry.name == "sub") << entry.name;
  }
  ASSERT_EQ(client_->Init(0).error, 0);  // a guest that did not ask for it
  EXPECT_EQ(client_->LookupEntry(client_->Lookup(FUSE_ROOT_ID, "one"), "sub").attr.flags, 0U);
}

TEST_F(ExportsTest, DetachMakesStaleWhatTheGuestHolds) {
  Mount("one");
  Mount("two");
  ASSERT_TRUE(server_->Attach("one", {}));
  ASSERT_TRUE(server_->Attach("two", {}));
  const uint64_t one = client_->Lookup(FUSE_ROOT_ID, "one");
  const uint64_t file = client_->Lookup(one, "file");
  const uint64_t other = client_->Walk("two/file");
  const uint64_t fh = client_->Open(file, O_RDWR);
  const uint64_t dir =
      client_->Call(FUSE_OPENDIR, one, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  EXPECT_EQ(::umount(Host("one").c_str()), -1);
  EXPECT_EQ(errno, EBUSY);
  const auto detached = server_->Detach("one", milliseconds(1000));
  ASSERT_TRUE(detached.has_value()) << detached.error().message();
  EXPECT_EQ(::umount(Host("one").c_str()), 0);
  client_->GetAttr(file);
  EXPECT_EQ(client_->error(), ESTALE);
  client_->Read(file, fh, 0, 10);
  EXPECT_EQ(client_->error(), EBADF);
  fuse_read_in in{};
  in.fh = dir;
  in.size = 4096;
  EXPECT_EQ(client_->Call(FUSE_READDIR, one, Body().Put(in)).error, EBADF);
  client_->Lookup(FUSE_ROOT_ID, "one");
  EXPECT_EQ(client_->error(), ENOENT);
  client_->Forget(file);
  client_->Forget(one);
  EXPECT_EQ(client_->GetAttr(other).size, 3U);
  EXPECT_EQ(server_->Detach("one", milliseconds(0)).error().code(), Code::kNotFound);
}

// Memory in which a write stops until Continue.
class StoppedPage {
 public:
  StoppedPage() : fault_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
    uffdio_api api{};
    api.api = UFFD_API;
    page_ = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uffdio_register area{};
    area.range = {reinterpret_cast<uint64_t>(page_), kSize};
    area.mode = UFFDIO_REGISTER_MODE_MISSING;
    works_ = fault_.valid() && page_ != MAP_FAILED &&
             ::ioctl(fault_.get(), UFFDIO_API, &api) == 0 &&
             ::ioctl(fault_.get(), UFFDIO_REGISTER, &area) == 0;
  }

  StoppedPage(const StoppedPage&) = delete;
  StoppedPage& operator=(const StoppedPage&) = delete;

  ~StoppedPage() { ::munmap(page_, kSize); }

  bool works() const { return works_; }

  iovec part() const { return {page_, kSize}; }

  bool WaitUntilTouched() const {
    pollfd wait = {fault_.get(), POLLIN, 0};
    return ::poll(&wait, 1, 10000) == 1;
  }

  bool Continue() const {
    uffdio_zeropage zero{};
    zero.range = {reinterpret_cast<uint64_t>(page_), kSize};
    return ::ioctl(fault_.get(), UFFDIO_ZEROPAGE, &zero) == 0;
  }

 private:
  static constexpr size_t kSize = 4096;
  UniqueFd fault_;
  void* page_ = nullptr;
  bool works_ = false;
};

TEST_F(ExportsTest, DetachIsRepeatedUntilTheLastRequestEnds) {
  const StoppedPage page;
  if (!page.works()) {
    GTEST_SKIP() << "no userfaultfd here";
  }
  Mount("one");
  ASSERT_TRUE(server_->Attach("one", {}));
  const uint64_t file = client_->Walk("one/file");
  fuse_read_in read{};
  read.fh = client_->Open(file, O_RDONLY);
  read.size = 3;
  fuse_in_header header{};
  header.len = sizeof(header) + sizeof(read);
  header.opcode = FUSE_READ;
  header.nodeid = file;
  std::thread request([&] {
    fuse_out_header reply{};
    const iovec in[] = {{&header, sizeof(header)}, {&read, sizeof(read)}};
    const iovec out[] = {{&reply, sizeof(reply)}, page.part()};
    Scratch scratch;
    EXPECT_EQ(server_->Handle(in, out, &scratch), sizeof(reply) + 3);
  });
  EXPECT_TRUE(page.WaitUntilTouched());
  for (int attempt = 0; attempt < 2; ++attempt) {
    EXPECT_EQ(server_->Detach("one", milliseconds(0)).error().code(), Code::kDeadlineExceeded);
    client_->Lookup(FUSE_ROOT_ID, "one");
    EXPECT_EQ(client_->error(), ENOENT);
    EXPECT_EQ(server_->Attach("one", {}).error().code(), Code::kAlreadyExists);
    EXPECT_EQ(::umount(Host("one").c_str()), -1);
  }
  EXPECT_TRUE(page.Continue());
  request.join();
  EXPECT_TRUE(server_->Detach("one", milliseconds(1000)).has_value());
  EXPECT_EQ(::umount(Host("one").c_str()), 0);
  EXPECT_EQ(server_->Detach("one", milliseconds(0)).error().code(), Code::kNotFound);
}

// NOLINTBEGIN(concurrency-mt-unsafe): no other thread of the test runs commands.
TEST_F(ExportsTest, DetachTakesLocksAndMappings) {
  Mount("one");
  testing::FakeDaxWindow window(2 * kDaxRangeBytes);
  FileServerOptions options;
  options.exports = true;
  options.features.posix_locks = true;
  options.dax_window = &window;
  Serve(std::move(options));
  ASSERT_TRUE(server_->Attach("one", {}).has_value());
  const uint64_t node = client_->Walk("one/file");
  fuse_lk_in lock{};
  lock.fh = client_->Open(node, O_RDWR);
  lock.lk.type = F_WRLCK;
  EXPECT_EQ(client_->Call(FUSE_SETLK, node, Body().Put(lock)).error, 0);
  fuse_setupmapping_in map{};
  map.len = kDaxRangeBytes;
  map.flags = FUSE_SETUPMAPPING_FLAG_READ;
  EXPECT_EQ(client_->Call(FUSE_SETUPMAPPING, node, Body().Put(map)).error, 0);
  EXPECT_EQ(window.Look(0, 3), "one");
  EXPECT_TRUE(server_->Detach("one", milliseconds(1000)).has_value());
  EXPECT_EQ(server_->stats().lock_owners, 0U);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
  EXPECT_EQ(client_->Call(FUSE_SETLK, node, Body().Put(lock)).error, ESTALE);
  EXPECT_EQ(client_->Call(FUSE_SETUPMAPPING, node, Body().Put(map)).error, ESTALE);
  EXPECT_EQ(::umount(Host("one").c_str()), 0);  // not busy
  client_.reset();
  server_.reset();
  Serve();
}

TEST_F(ExportsTest, DetachFreesTheDevice) {
  const std::string image = base_ + "/image";
  {
    const UniqueFd file(::open(image.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(file.get(), 8 << 20), 0);
  }
  if (std::system(("mkfs.ext4 -q " + image + " 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "needs mkfs.ext4";
  }
  ASSERT_EQ(::mkdir(Host("vol").c_str(), 0755), 0);
  if (std::system(("mount -o loop " + image + " " + Host("vol") + " 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "no loop devices here";
  }
  ASSERT_TRUE(server_->Attach("vol", {}));
  const uint64_t vol = client_->Lookup(FUSE_ROOT_ID, "vol");
  uint64_t node = 0;
  const uint64_t fh = client_->Create(vol, "data", O_RDWR, 0644, &node);
  EXPECT_EQ(client_->Write(node, fh, 0, "bytes"), 5U);
  EXPECT_EQ(client_->Unlink(vol, "data"), 0);
  ASSERT_TRUE(server_->Detach("vol", milliseconds(1000)).has_value());
  EXPECT_EQ(::umount(Host("vol").c_str()), 0);
  // Another exclusive use of the image proves that the device is gone: e2fsck opens it O_EXCL
  // through no loop.
  EXPECT_EQ(std::system(("losetup -j " + image + " | grep -q . && exit 1; exit 0").c_str()), 0);
}

// NOLINTEND(concurrency-mt-unsafe)

// To a server that has the same exports attached, or one of them.
class ExportsMoveTest : public ExportsTest {
 protected:
  void Next(std::initializer_list<const char*> attached) {
    FileServerOptions options;
    options.exports = true;
    options.root = UniqueFd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto next = FileServer::Create(std::move(options));
    ASSERT_TRUE(next.has_value()) << next.error().message();
    server_ = *std::move(next);
    client_ = std::make_unique<testing::FuseClient>(*server_);
    for (const char* name : attached) {
      ASSERT_TRUE(server_->Attach(name, {}).has_value());
    }
  }
};

TEST_F(ExportsMoveTest, GuestMovesWithItsExports) {
  Mount("one");
  Mount("two");
  ASSERT_EQ(::mkdir(Host("one/unseen").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Host("three").c_str(), 0755), 0);
  Put("three/file", "beside the exports");
  ASSERT_TRUE(server_->Attach("one", {}).has_value());
  ASSERT_TRUE(server_->Attach("two", {}).has_value());
  const uint64_t one = client_->Walk("one/file");
  const uint64_t two = client_->Walk("two/file");
  const uint64_t fh_of_one = client_->Open(one, O_RDONLY);
  const uint64_t fh_of_two = client_->Open(two, O_RDONLY);
  // By its path only, which begins with the export's name.
  ASSERT_EQ(::rename(Host("one/file").c_str(), Host("one/unseen/file").c_str()), 0);
  const auto state = server_->Save();
  ASSERT_TRUE(state.has_value()) << state.error().message();
  EXPECT_EQ(state->nodes.size(), 4U);
  Next({"one", "two"});
  const auto loaded = server_->Load(*state, OnLoss::kAbort);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
  EXPECT_EQ(client_->Read(one, fh_of_one, 0, 16), "one");
  EXPECT_EQ(client_->Read(two, fh_of_two, 0, 16), "two");
  // Each belongs to its export.
  ASSERT_TRUE(server_->Detach("one", milliseconds(1000)).has_value());
  client_->GetAttr(one);
  EXPECT_EQ(client_->error(), ESTALE);
  EXPECT_EQ(client_->Read(two, fh_of_two, 0, 16), "two");
  EXPECT_EQ(::umount(Host("one").c_str()), 0);
}

TEST_F(ExportsMoveTest, ExportThatIsNotAttachedIsLost) {
  Mount("one");
  Mount("two");
  ASSERT_TRUE(server_->Attach("one", {}).has_value());
  ASSERT_TRUE(server_->Attach("two", {}).has_value());
  const uint64_t one = client_->Walk("one/file");
  const uint64_t two = client_->Walk("two/file");
  FsState state = *server_->Save();
  Next({"one"});
  const auto refused = server_->Load(state, OnLoss::kAbort);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message().find("lose 2 inodes"), std::string::npos)
      << refused.error().message();
  ASSERT_TRUE(server_->Load(state, OnLoss::kGuestError).has_value());
  EXPECT_TRUE(S_ISREG(client_->GetAttr(one).mode));
  client_->GetAttr(two);
  EXPECT_EQ(client_->error(), ESTALE);
  // Attached, but nothing is mounted there: what lies under the mount point is ours.
  ASSERT_EQ(::umount2(Host("two").c_str(), MNT_DETACH), 0);
  ASSERT_EQ(::mkdir(Host("two/file").c_str(), 0755), 0);
  Next({"one", "two"});
  EXPECT_FALSE(server_->Load(state, OnLoss::kAbort).has_value());
}

}  // namespace
}  // namespace wyvern::fs
