// What cannot be carried to another server, or is no longer there, and what the guest is told then.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "fs/testing/fake_dax_window.h"
#include "fs/testing/state_mover.h"

namespace wyvern::fs {
namespace {

using testing::Body;

class StateLossTest : public testing::StateMover {
 protected:
  // Saves, lets the host do something, loads: what of `lost` and what of `kept` the guest has then.
  void MoveAcross(const std::function<void()>& host, const std::vector<uint64_t>& lost,
                  const std::vector<uint64_t>& kept) {
    const FsState state = SaveHere();
    host();
    const auto refused = LoadThere(state);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kDataLoss) << refused.error().message();
    const std::string count = std::to_string(lost.size()) + " inodes";
    EXPECT_NE(refused.error().message().find(count), std::string::npos)
        << refused.error().message();
    ExpectNothing();
    ASSERT_TRUE(server_->Load(state, OnLoss::kGuestError).has_value());
    for (const uint64_t node : lost) {
      client_->GetAttr(node);
      EXPECT_EQ(client_->error(), ESTALE) << node;
      client_->Forget(node, 1);
    }
    for (const uint64_t node : kept) {
      client_->GetAttr(node);
      EXPECT_EQ(client_->error(), 0) << node;
    }
  }

  // As if nothing had been loaded.
  void ExpectNothing() {
    EXPECT_EQ(server_->stats().inodes, 1U);
    EXPECT_EQ(server_->stats().handles, 0U);
    client_->GetAttr(1);
    EXPECT_EQ(client_->error(), EIO);
  }

  int Lock(uint32_t opcode, uint64_t node, uint64_t fh, uint32_t type, uint32_t flags) {
    fuse_lk_in lock{};
    lock.fh = fh;
    lock.owner = 7;
    lock.lk = {0, 99, type, 0};
    lock.lk_flags = flags;
    return client_->Call(opcode, node, Body().Put(lock)).error;
  }

