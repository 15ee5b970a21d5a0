// Big trees within the bound on descriptors.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;

class InodeBoundTest : public testing::FsTest {
 protected:
  void ServeWith(size_t resident, size_t nameless = 1000) {
    FileServerOptions options;
    options.inodes.resident = resident;
    options.inodes.nameless = nameless;
    Serve(std::move(options));
  }

  std::filesystem::path Parent() const override { return MemoryIfThereIsOne(); }

  static size_t OpenDescriptors() {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator("/proc/self/fd")) {
      ++count;
    }
    return count;
  }
};

TEST_F(InodeBoundTest, FiftyThousandFilesNeedOnlyTheBound) {
  ServeWith(1000);
  constexpr int kDirectories = 50;
  constexpr int kFiles = 1000;
  PutTree(kDirectories, kFiles);
  std::vector<uint64_t> nodes;
  for (int d = 0; d < kDirectories; ++d) {
    const uint64_t directory = client_->Lookup(FUSE_ROOT_ID, "d" + std::to_string(d));
    for (const auto& entry : client_->ReadAll(directory, true, 65536)) {
      if (entry.entry.nodeid != 0) {
        nodes.push_back(entry.entry.nodeid);
      }
    }
  }
  ASSERT_EQ(nodes.size(), size_t{kDirectories} * kFiles);
  EXPECT_EQ(server_->stats().inodes, nodes.size() + kDirectories + 1);
  // Every one of them is used, which needs a descriptor for a moment.
  for (const uint64_t node : nodes) {
    ASSERT_TRUE(S_ISREG(client_->GetAttr(node).mode)) << client_->error();
  }
  EXPECT_LE(server_->stats().resident, 1000U + 1);
  EXPECT_LT(OpenDescriptors(), 1100U);
  for (const uint64_t node : nodes) {
    client_->Forget(node);
  }
  EXPECT_EQ(server_->stats().inodes, size_t{kDirectories} + 1);
}

TEST_F(InodeBoundTest, EvictedInodesFollowRenames) {
  ServeWith(2);
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  Put("d/a", "A");
  Put("x", "");
  Put("y", "");
  Put("z", "");
  const uint64_t d = client_->Lookup(FUSE_ROOT_ID, "d");
  const uint64_t a = client_->Lookup(d, "a");
  EXPECT_EQ(client_->GetAttr(a).size, 1U);
  const auto evict = [&] {
    for (const char* name : {"x", "y", "z"}) {
      client_->GetAttr(client_->Lookup(FUSE_ROOT_ID, name));
    }
  };
  evict();
  fuse_rename_in in{};
  in.newdir = FUSE_ROOT_ID;
  ASSERT_EQ(client_->Call(FUSE_RENAME, d, Body().Put(in).Name("a").Name("b")).error, 0);
  evict();
  EXPECT_EQ(client_->GetAttr(a).size, 1U);
  evict();
  ASSERT_EQ(client_->Call(FUSE_RENAME, 1, Body().Put(in).Name("d").Name("e")).error, 0);
  evict();
  EXPECT_TRUE(S_ISDIR(client_->GetAttr(d).mode));
  EXPECT_LE(server_->stats().resident, 3U);
}

// Found by the differential test: the name looked up last is not the one by which the guest has the
// file open, and its directory may be forgotten first.
TEST_F(InodeBoundTest, OpenFileIsFoundWithoutItsLastName) {
  FileServerOptions options;
  options.inodes.resident = 1;
  Serve(std::move(options));
  Put("y", "content");
  Put("other", "x");
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  ASSERT_EQ(::link(Host("y").c_str(), Host("d/x").c_str()), 0);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "y");
  const uint64_t fh = client_->Open(node, O_RDWR);
  const uint64_t directory = client_->Lookup(FUSE_ROOT_ID, "d");
  EXPECT_EQ(client_->Lookup(directory, "x"), node);
  client_->Forget(directory);
  client_->GetAttr(client_->Lookup(FUSE_ROOT_ID, "other"));  // takes the place
  fuse_setattr_in in{};
  in.valid = FATTR_MODE;
  in.mode = 0600;
  EXPECT_EQ(client_->Call(FUSE_SETATTR, node, testing::Body().Put(in)).error, 0);
  EXPECT_EQ(Stat("y").st_mode & 07777U, 0600U);
  // Without an open file the guest's kernel asks again by a name that it has.
  client_->Release(node, fh);
  client_->GetAttr(client_->Lookup(FUSE_ROOT_ID, "other"));
  EXPECT_EQ(client_->Call(FUSE_SETATTR, node, testing::Body().Put(in)).error, ESTALE);
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "y"), node);
  EXPECT_EQ(client_->Call(FUSE_SETATTR, node, testing::Body().Put(in)).error, 0);
}

