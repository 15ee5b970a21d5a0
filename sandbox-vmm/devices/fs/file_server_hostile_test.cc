#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <cerrno>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::Reply;

class HostileRequestTest : public testing::FsTest {};

TEST_F(HostileRequestTest, ShorterThanAHeaderIsDroppedAndCounted) {
  EXPECT_FALSE(client_->Raw("short", 4096).answered);
  EXPECT_EQ(server_->stats().faults, 1U);
}

TEST_F(HostileRequestTest, NoRoomForTheReplyIsCounted) {
  const std::string request(sizeof(fuse_in_header), '\0');
  EXPECT_FALSE(client_->Raw(request, 15).answered);
  EXPECT_EQ(server_->stats().faults, 1U);
}

TEST_F(HostileRequestTest, LengthBeyondTheChainIsInvalid) {
  fuse_in_header header{};
  header.len = 4096;
  header.opcode = FUSE_LOOKUP;
  header.nodeid = FUSE_ROOT_ID;
  const Reply reply = client_->Raw(Body().Put(header).Name("x").bytes(), 4096);
  EXPECT_EQ(reply.error, EINVAL);
}

TEST_F(HostileRequestTest, LengthShorterThanTheHeaderIsInvalid) {
  fuse_in_header header{};
  header.len = 3;
  header.opcode = FUSE_GETATTR;
  header.nodeid = FUSE_ROOT_ID;
  const Reply reply = client_->Raw(Body().Put(header).Put(fuse_getattr_in{}).bytes(), 4096);
  EXPECT_EQ(reply.error, EINVAL);
}

TEST_F(HostileRequestTest, UnknownOpcodesAreNotImplemented) {
  // GETLK, IOCTL and SETUPMAPPING are known, but not offered here.
  for (const uint32_t opcode : {0U, 7U, 19U, 37U, 39U, 48U, 53U, 4096U, 0xffffffffU}) {
    EXPECT_EQ(client_->Call(opcode, FUSE_ROOT_ID, Body()).error, ENOSYS) << opcode;
  }
}

TEST_F(HostileRequestTest, EveryOpcodeWithoutArgumentsSurvives) {
  for (uint32_t opcode = 0; opcode < 64; ++opcode) {
    if (opcode != FUSE_DESTROY && opcode != FUSE_INIT) {
      client_->Call(opcode, FUSE_ROOT_ID, Body(), 0);
      client_->Call(opcode, 12345, Body().Raw(std::string(7, 'x')), 4096);
    }
  }
  EXPECT_NE(client_->GetAttr(FUSE_ROOT_ID).ino, 0U);
}

TEST_F(HostileRequestTest, RequestBeforeInitIsRefused) {
  client_->Call(FUSE_DESTROY, 0, Body());
  EXPECT_EQ(client_->Call(FUSE_GETATTR, FUSE_ROOT_ID, Body().Put(fuse_getattr_in{})).error, EIO);
}

TEST_F(HostileRequestTest, OldProtocolIsRefused) {
  EXPECT_EQ(client_->Init(~uint64_t{0}, 30).error, EPROTO);
}

TEST_F(HostileRequestTest, InitAgainForgetsEverything) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  ASSERT_NE(node, 0U);
  ASSERT_EQ(client_->Init().error, 0);
  EXPECT_EQ(server_->stats().inodes, 1U);
  client_->GetAttr(node);
  EXPECT_EQ(client_->error(), ESTALE);
}

// crosvm 2706eee79: a name with a slash, or "..", leaves the directory.
TEST_F(HostileRequestTest, Crosvm2706eee79NamesThatAreNoComponentAreInvalid) {
  Put("a", "x");
  for (const char* name : {"", ".", "..", "a/b", "/", "../share/a"}) {
    EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Name(name)).error, EINVAL) << name;
    EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, name), EINVAL) << name;
    client_->Mkdir(FUSE_ROOT_ID, name);
    EXPECT_EQ(client_->error(), EINVAL) << name;
    client_->Create(FUSE_ROOT_ID, name, O_RDWR, 0644);
    EXPECT_EQ(client_->error(), EINVAL) << name;
    const Body renamed = Body().Put(fuse_rename2_in{FUSE_ROOT_ID, 0, 0}).Name("a").Name(name);
    EXPECT_EQ(client_->Call(FUSE_RENAME2, FUSE_ROOT_ID, renamed).error, EINVAL) << name;
    const Body link = Body().Put(fuse_link_in{FUSE_ROOT_ID}).Name(name);
    EXPECT_EQ(client_->Call(FUSE_LINK, FUSE_ROOT_ID, link).error, EINVAL) << name;
    const Body symlink = Body().Name(name).Name("target");
    EXPECT_EQ(client_->Call(FUSE_SYMLINK, FUSE_ROOT_ID, symlink).error, EINVAL) << name;
    const Body node = Body().Put(fuse_mknod_in{}).Name(name);
    EXPECT_EQ(client_->Call(FUSE_MKNOD, FUSE_ROOT_ID, node).error, EINVAL) << name;
    EXPECT_EQ(client_->Call(FUSE_RMDIR, FUSE_ROOT_ID, Body().Name(name)).error, EINVAL) << name;
  }
}

