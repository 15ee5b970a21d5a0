#include "stdio/process_stdio.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <thread>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "testing/temp_dir.h"

namespace wyvern::shim {
namespace {

using std::chrono::milliseconds;

// FNV-1a, so that 256 MiB need not be kept.
class Checksum {
 public:
  void Add(std::span<const std::byte> data) {
    for (const std::byte byte : data) {
      value_ = (value_ ^ static_cast<uint64_t>(byte)) * 0x100000001b3ULL;
    }
    size_ += data.size();
  }

  bool operator==(const Checksum&) const = default;

  size_t size() const { return size_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325ULL;
  size_t size_ = 0;
};

Checksum WritePattern(FdRef fd, size_t total) {
  Checksum sum;
  std::vector<std::byte> block(60000);
  uint32_t state = 1;
  for (size_t sent = 0; sent < total;) {
    for (std::byte& byte : block) {
      state = state * 1664525 + 1013904223;
      byte = static_cast<std::byte>(state >> 24U);
    }
    const auto part = std::span<const std::byte>(block).first(std::min(block.size(), total - sent));
    EXPECT_TRUE(WriteAll(fd, part));
    sum.Add(part);
    sent += part.size();
  }
  return sum;
}

Checksum ReadSum(FdRef fd) {
  Checksum sum;
  std::vector<std::byte> buffer(64 << 10);
  while (true) {
    const size_t got = Must(ReadSome(fd, buffer));
    if (got == 0) {
      return sum;
    }
    sum.Add(std::span<const std::byte>(buffer).first(got));
  }
}

class ProcessStdioTest : public ::testing::Test {
 protected:
  ProcessStdioTest() {
    signal(SIGPIPE, SIG_IGN);
    spec_.ns = "ns";
    spec_.id = "c1";
  }

  std::string Fifo(const std::string& name) {
    std::string path = dir_ / name;
    EXPECT_EQ(mkfifo(path.c_str(), 0700), 0);
    return path;
  }

  // The process's ends are in process_in_, process_out_, process_err_.
  void Attach() {
    runtime::ProcessIo io;
    const auto connect = [](const std::string& path, UniqueFd* ours, UniqueFd* process) {
      if (!path.empty()) {
        SocketPair pair = Must(MakeSocketPair(SOCK_STREAM));
        *ours = std::move(pair.first);
        *process = std::move(pair.second);
      }
    };
    connect(spec_.stdin_path, &io.stdin_stream, &process_in_);
    connect(spec_.stdout_uri, &io.stdout_stream, &process_out_);
    connect(spec_.terminal ? "" : spec_.stderr_uri, &io.stderr_stream, &process_err_);
    stdio_->Attach(std::move(io));
  }

  void Open() { stdio_ = Must(ProcessStdio::Open(loop_->loop(), spec_)); }

  std::string Script(const std::string& text) {
    std::string path = dir_ / "logger.sh";
    EXPECT_TRUE(WriteFile(path, "#!/bin/sh\n" + text + "\n"));
    EXPECT_EQ(chmod(path.c_str(), 0755), 0);
    return path;
  }

