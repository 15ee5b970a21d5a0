// A file server's DAX window from end to end: its requests over a back-end, a socket and a front-end
// into a window of host addresses, where a guest would see the files.
#include "fs/shared_dax_window.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "base/unix_socket.h"
#include "fs/dax_table.h"
#include "fs/fs_device.h"
#include "fs/testing/fuse_guest.h"
#include "mem/file_window.h"
#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"

namespace wyvern::fs_process {
namespace {

using fs::testing::FuseGuest;
using std::chrono::milliseconds;

constexpr uint64_t kRange = fs::kDaxRangeBytes;
constexpr uint64_t kWindowBytes = 4 * kRange;
constexpr uint64_t kReadOnly = FUSE_SETUPMAPPING_FLAG_READ;
constexpr uint64_t kReadWrite = FUSE_SETUPMAPPING_FLAG_READ | FUSE_SETUPMAPPING_FLAG_WRITE;

// Our file server in this process, behind our back-end, with a window in its front-end's hands.
class DaxBackend {
 public:
  explicit DaxBackend(const std::string& directory) : window_(kWindowBytes) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    socket = std::move(pair->first);
    end_ = *pair->second.Duplicate();
    fs::FileServerOptions options;
    options.root = *Open(directory, O_RDONLY | O_DIRECTORY);
    options.dax_window = &window_;
    server_ = *fs::FileServer::Create(std::move(options));
    fs::FsDeviceOptions device;
    device.tag = "t";
    device.threads = 2;
    backend_ = std::make_unique<vhost_user::Backend>(std::move(pair->second),
                                                     *fs::FsDevice::Create(*server_, device),
                                                     vhost_user::BackendOptions{});
    window_.Connect(backend_->requests());
    thread_ = std::thread([this] {
      while (backend_->Serve().has_value()) {
      }
      backend_.reset();
    });
  }

  ~DaxBackend() {
    socket.Reset();
    Kill();
  }

  DaxBackend(const DaxBackend&) = delete;
  DaxBackend& operator=(const DaxBackend&) = delete;

  void Kill() {
    ::shutdown(end_.get(), SHUT_RDWR);
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  void Disconnect() { window_.Disconnect(); }

  size_t mapped_ranges() const { return server_->stats().dax_ranges; }

  UniqueFd socket;

 private:
  SharedDaxWindow window_;
  UniqueFd end_;  // of the back-end's socket
  std::unique_ptr<fs::FileServer> server_;
  std::unique_ptr<vhost_user::Backend> backend_;
  std::thread thread_;
};

class SharedDaxWindowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "wyvern-dax-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    backend_ = std::make_unique<DaxBackend>(directory_);
  }

