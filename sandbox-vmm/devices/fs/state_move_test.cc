// A guest goes from one server to the next and finds everything as it was.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "fs/testing/state_mover.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::FuseClient;

class StateMoveTest : public testing::StateMover {
 protected:
  // One READDIR; the cookie behind its last entry.
  static uint64_t ReadDir(FuseClient& client, uint64_t node, uint64_t fh, uint64_t cookie,
                          std::multiset<std::string>* names) {
    fuse_read_in read{};
    read.fh = fh;
    read.offset = cookie;
    read.size = 1024;
    const testing::Reply reply = client.Call(FUSE_READDIR, node, Body().Put(read), 1024);
    EXPECT_EQ(reply.error, 0);
    size_t at = 0;
    while (at + FUSE_NAME_OFFSET < reply.payload.size()) {
      fuse_dirent entry{};
      std::memcpy(&entry, reply.payload.data() + at, FUSE_NAME_OFFSET);
      names->insert(reply.payload.substr(at + FUSE_NAME_OFFSET, entry.namelen));
      cookie = entry.off;
      at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.namelen);
    }
    return at == 0 ? 0 : cookie;
  }

  uint64_t InodeOf(const std::string& name) const { return Stat(name).st_ino; }
};

TEST_F(StateMoveTest, SessionGoesOnWithoutInit) {
  NewServer();
  EXPECT_EQ(client_->Call(FUSE_GETATTR, 1, Body().Put(fuse_getattr_in{})).error, EIO);
  const FsState nothing = SaveHere();
  EXPECT_EQ(nothing.minor, 0U);
  ASSERT_TRUE(LoadThere(nothing));
  EXPECT_EQ(client_->Call(FUSE_GETATTR, 1, Body().Put(fuse_getattr_in{})).error, EIO);
  ASSERT_EQ(client_->Init(FUSE_MAX_PAGES | FUSE_SUBMOUNTS).error, 0);
  Move();
  EXPECT_EQ(SaveHere().flags, uint64_t{FUSE_MAX_PAGES | FUSE_SUBMOUNTS});
  EXPECT_TRUE(S_ISDIR(client_->GetAttr(1).mode));
}

TEST_F(StateMoveTest, EveryKindOfNodeIsFoundAgain) {
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Host("d/sub").c_str(), 0755), 0);
  Put("d/sub/file", "content");
  ASSERT_EQ(::symlink("/etc/passwd", Host("d/link").c_str()), 0);
  ASSERT_EQ(::mkfifo(Host("fifo").c_str(), 0600), 0);
  ASSERT_EQ(::mknod(Host("socket").c_str(), S_IFSOCK | 0600, 0), 0);
  std::vector<std::string> names{"d", "d/sub", "d/sub/file", "d/link", "fifo", "socket"};
  if (IsRoot() && ::mknod(Host("device").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0) {
    names.emplace_back("device");
  }
  std::vector<uint64_t> nodes;
  for (const std::string& name : names) {
    nodes.push_back(client_->Walk(name));
  }
  const auto check = [&] {
    for (size_t i = 0; i < names.size(); ++i) {
      const fuse_attr attr = client_->GetAttr(nodes[i]);
      EXPECT_EQ(attr.ino, InodeOf(names[i])) << names[i];
      EXPECT_EQ(attr.mode, Stat(names[i]).st_mode) << names[i];
    }
  };
  check();
  Move();
  check();
  EXPECT_EQ(client_->Call(FUSE_READLINK, nodes[3], Body()).payload, "/etc/passwd");
  // Found by the same names, they are the same nodes.
  EXPECT_EQ(client_->Walk("d/sub/file"), nodes[2]);
  Move();
  check();
}

TEST_F(StateMoveTest, OpenFilesGoOnWhereTheyWere) {
  Put("read", "0123456789");
  uint64_t written = 0;
  const uint64_t read = client_->Walk("read");
  const uint64_t reading = client_->Open(read, O_RDONLY);
  const uint64_t writing = client_->Create(1, "written", O_WRONLY, 0600, &written);
  const uint64_t both = client_->Open(written, O_RDWR);
  EXPECT_EQ(client_->Read(read, reading, 0, 4), "0123");
  EXPECT_EQ(client_->Write(written, writing, 0, "abc"), 3U);
  Move();
  EXPECT_EQ(client_->Read(read, reading, 4, 6), "456789");
  EXPECT_EQ(client_->Write(written, writing, 3, "def"), 3U);
  EXPECT_EQ(client_->Write(written, both, 0, "ghi", O_APPEND), 3U);
  EXPECT_EQ(Get("written"), "abcdefghi");
  // Each is open for what it was open for.
  client_->Write(read, reading, 0, "x");
  EXPECT_EQ(client_->error(), EBADF);
  client_->Read(written, writing, 0, 1);
  EXPECT_EQ(client_->error(), EBADF);
  client_->Release(read, reading);
  client_->Read(read, reading, 0, 1);
  EXPECT_EQ(client_->error(), EBADF);
  EXPECT_EQ(server_->stats().handles, 2U);
}