TEST_F(InodeBoundTest, UnlinkedInodesAreKeptWhenOthersGo) {
  ServeWith(2);
  Put("gone", "still");
  const uint64_t gone = client_->Lookup(FUSE_ROOT_ID, "gone");
  ASSERT_EQ(client_->Unlink(FUSE_ROOT_ID, "gone"), 0);
  for (int i = 0; i < 10; ++i) {
    Put("f" + std::to_string(i), "");
    client_->GetAttr(client_->Lookup(FUSE_ROOT_ID, "f" + std::to_string(i)));
  }
  const uint64_t fh = client_->Open(gone, O_RDONLY);
  EXPECT_EQ(client_->Read(gone, fh, 0, 100), "still");
  EXPECT_EQ(client_->GetAttr(gone).nlink, 0U);
}

TEST_F(InodeBoundTest, UnlinkedInodesDoNotDriveTheOthersOut) {
  ServeWith(2);
  for (const char* name : {"u", "v", "w"}) {
    Put(name, "");
    client_->Lookup(FUSE_ROOT_ID, name);
    ASSERT_EQ(client_->Unlink(FUSE_ROOT_ID, name), 0);
  }
  Put("a", "");
  Put("b", "");
  const uint64_t a = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t b = client_->Lookup(FUSE_ROOT_ID, "b");
  for (int i = 0; i < 3; ++i) {
    client_->GetAttr(a);
    client_->GetAttr(b);
    EXPECT_EQ(server_->stats().resident, 1U + 3 + 2);
  }
}

TEST_F(InodeBoundTest, NamesBeyondTheBoundOfUnlinkedInodesStay) {
  ServeWith(2, 4);  // of which one export may have half
  std::vector<uint64_t> nodes;
  for (const char* name : {"a", "b", "c", "d"}) {
    Put(name, name);
    nodes.push_back(client_->Lookup(FUSE_ROOT_ID, name));
  }
  ASSERT_EQ(client_->Unlink(FUSE_ROOT_ID, "a"), 0);
  ASSERT_EQ(client_->Unlink(FUSE_ROOT_ID, "b"), 0);
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "c"), ENFILE);
  fuse_rename_in in{};
  in.newdir = FUSE_ROOT_ID;
  const auto rename = [&](const char* from, const char* to) {
    return client_->Call(FUSE_RENAME, FUSE_ROOT_ID, Body().Put(in).Name(from).Name(to)).error;
  };
  EXPECT_EQ(rename("d", "c"), ENFILE);
  EXPECT_EQ(Get("c"), "c");
  EXPECT_EQ(Get("d"), "d");
  EXPECT_EQ(rename("d", "e"), 0);  // loses no name
  EXPECT_EQ(client_->GetAttr(nodes[3]).size, 1U);
  // What the guest does not know needs no descriptor.
  Put("unknown", "");
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "unknown"), 0);
  client_->Forget(nodes[0]);
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "c"), 0);
  EXPECT_EQ(client_->GetAttr(nodes[2]).nlink, 0U);
}

TEST_F(InodeBoundTest, FailedUnlinkLeavesTheNodeEvictable) {
  ServeWith(2);
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  Put("d/f", "");
  const uint64_t d = client_->Lookup(FUSE_ROOT_ID, "d");
  EXPECT_EQ(client_->Call(FUSE_RMDIR, FUSE_ROOT_ID, Body().Name("d")).error, ENOTEMPTY);
  for (int i = 0; i < 10; ++i) {
    Put("f" + std::to_string(i), "");
    client_->GetAttr(client_->Lookup(FUSE_ROOT_ID, "f" + std::to_string(i)));
  }
  EXPECT_LE(server_->stats().resident, 3U);
  EXPECT_TRUE(S_ISDIR(client_->GetAttr(d).mode));
}

TEST_F(InodeBoundTest, DeepTreeIsOpenedAgainStepByStep) {
  ServeWith(2);
  uint64_t node = FUSE_ROOT_ID;
  std::vector<uint64_t> nodes;
  for (int i = 0; i < 200; ++i) {
    node = client_->Mkdir(node, "d");
    ASSERT_NE(node, 0U);
    nodes.push_back(node);
  }
  for (const uint64_t one : nodes) {
    EXPECT_TRUE(S_ISDIR(client_->GetAttr(one).mode));
  }
  EXPECT_TRUE(S_ISDIR(client_->GetAttr(nodes.back()).mode));
  EXPECT_LE(server_->stats().resident, 4U);
}

}  // namespace
}  // namespace wyvern::fs
