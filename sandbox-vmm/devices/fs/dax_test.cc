// SETUPMAPPING, REMOVEMAPPING, and which files a guest is told to access by the window.
#include <gtest/gtest.h>

#include <cerrno>

#include "fs/fs_device.h"
#include "fs/testing/fake_dax_window.h"
#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;
using testing::FakeDaxWindow;

constexpr uint64_t kRange = kDaxRangeBytes;
constexpr uint64_t kRead = FUSE_SETUPMAPPING_FLAG_READ;
constexpr uint64_t kWrite = FUSE_SETUPMAPPING_FLAG_WRITE;

class DaxTest : public testing::FsTest {
 protected:
  void SetUp() override {
    FsTest::SetUp();
    ServeWith({});
  }

  void TearDown() override {
    client_.reset();
    server_.reset();  // before the window
    FsTest::TearDown();
  }

  void ServeWith(FileServerOptions options) {
    options.dax_window = &window_;
    Serve(std::move(options));
  }

  int Map(uint64_t node, uint64_t file_offset, uint64_t window_offset, uint64_t length = kRange,
          uint64_t flags = kRead) {
    fuse_setupmapping_in in{};
    in.fh = ~uint64_t{0};
    in.foffset = file_offset;
    in.len = length;
    in.flags = flags;
    in.moffset = window_offset;
    return client_->Call(FUSE_SETUPMAPPING, node, Body().Put(in)).error;
  }

  int Unmap(uint64_t node, uint64_t window_offset, uint64_t length = kRange) {
    const fuse_removemapping_in in{1};
    const fuse_removemapping_one one{window_offset, length};
    return client_->Call(FUSE_REMOVEMAPPING, node, Body().Put(in).Put(one)).error;
  }

  // A file of 4 MiB that begins with `text` and has it again at 2 MiB.
  uint64_t MakeFile(const std::string& name, const std::string& text) {
    std::string content(2 * kRange, '.');
    content.replace(0, text.size(), text);
    content.replace(kRange, text.size(), text);
    Put(name, content);
    return client_->Lookup(FUSE_ROOT_ID, name);
  }

  FakeDaxWindow window_{8 * kRange};
};

TEST_F(DaxTest, MappingShowsTheFile) {
  const uint64_t node = MakeFile("a", "hello");
  EXPECT_EQ(Map(node, kRange, 3 * kRange), 0);
  EXPECT_EQ(window_.Look(3 * kRange, 6), "hello.");
  EXPECT_EQ(server_->stats().dax_ranges, 1U);
  EXPECT_EQ(Unmap(node, 3 * kRange), 0);
  EXPECT_EQ(window_.Look(3 * kRange, 2), std::string(2, '\0'));
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
  EXPECT_EQ(server_->stats().handles, 0U);
}

TEST_F(DaxTest, WritableMappingReachesTheFile) {
  const uint64_t node = MakeFile("a", "hello");
  EXPECT_EQ(Map(node, 0, 0), 0);
  EXPECT_EQ(Map(node, 0, 0, kRange, kRead | kWrite), 0);  // Linux makes it writable so
  window_.Put(0, "J");
  EXPECT_EQ(Get("a").substr(0, 5), "Jello");
  EXPECT_EQ(server_->stats().dax_ranges, 1U);
}

// VIRTIO §5.11.6.4: the window takes the place of no request.
TEST_F(DaxTest, ReadsAndWritesAreServedBesideTheWindow) {
  const uint64_t node = MakeFile("a", "hello");
  ASSERT_EQ(Map(node, 0, 0, kRange, kRead | kWrite), 0);
  const uint64_t fh = client_->Open(node, O_RDWR);
  window_.Put(0, "J");
  EXPECT_EQ(client_->Read(node, fh, 0, 5), "Jello");
  EXPECT_EQ(client_->Write(node, fh, 4, "y!"), 2U);
  EXPECT_EQ(window_.Look(0, 6), "Jelly!");
}

TEST_F(DaxTest, WithoutAWindowNothingIsOffered) {
  Serve();
  Put("a", std::string(2 << 20, 'a'));
  const fuse_entry_out entry = client_->LookupEntry(FUSE_ROOT_ID, "a");
  EXPECT_EQ(entry.attr.flags & FUSE_ATTR_DAX, 0U);
  EXPECT_EQ(Map(entry.nodeid, 0, 0), ENOSYS);
  EXPECT_EQ(Unmap(entry.nodeid, 0), ENOSYS);
  const auto out = client_->Init().As<fuse_init_out>();
  EXPECT_EQ(out.flags & FUSE_MAP_ALIGNMENT, 0U);
  EXPECT_EQ(out.map_alignment, 0U);
}

