#include "agent/pump.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "agent/reaper.h"
#include "agent/stdio.h"
#include "base/subprocess.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

using namespace std::chrono_literals;

class PumpTest : public testing::Test {
 protected:
  PumpTest() : loop(Must(EventLoop::Create())), pipe(Must(MakePipe(O_NONBLOCK))) {
    signal(SIGPIPE, SIG_IGN);
    auto pair = Must(MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK));
    ours = std::move(pair.first);
    host = std::move(pair.second);
  }

  // A pump lives until its direction has ended.
  void TearDown() override {
    host.Reset();
    pipe.write.Reset();
    pipe.read.Reset();
    Spin();
  }

  void Spin(std::chrono::milliseconds time = 20ms) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      EXPECT_TRUE(loop->RunOnce(1ms).has_value());
    }
  }

  // What is readable now; "<eof>" at the end.
  std::string Read(FdRef fd) {
    std::string text;
    std::vector<std::byte> buffer(1 << 20);
    while (true) {
      const auto count = ReadSome(fd, buffer);
      if (!count) {
        return text;
      }
      if (*count == 0) {
        return text + "<eof>";
      }
      text.append(reinterpret_cast<const char*>(buffer.data()), *count);
    }
  }

  std::unique_ptr<EventLoop> loop;
  PipePair pipe;
  UniqueFd ours;
  UniqueFd host;
};

TEST_F(PumpTest, OutputWaitsForItsStreamAndEndsWithThePipe) {
  const std::weak_ptr<OutputPump> pump = OutputPump::Start(*loop, std::move(pipe.read));
  ASSERT_TRUE(WriteAll(pipe.write, "early").has_value());
  pipe.write.Reset();
  Spin();
  pump.lock()->Attach(std::move(ours));
  Spin();
  EXPECT_EQ(Read(host), "early<eof>");
  EXPECT_FALSE(pump.expired()) << "it waits for the host's end";
  host.Reset();
  Spin();
  EXPECT_TRUE(pump.expired());
}

TEST_F(PumpTest, HostThatDoesNotReadStopsTheReading) {
  const auto pump = OutputPump::Start(*loop, std::move(pipe.read));
  pump->Attach(std::move(ours));
  std::string sent;
  const std::string block(4096, 'x');
  for (int i = 0; i < 4096; ++i) {
    const ssize_t count = write(pipe.write.get(), block.data(), block.size());
    if (count < 0) {
      Spin(5ms);
      if (write(pipe.write.get(), block.data(), block.size()) < 0) {
        break;
      }
    }
    sent += block;
    ASSERT_LT(sent.size(), 8U << 20) << "no back-pressure";
  }
  pipe.write.Reset();
  std::string got;
  while (!got.ends_with("<eof>")) {
    got += Read(host);
    Spin(1ms);
  }
  EXPECT_EQ(got.size(), sent.size() + 5);
}

TEST_F(PumpTest, HostThatIsGoneMakesOutputVanish) {
  const std::weak_ptr<OutputPump> pump = OutputPump::Start(*loop, std::move(pipe.read));
  pump.lock()->Attach(std::move(ours));
  host.Reset();
  for (int i = 0; i < 100; ++i) {
    ASSERT_GT(write(pipe.write.get(), "0123456789", 10), 0);
    Spin(1ms);
  }
  pipe.write.Reset();
  Spin();
  EXPECT_TRUE(pump.expired());
}

TEST_F(PumpTest, EndSoonDeliversWhatIsThereAndEndsDespiteAWriter) {
  const auto pump = OutputPump::Start(*loop, std::move(pipe.read));
  pump->Attach(std::move(ours));
  ASSERT_TRUE(WriteAll(pipe.write, "last words").has_value());
  pump->EndSoon();
  Spin();
  EXPECT_EQ(Read(host), "last words<eof>");
}

TEST_F(PumpTest, InputEndsWithItsStream) {
  const std::weak_ptr<InputPump> pump = InputPump::Start(*loop, std::move(pipe.write));
  pump.lock()->Attach(std::move(ours));
  ASSERT_TRUE(WriteAll(host, "typed").has_value());
  ASSERT_EQ(shutdown(host.get(), SHUT_WR), 0);
  Spin();
  EXPECT_EQ(Read(pipe.read), "typed<eof>");
  EXPECT_TRUE(pump.expired());
}

TEST_F(PumpTest, InputOfAProcessThatIsGoneEndsTheStream) {
  const std::weak_ptr<InputPump> pump = InputPump::Start(*loop, std::move(pipe.write));
  pump.lock()->Attach(std::move(ours));
  pipe.read.Reset();
  Spin();
  EXPECT_TRUE(pump.expired());
  EXPECT_EQ(Read(host), "<eof>");
}