  int ReadError(uint64_t node, uint64_t fh) {
    client_->Read(node, fh, 0, 1);
    return client_->error();
  }
};

TEST_F(StateLossTest, UnlinkedFilesAreLost) {
  Put("unlinked", "content");
  Put("kept", "kept");
  const uint64_t node = client_->Lookup(1, "unlinked");
  const uint64_t fh = client_->Open(node, O_RDWR);
  const uint64_t kept = client_->Lookup(1, "kept");
  const uint64_t kept_fh = client_->Open(kept, O_RDONLY);
  ASSERT_EQ(client_->Unlink(1, "unlinked"), 0);
  const testing::Reply made =
      client_->Call(FUSE_TMPFILE, 1, Body().Put(fuse_create_in{O_RDWR, 0600, 0, 0}).Name("#"));
  ASSERT_EQ(made.error, 0);
  const uint64_t nameless = made.As<fuse_entry_out>().nodeid;
  const uint64_t nameless_fh = made.As<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  // The next file of the name is another one.
  MoveAcross([this] { Put("unlinked", "another"); }, {node, nameless}, {kept});
  EXPECT_EQ(client_->Read(kept, kept_fh, 0, 16), "kept");
  for (const auto& [lost, file] : {std::pair{node, fh}, {nameless, nameless_fh}}) {
    EXPECT_EQ(ReadError(lost, file), EIO);
    client_->Write(lost, file, 0, "x");
    EXPECT_EQ(client_->error(), EIO);
    client_->Release(lost, file);
    EXPECT_EQ(ReadError(lost, file), EBADF);
  }
  EXPECT_EQ(server_->stats().handles, 1U);
  // By its name the guest finds the other one, as another node.
  EXPECT_GT(client_->Lookup(1, "unlinked"), nameless);
}

// Until the source's server is gone nothing has changed there, so it may go on.
TEST_F(StateLossTest, SourceGoesOnWhereItWas) {
  Put("unlinked", "content");
  const uint64_t node = client_->Lookup(1, "unlinked");
  const uint64_t fh = client_->Open(node, O_RDWR);
  ASSERT_EQ(client_->Unlink(1, "unlinked"), 0);
  EXPECT_FALSE(LoadThere(SaveHere()).has_value());
  testing::FuseClient source(*left_);
  EXPECT_EQ(source.Read(node, fh, 0, 16), "content");
  EXPECT_EQ(source.GetAttr(node).size, 7U);
}

TEST_F(StateLossTest, RemovedAndReplacedFilesAreNotTakenForTheOldOnes) {
  for (const char* name : {"removed", "replaced", "again", "kept", "type"}) {
    Put(name, "old");
  }
  const uint64_t removed = client_->Lookup(1, "removed");
  const uint64_t replaced = client_->Lookup(1, "replaced");
  const uint64_t again = client_->Lookup(1, "again");
  const uint64_t kept = client_->Lookup(1, "kept");
  const uint64_t type = client_->Lookup(1, "type");
  MoveAcross(
      [this] {
        ASSERT_EQ(::unlink(Host("removed").c_str()), 0);
        Put("new", "new");
        ASSERT_EQ(::rename(Host("new").c_str(), Host("replaced").c_str()), 0);
        // Likely of the same inode number: ext4 gives the lowest that is free. Of another tick.
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ASSERT_EQ(::unlink(Host("again").c_str()), 0);
        Put("again", "new");
        ASSERT_EQ(::unlink(Host("type").c_str()), 0);
        ASSERT_EQ(::mkdir(Host("type").c_str(), 0755), 0);
        Put("kept", "changed");
      },
      {removed, replaced, again, type}, {kept});
}

// The number and the name of one that is gone.
TEST_F(StateLossTest, FileBornAtAnotherTimeIsAnotherOne) {
  Put("f", "");
  client_->Lookup(1, "f");
  const FsState state = SaveHere();
  if (!state.nodes.at(0).identity.birth) {
    GTEST_SKIP() << "this file system tells no time of birth";
  }
  FsState changed = state;
  if (auto& birth = changed.nodes[0].identity.birth) {
    birth->nanoseconds ^= 1;
  }
  EXPECT_FALSE(LoadThere(changed).has_value());
  changed = state;
  if (auto& birth = changed.nodes[0].identity.birth) {
    birth->seconds += 1;
  }
  EXPECT_FALSE(LoadThere(changed).has_value());
  changed.nodes[0].identity.birth.reset();
  EXPECT_FALSE(LoadThere(changed).has_value());
  changed = state;
  changed.nodes[0].identity.inode += 1;
  EXPECT_FALSE(LoadThere(changed).has_value());
  EXPECT_TRUE(LoadThere(state).has_value());
}

// The host was there before us: what has the name now is not what the guest knows.
TEST_F(StateLossTest, FilesReplacedBeforeAreNotSaved) {
  Put("open", "old");
  Put("known", "old");
  Put("kept", "old");
  const uint64_t open = client_->Lookup(1, "open");
  const uint64_t known = client_->Lookup(1, "known");
  const uint64_t kept = client_->Lookup(1, "kept");
  client_->GetAttr(open);  // it has a descriptor, the other one has none
  for (const char* name : {"open", "known"}) {
    Put("new", "new");
    ASSERT_EQ(::rename(Host("new").c_str(), Host(name).c_str()), 0);
  }
  EXPECT_EQ(SaveHere().lost_nodes, 2U);
  MoveAcross([] {}, {open, known}, {kept});
}

// What lies in a directory that is another one now is not looked for in that.
TEST_F(StateLossTest, DirectoryThatBecameALinkLeadsNowhere) {
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir((base_ + "/outside").c_str(), 0755), 0);
  Put("d/file", "");
  // The very file lies outside, too.
  ASSERT_EQ(::link(Host("d/file").c_str(), (base_ + "/outside/file").c_str()), 0);
  const uint64_t d = client_->Walk("d");
  const uint64_t file = client_->Walk("d/file");
  const auto replace = [this] {
    ASSERT_EQ(::rename(Host("d").c_str(), Host("e").c_str()), 0);
    ASSERT_EQ(::symlink("../outside", Host("d").c_str()), 0);
  };
  MoveAcross(replace, {d, file}, {});
}