TEST_F(StateMoveTest, DirectoryIsReadOnFromItsCookie) {
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  std::multiset<std::string> expected{".", ".."};
  for (int i = 0; i < 300; ++i) {
    const std::string name = "name-" + std::to_string(i);
    Put("d/" + name, "");
    expected.insert(name);
  }
  const uint64_t node = client_->Walk("d");
  const uint64_t fh =
      client_->Call(FUSE_OPENDIR, node, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  std::multiset<std::string> names;
  uint64_t cookie = 0;
  for (int i = 0; i < 4; ++i) {
    cookie = ReadDir(*client_, node, fh, cookie, &names);
  }
  EXPECT_GT(names.size(), 20U);
  EXPECT_LT(names.size(), 200U);
  Move();
  while ((cookie = ReadDir(*client_, node, fh, cookie, &names)) != 0) {
  }
  EXPECT_EQ(names, expected);
}

TEST_F(StateMoveTest, LookupsAreCountedOn) {
  Put("a", "");
  const uint64_t node = client_->Lookup(1, "a");
  client_->Lookup(1, "a");
  client_->Lookup(1, "a");
  Move();
  client_->Forget(node, 2);
  EXPECT_TRUE(S_ISREG(client_->GetAttr(node).mode));
  EXPECT_EQ(server_->stats().inodes, 2U);
  client_->Forget(node, 1);
  EXPECT_EQ(server_->stats().inodes, 1U);
  client_->GetAttr(node);
  EXPECT_EQ(client_->error(), ESTALE);
}

TEST_F(StateMoveTest, NumbersAreNeverUsedAgain) {
  Put("a", "");
  Put("b", "");
  const uint64_t a = client_->Lookup(1, "a");
  const uint64_t b = client_->Lookup(1, "b");
  const uint64_t fh = client_->Open(b, O_RDONLY);
  client_->Release(b, fh);
  client_->Forget(b, 1);
  Move();
  EXPECT_GT(client_->Lookup(1, "b"), std::max(a, b));
  EXPECT_GT(client_->Open(a, O_RDONLY), fh);
}

TEST_F(StateMoveTest, RenamedInodesAreFound) {
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Host("unseen").c_str(), 0755), 0);
  for (const char* name : {"by-guest", "by-host", "far", "d/child"}) {
    Put(name, name);
  }
  const uint64_t d = client_->Walk("d");
  const uint64_t by_guest = client_->Walk("by-guest");
  const uint64_t by_host = client_->Walk("by-host");
  const uint64_t far = client_->Walk("far");
  const uint64_t child = client_->Walk("d/child");
  for (const uint64_t node : {d, by_host, far, child}) {
    client_->GetAttr(node);  // it has a descriptor, so that the host's renames do not lose it
  }
  fuse_rename_in rename{};
  rename.newdir = d;
  ASSERT_EQ(client_->Call(FUSE_RENAME, 1, Body().Put(rename).Name("by-guest").Name("x")).error, 0);
  ASSERT_EQ(::rename(Host("by-host").c_str(), Host("y").c_str()), 0);
  ASSERT_EQ(::rename(Host("far").c_str(), Host("unseen/far").c_str()), 0);
  ASSERT_EQ(::rename(Host("d").c_str(), Host("unseen/d").c_str()), 0);
  Move();
  EXPECT_EQ(client_->GetAttr(by_guest).ino, InodeOf("unseen/d/x"));
  EXPECT_EQ(client_->GetAttr(by_host).ino, InodeOf("y"));
  EXPECT_EQ(client_->GetAttr(far).ino, InodeOf("unseen/far"));
  EXPECT_EQ(client_->GetAttr(child).ino, InodeOf("unseen/d/child"));
  Move();
  EXPECT_EQ(client_->Read(far, client_->Open(far, O_RDONLY), 0, 10), "far");
}