TEST_F(PumpTest, CloseInputWithoutAStreamEndsAtOnce) {
  const std::weak_ptr<InputPump> pump = InputPump::Start(*loop, std::move(pipe.write));
  pump.lock()->CloseInput();
  Spin();
  EXPECT_TRUE(pump.expired());
  EXPECT_EQ(Read(pipe.read), "<eof>");
}

TEST_F(PumpTest, CloseInputLosesNothingThatIsOnItsWay) {
  const auto pump = InputPump::Start(*loop, std::move(pipe.write));
  pump->Attach(std::move(ours));
  pump->CloseInput();
  Spin(100ms);
  ASSERT_TRUE(WriteAll(host, "late").has_value());
  Spin(100ms);
  EXPECT_EQ(Read(pipe.read), "late");
  ASSERT_EQ(shutdown(host.get(), SHUT_WR), 0);
  Spin();
  EXPECT_EQ(Read(pipe.read), "<eof>");
}

class HubTest : public PumpTest {
 protected:
  HubTest() {
    path = testing::TempDir() + "hub-test.sock";
    (void)unlink(path.c_str());
    hub = Must(StdioHub::Create(*loop, Must(ListenUnix(path, 0600)), nullptr));
  }

  void TearDown() override { (void)unlink(path.c_str()); }

  std::string path;
  std::unique_ptr<StdioHub> hub;
  UniqueFd got;
};

TEST_F(HubTest, TokenBeforeAndAfterItsExpectation) {
  const std::string first(32, 'a');
  const std::string second(32, 'b');
  ASSERT_TRUE(hub->Expect(first, [this](UniqueFd fd) { got = std::move(fd); }).has_value());
  const UniqueFd one = Must(ConnectUnix(path));
  // In pieces, and with data behind it.
  ASSERT_TRUE(WriteAll(one, first.substr(0, 10)).has_value());
  Spin();
  EXPECT_FALSE(got.valid());
  ASSERT_TRUE(WriteAll(one, first.substr(10) + "data").has_value());
  Spin();
  ASSERT_TRUE(got.valid());
  EXPECT_EQ(Read(got), "data");
  got.Reset();

  const UniqueFd two = Must(ConnectUnix(path));
  ASSERT_TRUE(WriteAll(two, second).has_value());
  Spin();
  ASSERT_TRUE(hub->Expect(second, [this](UniqueFd fd) { got = std::move(fd); }).has_value());
  EXPECT_TRUE(got.valid());
}

TEST_F(HubTest, BadSizesAndTokensInUseAreRefused) {
  EXPECT_EQ(hub->Expect("short", nullptr).error().code(), Code::kInvalidArgument);
  const std::string token(32, 'a');
  ASSERT_TRUE(hub->Expect(token, [](const UniqueFd&) {}).has_value());
  EXPECT_EQ(hub->Expect(token, nullptr).error().code(), Code::kAlreadyExists);
  hub->Forget(token);
  EXPECT_TRUE(hub->Expect(token, [](const UniqueFd&) {}).has_value());
}

class ReaperTest : public PumpTest {
 protected:
  static pid_t StartShell(const std::string& command) {
    SpawnOptions spawn;
    spawn.argv = {"/bin/sh", "-c", command};
    return Must(Subprocess::Spawn(spawn)).pid();
  }
};

TEST_F(ReaperTest, StatusesOfWatchedAndOfEarlyOnes) {
  const auto reaper = Must(Reaper::Create(*loop));
  const auto expectation = reaper->Expect();
  const pid_t watched = StartShell("exit 3");
  const pid_t early = StartShell("kill -9 $$");
  int first = -1;
  reaper->Watch(watched, [&first](ExitStatus status) { first = status.AsShell(); });
  Spin(300ms);
  EXPECT_EQ(first, 3);
  int second = -1;
  reaper->Watch(early, [&second](ExitStatus status) { second = status.AsShell(); });
  EXPECT_EQ(second, -1) << "not from within Watch";
  Spin();
  EXPECT_EQ(second, 137);
}

TEST_F(ReaperTest, OrphansAreReapedAndForgotten) {
  const auto reaper = Must(Reaper::Create(*loop));
  const pid_t parent = StartShell("(sleep 0.1; exit 5) & exit 0");
  Spin(400ms);
  EXPECT_EQ(kill(parent, 0), -1);
  // The status 0 that nobody expected is not kept; who asks for it later gets an answer all the same.
  int status = -1;
  reaper->Watch(parent, [&status](ExitStatus got_status) { status = got_status.AsShell(); });
  Spin();
  EXPECT_EQ(status, 255);
}

}  // namespace
}  // namespace wyvern::agent
