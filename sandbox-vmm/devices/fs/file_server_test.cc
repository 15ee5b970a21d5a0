#include "fs/file_server.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::Reply;

class FileServerTest : public testing::FsTest {
 protected:
  Reply SetAttr(uint64_t node, const fuse_setattr_in& in) {
    return client_->Call(FUSE_SETATTR, node, Body().Put(in));
  }

  int Rename(uint64_t from, const char* name, uint64_t to, const char* new_name, uint32_t flags) {
    fuse_rename2_in in{};
    in.newdir = to;
    in.flags = flags;
    return client_->Call(FUSE_RENAME2, from, Body().Put(in).Name(name).Name(new_name)).error;
  }

  Reply SetXattr(uint64_t node, const std::string& name, std::string_view value, uint32_t flags) {
    fuse_setxattr_in in{};
    in.size = static_cast<uint32_t>(value.size());
    in.flags = flags;
    const std::string head(reinterpret_cast<const char*>(&in), FUSE_COMPAT_SETXATTR_IN_SIZE);
    return client_->Call(FUSE_SETXATTR, node, Body().Raw(head).Name(name).Raw(value));
  }
};

TEST_F(FileServerTest, InitAnswersWithWhatBothKnow) {
  const auto out = client_->Init().As<fuse_init_out>();
  EXPECT_EQ(out.major, 7U);
  EXPECT_EQ(out.minor, kFuseMinor);
  EXPECT_EQ(out.max_write, 1U << 20U);
  EXPECT_EQ(out.max_pages, 256U);
  EXPECT_NE(out.flags & FUSE_SUBMOUNTS, 0U);
  EXPECT_EQ(out.flags & FUSE_WRITEBACK_CACHE, 0U);
  EXPECT_EQ(out.flags & FUSE_POSIX_ACL, 0U);
  EXPECT_EQ(out.flags2, (kCreateSuppGroup | kAllowIdmap) >> 32U);
  const auto plain = client_->Init(FUSE_MAX_PAGES).As<fuse_init_out>();
  EXPECT_EQ(plain.flags, uint32_t{FUSE_MAX_PAGES});
  EXPECT_EQ(plain.flags2, 0U);
}

TEST_F(FileServerTest, LookupTellsTheHostsAttributes) {
  Put("a", "hello", 0640);
  const fuse_entry_out entry = client_->LookupEntry(FUSE_ROOT_ID, "a");
  const struct stat host = Stat("a");
  EXPECT_EQ(entry.attr.ino, host.st_ino);
  EXPECT_EQ(entry.attr.size, 5U);
  EXPECT_EQ(entry.attr.mode, static_cast<uint32_t>(S_IFREG | 0640));
  EXPECT_EQ(entry.attr.nlink, 1U);
  EXPECT_EQ(entry.attr.mtime, static_cast<uint64_t>(host.st_mtim.tv_sec));
  EXPECT_EQ(entry.attr.mtimensec, static_cast<uint32_t>(host.st_mtim.tv_nsec));
  EXPECT_EQ(entry.entry_valid, 1U);
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "a"), entry.nodeid);
}

TEST_F(FileServerTest, MissingNameIsANegativeEntryForTheCachesTime) {
  const Reply reply = client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Name("none"));
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.As<fuse_entry_out>().nodeid, 0U);
  EXPECT_EQ(reply.As<fuse_entry_out>().entry_valid, 1U);
  FileServerOptions options;
  options.policy.cache = std::chrono::milliseconds(0);
  Serve(std::move(options));
  EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Name("none")).error, ENOENT);
}

TEST_F(FileServerTest, HardLinksAreOneNode) {
  Put("a", "x");
  ASSERT_EQ(::link(Host("a").c_str(), Host("b").c_str()), 0);
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "a"), client_->Lookup(FUSE_ROOT_ID, "b"));
  EXPECT_EQ(server_->stats().inodes, 2U);
}

