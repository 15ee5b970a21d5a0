#include "mem/file_window.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace wyvern::mem {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSize = 4ULL << 20U;

class FileWindowTest : public testing::Test {
 protected:
  // `pages` of them, each full of its letter: a, b, ….
  static UniqueFd Letters(size_t pages) {
    UniqueFd file = *MakeMemfd("letters", 0);
    for (size_t i = 0; i < pages; ++i) {
      EXPECT_TRUE(WriteAll(file, std::string(kPage, static_cast<char>('a' + i))).has_value());
    }
    return file;
  }

  // What the kernel reads there for us, as KVM does: '!' where it finds nothing.
  char Look(uint64_t offset) const {
    const PipePair pipe = *MakePipe();
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the window is a number
    const auto* at = reinterpret_cast<const void*>(window_->host_address() + offset);
    char seen = '!';
    if (::write(pipe.write.get(), at, 1) != 1) {
      EXPECT_EQ(errno, EFAULT);
      return seen;
    }
    EXPECT_EQ(::read(pipe.read.get(), &seen, 1), 1);
    return seen;
  }

  // Pages from the window's beginning.
  std::string Look(size_t first, size_t pages) const {
    std::string seen;
    for (size_t i = first; i < first + pages; ++i) {
      seen.push_back(Look(i * kPage));
    }
    return seen;
  }

  std::shared_ptr<FileWindow> window_ = *FileWindow::Create(kSize);
};

