// Bytes in and out of processes of a real agent: pipes, terminals, ends, back-pressure, hostile streams.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <future>
#include <thread>

#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

class StdioTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent = std::make_unique<AgentProcess>();
  }

  void StartContainer(const std::vector<std::string>& args, const Stdio& stdio) {
    ContainerConfig config;
    config.args = args;
    config.terminal = stdio.proto.terminal();
    const auto created = agent->Create("c", config, stdio);
    ASSERT_TRUE(created.has_value()) << created.error().message();
    const auto started = agent->Start("c");
    ASSERT_TRUE(started.has_value()) << started.error().message();
  }

  void WaitAndDelete(int status) {
    EXPECT_EQ(agent->Wait("c"), status);
    const auto deleted = agent->Delete("c");
    EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
  }

  std::unique_ptr<AgentProcess> agent;
};

TEST_F(StdioTest, OutputAndErrorsApartAndTheLastLineWithoutNewline) {
  std::string out;
  std::string err;
  EXPECT_EQ(agent->Run("c", {"sh", "-c", "echo out; echo err >&2; printf last"}, &out, &err), 0);
  EXPECT_EQ(out, "out\nlast");
  EXPECT_EQ(err, "err\n");
}

TEST_F(StdioTest, NoStreamsAreDevNull) {
  EXPECT_EQ(agent->Run("c", {"sh", "-c", "cat && echo x && echo y >&2"}), 0);
}

TEST_F(StdioTest, HundredMiBOfInputArriveUnchanged) {
  const Stdio stdio = agent->MakeStdio("io");
  StartContainer({"sha256sum"}, stdio);
  std::string block(1 << 20, '\0');
  uint32_t state = 1;
  std::generate(block.begin(), block.end(), [&state] {
    state = state * 1664525U + 1013904223U;
    return static_cast<char>(state >> 24U);
  });
  FILE* expected_sum = popen("sha256sum > /tmp/wyvern-agent-sum", "w");
  ASSERT_NE(expected_sum, nullptr);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    block[0] = static_cast<char>(i);
    ASSERT_TRUE(WriteAll(stdio.in, block).has_value());
  }
  ASSERT_EQ(shutdown(stdio.in.get(), SHUT_WR), 0);
  const std::string sum = Drain(stdio.out);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  for (int i = 0; i < 100; ++i) {
    block[0] = static_cast<char>(i);
    ASSERT_EQ(fwrite(block.data(), 1, block.size(), expected_sum), block.size());
  }
  EXPECT_EQ(pclose(expected_sum), 0);
  const auto expected = ReadFile("/tmp/wyvern-agent-sum");
  ASSERT_TRUE(expected.has_value());
  EXPECT_EQ(sum, *expected);
  std::printf("stdin: %.0f MiB/s with sha256sum\n", 100 / seconds.count());
  WaitAndDelete(0);
}