TEST_F(FileServerTest, CreateWriteReadBack) {
  uint64_t node = 0;
  const uint64_t fh = client_->Create(FUSE_ROOT_ID, "new", O_RDWR, 0600, &node);
  ASSERT_NE(fh, 0U);
  const std::string data(100000, 'd');
  EXPECT_EQ(client_->Write(node, fh, 10, data), data.size());
  EXPECT_EQ(client_->Read(node, fh, 0, 20), std::string(10, '\0') + std::string(10, 'd'));
  EXPECT_EQ(client_->Read(node, fh, 100000, 4096).size(), 10U);
  EXPECT_EQ(Stat("new").st_mode, static_cast<mode_t>(S_IFREG | 0600));
  client_->Release(node, fh);
  EXPECT_EQ(server_->stats().handles, 0U);
}

TEST_F(FileServerTest, CreateOfAnExistingNameOpensIt) {
  Put("a", "content");
  uint64_t node = 0;
  EXPECT_NE(client_->Create(FUSE_ROOT_ID, "a", O_RDWR, 0600, &node), 0U);
  EXPECT_EQ(node, client_->Lookup(FUSE_ROOT_ID, "a"));
  EXPECT_EQ(Get("a"), "content");
  client_->Create(FUSE_ROOT_ID, "a", O_RDWR | O_EXCL, 0600);
  EXPECT_EQ(client_->error(), EEXIST);
  EXPECT_NE(client_->Create(FUSE_ROOT_ID, "a", O_RDWR | O_TRUNC, 0600), 0U);
  EXPECT_EQ(Get("a"), "");
}

TEST_F(FileServerTest, AppendFollowsTheFlagsOfTheWrite) {
  Put("log", "one\n");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "log");
  const uint64_t fh = client_->Open(node, O_WRONLY | O_APPEND);
  EXPECT_EQ(client_->Write(node, fh, 0, "two\n", O_APPEND), 4U);
  EXPECT_EQ(Get("log"), "one\ntwo\n");
  EXPECT_EQ(client_->Write(node, fh, 0, "ONE\n"), 4U);
  EXPECT_EQ(Get("log"), "ONE\ntwo\n");
  // A page of a mapping is written where it belongs.
  EXPECT_EQ(client_->Write(node, fh, 4, "TWO\n", O_APPEND, FUSE_WRITE_CACHE), 4U);
  EXPECT_EQ(Get("log"), "ONE\nTWO\n");
}

// Neither length nor memory are what direct I/O takes: the page was changed through a mapping.
TEST_F(FileServerTest, LastPageOfADirectFileIsWrittenBack) {
  Put("f", std::string(5000, 'x'));
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "f");
  const uint64_t fh = client_->Open(node, O_RDWR | O_DIRECT);
  if (client_->error() == EINVAL) {
    GTEST_SKIP() << "the file system under the temporary directory has no O_DIRECT";
  }
  EXPECT_EQ(client_->Write(node, fh, 4096, std::string(904, 'y'), 0, FUSE_WRITE_CACHE), 904U);
  EXPECT_EQ(Get("f"), std::string(4096, 'x') + std::string(904, 'y'));
  // What the guest's process wrote itself has to be aligned.
  client_->Write(node, fh, 4096, std::string(904, 'z'));
  EXPECT_EQ(client_->error(), EINVAL);
}

TEST_F(FileServerTest, SetAttrChangesEachPart) {
  Put("a", "0123456789");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_setattr_in in{};
  in.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;
  in.mode = S_IFREG | 0751;
  in.size = 4;
  in.atime = 1000;
  in.mtime = 2000;
  in.mtimensec = 5;
  const fuse_attr attr = SetAttr(node, in).As<fuse_attr_out>().attr;
  EXPECT_EQ(attr.mode, static_cast<uint32_t>(S_IFREG | 0751));
  EXPECT_EQ(attr.size, 4U);
  EXPECT_EQ(attr.atime, 1000U);
  EXPECT_EQ(attr.mtime, 2000U);
  EXPECT_EQ(attr.mtimensec, 5U);
  EXPECT_EQ(Get("a"), "0123");
  fuse_setattr_in size{};
  size.valid = FATTR_SIZE;
  EXPECT_EQ(SetAttr(FUSE_ROOT_ID, size).error, EISDIR);
  size.size = ~uint64_t{0};
  EXPECT_EQ(SetAttr(node, size).error, EINVAL);
}

