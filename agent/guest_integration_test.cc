// Processes beside a real agent, outside of every container: exit statuses, streams, terminals, signals, what is left.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <sstream>
#include <thread>

#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

class GuestTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent = std::make_unique<AgentProcess>();
  }

  Result<> Add(const std::string& exec_id, const std::vector<std::string>& args,
               const Stdio& stdio = {}) {
    v1::AddProcessRequest request;
    request.set_exec_id(exec_id);
    command.mutable_args()->Assign(args.begin(), args.end());
    *request.mutable_guest() = command;
    *request.mutable_stdio() = stdio.proto;
    auto added = agent->Call<v1::Empty>("AddProcess", request);
    return added ? Result<>() : tl::unexpected(std::move(added).error());
  }

  uint32_t AddAndStart(const std::string& exec_id, const std::vector<std::string>& args,
                       const Stdio& stdio = {}) {
    const auto added = Add(exec_id, args, stdio);
    EXPECT_TRUE(added.has_value()) << added.error().message();
    const auto started = agent->Start("", exec_id);
    EXPECT_TRUE(started.has_value()) << started.error().message();
    return started.value_or(0);
  }

  // The exit status; output in *out.
  int Run(const std::vector<std::string>& args, std::string* out) {
    const Stdio stdio = agent->MakeStdio("o");
    AddAndStart("r", args, stdio);
    *out = Drain(stdio.out);
    const int status = agent->Wait("", "r");
    EXPECT_TRUE(agent->Delete("", "r").has_value());
    return status;
  }

  static v1::GuestCommand Plain() {
    v1::GuestCommand command;
    command.add_env("PATH=/usr/bin:/bin");
    command.add_env("A=b c");
    return command;
  }

  v1::GuestCommand command = Plain();
  std::unique_ptr<AgentProcess> agent;
};

TEST_F(GuestTest, IsAChildOfTheAgentInASessionOfItsOwn) {
  std::string out;
  EXPECT_EQ(Run({"sh", "-c", "echo $PPID; ps -o sid= -p $$; echo $$; echo $A; pwd"}, &out), 0);
  std::istringstream lines(out);
  std::string parent;
  std::string session;
  std::string self;
  std::string variable;
  std::string directory;
  lines >> parent >> session >> self;
  std::getline(lines >> std::ws, variable);
  std::getline(lines, directory);
  EXPECT_EQ(parent, std::to_string(agent->pid()));
  EXPECT_EQ(session, self);
  EXPECT_EQ(variable, "b c");
  EXPECT_EQ(directory, "/");
}

TEST_F(GuestTest, StatusesAndStreams) {
  const Stdio stdio = agent->MakeStdio("ioe");
  AddAndStart("x", {"/bin/sh", "-c", "cat; echo err >&2; printf last; exit 7"}, stdio);
  ASSERT_TRUE(WriteAll(stdio.in, "hello\n").has_value());
  ASSERT_EQ(shutdown(stdio.in.get(), SHUT_WR), 0);
  EXPECT_EQ(Drain(stdio.out), "hello\nlast");
  EXPECT_EQ(Drain(stdio.err), "err\n");
  EXPECT_EQ(agent->Wait("", "x"), 7);
  EXPECT_TRUE(agent->Delete("", "x").has_value());
  EXPECT_EQ(agent->Wait("", "x"), -static_cast<int>(Code::kNotFound));
}

TEST_F(GuestTest, SignalsGive128PlusN) {
  for (const int signal : {SIGTERM, SIGINT, SIGKILL, SIGSEGV}) {
    AddAndStart("s", {"sleep", "1000"});
    EXPECT_TRUE(agent->Signal("", "s", signal).has_value());
    EXPECT_EQ(agent->Wait("", "s"), 128 + signal);
    EXPECT_EQ(CodeOf(agent->Signal("", "s", signal)), Code::kNotFound);
    EXPECT_TRUE(agent->Delete("", "s").has_value());
  }
}

TEST_F(GuestTest, SignalToAllReachesTheGroup) {
  const Stdio stdio = agent->MakeStdio("o");
  AddAndStart("g", {"sh", "-c", "sleep 1000 & echo up; wait"}, stdio);
  (void)ReadUntil(stdio.out, "up\n");
  EXPECT_TRUE(agent->Signal("", "g", SIGTERM, true).has_value());
  EXPECT_EQ(agent->Wait("", "g"), 143);
  EXPECT_EQ(Drain(stdio.out), "");  // the child held it, too
  EXPECT_TRUE(agent->Delete("", "g").has_value());
}

TEST_F(GuestTest, TerminalIsControllingAndHasItsSize) {
  Stdio stdio = agent->MakeStdio("iot");
  stdio.proto.set_rows(33);
  stdio.proto.set_columns(111);
  AddAndStart(
      "t",
      {"sh", "-c", "stty size; tty </dev/tty; trap 'stty size; exit 5' WINCH; echo up; read a"},
      stdio);
  const std::string text = ReadUntil(stdio.out, "up");
  EXPECT_NE(text.find("33 111"), std::string::npos) << text;
  EXPECT_NE(text.find("/dev/"), std::string::npos) << text;
  v1::ResizeRequest resize;
  resize.set_exec_id("t");
  resize.set_rows(40);
  resize.set_columns(132);
  ASSERT_TRUE(agent->Call<v1::Empty>("ResizeTerminal", resize).has_value());
  // Some shells run traps only after read; one that runs them at once may have ended by now.
  (void)WriteAll(stdio.in, "x\n");
  EXPECT_NE(Drain(stdio.out).find("40 132"), std::string::npos);
  EXPECT_EQ(agent->Wait("", "t"), 5);
  EXPECT_TRUE(agent->Delete("", "t").has_value());
}