TEST_F(HostileRequestTest, NameWithoutTerminatorIsInvalid) {
  EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Raw("abc")).error, EINVAL);
}

TEST_F(HostileRequestTest, LongNameIsTooLong) {
  client_->Lookup(FUSE_ROOT_ID, std::string(256, 'n'));
  EXPECT_EQ(client_->error(), ENAMETOOLONG);
}

TEST_F(HostileRequestTest, HugeArgumentsAreRefused) {
  const std::string huge(kMaxArgumentBytes + 1, 'x');
  EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Raw(huge)).error, E2BIG);
}

TEST_F(HostileRequestTest, ExtensionsLongerThanTheArgumentsAreInvalid) {
  client_->extension_words = 0xffff;
  EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Name("abcdefg")).error, EINVAL);
}

TEST_F(HostileRequestTest, ForgetOfUnknownNodesAndTooManyIsIgnored) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  client_->Forget(999999, 7);
  client_->Forget(FUSE_ROOT_ID, ~uint64_t{0});
  client_->Forget(node, ~uint64_t{0});
  client_->Forget(node, 1);
  EXPECT_EQ(server_->stats().inodes, 1U);
  EXPECT_NE(client_->GetAttr(FUSE_ROOT_ID).ino, 0U);
}

TEST_F(HostileRequestTest, BatchForgetWithALyingCountTakesWhatIsThere) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_batch_forget_in batch{};
  batch.count = 0xffffffff;
  client_->Call(FUSE_BATCH_FORGET, 0, Body().Put(batch).Put(fuse_forget_one{node, 1}), 0);
  EXPECT_EQ(server_->stats().inodes, 1U);
}

TEST_F(HostileRequestTest, UnknownHandlesAreBad) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t directory =
      client_->Call(FUSE_OPENDIR, FUSE_ROOT_ID, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  for (const uint64_t fh : {uint64_t{0}, uint64_t{77}, ~uint64_t{0}, directory}) {
    client_->Read(node, fh, 0, 16);
    EXPECT_EQ(client_->error(), EBADF);
    client_->Write(node, fh, 0, "data");
    EXPECT_EQ(client_->error(), EBADF);
  }
  const uint64_t file = client_->Open(node, O_RDONLY);
  fuse_read_in in{};
  in.fh = file;
  in.size = 4096;
  EXPECT_EQ(client_->Call(FUSE_READDIR, FUSE_ROOT_ID, Body().Put(in)).error, EBADF);
  in.fh = directory;
  EXPECT_EQ(client_->Call(FUSE_READDIR, node, Body().Put(in)).error, EBADF);
}

TEST_F(HostileRequestTest, HugeReadGivesWhatFits) {
  Put("a", std::string(10000, 'r'));
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t fh = client_->Open(node, O_RDONLY);
  fuse_read_in in{};
  in.fh = fh;
  in.size = 0xffffffff;
  EXPECT_EQ(client_->Call(FUSE_READ, node, Body().Put(in), 100).payload.size(), 100U);
  in.offset = ~uint64_t{0};
  EXPECT_EQ(client_->Call(FUSE_READ, node, Body().Put(in), 100).error, EINVAL);
}

TEST_F(HostileRequestTest, WriteWithMoreThanItCarriesIsInvalid) {
  uint64_t node = 0;
  const uint64_t fh = client_->Create(FUSE_ROOT_ID, "w", O_RDWR, 0644, &node);
  fuse_write_in in{};
  in.fh = fh;
  in.size = 100;
  EXPECT_EQ(client_->Call(FUSE_WRITE, node, Body().Put(in).Raw("short")).error, EINVAL);
  in.size = kMaxIoBytes + 1;
  EXPECT_EQ(client_->Call(FUSE_WRITE, node, Body().Put(in).Raw("short")).error, EINVAL);
  in.size = 0xffffffff;
  EXPECT_EQ(client_->Call(FUSE_WRITE, node, Body().Put(in)).error, EINVAL);
  EXPECT_EQ(Get("w"), "");
}