TEST_F(FileServerTest, TruncateByHandle) {
  Put("a", "0123456789");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE | FATTR_FH;
  in.size = 3;
  in.fh = client_->Open(node, O_WRONLY);
  EXPECT_EQ(SetAttr(node, in).error, 0);
  EXPECT_EQ(Get("a"), "012");
  in.fh = 4711;  // of nobody: by the inode
  in.size = 1;
  EXPECT_EQ(SetAttr(node, in).error, 0);
  EXPECT_EQ(Get("a"), "0");
}

TEST_F(FileServerTest, ChownClearsSetUserId) {
  if (!IsRoot()) {
    GTEST_SKIP() << "needs root";
  }
  Put("a", "x", 06755);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_setattr_in in{};
  in.valid = FATTR_UID | FATTR_GID;
  in.uid = 1000;
  in.gid = 1001;
  const fuse_attr attr = SetAttr(node, in).As<fuse_attr_out>().attr;
  EXPECT_EQ(attr.uid, 1000U);
  EXPECT_EQ(attr.gid, 1001U);
  EXPECT_EQ(attr.mode & 07777U, 0755U);
}

TEST_F(FileServerTest, LinksNodesAndDirectories) {
  const uint64_t sub = client_->Mkdir(FUSE_ROOT_ID, "sub", 0750);
  EXPECT_EQ(Stat("sub").st_mode, static_cast<mode_t>(S_IFDIR | 0750));
  const Reply link = client_->Call(FUSE_SYMLINK, sub, Body().Name("s").Name("../target"));
  const uint64_t node = link.As<fuse_entry_out>().nodeid;
  EXPECT_EQ(client_->Call(FUSE_READLINK, node, Body()).payload, "../target");
  EXPECT_EQ(client_->Call(FUSE_READLINK, sub, Body()).error, EINVAL);
  fuse_mknod_in fifo{};
  fifo.mode = S_IFIFO | 0640;
  const Reply made = client_->Call(FUSE_MKNOD, sub, Body().Put(fifo).Name("f"));
  EXPECT_TRUE(S_ISFIFO(made.As<fuse_entry_out>().attr.mode));
  EXPECT_EQ(client_->Call(FUSE_RMDIR, FUSE_ROOT_ID, Body().Name("sub")).error, ENOTEMPTY);
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "sub"), EISDIR);
  EXPECT_EQ(client_->Unlink(sub, "s"), 0);
  EXPECT_EQ(client_->Unlink(sub, "f"), 0);
  EXPECT_EQ(client_->Call(FUSE_RMDIR, FUSE_ROOT_ID, Body().Name("sub")).error, 0);
  client_->Mkdir(FUSE_ROOT_ID, "share");
  client_->Mkdir(FUSE_ROOT_ID, "share");
  EXPECT_EQ(client_->error(), EEXIST);
}

TEST_F(FileServerTest, DeviceNumbersTravelBothWays) {
  if (!IsRoot()) {
    GTEST_SKIP() << "needs root";
  }
  fuse_mknod_in in{};
  in.mode = S_IFCHR | 0600;
  const uint32_t major = 259;
  const uint32_t minor = 70000;
  in.rdev = (minor & 0xffU) | (major << 8U) | ((minor & ~0xffU) << 12U);
  const Reply made = client_->Call(FUSE_MKNOD, FUSE_ROOT_ID, Body().Put(in).Name("dev"));
  if (made.error == EPERM) {
    GTEST_SKIP() << "this host forbids device nodes";
  }
  EXPECT_EQ(made.error, 0);
  EXPECT_EQ(Stat("dev").st_rdev, makedev(major, minor));
  EXPECT_EQ(made.As<fuse_entry_out>().attr.rdev, in.rdev);
}