TEST_F(GuestTest, ControlCInterruptsTheForeground) {
  const Stdio stdio = agent->MakeStdio("iot");
  // exec: a dash that is just forking takes the signal for itself, and neither it nor its child ends.
  AddAndStart("t", {"sh", "-c", "echo up; exec sleep 1000"}, stdio);
  (void)ReadUntil(stdio.out, "up");
  ASSERT_TRUE(WriteAll(stdio.in, "\x03").has_value());
  EXPECT_EQ(agent->Wait("", "t"), 130);
  EXPECT_TRUE(agent->Delete("", "t").has_value());
}

TEST_F(GuestTest, WhatCannotRunSaysWhyAndHasEnded) {
  const struct {
    std::vector<std::string> args;
    const char* text;
    Code code;
    int status;
  } cases[] = {
      {{"missing"},
       "executable file \"missing\" not found in the guest's PATH",
       Code::kNotFound,
       127},
      {{"/bin/missing"}, "\"/bin/missing\" not found in the guest", Code::kNotFound, 127},
      {{"/etc/passwd"}, "run \"/etc/passwd\" in the guest", Code::kPermissionDenied, 126},
      {{"/etc"}, "\"/etc\"", Code::kPermissionDenied, 126},
  };

  for (const auto& wanted : cases) {
    ASSERT_TRUE(Add("m", wanted.args).has_value());
    const auto started = agent->Start("", "m");
    EXPECT_EQ(CodeOf(started), wanted.code);
    EXPECT_NE(started.error().message().find(wanted.text), std::string::npos)
        << started.error().message();
    EXPECT_EQ(agent->Wait("", "m"), wanted.status);
    EXPECT_TRUE(agent->Delete("", "m").has_value());
  }
  command.set_cwd("/no/such/directory");
  ASSERT_TRUE(Add("d", {"true"}).has_value());
  const auto started = agent->Start("", "d");
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message().find("/no/such/directory"), std::string::npos);
  EXPECT_NE(agent->Wait("", "d"), 0U);
  EXPECT_TRUE(agent->Delete("", "d").has_value());
}

TEST_F(GuestTest, UserAndDirectory) {
  command.set_uid(1234);
  command.set_gid(100);
  command.set_cwd("/tmp");
  std::string out;
  EXPECT_EQ(Run({"sh", "-c", "id -u; id -g; id -G; pwd"}, &out), 0);
  EXPECT_EQ(out, "1234\n100\n100\n/tmp\n");
}

TEST_F(GuestTest, WrongStatesAndNamesHaveTheirCodes) {
  EXPECT_EQ(CodeOf(agent->Start("", "nope")), Code::kNotFound);
  EXPECT_EQ(CodeOf(agent->Start("", "")), Code::kNotFound);
  EXPECT_EQ(CodeOf(agent->Delete("", "")), Code::kNotFound);
  EXPECT_EQ(CodeOf(Add("../x", {"true"})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Add("", {"true"})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Add("x", {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Add("x", {""})), Code::kInvalidArgument);
  ASSERT_TRUE(Add("x", {"sleep", "1000"}).has_value());
  EXPECT_EQ(CodeOf(Add("x", {"true"})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(agent->Signal("", "x", SIGTERM)), Code::kFailedPrecondition);
  ASSERT_TRUE(agent->Start("", "x").has_value());
  EXPECT_EQ(CodeOf(agent->Start("", "x")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent->Delete("", "x")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent->Signal("", "x", 99)), Code::kInvalidArgument);
  EXPECT_TRUE(agent->Signal("", "x", SIGKILL).has_value());
  EXPECT_EQ(agent->Wait("", "x"), 137);
  // One that never ran: who waits is let go.
  ASSERT_TRUE(Add("never", {"true"}).has_value());
  std::future<int> waiting =
      std::async(std::launch::async, [this] { return agent->Wait("", "never"); });
  std::this_thread::sleep_for(50ms);
  EXPECT_TRUE(agent->Delete("", "never").has_value());
  EXPECT_EQ(waiting.get(), 0);
}

TEST_F(GuestTest, ManyLoseNoStatusAndLeakNothing) {
  v1::HelloRequest hello;
  hello.set_protocol(1);
  ASSERT_TRUE(agent->Call<v1::HelloResponse>("Hello", hello).has_value());
  const size_t fds = agent->OpenFds();
  std::string out;
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(Run({"sh", "-c", "exit 42"}, &out), 42) << i;
  }
  {
    const Stdio stdio = agent->MakeStdio("iot");
    AddAndStart("t", {"true"}, stdio);
    EXPECT_EQ(agent->Wait("", "t"), 0);
    EXPECT_TRUE(agent->Delete("", "t").has_value());
  }
  // The agent learns of our ends of the streams by an event each.
  for (int i = 0; i < 500 && agent->OpenFds() != fds; ++i) {
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(agent->OpenFds(), fds);
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/scratch"));
}

TEST_F(GuestTest, EndsWithTheSandbox) {
  const auto pid = static_cast<pid_t>(AddAndStart("x", {"sleep", "1000"}));
  ASSERT_EQ(kill(pid, 0), 0);
  agent.reset();  // tells the agent to end and waits for that
  EXPECT_EQ(kill(pid, 0), -1);
}

}  // namespace
}  // namespace wyvern::agent