  TempDir dir_;
  StdioSpec spec_;
  std::unique_ptr<LoopThread> loop_ = Must(LoopThread::Start("stdio"));
  std::unique_ptr<ProcessStdio> stdio_;
  UniqueFd process_in_, process_out_, process_err_;
};

TEST_F(ProcessStdioTest, Scenario20_HundredMebibytesOfStdinThenEof) {
  spec_.stdin_path = Fifo("in");
  Open();
  Attach();
  Checksum sent;
  std::thread client([&] {
    const UniqueFd in = Must(wyvern::Open(spec_.stdin_path, O_WRONLY));
    stdio_->CloseStdin();  // EOF follows when the client has closed, too
    sent = WritePattern(in, 100 << 20);
  });
  const Checksum got = ReadSum(process_in_);
  client.join();
  EXPECT_EQ(got.size(), size_t{100} << 20);
  EXPECT_TRUE(got == sent);
}

TEST_F(ProcessStdioTest, Scenario16_OutputOfManyMebibytesOnBothStreams) {
#ifdef WV_SANITIZED
  constexpr size_t kSize = 16 << 20;
#else
  constexpr size_t kSize = 256 << 20;
#endif
  spec_.stdout_uri = Fifo("out");
  spec_.stderr_uri = Fifo("err");
  Checksum out_got;
  Checksum err_got;
  std::thread out_client(
      [&] { out_got = ReadSum(Must(wyvern::Open(spec_.stdout_uri, O_RDONLY))); });
  std::thread err_client(
      [&] { err_got = ReadSum(Must(wyvern::Open(spec_.stderr_uri, O_RDONLY))); });
  Open();
  stdio_->AwaitClient();
  Attach();
  Checksum err_sent;
  std::thread err_process([&] {
    err_sent = WritePattern(process_err_, 8 << 20);
    process_err_.Reset();
  });
  const Checksum out_sent = WritePattern(process_out_, kSize);
  process_out_.Reset();
  err_process.join();
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(20000)));
  out_client.join();
  err_client.join();
  EXPECT_TRUE(out_got == out_sent);
  EXPECT_TRUE(err_got == err_sent);
}

TEST_F(ProcessStdioTest, ClientThatComesLateGetsEverything) {
  spec_.stdout_uri = Fifo("out");
  Open();
  Attach();
  ASSERT_TRUE(WriteAll(process_out_, "early, without newline"));
  process_out_.Reset();
  EXPECT_FALSE(stdio_->WaitDrained(milliseconds(200)));
  const UniqueFd client = Must(wyvern::Open(spec_.stdout_uri, O_RDONLY));
  EXPECT_EQ(Must(ReadToEnd(client, 1000)), "early, without newline");
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(5000)));
}

TEST_F(ProcessStdioTest, NobodyEverOpensTheFifos) {
  spec_.stdin_path = Fifo("in");
  spec_.stdout_uri = Fifo("out");
  spec_.stderr_uri = Fifo("err");
  const auto begin = std::chrono::steady_clock::now();
  Open();
  stdio_->AwaitClient();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(3000));
  Attach();
  ASSERT_TRUE(WriteAll(process_out_, "lost"));
  process_out_.Reset();
  process_err_.Reset();
  stdio_->ProcessExited();
  EXPECT_FALSE(stdio_->WaitDrained(milliseconds(100)));
  stdio_->Abort();
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(5000)));
}

TEST_F(ProcessStdioTest, Scenario19_ReaderThatDiesAndComesBackMissesNothingAfterwards) {
  spec_.stdout_uri = Fifo("out");
  UniqueFd client = Must(wyvern::Open(spec_.stdout_uri, O_RDONLY | O_NONBLOCK));
  Open();
  Attach();
  ASSERT_TRUE(WriteAll(process_out_, "one"));
  std::array<std::byte, 3> three{};
  ASSERT_TRUE(SetNonBlocking(client, false));
  ASSERT_TRUE(ReadExact(client, three));
  client.Reset();
  ASSERT_TRUE(WriteAll(process_out_, "two"));
  std::this_thread::sleep_for(milliseconds(100));
  client = Must(wyvern::Open(spec_.stdout_uri, O_RDONLY));
  ASSERT_TRUE(WriteAll(process_out_, "three"));
  process_out_.Reset();
  EXPECT_EQ(Must(ReadToEnd(client, 1000)), "twothree");
}