TEST_F(DaxTest, InitAsksForAlignment) {
  const auto out = client_->Init().As<fuse_init_out>();
  EXPECT_NE(out.flags & FUSE_MAP_ALIGNMENT, 0U);
  EXPECT_EQ(out.map_alignment, 21U);
  EXPECT_NE(out.flags2 & uint32_t{FUSE_HAS_INODE_DAX >> 32U}, 0U);
}

TEST_F(DaxTest, OnlyLargeFilesOfAGuestThatAsksAreMarked) {
  Put("small", "x");
  Put("large", std::string(1 << 20, 'x'));
  ASSERT_EQ(::mkdir(Host("d").c_str(), 0755), 0);
  const auto marked = [&](const char* name) {
    const fuse_entry_out entry = client_->LookupEntry(FUSE_ROOT_ID, name);
    const uint32_t flags = client_->GetAttr(entry.nodeid).flags;
    EXPECT_EQ(entry.attr.flags & FUSE_ATTR_DAX, flags & FUSE_ATTR_DAX);
    return (flags & FUSE_ATTR_DAX) != 0;
  };
  EXPECT_FALSE(marked("small"));
  EXPECT_TRUE(marked("large"));
  EXPECT_FALSE(marked("d"));
  ASSERT_EQ(client_->Init(FUSE_MAX_PAGES).error, 0);
  EXPECT_FALSE(marked("large"));
  FileServerOptions options;
  options.policy.dax_min_bytes = 0;
  ServeWith(std::move(options));
  EXPECT_TRUE(marked("small"));
}

// VIRTIO §5.11.6.4: mappings beyond the end of the window are rejected.
TEST_F(DaxTest, RangesThatAreNoneAreInvalid) {
  const uint64_t node = MakeFile("a", "hello");
  const uint64_t size = window_.size();
  EXPECT_EQ(Map(node, 0, size), EINVAL);
  EXPECT_EQ(Map(node, 0, size - kRange, 2 * kRange), EINVAL);
  EXPECT_EQ(Map(node, 0, 0, size + kRange), EINVAL);
  EXPECT_EQ(Map(node, 0, 0, 0), EINVAL);
  EXPECT_EQ(Map(node, 0, 4096), EINVAL);
  EXPECT_EQ(Map(node, 4096, 0), EINVAL);
  EXPECT_EQ(Map(node, 0, 0, 100), EINVAL);
  EXPECT_EQ(Map(node, 0, ~uint64_t{0} - kRange + 1), EINVAL);
  EXPECT_EQ(Map(node, 0, kRange, ~uint64_t{0} - kRange + 1), EINVAL);
  EXPECT_EQ(Map(node, ~uint64_t{0} - kRange + 1, 0), EINVAL);
  EXPECT_EQ(Map(node, uint64_t{1} << 63U, 0), EINVAL);
  EXPECT_EQ(Map(node, 0, 0, kRange, 0), EINVAL);
  EXPECT_EQ(Map(node, 0, 0, kRange, 4), EINVAL);
  EXPECT_EQ(Unmap(node, size), EINVAL);
  EXPECT_EQ(Unmap(node, 0, size + kRange), EINVAL);
  EXPECT_EQ(Unmap(node, 1), EINVAL);
  EXPECT_EQ(Unmap(node, 0, 0), EINVAL);
  EXPECT_EQ(Unmap(node, kRange, ~uint64_t{0}), EINVAL);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
  EXPECT_EQ(window_.unmaps, 0);
}

TEST_F(DaxTest, RemoveWithALyingCountTakesWhatIsThere) {
  const uint64_t node = MakeFile("a", "hello");
  ASSERT_EQ(Map(node, 0, 0), 0);
  const fuse_removemapping_in in{0xffffffff};
  const fuse_removemapping_one one{0, kRange};
  EXPECT_EQ(client_->Call(FUSE_REMOVEMAPPING, node, Body().Put(in).Put(one)).error, EINVAL);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
}