// A state that says so itself.
TEST_F(StateLossTest, HostilePathsDoNotLeaveTheShare) {
  ASSERT_EQ(::mkdir((base_ + "/outside").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  Put("d/file", "");
  ASSERT_EQ(::link(Host("d/file").c_str(), (base_ + "/outside/file").c_str()), 0);
  ASSERT_EQ(::symlink("../outside", Host("link").c_str()), 0);
  ASSERT_EQ(::symlink("d", Host("inner").c_str()), 0);
  ASSERT_EQ(::symlink((base_ + "/outside").c_str(), Host("absolute").c_str()), 0);
  client_->Walk("d/file");
  FsState state = SaveHere();
  ASSERT_EQ(state.nodes.size(), 2U);
  FsState::Node file = state.nodes[1];
  file.base = 1;
  for (const char* path : {"link/file", "inner/file", "absolute/file", "../outside/file",
                           "d/../../outside/file", "file", "d"}) {
    file.path = path;
    state.nodes = {file};
    const auto loaded = LoadThere(state);
    ASSERT_FALSE(loaded.has_value()) << path;
    EXPECT_EQ(loaded.error().code(), Code::kDataLoss);
  }
  file.path = base_ + "/outside/file";
  state.nodes = {file};
  EXPECT_FALSE(LoadThere(state).has_value());
  file.path = "d/file";
  state.nodes = {file};
  EXPECT_TRUE(LoadThere(state).has_value());
  client_->GetAttr(file.node);
  EXPECT_EQ(client_->error(), 0);
}

TEST_F(StateLossTest, OneFileIsOneNode) {
  Put("a", "");
  ASSERT_EQ(::link(Host("a").c_str(), Host("b").c_str()), 0);
  const uint64_t node = client_->Lookup(1, "a");
  FsState state = SaveHere();
  state.nodes.push_back(state.nodes[0]);
  state.nodes[1].node = state.next_node++;
  state.nodes[1].path = "b";
  EXPECT_FALSE(LoadThere(state).has_value());
  ASSERT_TRUE(server_->Load(state, OnLoss::kGuestError).has_value());
  EXPECT_EQ(client_->Lookup(1, "b"), node);
  EXPECT_EQ(server_->stats().inodes, 2U);
}

// Devices may have other numbers on another host, but one there is not two here.
TEST_F(StateLossTest, DeviceIsAlwaysTheSameOne) {
  for (const char* name : {"a", "b", "c"}) {
    Put(name, "");
    client_->Lookup(1, name);
  }
  FsState state = SaveHere();
  for (FsState::Node& node : state.nodes) {
    node.identity.device = 12345;
  }
  EXPECT_TRUE(LoadThere(state).has_value());
  state.nodes[2].identity.device = 54321;  // of another device there; here it may be the same one
  EXPECT_TRUE(LoadThere(state).has_value());
}

TEST_F(StateLossTest, MountOfAnotherDeviceIsNotTakenForTheOldOne) {
  if (!IsRoot() || ::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    GTEST_SKIP() << "needs root and mount namespaces";
  }
  Put("a", "");
  ASSERT_EQ(::mkdir(Host("m").c_str(), 0755), 0);
  ASSERT_EQ(::mount("tmpfs", Host("m").c_str(), "tmpfs", 0, nullptr), 0);
  Serve();  // in this mount namespace
  client_->Lookup(1, "a");
  client_->Lookup(1, "m");
  FsState state = SaveHere();
  EXPECT_TRUE(LoadThere(state).has_value());
  state.nodes[1].identity.device = state.nodes[0].identity.device;
  EXPECT_FALSE(LoadThere(state).has_value());
  left_.reset();
  server_.reset();
  EXPECT_EQ(::umount2(Host("m").c_str(), MNT_DETACH), 0);
}

TEST_F(StateLossTest, FilesTooDeepForAPathAreLost) {
  const std::string name(200, 'n');
  uint64_t node = 1;
  std::vector<uint64_t> nodes;
  for (int depth = 0; depth < 30; ++depth) {
    nodes.push_back(node = client_->Mkdir(node, name));
    ASSERT_TRUE(S_ISDIR(client_->GetAttr(node).mode)) << client_->error();
  }
  uint64_t file = 0;
  client_->Create(node, "file", O_RDWR, 0600, &file);
  client_->GetAttr(file);
  // By the host, so that only the path tells.
  const FsState before = SaveHere();
  const UniqueFd directory = [&] {
    UniqueFd fd(::open(dir_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    for (int depth = 0; depth < 30; ++depth) {
      fd = UniqueFd(::openat(fd.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
    return fd;
  }();
  ASSERT_EQ(::renameat(directory.get(), "file", directory.get(), "moved"), 0);
  const FsState after = SaveHere();
  EXPECT_EQ(before.lost_nodes, 0U);
  EXPECT_EQ(after.lost_nodes, 1U);
  EXPECT_EQ(after.nodes.size(), nodes.size());
}

TEST_F(StateLossTest, FilesWithLocksAreLost) {
  FileServerOptions options;
  options.features = {.posix_locks = true, .flock_locks = true};
  Serve(std::move(options));
  std::vector<uint64_t> nodes;
  std::vector<uint64_t> files;
  for (const char* name : {"posix", "whole", "given-up", "without"}) {
    Put(name, "x");
    nodes.push_back(client_->Lookup(1, name));
    files.push_back(client_->Open(nodes.back(), O_RDWR));
  }
  const uint64_t other = client_->Open(nodes[0], O_RDONLY);
  const uint64_t unlocked = client_->Open(nodes[1], O_RDONLY);
  ASSERT_EQ(Lock(FUSE_SETLK, nodes[0], files[0], F_WRLCK, 0), 0);
  ASSERT_EQ(Lock(FUSE_SETLK, nodes[1], files[1], F_WRLCK, FUSE_LK_FLOCK), 0);
  ASSERT_EQ(Lock(FUSE_SETLK, nodes[2], files[2], F_WRLCK, FUSE_LK_FLOCK), 0);
  ASSERT_EQ(Lock(FUSE_SETLK, nodes[2], files[2], F_UNLCK, FUSE_LK_FLOCK), 0);
  const FsState state = SaveHere();
  EXPECT_EQ(state.lost_locked, 3U);
  EXPECT_EQ(state.lost_nodes, 0U);
  FileServerOptions there;
  there.features = {.posix_locks = true, .flock_locks = true};
  const auto refused = LoadThere(state, OnLoss::kAbort, std::move(there));
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message().find("0 inodes and 3 open files, 3 of these"),
            std::string::npos)
      << refused.error().message();
  ASSERT_TRUE(server_->Load(state, OnLoss::kGuestError).has_value());
  // Whoever had a lock on it must not go on as if; others of the inode may share its owner.
  EXPECT_EQ(ReadError(nodes[0], files[0]), EIO);
  EXPECT_EQ(ReadError(nodes[0], other), EIO);
  EXPECT_EQ(ReadError(nodes[1], files[1]), EIO);
  EXPECT_EQ(ReadError(nodes[1], unlocked), 0);
  EXPECT_EQ(ReadError(nodes[2], files[2]), 0);
  EXPECT_EQ(ReadError(nodes[3], files[3]), 0);
  // The inode itself is not lost.
  EXPECT_NE(client_->Open(nodes[0], O_RDONLY), 0U);
}

TEST_F(StateLossTest, WhatTheGuestCannotBeToldOfIsNotSaved) {
  FileServerOptions options;
  options.features.flock_locks = true;
  testing::FakeDaxWindow window(4 * kDaxRangeBytes);
  options.dax_window = &window;
  Serve(std::move(options));
  Put("f", std::string(4096, 'x'));
  const uint64_t node = client_->Lookup(1, "f");
  const uint64_t fh = client_->Open(node, O_RDONLY);
  ASSERT_TRUE(server_->Save().has_value());
  ASSERT_TRUE(server_->AddWait(1, {}));
  EXPECT_EQ(server_->Save().error().code(), Code::kFailedPrecondition);
  ASSERT_TRUE(server_->DropWait(1));
  ASSERT_TRUE(server_->Save().has_value());
  fuse_setupmapping_in map{};
  map.fh = fh;
  map.len = kDaxRangeBytes;
  map.flags = FUSE_SETUPMAPPING_FLAG_READ;
  ASSERT_EQ(client_->Call(FUSE_SETUPMAPPING, node, Body().Put(map)).error, 0);
  EXPECT_EQ(server_->Save().error().code(), Code::kFailedPrecondition);
  client_.reset();
  server_.reset();  // before the window
}

TEST_F(StateLossTest, ServerThatOffersLessIsRefused) {
  FileServerOptions options;
  options.features.posix_locks = true;
  Serve(std::move(options));
  Put("f", "");
  client_->Lookup(1, "f");
  FsState state = SaveHere();
  const auto refused = LoadThere(state, OnLoss::kGuestError);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("INIT flags 0x2 "), std::string::npos)
      << refused.error().message();
  ExpectNothing();
  state.flags &= ~uint64_t{FUSE_POSIX_LOCKS};
  EXPECT_TRUE(server_->Load(state, OnLoss::kAbort).has_value());
  state.minor = kFuseMinor + 1;
  EXPECT_FALSE(server_->Load(state, OnLoss::kAbort).has_value());
  state.minor = kMinimumMinor - 1;
  EXPECT_FALSE(server_->Load(state, OnLoss::kAbort).has_value());
  state.minor = kMinimumMinor;
  state.max_write = 2 << 20;
  EXPECT_FALSE(server_->Load(state, OnLoss::kAbort).has_value());
  ExpectNothing();
}

TEST_F(StateLossTest, ReadOnlyServerKeepsWhatIsRead) {
  Put("f", "content");
  const uint64_t node = client_->Lookup(1, "f");
  const uint64_t reading = client_->Open(node, O_RDONLY);
  const uint64_t writing = client_->Open(node, O_RDWR);
  FileServerOptions options;
  options.policy.read_only = true;
  ASSERT_TRUE(LoadThere(SaveHere(), OnLoss::kGuestError, std::move(options)).has_value());
  EXPECT_EQ(client_->Read(node, reading, 0, 16), "content");
  EXPECT_EQ(ReadError(node, writing), EIO);
}

TEST_F(StateLossTest, SmallerServerTakesWhatItHasRoomFor) {
  std::vector<uint64_t> nodes;
  std::vector<uint64_t> files;
  for (int i = 0; i < 20; ++i) {
    const std::string name = "f" + std::to_string(i);
    Put(name, "x");
    nodes.push_back(client_->Lookup(1, name));
    files.push_back(client_->Open(nodes.back(), O_RDONLY));
  }
  const FsState state = SaveHere();
  FileServerOptions options;
  options.inodes.inodes = 11;
  options.max_handles = 5;
  ASSERT_FALSE(LoadThere(state, OnLoss::kAbort, std::move(options)).has_value());
  ASSERT_TRUE(server_->Load(state, OnLoss::kGuestError).has_value());
  EXPECT_EQ(server_->stats().inodes, 11U);
  EXPECT_EQ(server_->stats().handles, 5U);
  EXPECT_EQ(ReadError(nodes[4], files[4]), 0);
  EXPECT_EQ(ReadError(nodes[5], files[5]), EIO);
}

// A guest that is loaded takes the place of the one before.
TEST_F(StateLossTest, LoadingEndsTheSessionBefore) {
  Put("a", "a");
  Put("b", "b");
  const uint64_t a = client_->Lookup(1, "a");
  const FsState state = SaveHere();
  NewServer();
  client_->Init();
  const uint64_t b = client_->Lookup(1, "b");
  ASSERT_EQ(a, b);
  const uint64_t fh = client_->Open(b, O_RDONLY);
  ASSERT_TRUE(server_->Load(state, OnLoss::kAbort).has_value());
  EXPECT_EQ(client_->GetAttr(a).ino, Stat("a").st_ino);
  EXPECT_EQ(ReadError(b, fh), EBADF);
}

}  // namespace
}  // namespace wyvern::fs