TEST_F(FileServerTest, HardLinkGrowsTheCount) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_link_in in{};
  in.oldnodeid = node;
  const Reply reply = client_->Call(FUSE_LINK, FUSE_ROOT_ID, Body().Put(in).Name("b"));
  EXPECT_EQ(reply.As<fuse_entry_out>().nodeid, node);
  EXPECT_EQ(reply.As<fuse_entry_out>().attr.nlink, 2U);
  EXPECT_EQ(client_->Call(FUSE_LINK, FUSE_ROOT_ID, Body().Put(in).Name("b")).error, EEXIST);
}

TEST_F(FileServerTest, RenameFlags) {
  Put("a", "A");
  Put("b", "B");
  const uint64_t a = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t b = client_->Lookup(FUSE_ROOT_ID, "b");
  EXPECT_EQ(Rename(1, "a", 1, "b", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(Rename(1, "a", 1, "b", 8), EINVAL);
  EXPECT_EQ(Rename(1, "a", 1, "b", RENAME_EXCHANGE), 0);
  EXPECT_EQ(Get("a"), "B");
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "a"), b);
  EXPECT_EQ(Rename(1, "a", 1, "c", 0), 0);
  EXPECT_EQ(Rename(1, "none", 1, "c", 0), ENOENT);
  EXPECT_EQ(Rename(1, "b", 1, "c", 0), 0);
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "c"), a);
  // The replaced file lives on for who knows its node.
  const uint64_t fh = client_->Open(b, O_RDONLY);
  EXPECT_EQ(client_->Read(b, fh, 0, 10), "B");
}

TEST_F(FileServerTest, WhiteoutIsLeftBehind) {
  Put("a", "A");
  const int error = Rename(1, "a", 1, "b", RENAME_WHITEOUT);
  if (error == EINVAL || error == EPERM) {
    GTEST_SKIP() << "the file system under the temporary directory has no whiteouts";
  }
  EXPECT_EQ(error, 0);
  EXPECT_TRUE(S_ISCHR(Stat("a").st_mode));
}

TEST_F(FileServerTest, UnlinkedFileStaysReachableByItsNode) {
  Put("a", "still here");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "a"), 0);
  EXPECT_EQ(client_->GetAttr(node).nlink, 0U);
  EXPECT_EQ(client_->error(), 0);
  const uint64_t fh = client_->Open(node, O_RDONLY);
  EXPECT_EQ(client_->Read(node, fh, 0, 100), "still here");
  client_->Release(node, fh);
  client_->Forget(node);
  EXPECT_EQ(server_->stats().inodes, 1U);
}

TEST_F(FileServerTest, TmpFileGetsANameByLink) {
  fuse_create_in in{};
  in.flags = O_RDWR;
  in.mode = 0640;
  const Reply made = client_->Call(FUSE_TMPFILE, FUSE_ROOT_ID, Body().Put(in).Name("#x"));
  if (made.error == EOPNOTSUPP) {
    GTEST_SKIP() << "the file system under the temporary directory has no O_TMPFILE";
  }
  ASSERT_EQ(made.error, 0);
  const uint64_t node = made.As<fuse_entry_out>().nodeid;
  const uint64_t fh = made.As<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  EXPECT_EQ(client_->Write(node, fh, 0, "anonymous"), 9U);
  fuse_link_in link{};
  link.oldnodeid = node;
  EXPECT_EQ(client_->Call(FUSE_LINK, FUSE_ROOT_ID, Body().Put(link).Name("named")).error, 0);
  EXPECT_EQ(Get("named"), "anonymous");
}

