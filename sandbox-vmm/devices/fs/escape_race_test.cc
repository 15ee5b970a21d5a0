// Nothing outside the share is reached while names in it turn into links that lead outside and back.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <set>
#include <thread>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::FuseClient;

// share/d, share/f and share/d/e are exchanged all the time with links to what is outside:
// canary (a directory with a file "secret" and a directory "e") and canary/secret.
class EscapeRaceTest : public testing::FsTest {
 protected:
  static constexpr const char* kSecret = "the secret of the host";
  static constexpr const char* kInside = "inside";

  void SetUp() override {
    FsTest::SetUp();
    ASSERT_EQ(::mkdir(Outside("").c_str(), 0777), 0);
    ASSERT_EQ(::mkdir(Outside("e").c_str(), 0777), 0);
    for (const char* name : {"secret", "e/secret", "f"}) {
      std::ofstream(Outside(name)) << kSecret;
      inodes_.insert(InodeOf(Outside(name)));
    }
    inodes_.insert(InodeOf(Outside("")));
    inodes_.insert(InodeOf(Outside("e")));
    ASSERT_EQ(::mkdir(Host("d").c_str(), 0777), 0);
    ASSERT_EQ(::mkdir(Host("d/e").c_str(), 0777), 0);
    for (const char* name : {"f", "d/secret", "d/f", "d/e/secret"}) {
      Put(name, kInside);
    }
    ASSERT_EQ(::symlink("../canary", Host("to-canary").c_str()), 0);
    ASSERT_EQ(::symlink("../canary/secret", Host("to-secret").c_str()), 0);
    ASSERT_EQ(::symlink("../../canary/e", Host("d/to-e").c_str()), 0);
    FileServerOptions options;
    options.inodes.resident = 2;  // everything is opened again by its name, again and again
    Serve(std::move(options));
    before_ = Listing();
  }

  std::string Outside(const std::string& name) const { return base_ + "/canary/" + name; }

  static ino_t InodeOf(const std::string& path) {
    struct stat stat {};

    EXPECT_EQ(::stat(path.c_str(), &stat), 0) << path;
    return stat.st_ino;
  }