// Known as b in a, and then as a in b.
TEST_F(StateMoveTest, DirectoriesThatTheHostPutIntoEachOtherAreFound) {
  ASSERT_EQ(::mkdir(Host("a").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(Host("a/b").c_str(), 0755), 0);
  const uint64_t a = client_->Walk("a");
  const uint64_t b = client_->Lookup(a, "b");
  client_->GetAttr(b);
  ASSERT_EQ(::rename(Host("a/b").c_str(), Host("b").c_str()), 0);
  ASSERT_EQ(::rename(Host("a").c_str(), Host("b/a").c_str()), 0);
  ASSERT_EQ(client_->Lookup(b, "a"), a);
  Move();
  EXPECT_EQ(client_->GetAttr(a).ino, InodeOf("b/a"));
  EXPECT_EQ(client_->GetAttr(b).ino, InodeOf("b"));
}

TEST_F(StateMoveTest, OneOfTwoNamesIsEnough) {
  Put("first", "content");
  const uint64_t node = client_->Lookup(1, "first");
  const uint64_t fh = client_->Open(node, O_RDONLY);
  ASSERT_EQ(::link(Host("first").c_str(), Host("second").c_str()), 0);
  ASSERT_EQ(client_->Lookup(1, "second"), node);
  ASSERT_EQ(client_->Unlink(1, "first"), 0);
  Move();
  EXPECT_EQ(client_->Read(node, fh, 0, 16), "content");
}

TEST_F(StateMoveTest, NamesOfAnyBytesAreFound) {
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  std::vector<std::pair<std::string, uint64_t>> files;
  for (int byte = 1; byte < 256; ++byte) {
    if (byte != '/') {
      const char bytes[] = {'n', static_cast<char>(byte), '\0'};
      Put(std::string("d/") + bytes, "");
      files.emplace_back(bytes, client_->Walk(std::string("d/") + bytes));
      client_->GetAttr(files.back().second);
    }
  }
  Put("d/x (deleted)", "");
  files.emplace_back("x (deleted)", client_->Walk("d/x (deleted)"));
  client_->GetAttr(files.back().second);
  Move();
  for (const auto& [name, node] : files) {
    EXPECT_EQ(client_->GetAttr(node).ino, InodeOf("d/" + name)) << name;
  }
  // Now by the paths that the host's kernel tells: where they lie is not what the guest knows.
  ASSERT_EQ(::mkdir(Host("e").c_str(), 0755), 0);
  for (const auto& [name, node] : files) {
    ASSERT_EQ(::rename(Host("d/" + name).c_str(), Host("e/" + name).c_str()), 0);
  }
  Move();
  for (const auto& [name, node] : files) {
    EXPECT_EQ(client_->GetAttr(node).ino, InodeOf("e/" + name)) << name;
  }
}

// What is known by names may lie as deep as it likes: no path is longer than a name then.
TEST_F(StateMoveTest, DeepTreesAreFound) {
  const std::string name(200, 'n');
  uint64_t node = 1;
  for (int depth = 0; depth < 60; ++depth) {
    node = client_->Mkdir(node, name);
    ASSERT_NE(node, 0U) << client_->error();
  }
  uint64_t file = 0;
  const uint64_t fh = client_->Create(node, "file", O_RDWR, 0600, &file);
  ASSERT_EQ(client_->Write(file, fh, 0, "deep"), 4U);
  FileServerOptions options;
  options.inodes.resident = 4;
  Move(std::move(options));
  EXPECT_EQ(client_->Read(file, fh, 0, 16), "deep");
  EXPECT_LE(server_->stats().resident, 6U);
}

class LargeStateTest : public StateMoveTest {
 protected:
  std::filesystem::path Parent() const override { return MemoryIfThereIsOne(); }
};

TEST_F(LargeStateTest, HundredThousandInodesMove) {
  constexpr int kDirectories = 100;
  constexpr int kFiles = 1000;
  PutTree(kDirectories, kFiles);
  for (int d = 0; d < kDirectories; ++d) {
    client_->ReadAll(client_->Lookup(1, "d" + std::to_string(d)), true, 65536);
  }
  using Clock = std::chrono::steady_clock;
  const auto milliseconds = [](Clock::duration time) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
  };
  const auto begin = Clock::now();
  const auto saved = server_->Save();
  ASSERT_TRUE(saved.has_value());
  const std::vector<std::byte> bytes = EncodeState(*saved);
  const auto saved_at = Clock::now();
  const auto decoded = DecodeState(bytes);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->nodes.size(), size_t{kDirectories} * (kFiles + 1));
  NewServer();
  const auto load_at = Clock::now();
  ASSERT_TRUE(server_->Load(*decoded, OnLoss::kAbort).has_value());
  const auto loaded_at = Clock::now();
  RecordProperty("bytes", static_cast<int>(bytes.size()));
  RecordProperty("save_ms", milliseconds(saved_at - begin));
  RecordProperty("load_ms", milliseconds(loaded_at - load_at));
  EXPECT_EQ(server_->stats().inodes, decoded->nodes.size() + 1);
  EXPECT_LE(server_->stats().resident, (8U << 10U) + 1);
  for (const size_t i : {size_t{0}, size_t{50'000}, decoded->nodes.size() - 1}) {
    EXPECT_EQ(client_->GetAttr(decoded->nodes[i].node).ino, decoded->nodes[i].identity.inode);
  }
}

}  // namespace
}  // namespace wyvern::fs