// CVE-2020-35517 by another way: a device's memory must not be mapped either.
TEST_F(DaxTest, Cve202035517SpecialFilesAreNeverMapped) {
  ASSERT_EQ(::mkfifo(Host("fifo").c_str(), 0666), 0);
  ASSERT_EQ(::symlink("/etc/passwd", Host("link").c_str()), 0);
  EXPECT_EQ(Map(client_->Lookup(FUSE_ROOT_ID, "fifo"), 0, 0), ENXIO);
  EXPECT_EQ(Map(client_->Lookup(FUSE_ROOT_ID, "link"), 0, 0), ENXIO);
  EXPECT_EQ(Map(FUSE_ROOT_ID, 0, 0), EISDIR);
  EXPECT_EQ(Map(4711, 0, 0), ESTALE);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
}

TEST_F(DaxTest, Cve202646695ReadOnlyShareIsNotMappedForWriting) {
  MakeFile("a", "hello");
  FileServerOptions options;
  options.policy.read_only = true;
  ServeWith(std::move(options));
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  EXPECT_EQ(Map(node, 0, 0, kRange, kRead | kWrite), EROFS);
  EXPECT_EQ(Map(node, 0, 0), 0);
  EXPECT_EQ(window_.Look(0, 5), "hello");
}

// VIRTIO §5.11.6.4: mappings may overlap others, wholly or in part.
TEST_F(DaxTest, LaterMappingReplaces) {
  const uint64_t a = MakeFile("a", "first");
  const uint64_t b = MakeFile("b", "other");
  ASSERT_EQ(Map(a, 0, 0, 2 * kRange), 0);
  ASSERT_EQ(Map(b, 0, kRange, 2 * kRange), 0);
  EXPECT_EQ(window_.Look(0, 5), "first");
  EXPECT_EQ(window_.Look(kRange, 5), "other");
  EXPECT_EQ(server_->stats().dax_ranges, 3U);
  // The first one's end takes nothing of the second with it.
  client_->Forget(a);
  EXPECT_EQ(window_.Look(0, 5), std::string(5, '\0'));
  EXPECT_EQ(window_.Look(kRange, 5), "other");
  EXPECT_EQ(server_->stats().dax_ranges, 2U);
}

TEST_F(DaxTest, ForgetDestroyAndInitUnmap) {
  const uint64_t a = MakeFile("a", "first");
  const uint64_t b = MakeFile("b", "other");
  ASSERT_EQ(Map(a, 0, 0), 0);
  ASSERT_EQ(Map(b, 0, kRange), 0);
  const fuse_batch_forget_in batch{1, 0};
  client_->Call(FUSE_BATCH_FORGET, 0, Body().Put(batch).Put(fuse_forget_one{a, 1}), 0);
  EXPECT_EQ(window_.Look(0, 5), std::string(5, '\0'));
  client_->Call(FUSE_DESTROY, 0, Body());
  EXPECT_EQ(window_.Look(kRange, 5), std::string(5, '\0'));
  ASSERT_EQ(client_->Init().error, 0);
  ASSERT_EQ(Map(client_->Lookup(FUSE_ROOT_ID, "a"), 0, 0), 0);
  ASSERT_EQ(client_->Init().error, 0);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
}

TEST_F(DaxTest, RefusingWindowIsAnInputOutputError) {
  const uint64_t node = MakeFile("a", "hello");
  window_.refuse = true;
  EXPECT_EQ(Map(node, 0, 0), EIO);
  window_.refuse = false;
  EXPECT_EQ(Map(node, 0, 0), 0);
  client_->Forget(node);
  EXPECT_EQ(server_->stats().dax_ranges, 0U);
}

TEST_F(DaxTest, DeviceShowsTheWindowAndItsResetEmptiesIt) {
  FsDeviceOptions options;
  options.tag = "share";
  const auto device = FsDevice::Create(*server_, options);
  ASSERT_TRUE(device.has_value());
  const auto& regions = (*device)->traits().shared_memory;
  ASSERT_EQ(regions.size(), 1U);
  EXPECT_EQ(regions[0].id, 0);
  EXPECT_EQ(regions[0].length, window_.size());
  ASSERT_EQ(Map(MakeFile("a", "hello"), 0, 0), 0);
  (*device)->Reset();
  EXPECT_EQ(window_.Look(0, 5), std::string(5, '\0'));
}

}  // namespace
}  // namespace wyvern::fs