TEST_F(StdioTest, QuarterGiBOfOutputArrivesUnchanged) {
  const Stdio stdio = agent->MakeStdio("o");
  constexpr int kLast = 30'000'000;  // 258 888 897 bytes
  StartContainer({"seq", "1", std::to_string(kLast)}, stdio);
  std::vector<std::byte> buffer(1 << 20);
  std::string expected;
  int next = 1;
  uint64_t total = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (true) {
    const auto count = ReadSome(stdio.out, buffer);
    ASSERT_TRUE(count.has_value());
    if (*count == 0) {
      break;
    }
    while (expected.size() < *count && next <= kLast) {
      expected += std::to_string(next++);
      expected += '\n';
    }
    ASSERT_LE(*count, expected.size());
    ASSERT_EQ(std::memcmp(expected.data(), buffer.data(), *count), 0) << "near line " << next;
    expected.erase(0, *count);
    total += *count;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(next, kLast + 1);
  EXPECT_TRUE(expected.empty());
  EXPECT_EQ(total, 258'888'897U);
  std::printf("stdout: %.0f MiB/s\n", static_cast<double>(total) / seconds.count() / (1 << 20));
  WaitAndDelete(0);
}

TEST_F(StdioTest, ReaderThatStopsHoldsTheProcessAndNothingElse) {
  const Stdio stdio = agent->MakeStdio("o");
  StartContainer({"yes"}, stdio);
  std::this_thread::sleep_for(300ms);
  // Kill, Wait and Delete work while the pipe is full.
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
  WaitAndDelete(137);
  EXPECT_GT(Drain(stdio.out).size(), 0U);
}

TEST_F(StdioTest, ReaderThatGoesAwayDoesNotHurtTheProcess) {
  Stdio stdio = agent->MakeStdio("o");
  StartContainer({"sh", "-c", "echo first; sleep 0.3; seq 1 200000; exit 9"}, stdio);
  (void)ReadUntil(stdio.out, "first");
  stdio.out.Reset();
  WaitAndDelete(9);
}

TEST_F(StdioTest, ProcessThatDoesNotReadItsInputDoesNotHoldTheHost) {
  const Stdio stdio = agent->MakeStdio("io");
  StartContainer({"sh", "-c", "exec 0</dev/null; echo closed; sleep 0.5"}, stdio);
  (void)ReadUntil(stdio.out, "closed");
  const std::string block(1 << 20, 'x');
  // Nobody reads: the agent closes the stream, which ends our writing.
  while (WriteAll(stdio.in, block)) {
  }
  WaitAndDelete(0);
}

TEST_F(StdioTest, CloseStdinEndsInputAfterItsData) {
  const Stdio stdio = agent->MakeStdio("io");
  StartContainer({"cat"}, stdio);
  ASSERT_TRUE(WriteAll(stdio.in, "some text").has_value());
  ASSERT_TRUE(agent->Call<v1::Empty>("CloseStdin", Ref("c")).has_value());
  EXPECT_EQ(Drain(stdio.out), "some text");
  WaitAndDelete(0);
}

TEST_F(StdioTest, CloseStdinBeforeAnyStreamAndBeforeStart) {
  Stdio stdio = agent->MakeStdio("o");
  stdio.proto.set_stdin_token(std::string(32, 'n'));  // nobody connects for it
  ContainerConfig config;
  config.args = {"cat"};
  ASSERT_TRUE(agent->Create("c", config, stdio).has_value());
  ASSERT_TRUE(agent->Call<v1::Empty>("CloseStdin", Ref("c")).has_value());
  ASSERT_TRUE(agent->Start("c").has_value());
  EXPECT_EQ(Drain(stdio.out), "");
  WaitAndDelete(0);
}

TEST_F(StdioTest, StreamsMayComeAfterTheProcess) {
  Stdio stdio;
  stdio.proto.set_stdout_token(std::string(32, 'l'));
  StartContainer({"echo", "early"}, stdio);
  EXPECT_EQ(agent->Wait("c"), 0);
  const UniqueFd out = agent->ConnectStdio();
  ASSERT_TRUE(WriteAll(out, std::string(32, 'l')).has_value());
  EXPECT_EQ(Drain(out), "early\n");
  EXPECT_TRUE(agent->Delete("c").has_value());
}

TEST_F(StdioTest, UnknownTokensAndTokensUsedTwiceGetNothing) {
  const UniqueFd unknown = agent->ConnectStdio();
  ASSERT_TRUE(WriteAll(unknown, std::string(32, 'u')).has_value());
  const UniqueFd half = agent->ConnectStdio();
  ASSERT_TRUE(WriteAll(half, "half a token").has_value());

  const Stdio stdio = agent->MakeStdio("o");
  StartContainer({"sh", "-c", "sleep 0.3; echo mine"}, stdio);
  const UniqueFd again = agent->ConnectStdio();
  ASSERT_TRUE(WriteAll(again, stdio.proto.stdout_token()).has_value());
  EXPECT_EQ(Drain(stdio.out), "mine\n");
  WaitAndDelete(0);

  Stdio bad;
  bad.proto.set_stdout_token("short");
  EXPECT_EQ(agent->Create("c", {}, bad).error().code(), Code::kInvalidArgument);
  // All three are closed within the agent's ten seconds.
  for (const UniqueFd* fd : {&unknown, &half, &again}) {
    EXPECT_EQ(Drain(*fd), "");
  }
}

TEST_F(StdioTest, BackgroundWriterKeepsTheStreamUntilDelete) {
  const Stdio keeper = agent->MakeStdio("");
  ContainerConfig config;
  ASSERT_TRUE(agent->Create("c", config, keeper).has_value());
  ASSERT_TRUE(agent->Start("c").has_value());
  const Stdio stdio = agent->MakeStdio("o");
  ASSERT_TRUE(agent->Exec("c", "x", {"sh", "-c", "sleep 1000 & echo done"}, stdio).has_value());
  ASSERT_TRUE(agent->Start("c", "x").has_value());
  EXPECT_EQ(agent->Wait("c", "x"), 0);
  EXPECT_EQ(ReadUntil(stdio.out, "done\n"), "done\n");
  pollfd wait{stdio.out.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait, 1, 300), 0) << "the stream ended although a process holds it";
  EXPECT_TRUE(agent->Delete("c", "x").has_value());
  EXPECT_EQ(Drain(stdio.out), "");
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
  WaitAndDelete(137);
}