TEST_F(HostileRequestTest, ReplySpaceTooSmallForAnEntryCountsNoLookup) {
  Put("a", "x");
  EXPECT_EQ(client_->Call(FUSE_LOOKUP, FUSE_ROOT_ID, Body().Name("a"), 8).error, EIO);
  EXPECT_EQ(server_->stats().inodes, 1U);
}

TEST_F(HostileRequestTest, ReplySpaceTooSmallForOpenLeavesNoHandle) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_open_in in{};
  EXPECT_EQ(client_->Call(FUSE_OPEN, node, Body().Put(in), 8).error, EIO);
  EXPECT_EQ(client_->Call(FUSE_OPENDIR, FUSE_ROOT_ID, Body().Put(in), 8).error, EIO);
  EXPECT_EQ(server_->stats().handles, 0U);
}

TEST_F(HostileRequestTest, OpenFilesAreBounded) {
  FileServerOptions options;
  options.max_handles = 8;  // one export may have half of them
  Serve(std::move(options));
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  for (int i = 0; i < 4; ++i) {
    EXPECT_NE(client_->Open(node, O_RDONLY), 0U);
  }
  client_->Open(node, O_RDONLY);
  EXPECT_EQ(client_->error(), ENFILE);
  EXPECT_EQ(server_->stats().handles, 4U);
}