  void TearDown() override {
    device_.reset();
    backend_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  void Connect(const std::shared_ptr<mem::FileWindow>& window) {
    auto device =
        vhost_user::Frontend::CreateFs(std::move(backend_->socket), "t", 1, 64, {}, window);
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = *std::move(device);
    device_->set_lost_callback([this](const std::string& /*why*/) { lost_ = true; });
    ASSERT_TRUE(guest_.Start(*device_));
    ASSERT_TRUE(guest_.Init());
  }

  // A file of 4 MiB: `first` and `second` begin its ranges. Its node.
  uint64_t MakeFile(const std::string& name, char first, char second) {
    std::string content(2 * kRange, '.');
    content[0] = first;
    content[kRange] = second;
    EXPECT_TRUE(WriteFile(directory_ + "/" + name, content).has_value());
    return guest_.OpenFile(name).first;
  }

  int Map(uint64_t node, uint64_t window_offset, uint64_t length = kRange,
          uint64_t flags = kReadOnly, uint64_t file_offset = 0) {
    fuse_setupmapping_in in{};
    in.fh = ~uint64_t{0};
    in.foffset = file_offset;
    in.len = length;
    in.flags = flags;
    in.moffset = window_offset;
    int error = -1;
    guest_.Call(FUSE_SETUPMAPPING, node, FuseGuest::Bytes(in), 16, &error);
    return error;
  }

  int Unmap(uint64_t window_offset, uint64_t length = kRange) {
    const fuse_removemapping_in in{1};
    const fuse_removemapping_one one{window_offset, length};
    int error = -1;
    guest_.Call(FUSE_REMOVEMAPPING, 1, FuseGuest::Bytes(in) + FuseGuest::Bytes(one), 16, &error);
    return error;
  }

  // What the kernel finds there for who asks, as KVM does for a guest: '!' is nothing. Bare calls: that
  // the front-end's thread is done is known by a ring, in memory that is mapped twice, which a race
  // detector cannot follow.
  char Look(uint64_t offset) const {
    const PipePair pipe = *MakePipe();
    char seen = '!';
    if (::syscall(SYS_write, pipe.write.get(), At(offset), size_t{1}) != 1) {
      EXPECT_EQ(errno, EFAULT);
      return seen;
    }
    EXPECT_EQ(::read(pipe.read.get(), &seen, 1), 1);
    return seen;
  }

  // The first byte of each range.
  std::string LookAtAll() const {
    std::string seen;
    for (uint64_t at = 0; at < kWindowBytes; at += kRange) {
      seen.push_back(Look(at));
    }
    return seen;
  }

  // A guest's write, as far as the host's kernel sees it.
  bool Put(uint64_t offset, char byte) const {
    const PipePair pipe = *MakePipe();
    EXPECT_EQ(::write(pipe.write.get(), &byte, 1), 1);
    return ::syscall(SYS_read, pipe.read.get(), At(offset), size_t{1}) == 1;
  }

  void* At(uint64_t offset) const {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the window is a number
    return reinterpret_cast<void*>(window_->host_address() + offset);
  }

  std::string directory_;
  std::shared_ptr<mem::FileWindow> window_ = *mem::FileWindow::Create(kWindowBytes);
  std::unique_ptr<DaxBackend> backend_;
  FuseGuest guest_;
  std::atomic<bool> lost_{false};
  std::unique_ptr<vhost_user::Frontend> device_;
};

TEST_F(SharedDaxWindowTest, FileShowsInTheWindowUntilItIsUnmapped) {
  Connect(window_);
  const uint64_t node = MakeFile("a", 'a', 'A');
  EXPECT_EQ(LookAtAll(), "!!!!");
  EXPECT_EQ(Map(node, kRange, 2 * kRange), 0);
  EXPECT_EQ(LookAtAll(), "!aA!");
  EXPECT_EQ(Map(node, 3 * kRange, kRange, kReadOnly, kRange), 0);
  EXPECT_EQ(LookAtAll(), "!aAA");
  EXPECT_EQ(Unmap(2 * kRange), 0);  // a part of what was mapped at once
  EXPECT_EQ(LookAtAll(), "!a!A");
  EXPECT_EQ(Unmap(0, kWindowBytes), 0);
  EXPECT_EQ(LookAtAll(), "!!!!");
  EXPECT_EQ(backend_->mapped_ranges(), 0U);
}

TEST_F(SharedDaxWindowTest, MappingIsForWhatItSaysAndReachesTheFile) {
  Connect(window_);
  const uint64_t node = MakeFile("a", 'a', 'A');
  ASSERT_EQ(Map(node, 0), 0);
  EXPECT_FALSE(Put(0, 'x'));
  ASSERT_EQ(Map(node, 0, kRange, kReadWrite), 0);  // as Linux makes a mapping writable
  EXPECT_TRUE(Put(0, 'x'));
  EXPECT_EQ(Look(0), 'x');
  EXPECT_EQ(guest_.ReadFile("a").substr(0, 2), "x.");
}

TEST_F(SharedDaxWindowTest, LaterMappingReplacesWholeRanges) {
  Connect(window_);
  const uint64_t a = MakeFile("a", 'a', 'A');
  const uint64_t b = MakeFile("b", 'b', 'B');
  ASSERT_EQ(Map(a, 0, 2 * kRange), 0);
  ASSERT_EQ(Map(b, kRange, 2 * kRange), 0);
  EXPECT_EQ(LookAtAll(), "abB!");
  // Of half a range: the rest of it shows nothing of what was there.
  ASSERT_EQ(Map(a, 2 * kRange, kRange / 2), 0);
  EXPECT_EQ(LookAtAll(), "aba!");
  EXPECT_EQ(Look(2 * kRange + kRange / 2), '!');
  EXPECT_EQ(Look(kRange + kRange / 2), '.');
  EXPECT_EQ(Unmap(0, kWindowBytes), 0);
  EXPECT_EQ(LookAtAll(), "!!!!");
}

TEST_F(SharedDaxWindowTest, ForgottenFileLeavesTheWindow) {
  Connect(window_);
  const uint64_t a = MakeFile("a", 'a', 'A');
  const uint64_t b = MakeFile("b", 'b', 'B');
  ASSERT_EQ(Map(a, 0), 0);
  ASSERT_EQ(Map(b, kRange), 0);
  const fuse_batch_forget_in batch{1, 0};
  const fuse_forget_one one{a, 1};
  // No answer comes; that of the next request comes later.
  guest_.Submit(FUSE_BATCH_FORGET, 0, FuseGuest::Bytes(batch) + FuseGuest::Bytes(one), 16);
  for (int i = 0; i < 1000 && backend_->mapped_ranges() != 1; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(LookAtAll(), "!b!!");
}

TEST_F(SharedDaxWindowTest, ResetEmptiesTheWindow) {
  Connect(window_);
  const uint64_t node = MakeFile("a", 'a', 'A');
  ASSERT_EQ(Map(node, 0, 2 * kRange), 0);
  device_->StopQueue(0);
  device_->StopQueue(1);
  device_->Reset();
  EXPECT_EQ(LookAtAll(), "!!!!");
  EXPECT_EQ(backend_->mapped_ranges(), 0U);
  EXPECT_FALSE(device_->lost());
}

TEST_F(SharedDaxWindowTest, EndOfTheBackEndEmptiesTheWindow) {
  Connect(window_);
  ASSERT_EQ(Map(MakeFile("a", 'a', 'A'), 0, 2 * kRange), 0);
  EXPECT_EQ(LookAtAll(), "aA!!");
  backend_->Kill();
  for (int i = 0; i < 1000 && !lost_; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_TRUE(lost_);
  EXPECT_EQ(LookAtAll(), "!!!!");
}

TEST_F(SharedDaxWindowTest, EndOfTheFrontEndEmptiesTheWindow) {
  Connect(window_);
  ASSERT_EQ(Map(MakeFile("a", 'a', 'A'), 0, 2 * kRange), 0);
  device_.reset();
  EXPECT_EQ(LookAtAll(), "!!!!");
}

// Neither signal nor other damage to who has the window.
TEST_F(SharedDaxWindowTest, FileThatIsCutShortIsAFaultOfWhoLooks) {
  Connect(window_);
  ASSERT_EQ(Map(MakeFile("a", 'a', 'A'), 0, 2 * kRange), 0);
  ASSERT_EQ(::truncate((directory_ + "/a").c_str(), 4096), 0);
  EXPECT_EQ(LookAtAll(), "a!!!");
  EXPECT_EQ(Unmap(0, 2 * kRange), 0);
  EXPECT_EQ(Look(0), '!');
}

TEST_F(SharedDaxWindowTest, FrontEndWithoutAWindowIsAnInputOutputError) {
  Connect(nullptr);
  EXPECT_TRUE(device_->traits().shared_memory.empty());
  EXPECT_EQ(Map(MakeFile("a", 'a', 'A'), 0), EIO);
  EXPECT_FALSE(device_->lost());
}

TEST(SharedDaxWindowStateTest, WithoutAFrontEndNothingIsMapped) {
  SharedDaxWindow window(kRange);
  const UniqueFd file = *MakeMemfd("file", kRange);
  const auto mapped = window.Map(file, 0, 0, kRange, false);
  ASSERT_FALSE(mapped.has_value());
  EXPECT_EQ(mapped.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(window.Unmap(0, kRange).has_value());
}

TEST_F(SharedDaxWindowTest, WhatWasMappedEndsWithTheFrontEnd) {
  Connect(window_);
  const uint64_t node = MakeFile("a", 'a', 'A');
  ASSERT_EQ(Map(node, 0), 0);
  backend_->Disconnect();
  EXPECT_EQ(Unmap(0), 0);
  EXPECT_EQ(Look(0), 'a');  // nobody was asked
  EXPECT_EQ(backend_->mapped_ranges(), 0U);
}

}  // namespace
}  // namespace wyvern::fs_process