TEST_F(FileWindowTest, SizesAreMultiplesOfTwoMebibytes) {
  for (const uint64_t size :
       {uint64_t{0}, kPage, kSize + kPage, ~uint64_t{0}, uint64_t{1} << 63U}) {
    const auto window = FileWindow::Create(size);
    ASSERT_FALSE(window.has_value()) << size;
    EXPECT_EQ(window.error().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(window_->size(), kSize);
  EXPECT_EQ(window_->host_address() % (2ULL << 20U), 0U);
}

TEST_F(FileWindowTest, NothingIsThereBeforeAMappingAndAfterIt) {
  const UniqueFd file = Letters(4);
  EXPECT_EQ(Look(0, 5), "!!!!!");
  ASSERT_TRUE(window_->Map(kPage, 2 * kPage, file, kPage, false).has_value());
  EXPECT_EQ(Look(0, 5), "!bc!!");
  ASSERT_TRUE(window_->Map(3 * kPage, kPage, file, 0, false).has_value());
  ASSERT_TRUE(window_->Unmap(2 * kPage, kPage).has_value());
  EXPECT_EQ(Look(0, 5), "!b!a!");
  ASSERT_TRUE(window_->Map(kSize - kPage, kPage, file, 3 * kPage, false).has_value());
  EXPECT_EQ(Look(kSize - kPage), 'd');
  ASSERT_TRUE(window_->Unmap(0, kSize).has_value());
  EXPECT_EQ(Look(0, 5), "!!!!!");
  EXPECT_EQ(Look(kSize - kPage), '!');
}

TEST_F(FileWindowTest, LaterMappingReplacesAndSharesTheFile) {
  const UniqueFd file = Letters(2);
  const UniqueFd other = Letters(4);
  ASSERT_TRUE(window_->Map(0, 2 * kPage, file, 0, false).has_value());
  ASSERT_TRUE(window_->Map(kPage, 2 * kPage, other, 2 * kPage, true).has_value());
  EXPECT_EQ(Look(0, 4), "acd!");
  ASSERT_EQ(::pwrite(other.get(), "X", 1, 2 * kPage), 1);
  EXPECT_EQ(Look(0, 4), "aXd!");
}

TEST_F(FileWindowTest, RangesThatAreNoneChangeNothing) {
  const UniqueFd file = Letters(2);
  ASSERT_TRUE(window_->Map(0, kPage, file, 0, false).has_value());

  struct Bad {
    uint64_t offset, length, file_offset;
  };

  for (const Bad& bad :
       {Bad{0, 0, 0}, Bad{1, kPage, 0}, Bad{0, kPage + 1, 0}, Bad{0, kPage, 1},
        Bad{kSize, kPage, 0}, Bad{kSize - kPage, 2 * kPage, 0}, Bad{0, kSize + kPage, 0},
        Bad{~(kPage - 1), 2 * kPage, 0}, Bad{kPage, ~(kPage - 1), 0}, Bad{0, kPage, ~(kPage - 1)},
        Bad{0, kPage, uint64_t{1} << 63U}}) {
    const auto mapped = window_->Map(bad.offset, bad.length, file, bad.file_offset, false);
    ASSERT_FALSE(mapped.has_value()) << bad.offset << "+" << bad.length;
    EXPECT_EQ(mapped.error().code(), Code::kInvalidArgument);
    if (bad.file_offset == 0) {
      EXPECT_FALSE(window_->Unmap(bad.offset, bad.length).has_value());
    }
  }
  EXPECT_EQ(Look(0, 2), "a!");
}

TEST_F(FileWindowTest, WhatIsNoRegularFileIsNotShown) {
  const UniqueFd file = Letters(1);
  ASSERT_TRUE(window_->Map(0, kPage, file, 0, false).has_value());
  int sockets[2] = {-1, -1};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const UniqueFd near(sockets[0]);
  const UniqueFd far(sockets[1]);
  const PipePair pipe = *MakePipe();
  const UniqueFd directory = *Open("/", O_RDONLY | O_DIRECTORY);
  const UniqueFd zeros = *Open("/dev/zero", O_RDWR);
  for (const FdRef bad : {FdRef(near), FdRef(pipe.read), FdRef(directory), FdRef(zeros)}) {
    const auto mapped = window_->Map(0, kPage, bad, 0, false);
    ASSERT_FALSE(mapped.has_value());
    EXPECT_EQ(mapped.error().code(), Code::kInvalidArgument) << mapped.error().message();
  }
  EXPECT_FALSE(window_->Map(0, kPage, FdRef(-1), 0, false).has_value());
  EXPECT_EQ(Look(0), 'a');
}

TEST_F(FileWindowTest, FileThatIsNotOpenForTheMappingLeavesWhatIsThere) {
  const UniqueFd file = Letters(1);
  ASSERT_TRUE(window_->Map(0, kPage, file, 0, false).has_value());
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  const UniqueFd reader = *Open(path, O_RDONLY);
  const UniqueFd writer = *Open(path, O_WRONLY);
  const UniqueFd name = *Open(path, O_PATH);
  EXPECT_EQ(window_->Map(0, kPage, reader, 0, true).error().sys_errno(), EACCES);
  EXPECT_EQ(window_->Map(0, kPage, writer, 0, false).error().sys_errno(), EACCES);
  EXPECT_EQ(window_->Map(0, kPage, name, 0, false).error().sys_errno(), EBADF);
  EXPECT_EQ(Look(0), 'a');
  EXPECT_TRUE(window_->Map(0, kPage, reader, 0, false).has_value());
}

// mmap(2) rounds their lengths up to a whole page: 2 MiB, or 1 GiB, over what is beside.
TEST_F(FileWindowTest, HugePagesAreNotShown) {
  const UniqueFd huge(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
  if (!huge.valid()) {
    GTEST_SKIP() << "this kernel has no huge pages";
  }
  const auto mapped = window_->Map(0, kPage, huge, 0, false);
  ASSERT_FALSE(mapped.has_value());
  EXPECT_EQ(mapped.error().code(), Code::kInvalidArgument) << mapped.error().message();
}

TEST_F(FileWindowTest, FileThatIsCutShortIsAFaultOfWhoLooks) {
  const UniqueFd file = Letters(3);
  ASSERT_TRUE(window_->Map(0, 4 * kPage, file, 0, false).has_value());
  EXPECT_EQ(Look(0, 4), "abc!");
  ASSERT_EQ(::ftruncate(file.get(), kPage), 0);
  EXPECT_EQ(Look(0, 4), "a!!!");
  ASSERT_EQ(::ftruncate(file.get(), 2 * kPage), 0);
  EXPECT_EQ(Look(0, 1), "a");
  EXPECT_EQ(Look(kPage), '\0');
}

}  // namespace
}  // namespace wyvern::mem