TEST_F(FileServerTest, DirectoriesAreListedWhole) {
  std::vector<std::string> names = {".", ".."};
  for (int i = 0; i < 300; ++i) {
    names.push_back("file-with-a-name-" + std::to_string(i));
    Put(names.back(), "");
  }
  for (const uint32_t size : {512U, 4096U, 65536U, 0xffffffU}) {
    for (const bool plus : {false, true}) {
      std::vector<std::string> found;
      for (const auto& entry : client_->ReadAll(FUSE_ROOT_ID, plus, size)) {
        found.push_back(entry.name);
        EXPECT_EQ(plus && entry.name[0] != '.', entry.entry.nodeid != 0);
      }
      EXPECT_THAT(found, ::testing::UnorderedElementsAreArray(names)) << size << plus;
    }
  }
  EXPECT_EQ(server_->stats().inodes, 301U);
}

TEST_F(FileServerTest, ReplySpaceForNoEntryIsInvalid) {
  Put("name", "");
  fuse_read_in in{};
  in.fh = client_->Call(FUSE_OPENDIR, 1, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  in.size = 20;
  EXPECT_EQ(client_->Call(FUSE_READDIR, 1, Body().Put(in)).error, EINVAL);
}

TEST_F(FileServerTest, Xattrs) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const Reply set = SetXattr(node, "user.k", "value", 0);
  if (set.error == EOPNOTSUPP) {
    GTEST_SKIP() << "the file system under the temporary directory has no user xattrs";
  }
  ASSERT_EQ(set.error, 0);
  EXPECT_EQ(SetXattr(node, "user.k", "v", XATTR_CREATE).error, EEXIST);
  EXPECT_EQ(SetXattr(node, "user.n", "v", XATTR_REPLACE).error, ENODATA);
  fuse_getxattr_in in{};
  EXPECT_EQ(client_->Call(FUSE_GETXATTR, node, Body().Put(in).Name("user.k"))
                .As<fuse_getxattr_out>()
                .size,
            5U);
  in.size = 100;
  EXPECT_EQ(client_->Call(FUSE_GETXATTR, node, Body().Put(in).Name("user.k")).payload, "value");
  in.size = 2;
  EXPECT_EQ(client_->Call(FUSE_GETXATTR, node, Body().Put(in).Name("user.k")).error, ERANGE);
  in.size = 1000;
  EXPECT_NE(client_->Call(FUSE_LISTXATTR, node, Body().Put(in)).payload.find("user.k"),
            std::string::npos);
  EXPECT_EQ(client_->Call(FUSE_REMOVEXATTR, node, Body().Name("user.k")).error, 0);
  EXPECT_EQ(client_->Call(FUSE_REMOVEXATTR, node, Body().Name("user.k")).error, ENODATA);
}

TEST_F(FileServerTest, FileOperationsOfAHandle) {
  uint64_t node = 0;
  const uint64_t fh = client_->Create(FUSE_ROOT_ID, "a", O_RDWR, 0644, &node);
  fuse_fallocate_in allocate{};
  allocate.fh = fh;
  allocate.length = 1 << 20;
  EXPECT_EQ(client_->Call(FUSE_FALLOCATE, node, Body().Put(allocate)).error, 0);
  EXPECT_EQ(Stat("a").st_size, 1 << 20);
  allocate.length = ~uint64_t{0};
  EXPECT_EQ(client_->Call(FUSE_FALLOCATE, node, Body().Put(allocate)).error, EFBIG);
  client_->Write(node, fh, 0, "data");
  fuse_lseek_in seek{};
  seek.fh = fh;
  seek.whence = SEEK_DATA;
  EXPECT_EQ(client_->Call(FUSE_LSEEK, node, Body().Put(seek)).As<fuse_lseek_out>().offset, 0U);
  seek.offset = 1 << 21;
  EXPECT_EQ(client_->Call(FUSE_LSEEK, node, Body().Put(seek)).error, ENXIO);
  seek.whence = SEEK_END;
  EXPECT_EQ(client_->Call(FUSE_LSEEK, node, Body().Put(seek)).error, EINVAL);
  uint64_t copy_node = 0;
  fuse_copy_file_range_in copy{};
  copy.fh_in = fh;
  copy.fh_out = client_->Create(FUSE_ROOT_ID, "b", O_RDWR, 0644, &copy_node);
  copy.nodeid_out = copy_node;
  copy.len = 4;
  const Reply copied = client_->Call(FUSE_COPY_FILE_RANGE, node, Body().Put(copy));
  EXPECT_EQ(copied.As<fuse_write_out>().size, 4U);
  EXPECT_EQ(Get("b"), "data");
  fuse_fsync_in sync{};
  sync.fh = fh;
  EXPECT_EQ(client_->Call(FUSE_FSYNC, node, Body().Put(sync)).error, 0);
  fuse_flush_in flush{};
  flush.fh = fh;
  EXPECT_EQ(client_->Call(FUSE_FLUSH, node, Body().Put(flush)).error, 0);
}

