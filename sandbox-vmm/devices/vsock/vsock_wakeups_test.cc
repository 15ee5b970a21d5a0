// What a stream costs beside its bytes: reads of the host's socket, wake-ups of the device's thread.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <string>
#include <thread>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr int kRounds = 100;

// How often the thread slept so far (proc_pid_status(5)).
uint64_t Sleeps(pid_t thread) {
  std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/status");
  const std::string field = "voluntary_ctxt_switches:";
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field)) {
      return std::strtoull(line.c_str() + field.size(), nullptr, 10);
    }
  }
  ADD_FAILURE() << "no " << field;
  return 0;
}

class VsockWakeupsTest : public ::testing::Test {
 protected:
  VsockWakeupsTest() {
    guest_.Start();
    tid_ = worker_.get_future().get();
  }

  static std::string Take(const VsockGuest::Stream& stream, size_t size) {
    std::string got(size, '\0');
    EXPECT_TRUE(ReadExact(stream.host, std::as_writable_bytes(std::span(got))));
    return got;
  }

  // The guest sends kRounds packets; then the host takes them one by one.
  uint64_t SleepsWhileTheHostReads(const VsockGuest::Stream& stream) {
    const std::string text(64, 't');
    for (int i = 0; i < kRounds; ++i) {
      guest_.SendData(stream, text);
    }
    const uint64_t before = Sleeps(tid_);
    for (int i = 0; i < kRounds; ++i) {
      EXPECT_EQ(Take(stream, text.size()), text);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // what was woken runs
    }
    return Sleeps(tid_) - before;
  }

  uint64_t Reads() { return guest_.rig().counter("socket_reads"); }

  std::promise<pid_t> worker_;
  pid_t tid_ = 0;
  VsockGuest guest_{{.worker = {.name = "vsock", .on_thread_start = [this](const char*) {
                                  worker_.set_value(gettid());
                                }}}};
};

TEST_F(VsockWakeupsTest, HostThatTakesItsBytesWakesNobody) {
  auto stream = guest_.Connect(7);
  EXPECT_LT(SleepsWhileTheHostReads(stream), uint64_t{kRounds / 4});
}

TEST_F(VsockWakeupsTest, NorDoesOneThatWasSlowBefore) {
  auto stream = guest_.Connect(7);
  // More than the socket takes, less than the guest may send.
  constexpr size_t kTotal = 248 << 10;
  const std::string block(4096, 'b');
  for (size_t sent = 0; sent < kTotal; sent += block.size()) {
    guest_.SendData(stream, block);
  }
  ASSERT_EQ(Take(stream, kTotal), std::string(kTotal, 'b'));
  EXPECT_LT(SleepsWhileTheHostReads(stream), uint64_t{kRounds / 4});
}

TEST_F(VsockWakeupsTest, AMessageOfTheHostCostsOneRead) {
  auto stream = guest_.Connect(7);
  const uint64_t before = Reads();
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(WriteAll(stream.host, "ping"));
    ASSERT_EQ(guest_.Expect(VsockOp::kData).data, "ping");
  }
  EXPECT_LT(Reads() - before, uint64_t{kRounds + kRounds / 4});
}

}  // namespace
}  // namespace wyvern::devices
