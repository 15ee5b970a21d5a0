#include "stdio/pump.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <ctime>
#include <thread>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "testing/temp_dir.h"

namespace wyvern::shim {
namespace {

std::string Pattern(size_t size) {
  std::string data(size, '\0');
  uint32_t state = 12345;
  for (char& byte : data) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24U);
  }
  return data;
}

class PumpTest : public ::testing::Test {
 protected:
  void Start(FdRef source, FdRef sink, Pump::OnBrokenSink on_broken) {
    loop_->Call([&] {
      pump_ = Pump::Start(loop_->loop(), source, sink, on_broken, [this] { done_ = true; });
    });
  }

  bool AwaitDone() {
    for (int i = 0; i < 500 && !done_; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return done_;
  }

  void TearDown() override {
    loop_->Call([this] {
      if (pump_ != nullptr) {
        pump_->Stop();
      }
    });
  }

  std::atomic<bool> done_{false};
  std::unique_ptr<LoopThread> loop_ = Must(LoopThread::Start("pump"));
  std::shared_ptr<Pump> pump_;
};

TEST_F(PumpTest, SocketToPipeKeepsEveryByteWithASlowReader) {
  SocketPair source = Must(MakeSocketPair(SOCK_STREAM));
  PipePair sink = Must(MakePipe());
  const std::string data = Pattern(8 << 20);
  Start(source.second, sink.write, Pump::OnBrokenSink::kDiscard);
  std::thread writer([&] {
    EXPECT_TRUE(WriteAll(source.first, data));
    source.first.Reset();
  });
  std::string got;
  while (got.size() < data.size()) {
    std::array<std::byte, 40000> buffer{};
    const size_t size = Must(ReadSome(sink.read, buffer));
    got.append(reinterpret_cast<const char*>(buffer.data()), size);
    if (got.size() % 7 == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  writer.join();
  EXPECT_TRUE(AwaitDone());
  EXPECT_TRUE(got == data);
}

TEST_F(PumpTest, PipeToSocketKeepsEveryByte) {
  PipePair source = Must(MakePipe());
  SocketPair sink = Must(MakeSocketPair(SOCK_STREAM));
  const std::string data = Pattern(8 << 20);
  Start(source.read, sink.first, Pump::OnBrokenSink::kEnd);
  std::thread writer([&] {
    EXPECT_TRUE(WriteAll(source.write, data));
    source.write.Reset();
  });
  std::string got(data.size(), '\0');
  EXPECT_TRUE(ReadExact(sink.second, std::as_writable_bytes(std::span(got))));
  writer.join();
  EXPECT_TRUE(AwaitDone());
  EXPECT_TRUE(got == data);
}

TEST_F(PumpTest, SocketToRegularFile) {
  const TempDir dir;
  SocketPair source = Must(MakeSocketPair(SOCK_STREAM));
  const UniqueFd file = Must(Open(dir / "f", O_WRONLY | O_CREAT | O_APPEND, 0600));
  const std::string data = Pattern(3 << 20);
  Start(source.second, file, Pump::OnBrokenSink::kDiscard);
  EXPECT_TRUE(WriteAll(source.first, data));
  source.first.Reset();
  EXPECT_TRUE(AwaitDone());
  EXPECT_TRUE(Must(ReadFile(dir / "f")) == data);
}

TEST_F(PumpTest, RegularFileToSocket) {
  const TempDir dir;
  ASSERT_TRUE(WriteFile(dir / "f", "content"));
  const UniqueFd file = Must(Open(dir / "f", O_RDONLY));
  SocketPair sink = Must(MakeSocketPair(SOCK_STREAM));
  Start(file, sink.first, Pump::OnBrokenSink::kEnd);
  EXPECT_TRUE(AwaitDone());
  sink.first.Reset();
  EXPECT_EQ(Must(ReadToEnd(sink.second, 100)), "content");
}

TEST_F(PumpTest, BrokenSinkDiscardsButDoesNotBlockTheSource) {
  SocketPair source = Must(MakeSocketPair(SOCK_STREAM));
  PipePair sink = Must(MakePipe());
  Start(source.second, sink.write, Pump::OnBrokenSink::kDiscard);
  sink.read.Reset();
  EXPECT_TRUE(WriteAll(source.first, Pattern(4 << 20)));  // would block for ever
  source.first.Reset();
  EXPECT_TRUE(AwaitDone());
}

TEST_F(PumpTest, BrokenSinkEnds) {
  PipePair source = Must(MakePipe());
  SocketPair sink = Must(MakeSocketPair(SOCK_STREAM));
  Start(source.read, sink.first, Pump::OnBrokenSink::kEnd);
  sink.second.Reset();
  EXPECT_TRUE(WriteAll(source.write, "x"));
  EXPECT_TRUE(AwaitDone());
}

TEST_F(PumpTest, FullSinkAndHungUpSourceDoNotSpin) {
  SocketPair source = Must(MakeSocketPair(SOCK_STREAM));
  PipePair sink = Must(MakePipe());
  Start(source.second, sink.write, Pump::OnBrokenSink::kDiscard);
  ASSERT_TRUE(SetNonBlocking(source.first, true));
  const std::string block = Pattern(4096);
  size_t sent = 0;
  for (int idle = 0; idle < 20;) {  // until neither pipe nor socket take more
    const ssize_t put = send(source.first.get(), block.data(), block.size(), MSG_NOSIGNAL);
    sent += put > 0 ? static_cast<size_t>(put) : 0;
    idle = put > 0 ? 0 : idle + 1;
    if (put <= 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  source.first.Reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  timespec before{};
  timespec after{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const int64_t used_us =
      (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
  EXPECT_LT(used_us, 30000);
  EXPECT_FALSE(done_);
  std::string got(sent, '\0');
  EXPECT_TRUE(ReadExact(sink.read, std::as_writable_bytes(std::span(got))));
  EXPECT_TRUE(AwaitDone());
}

}  // namespace
}  // namespace wyvern::shim