TEST_F(FileServerTest, StatXTellsTheTimeOfBirth) {
  Put("a", "hello", 0640);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");

  struct statx host {};

  ASSERT_EQ(::statx(AT_FDCWD, Host("a").c_str(), AT_SYMLINK_NOFOLLOW,
                    STATX_BASIC_STATS | STATX_BTIME, &host),
            0);
  StatxIn in{};
  in.sx_mask = STATX_BASIC_STATS | STATX_BTIME;
  for (const uint64_t fh : {uint64_t{0}, client_->Open(node, O_RDONLY), uint64_t{4711}}) {
    in.fh = fh;
    in.getattr_flags = fh == 0 ? 0 : FUSE_GETATTR_FH;
    const Reply reply = client_->Call(kOpcodeStatx, node, Body().Put(in));
    ASSERT_EQ(reply.error, 0);
    const auto out = reply.As<StatxOut>();
    EXPECT_EQ(out.attr_valid, 1U);
    EXPECT_EQ(out.stat.mask, host.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
    EXPECT_EQ(out.stat.size, 5U);
    EXPECT_EQ(out.stat.mode, host.stx_mode);
    EXPECT_EQ(out.stat.ino, host.stx_ino);
    EXPECT_EQ(out.stat.btime.seconds, host.stx_btime.tv_sec);
    EXPECT_EQ(out.stat.btime.nanoseconds, host.stx_btime.tv_nsec);
    EXPECT_EQ(out.stat.mtime.nanoseconds, host.stx_mtime.tv_nsec);
  }
  // Bits that are none of the guest's are not passed on.
  in.sx_flags = 0xffff9fff;
  in.sx_mask = 0xffffffff;
  EXPECT_EQ(client_->Call(kOpcodeStatx, node, Body().Put(in)).error, 0);
  in.sx_flags = AT_STATX_SYNC_TYPE;
  EXPECT_EQ(client_->Call(kOpcodeStatx, node, Body().Put(in)).error, EINVAL);
  EXPECT_EQ(client_->Call(kOpcodeStatx, 4711, Body().Put(in)).error, ESTALE);
}

TEST_F(FileServerTest, FallocateModes) {
  uint64_t node = 0;
  fuse_fallocate_in in{};
  in.fh = client_->Create(FUSE_ROOT_ID, "a", O_RDWR, 0644, &node);
  client_->Write(node, in.fh, 0, std::string(8192, 'x'));
  const auto allocate = [&](uint32_t mode, uint64_t offset, uint64_t length) {
    in.mode = mode;
    in.offset = offset;
    in.length = length;
    return client_->Call(FUSE_FALLOCATE, node, Body().Put(in)).error;
  };
  EXPECT_EQ(allocate(FALLOC_FL_KEEP_SIZE, 8192, 4096), 0);
  EXPECT_EQ(Stat("a").st_size, 8192);
  EXPECT_EQ(allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  EXPECT_EQ(client_->Read(node, in.fh, 0, 1), std::string(1, '\0'));
  EXPECT_EQ(client_->Read(node, in.fh, 4096, 1), "x");
  EXPECT_EQ(allocate(0, 8192, 8192), 0);
  EXPECT_EQ(Stat("a").st_size, 16384);
  for (const uint32_t mode : {uint32_t{FALLOC_FL_COLLAPSE_RANGE}, uint32_t{FALLOC_FL_INSERT_RANGE},
                              uint32_t{FALLOC_FL_UNSHARE_RANGE}, uint32_t{FALLOC_FL_NO_HIDE_STALE},
                              uint32_t{1U << 31U}}) {
    EXPECT_EQ(allocate(mode, 0, 4096), EOPNOTSUPP) << mode;
  }
}

TEST_F(FileServerTest, FileSystemOperations) {
  struct statvfs host {};

  ASSERT_EQ(::statvfs(dir_.c_str(), &host), 0);
  const auto out = client_->Call(FUSE_STATFS, FUSE_ROOT_ID, Body()).As<fuse_statfs_out>();
  EXPECT_EQ(out.st.blocks, host.f_blocks);
  EXPECT_EQ(out.st.frsize, host.f_frsize);
  EXPECT_EQ(client_->Call(FUSE_SYNCFS, FUSE_ROOT_ID, Body().Put(uint64_t{0})).error, 0);
}

// CVE-2026-46695, CVE-2020-28914: read-only is what the server does, whatever the guest mounted.
TEST_F(FileServerTest, Cve202646695ReadOnlyRefusesEveryMutator) {
  Put("a", "x");
  FileServerOptions options;
  options.policy.read_only = true;
  Serve(std::move(options));
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  EXPECT_NE(client_->Open(node, O_RDONLY), 0U);
  for (const uint32_t flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) {
    client_->Open(node, flags);
    EXPECT_EQ(client_->error(), EROFS);
  }
  client_->Create(FUSE_ROOT_ID, "n", O_RDWR, 0644);
  EXPECT_EQ(client_->error(), EROFS);
  client_->Mkdir(FUSE_ROOT_ID, "n");
  EXPECT_EQ(client_->error(), EROFS);
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "a"), EROFS);
  EXPECT_EQ(Rename(1, "a", 1, "b", 0), EROFS);
  EXPECT_EQ(SetXattr(node, "user.k", "v", 0).error, EROFS);
  EXPECT_EQ(client_->Call(FUSE_REMOVEXATTR, node, Body().Name("user.k")).error, EROFS);
  EXPECT_EQ(SetAttr(node, fuse_setattr_in{}).error, EROFS);
  EXPECT_EQ(client_->Call(FUSE_SYMLINK, 1, Body().Name("n").Name("t")).error, EROFS);
  EXPECT_EQ(client_->Call(FUSE_MKNOD, 1, Body().Put(fuse_mknod_in{}).Name("n")).error, EROFS);
  EXPECT_EQ(client_->Call(FUSE_TMPFILE, 1, Body().Put(fuse_create_in{}).Name("n")).error, EROFS);
  fuse_link_in link{};
  link.oldnodeid = node;
  EXPECT_EQ(client_->Call(FUSE_LINK, 1, Body().Put(link).Name("n")).error, EROFS);
  // Through a file that is open for reading.
  const uint64_t fh = client_->Open(node, O_RDONLY);
  client_->Write(node, fh, 0, "y");
  EXPECT_EQ(client_->error(), EBADF);
  fuse_fallocate_in allocate{};
  allocate.fh = fh;
  allocate.length = 1;
  EXPECT_EQ(client_->Call(FUSE_FALLOCATE, node, Body().Put(allocate)).error, EBADF);
  fuse_copy_file_range_in copy{};
  copy.fh_in = copy.fh_out = fh;
  copy.off_out = 1;
  copy.len = 1;
  EXPECT_EQ(client_->Call(FUSE_COPY_FILE_RANGE, node, Body().Put(copy)).error, EBADF);
  EXPECT_EQ(Get("a"), "x");
}

}  // namespace
}  // namespace wyvern::fs