TEST_F(StdioTest, TerminalHasItsSizeResizesAndTakesCtrlC) {
  Stdio stdio = agent->MakeStdio("iot");
  stdio.proto.set_rows(33);
  stdio.proto.set_columns(99);
  StartContainer({"sh"}, stdio);
  ASSERT_TRUE(WriteAll(stdio.in, "stty size; tty_is=$(id -u); echo id=$tty_is\n").has_value());
  EXPECT_NE(ReadUntil(stdio.out, "id=0").find("33 99"), std::string::npos);
  v1::ResizeRequest resize;
  resize.set_id("c");
  resize.set_rows(44);
  resize.set_columns(111);
  ASSERT_TRUE(agent->Call<v1::Empty>("ResizeTerminal", resize).has_value());
  ASSERT_TRUE(WriteAll(stdio.in, "stty size\n").has_value());
  (void)ReadUntil(stdio.out, "44 111");
  ASSERT_TRUE(WriteAll(stdio.in, "echo begin; sleep 1000; echo rc=$?\n").has_value());
  (void)ReadUntil(stdio.out, "begin\r\n");
  std::this_thread::sleep_for(100ms);
  ASSERT_TRUE(WriteAll(stdio.in, "\x03").has_value());
  ASSERT_TRUE(WriteAll(stdio.in, "echo after=$?\n").has_value());
  (void)ReadUntil(stdio.out, "after=130");
  ASSERT_TRUE(WriteAll(stdio.in, "exit 5\n").has_value());
  (void)Drain(stdio.out);
  WaitAndDelete(5);
}

TEST_F(StdioTest, TerminalLosesNothingAtHangUp) {
  for (int i = 0; i < 5; ++i) {
    const Stdio stdio = agent->MakeStdio("ot");
    StartContainer({"sh", "-c", "seq 1 20000; printf end"}, stdio);
    const std::string out = Drain(stdio.out);
    EXPECT_TRUE(out.starts_with("1\r\n2\r\n"));
    EXPECT_TRUE(out.ends_with("20000\r\nend")) << out.substr(out.size() - 20);
    EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 20000);
    WaitAndDelete(0);
  }
}

TEST_F(StdioTest, TerminalOfAnExec) {
  ASSERT_TRUE(agent->Create("c", {}, {}).has_value());
  ASSERT_TRUE(agent->Start("c").has_value());
  Stdio stdio = agent->MakeStdio("iot");
  stdio.proto.set_rows(20);
  stdio.proto.set_columns(70);
  ASSERT_TRUE(agent
                  ->Exec("c", "x",
                         {"sh", "-c",
                          "until [ \"$(stty size)\" = \"20 70\" ]; do sleep 0.02; done; stty size; "
                          "read line; echo got=$line; exit 4"},
                         stdio)
                  .has_value());
  ASSERT_TRUE(agent->Start("c", "x").has_value());
  (void)ReadUntil(stdio.out, "20 70");
  ASSERT_TRUE(WriteAll(stdio.in, "hello\n").has_value());
  (void)ReadUntil(stdio.out, "got=hello");
  EXPECT_EQ(agent->Wait("c", "x"), 4);
  (void)Drain(stdio.out);
  EXPECT_TRUE(agent->Delete("c", "x").has_value());
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
  WaitAndDelete(137);
}

}  // namespace
}  // namespace wyvern::agent