  // Everything about what is outside.
  std::string Listing() const {
    std::string out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(base_ + "/canary")) {
      struct stat stat {};

      ::lstat(entry.path().c_str(), &stat);
      std::string content;
      if (entry.is_regular_file()) {
        std::ifstream file(entry.path());
        content.assign(std::istreambuf_iterator<char>(file), {});
      }
      out += entry.path().string() + " " + std::to_string(stat.st_mode) + " " +
             std::to_string(stat.st_uid) + " " + std::to_string(stat.st_nlink) + " " +
             std::to_string(stat.st_mtim.tv_sec) + " " + content + "\n";
    }
    return out;
  }

  void Exchange(const char* a, const char* b) const {
    ::syscall(SYS_renameat2, AT_FDCWD, Host(a).c_str(), AT_FDCWD, Host(b).c_str(), RENAME_EXCHANGE);
  }

  // The host, or another guest of the volume.
  void Swap(const std::atomic<bool>& end) const {
    while (!end.load(std::memory_order_relaxed)) {
      Exchange("d", "to-canary");
      Exchange("f", "to-secret");
      Exchange("d", "to-canary");
      Exchange("d/e", "d/to-e");
      Exchange("f", "to-secret");
      Exchange("d/e", "d/to-e");
    }
  }

  void ExpectInside(const fuse_attr& attr) const {
    EXPECT_FALSE(inodes_.contains(attr.ino)) << "inode " << attr.ino << " is outside";
  }

  uint64_t LookUp(FuseClient& client, uint64_t parent, const char* name) const {
    const fuse_entry_out entry = client.LookupEntry(parent, name);
    if (client.error() == 0 && entry.nodeid != 0) {
      ExpectInside(entry.attr);
    }
    return client.error() == 0 ? entry.nodeid : 0;
  }

  void ReadAndWrite(FuseClient& client, uint64_t node) const {
    const uint64_t fh = client.Open(node, O_RDWR);
    if (client.error() != 0) {
      return;
    }
    EXPECT_EQ(client.Read(node, fh, 0, 100).find("secret of the host"), std::string::npos);
    client.Write(node, fh, 0, "I");
    const fuse_attr attr = client.GetAttr(node);
    if (client.error() == 0) {
      ExpectInside(attr);
    }
    client.Release(node, fh);
  }

  void Change(FuseClient& client, uint64_t node) const {
    fuse_setattr_in in{};
    in.valid = FATTR_MODE | FATTR_UID | FATTR_SIZE | FATTR_MTIME;
    in.mode = 0600;
    in.uid = 7;
    in.size = 3;
    client.Call(FUSE_SETATTR, node, Body().Put(in));
    fuse_setxattr_in xattr{};
    xattr.size = 1;
    const std::string head(reinterpret_cast<const char*>(&xattr), FUSE_COMPAT_SETXATTR_IN_SIZE);
    client.Call(FUSE_SETXATTR, node, Body().Raw(head).Name("user.x").Raw("y"));
  }

  void MakeAndRemove(FuseClient& client, uint64_t directory, int round) const {
    const std::string name = "n" + std::to_string(round % 7);
    uint64_t node = 0;
    const uint64_t fh = client.Create(directory, "f", O_RDWR, 0666, &node);
    if (client.error() == 0) {
      EXPECT_EQ(client.Read(node, fh, 0, 100).find("secret of the host"), std::string::npos);
      client.Write(node, fh, 0, "I");
      client.Release(node, fh);
    }
    client.Create(directory, name, O_RDWR | O_TRUNC, 0666);
    client.Mkdir(directory, name + "d");
    client.Call(FUSE_SYMLINK, directory, Body().Name(name + "s").Name("../../canary/secret"));
    fuse_link_in link{};
    link.oldnodeid = node != 0 ? node : FUSE_ROOT_ID;
    client.Call(FUSE_LINK, directory, Body().Put(link).Name(name + "l"));
    fuse_rename2_in move{};
    move.newdir = FUSE_ROOT_ID;
    client.Call(FUSE_RENAME2, directory, Body().Put(move).Name(name).Name("moved"));
    client.Unlink(directory, "secret");
    client.Unlink(directory, name + "s");
    client.Unlink(directory, name + "l");
    client.Call(FUSE_RMDIR, directory, Body().Name(name + "d"));
  }

  void Attack(int rounds) {
    FuseClient client(*server_);
    for (int round = 0; round < rounds; ++round) {
      const uint64_t file = LookUp(client, FUSE_ROOT_ID, "f");
      const uint64_t directory = LookUp(client, FUSE_ROOT_ID, "d");
      const uint64_t secret = directory == 0 ? 0 : LookUp(client, directory, "secret");
      const uint64_t deeper = directory == 0 ? 0 : LookUp(client, directory, "e");
      const uint64_t below = deeper == 0 ? 0 : LookUp(client, deeper, "secret");
      for (const uint64_t node : {file, secret, below}) {
        if (node != 0) {
          ReadAndWrite(client, node);
          Change(client, node);
        }
      }
      for (const uint64_t node : {directory, deeper}) {
        if (node == 0) {
          continue;
        }
        MakeAndRemove(client, node, round);
        for (const auto& entry : client.ReadAll(node, true)) {
          if (entry.entry.nodeid != 0) {
            ExpectInside(entry.entry.attr);
            client.Forget(entry.entry.nodeid);
          }
        }
      }
    }
  }

  std::set<ino_t> inodes_;  // of what is outside
  std::string before_;
};

TEST_F(EscapeRaceTest, NothingOutsideTheShareIsReached) {
  std::atomic<bool> end{false};
  std::thread swapper([&] { Swap(end); });
  std::thread second([&] { Attack(300); });
  Attack(300);
  second.join();
  end.store(true);
  swapper.join();
  EXPECT_EQ(Listing(), before_);
}

// The same when the guest itself makes the links and exchanges them.
TEST_F(EscapeRaceTest, NothingOutsideIsReachedByAGuestThatRenames) {
  std::atomic<bool> end{false};
  std::thread renamer([&] {
    FuseClient client(*server_);
    fuse_rename2_in in{};
    in.newdir = FUSE_ROOT_ID;
    in.flags = RENAME_EXCHANGE;
    while (!end.load()) {
      client.Call(FUSE_RENAME2, FUSE_ROOT_ID, Body().Put(in).Name("d").Name("to-canary"));
      client.Call(FUSE_RENAME2, FUSE_ROOT_ID, Body().Put(in).Name("f").Name("to-secret"));
    }
  });
  Attack(300);
  end.store(true);
  renamer.join();
  EXPECT_EQ(Listing(), before_);
}

}  // namespace
}  // namespace wyvern::fs