// CVE-2020-10717: a guest that opens until the process has no descriptor left. It gets ENFILE, and
// the server goes on with what needs none.
TEST_F(HostileRequestTest, Cve202010717EndOfDescriptorsIsNotTheEnd) {
  Put("a", "content");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t fh = client_->Open(node, O_RDONLY);
  const UniqueFd last(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{static_cast<rlim_t>(last.get()) + 5, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<uint64_t> open;
  while (client_->error() == 0 && open.size() < 100) {
    open.push_back(client_->Open(node, O_RDONLY));
  }
  const int at_the_end = client_->error();
  const std::string still = client_->Read(node, fh, 0, 100);
  const uint64_t size = client_->GetAttr(node).size;
  client_->Create(FUSE_ROOT_ID, "new", O_RDWR, 0644);
  const int no_more = client_->error();
  client_->Release(node, open.front());
  const uint64_t again = client_->Open(node, O_RDONLY);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(at_the_end, ENFILE);
  EXPECT_LT(open.size(), 10U);
  EXPECT_EQ(still, "content");
  EXPECT_EQ(size, 7U);
  EXPECT_EQ(no_more, ENFILE);
  EXPECT_NE(again, 0U);
}

TEST_F(HostileRequestTest, HugeReadDirIsNotRejected) {
  Put("a", "x");
  fuse_read_in in{};
  in.fh = client_->Call(FUSE_OPENDIR, 1, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  in.size = 0xffffffff;
  const Reply reply = client_->Call(FUSE_READDIR, 1, Body().Put(in), 1 << 16);
  EXPECT_EQ(reply.error, 0);
  EXPECT_GT(reply.payload.size(), 3 * FUSE_NAME_OFFSET);
}

// Cookies are the host's, all 64 bits of them: what is none of its cookies is its error, or an end.
TEST_F(HostileRequestTest, CookiesOfAllSizesReachTheHost) {
  Put("a", "x");
  fuse_read_in in{};
  in.fh = client_->Call(FUSE_OPENDIR, 1, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  in.size = 4096;
  for (const uint64_t cookie : {~uint64_t{0}, uint64_t{1} << 63U, uint64_t{INT64_MAX},
                                uint64_t{INT64_MAX} - 1, uint64_t{0xdeadbeefcafe}}) {
    in.offset = cookie;
    const Reply reply = client_->Call(FUSE_READDIR, 1, Body().Put(in));
    EXPECT_TRUE(reply.error == 0 || reply.error == EINVAL) << reply.error;
  }
  in.offset = 0;
  EXPECT_FALSE(client_->Call(FUSE_READDIR, 1, Body().Put(in)).payload.empty());
}

TEST_F(HostileRequestTest, InodesAreBounded) {
  FileServerOptions options;
  options.inodes.inodes = 3;
  Serve(std::move(options));
  for (const char* name : {"a", "b", "c"}) {
    Put(name, name);
  }
  EXPECT_NE(client_->Lookup(FUSE_ROOT_ID, "a"), 0U);
  EXPECT_NE(client_->Lookup(FUSE_ROOT_ID, "b"), 0U);
  EXPECT_EQ(client_->Lookup(FUSE_ROOT_ID, "c"), 0U);
  EXPECT_EQ(client_->error(), ENFILE);
}

TEST_F(HostileRequestTest, XattrsAreBounded) {
  Put("a", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  fuse_setxattr_in in{};
  in.size = 0xffffffff;
  const std::string head(reinterpret_cast<const char*>(&in), FUSE_COMPAT_SETXATTR_IN_SIZE);
  EXPECT_EQ(client_->Call(FUSE_SETXATTR, node, Body().Raw(head).Name("user.x")).error, E2BIG);
  fuse_getxattr_in get{};
  get.size = 0xffffffff;
  EXPECT_EQ(client_->Call(FUSE_GETXATTR, node, Body().Put(get).Name("user.none")).error, ENODATA);
}

// CVE-2020-35517: what the guest made is a device on the host, too; the server must never open it.
TEST_F(HostileRequestTest, Cve202035517SpecialFilesAreNeverOpened) {
  ASSERT_EQ(::mkfifo(Host("fifo").c_str(), 0666), 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", Host("socket").c_str());
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(listener);
  std::vector<std::string> names = {"fifo", "socket"};
  if (IsRoot() && ::mknod(Host("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) {
    names.emplace_back("null");
  }
  for (const std::string& name : names) {
    const uint64_t node = client_->Lookup(FUSE_ROOT_ID, name);
    ASSERT_NE(node, 0U) << name;
    for (const uint32_t flags : {O_RDONLY, O_WRONLY, O_RDWR | O_TRUNC}) {
      client_->Open(node, flags);
      EXPECT_EQ(client_->error(), ENXIO) << name;
    }
    client_->Create(FUSE_ROOT_ID, name, O_RDWR, 0644);
    EXPECT_EQ(client_->error(), ENXIO) << name;
    fuse_setattr_in size{};
    size.valid = FATTR_SIZE;
    EXPECT_EQ(client_->Call(FUSE_SETATTR, node, Body().Put(size)).error, EINVAL) << name;
  }
  EXPECT_EQ(server_->stats().handles, 0U);
}

TEST_F(HostileRequestTest, LinksAreNotFollowed) {
  ASSERT_EQ(::symlink("/etc/passwd", Host("passwd").c_str()), 0);
  ASSERT_EQ(::symlink("..", Host("up").c_str()), 0);
  const fuse_entry_out link = client_->LookupEntry(FUSE_ROOT_ID, "passwd");
  EXPECT_TRUE(S_ISLNK(link.attr.mode));
  client_->Open(link.nodeid, O_RDONLY);
  EXPECT_EQ(client_->error(), ENXIO);
  client_->Create(FUSE_ROOT_ID, "passwd", O_RDWR, 0644);
  EXPECT_EQ(client_->error(), ENXIO);
  const uint64_t up = client_->Lookup(FUSE_ROOT_ID, "up");
  client_->Lookup(up, "share");
  EXPECT_EQ(client_->error(), ENOTDIR);
  client_->Mkdir(up, "x");
  EXPECT_EQ(client_->error(), ENOTDIR);
  EXPECT_EQ(client_->Call(FUSE_OPENDIR, up, Body().Put(fuse_open_in{})).error, ENOTDIR);
  // chmod of a link must not reach its target.
  fuse_setattr_in mode{};
  mode.valid = FATTR_MODE;
  mode.mode = 0777;
  EXPECT_EQ(client_->Call(FUSE_SETATTR, link.nodeid, Body().Put(mode)).error, EOPNOTSUPP);
}

// crosvm b4a952843 opened what it had created again by its name. The name that was looked up is another
// file now: the inode must not become that file.
TEST_F(HostileRequestTest, Crosvmb4a952843ReplacedNameIsStaleNotAnotherFile) {
  Put("secret", "secret");
  Put("a", "mine");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  ASSERT_EQ(::rename(Host("secret").c_str(), Host("a").c_str()), 0);
  client_->Open(node, O_RDONLY);
  EXPECT_EQ(client_->error(), ESTALE);
}

}  // namespace
}  // namespace wyvern::fs