TEST_F(ProcessStdioTest, StdinOfAProcessThatExitedIsClosed) {
  spec_.stdin_path = Fifo("in");
  Open();
  Attach();
  const UniqueFd client = Must(wyvern::Open(spec_.stdin_path, O_WRONLY));
  process_in_.Reset();
  stdio_->ProcessExited();
  bool broken = false;
  for (int i = 0; i < 200 && !broken; ++i) {
    broken = !WriteAll(client, std::string_view("x"));
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_TRUE(broken);
}

TEST_F(ProcessStdioTest, Scenario23_FileForBothStreams) {
  spec_.stdout_uri = "file://" + (dir_ / "deep/er/log.txt");
  spec_.stderr_uri = spec_.stdout_uri;
  for (const char* const round : {"one\n", "two\n"}) {
    Open();
    Attach();
    ASSERT_TRUE(WriteAll(process_out_, std::string_view(round)));
    process_out_.Reset();
    ASSERT_TRUE(WriteAll(process_err_, "err\n"));
    process_err_.Reset();
    EXPECT_TRUE(stdio_->WaitDrained(milliseconds(5000)));
  }
  const std::string text = Must(ReadFile(dir_ / "deep/er/log.txt"));
  EXPECT_NE(text.find("one\n"), std::string::npos);
  EXPECT_NE(text.find("two\n"), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

TEST_F(ProcessStdioTest, Scenario23_LoggerGetsBothStreamsArgumentsAndEnvironment) {
  const std::string out = dir_ / "log";
  spec_.stdout_uri = "binary://" +
                     Script("exec >" + out +
                            "; echo $1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE; env | wc -l; "
                            "printf x >&5; exec 5>&-; cat <&3; cat <&4") +
                     "?key=value";
  spec_.stderr_uri = spec_.stdout_uri;
  Open();
  Attach();
  ASSERT_TRUE(WriteAll(process_out_, "to out\n"));
  ASSERT_TRUE(WriteAll(process_err_, "to err"));
  process_out_.Reset();
  process_err_.Reset();
  ASSERT_TRUE(stdio_->WaitDrained(milliseconds(10000)));
  const std::string text = Must(ReadFile(out));
  EXPECT_TRUE(text.starts_with("key value c1 ns\n")) << text;
  EXPECT_TRUE(text.ends_with("to out\nto err")) << text;
}

TEST_F(ProcessStdioTest, Scenario23_LoggerThatCrashesDoesNotBlockTheProcess) {
  spec_.stdout_uri = "binary://" + Script("exit 3");
  Open();  // the closed ready pipe counts as ready for binary://
  Attach();
  WritePattern(process_out_, 4 << 20);
  process_out_.Reset();
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(10000)));
}

TEST_F(ProcessStdioTest, Scenario23_LoggerOfVersionTwoMustSayReady) {
  spec_.stdout_uri = "binary-v2://" + Script("exit 0");
  EXPECT_FALSE(ProcessStdio::Open(loop_->loop(), spec_));
  spec_.stdout_uri = "binary-v2:///no/such/logger";
  EXPECT_FALSE(ProcessStdio::Open(loop_->loop(), spec_));
}

TEST_F(ProcessStdioTest, Scenario23_LoggerThatNeverSaysReadyFailsOpenAndIsEnded) {
  spec_.stdout_uri = "binary://" + Script("echo $$ >" + (dir_ / "pid") + "; exec sleep 600");
  const auto begin = std::chrono::steady_clock::now();
  const auto opened = ProcessStdio::Open(loop_->loop(), spec_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Code::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(15000));
  const pid_t pid = std::stoi(Must(ReadFile(dir_ / "pid")));
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(ProcessStdioTest, Scenario23_SlowLoggerIsWaitedForThenTerminated) {
  spec_.stdout_uri = "binary://" + Script("printf x >&5; exec sleep 600");
  Open();
  Attach();
  process_out_.Reset();
  EXPECT_FALSE(stdio_->WaitDrained(milliseconds(500)));
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(6000)));  // SIGTERM after three seconds
}

TEST_F(ProcessStdioTest, Scenario24_TerminalWithLoggerAndNullStreams) {
  const std::string out = dir_ / "log";
  spec_.terminal = true;
  spec_.stdout_uri = "binary://" + Script("printf x >&5; exec 5>&-; cat <&3 >" + out);
  Open();
  Attach();
  ASSERT_TRUE(WriteAll(process_out_, "tty"));
  process_out_.Reset();
  ASSERT_TRUE(stdio_->WaitDrained(milliseconds(10000)));
  EXPECT_EQ(Must(ReadFile(out)), "tty");

  spec_ = StdioSpec();
  Open();
  Attach();
  EXPECT_TRUE(stdio_->WaitDrained(milliseconds(5000)));
}

TEST_F(ProcessStdioTest, PathsThatDoNotExistFailOpen) {
  spec_.stdout_uri = dir_ / "missing";
  EXPECT_FALSE(ProcessStdio::Open(loop_->loop(), spec_));
  spec_.stdout_uri.clear();
  spec_.stdin_path = dir_ / "missing";
  EXPECT_FALSE(ProcessStdio::Open(loop_->loop(), spec_));
}

}  // namespace
}  // namespace wyvern::shim
