// More of the acceptance scenarios of containerd shims, by their numbers: what service_test.cc shows of them in part.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <future>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "testing/stream_client.h"
#include "testing/task_fixture.h"

namespace wyvern::shim {
namespace {

using std::chrono::milliseconds;
using Strings = std::vector<std::string>;

class ScenarioTest : public TaskFixture {
 protected:
  ScenarioTest() { signal(SIGPIPE, SIG_IGN); }

  Result<task_pb::CreateTaskResponse> CreateWithOutput(const std::string& id,
                                                       const std::string& script,
                                                       const std::string& stdout_path) {
    task_pb::CreateTaskRequest request;
    request.set_id(id);
    request.set_bundle(ShellBundle(id, script));
    request.set_stdout(stdout_path);
    return Call<task_pb::CreateTaskResponse>("Create", request);
  }

  // A task on a terminal; its input and output are tty-in and tty-out.
  void CreateOnTerminal(const std::string& id, const std::string& script) {
    task_pb::CreateTaskRequest request;
    request.set_id(id);
    request.set_bundle(ShellBundle(id, script));
    request.set_terminal(true);
    request.set_stdin(MakeFifo("tty-in"));
    request.set_stdout(MakeFifo("tty-out"));
    out_ = Must(Open(request.stdout(), O_RDONLY | O_NONBLOCK));
    ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
    in_ = Must(Open(request.stdin(), O_WRONLY));
  }

  // What the terminal says until `word` is in it.
  std::string ReadUntil(const std::string& word) {
    std::string text;
    std::array<char, 4096> buffer{};
    for (int i = 0; i < 1000 && text.find(word) == std::string::npos; ++i) {
      const ssize_t got = read(out_.get(), buffer.data(), buffer.size());
      if (got > 0) {
        text.append(buffer.data(), static_cast<size_t>(got));
      } else {
        std::this_thread::sleep_for(milliseconds(10));
      }
    }
    return text;
  }

  void ResizePty(const std::string& id, uint32_t width, uint32_t height) {
    task_pb::ResizePtyRequest request;
    request.set_id(id);
    request.set_width(width);
    request.set_height(height);
    EXPECT_TRUE(Call<pb::Empty>("ResizePty", request));
  }

  // As containerd after its restart: another connection to the same shim.
  void Reconnect() {
    client_.reset();
    client_ = Must(ttrpc::Client::Create(Must(ConnectUnix(dir_ / "shim.sock"))));
  }

  static size_t OpenDescriptors() {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
  }

  static size_t Threads() {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}));
  }

  UniqueFd in_, out_;
};

TEST_F(ScenarioTest, Scenario03_ProgramThatIsNotExecutableFailsCreateAndTheIdIsFreeAgain) {
  ASSERT_TRUE(WriteFile(dir_ / "text", "no program"));
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(Bundle("t", {dir_ / "text"}));
  EXPECT_FALSE(Call<task_pb::CreateTaskResponse>("Create", request));
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  EXPECT_TRUE(events_.Lines().empty());
  ASSERT_TRUE(Create("t", "exit 0"));
}

TEST_F(ScenarioTest, Scenario05_WaitWhoseClientIsGoneCostsTheOthersNothing) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  task_pb::WaitRequest wait;
  wait.set_id("t");
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(CodeOf(Call<task_pb::WaitResponse>("Wait", wait, milliseconds(20))),
              Code::kDeadlineExceeded);
    Reconnect();
  }
  auto waiting = std::async(std::launch::async, [this] { return Wait("t"); });
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(waiting.get()->exit_status(), 137U);
}

TEST_F(ScenarioTest, Scenario11_StopSignalFirstAndSigkillForWhoIgnoresIt) {
  ASSERT_TRUE(Create("obeys", "trap 'exit 3' QUIT; echo; while :; do sleep 0.02; done"));
  ASSERT_TRUE(CreateWithOutput("ignores", "trap '' TERM; echo ready; while :; do sleep 0.02; done",
                               MakeFifo("out")));
  FifoReader out(dir_ / "out");
  ASSERT_TRUE(Start("obeys"));
  ASSERT_TRUE(Start("ignores"));
  std::this_thread::sleep_for(milliseconds(300));  // the shells have set their traps
  ASSERT_TRUE(Kill("obeys", "", SIGQUIT));
  EXPECT_EQ(Wait("obeys")->exit_status(), 3U);
  ASSERT_TRUE(Kill("ignores", "", SIGTERM));
  task_pb::WaitRequest grace;
  grace.set_id("ignores");
  EXPECT_EQ(CodeOf(Call<task_pb::WaitResponse>("Wait", grace, milliseconds(400))),
            Code::kDeadlineExceeded);
  EXPECT_EQ(State("ignores")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Kill("ignores", "", SIGKILL, true));
  EXPECT_EQ(Wait("ignores")->exit_status(), 137U);
}

TEST_F(ScenarioTest, Scenario12_ExecThatIsGivenUpDiesAlone) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  ASSERT_TRUE(Start("t"));
  std::vector<std::thread> probes;
  for (int i = 0; i < 20; ++i) {
    probes.emplace_back([this, exec = "probe" + std::to_string(i), hangs = i % 4 == 0] {
      EXPECT_TRUE(Exec("t", exec, {"/bin/sleep", hangs ? "60" : "0"}));
      EXPECT_TRUE(Start("t", exec));
      if (hangs) {
        task_pb::WaitRequest wait;
        wait.set_id("t");
        wait.set_exec_id(exec);
        EXPECT_EQ(CodeOf(Call<task_pb::WaitResponse>("Wait", wait, milliseconds(200))),
                  Code::kDeadlineExceeded);
        EXPECT_TRUE(Kill("t", exec, SIGKILL));
      }
      EXPECT_EQ(Wait("t", exec)->exit_status(), hangs ? 137U : 0U);
      EXPECT_TRUE(Delete("t", exec));
    });
  }
  for (std::thread& probe : probes) {
    probe.join();
  }
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
}

TEST_F(ScenarioTest, Scenario14_StatsAndAnotherContainerdWhilePaused) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  ASSERT_TRUE(Start("t"));
  task_pb::PauseRequest pause;
  pause.set_id("t");
  ASSERT_TRUE(Call<pb::Empty>("Pause", pause));
  task_pb::StatsRequest stats;
  stats.set_id("t");
  EXPECT_TRUE(Call<task_pb::StatsResponse>("Stats", stats));
  auto waiting = std::async(std::launch::async, [this] { return CodeOf(Wait("t")); });
  std::this_thread::sleep_for(milliseconds(100));
  Reconnect();
  EXPECT_EQ(waiting.get(), Code::kUnavailable);
  EXPECT_EQ(State("t")->status(), task_pb::PAUSED);
  task_pb::PidsRequest pids;
  pids.set_id("t");
  EXPECT_GE(Call<task_pb::PidsResponse>("Pids", pids)->processes_size(), 1);
  task_pb::ResumeRequest resume;
  resume.set_id("t");
  ASSERT_TRUE(Call<pb::Empty>("Resume", resume));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Call<pb::Empty>("Pause", pause));
  ASSERT_TRUE(Kill("t", "", SIGKILL, true));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_TRUE(Delete("t"));
  ASSERT_TRUE(events_.Await(7));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "paused t", "resumed t", "paused t",
                                      "exit t 137", "delete t 137"}));
}

TEST_F(ScenarioTest, Scenario17_LinesLongerThanAnyBufferArriveWhole) {
  const std::string path = MakeFifo("out");
  FifoReader out(path);
  ASSERT_TRUE(
      CreateWithOutput("t", "head -c 300000 /dev/zero | tr '\\0' x; printf '\\nlast'", path));
  ASSERT_TRUE(Start("t"));
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  EXPECT_EQ(out.Text(), std::string(300000, 'x') + "\nlast");
  EXPECT_TRUE(Delete("t"));
}

TEST_F(ScenarioTest, Scenario18_TwoStalledReadersKeepNothingFromItsEnd) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "cat /dev/zero >&2 & exec cat /dev/zero"));
  request.set_stdout(MakeFifo("out"));
  request.set_stderr(MakeFifo("err"));
  const UniqueFd out = Must(Open(request.stdout(), O_RDONLY | O_NONBLOCK));
  const UniqueFd err = Must(Open(request.stderr(), O_RDONLY | O_NONBLOCK));
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  ASSERT_TRUE(Start("t"));
  std::this_thread::sleep_for(milliseconds(300));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(State("t"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(500));
  ASSERT_TRUE(Kill("t", "", SIGKILL, true));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_TRUE(Delete("t"));
  EXPECT_EQ(ShutdownCode(), Code::kOk);
  for (int i = 0; i < 200 && !shut_down_; ++i) {
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_TRUE(shut_down_);  // kata#13676: the VM stayed
}

TEST_F(ScenarioTest, Scenario18_StreamWhoseClientGrantsNothingKeepsNothingFromItsEnd) {
  StreamClient stalled = Must(StreamClient::Open(*client_, "t-stdout"));
  ASSERT_TRUE(CreateWithOutput("t", "exec cat /dev/zero",
                               "ttrpc+unix://" + (dir_ / "shim.sock") + "?streaming_id=t-stdout"));
  ASSERT_TRUE(Start("t"));
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_TRUE(Delete("t"));
  // What the pipe held is its client's still.
  size_t left = 0;
  ASSERT_TRUE(stalled.Grant(1 << 20));
  for (auto data = stalled.Read(); data && *data; data = stalled.Read()) {
    left += (*data)->size();
  }
  EXPECT_GT(left, 0U);
}

TEST_F(ScenarioTest, Scenario20_StreamsOfAllThreeAndTheEndOfInputByCloseIo) {
  const std::string address = "ttrpc+unix://" + (dir_ / "shim.sock") + "?streaming_id=";
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "cat; echo bad >&2; exit 3"));
  request.set_stdin(address + "t-stdin");
  request.set_stdout(address + "t-stdout");
  request.set_stderr(address + "t-stderr");
  // containerd opens them before it creates the task.
  StreamClient in = Must(StreamClient::Open(*client_, "t-stdin"));
  StreamClient out = Must(StreamClient::Open(*client_, "t-stdout"));
  StreamClient err = Must(StreamClient::Open(*client_, "t-stderr"));
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  ASSERT_TRUE(Start("t"));
  while (in.granted() == 0) {
    ASSERT_TRUE(in.Read());
  }
  ASSERT_TRUE(in.SendData("typed\n"));
  ASSERT_TRUE(in.CloseSend());
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);  // its client has gone: that is no end
  task_pb::CloseIORequest close;
  close.set_id("t");
  close.set_stdin(true);
  ASSERT_TRUE(Call<pb::Empty>("CloseIO", close));
  EXPECT_EQ(Wait("t")->exit_status(), 3U);
  EXPECT_EQ(out.ReadAll(), "typed\n");
  EXPECT_EQ(err.ReadAll(), "bad\n");
  EXPECT_EQ(State("t")->stdout(), address + "t-stdout");
  EXPECT_TRUE(Delete("t"));
}

TEST_F(ScenarioTest, Scenario19_StreamAfterARestartOfContainerd) {
  ASSERT_TRUE(CreateWithOutput(
      "t", "echo one; while [ ! -e " + (dir_ / "go") + " ]; do sleep 0.02; done; echo two",
      "ttrpc+unix://" + (dir_ / "shim.sock") + "?streaming_id=t-stdout"));
  {
    StreamClient first = Must(StreamClient::Open(*client_, "t-stdout"));
    ASSERT_TRUE(first.Grant(65536));
    ASSERT_TRUE(Start("t"));
    EXPECT_EQ(first.Read()->value_or(""), "one\n");
  }
  Reconnect();
  ASSERT_TRUE(WriteFile(dir_ / "go", ""));
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  // containerd reads what is left of a task that has ended, before it deletes it.
  StreamClient second = Must(StreamClient::Open(*client_, "t-stdout"));
  EXPECT_EQ(second.ReadAll(), "two\n");
  EXPECT_TRUE(Delete("t"));
}

TEST_F(ScenarioTest, Scenario19_ReaderAndContainerdGoAndComeBack) {
  const std::string path = MakeFifo("out");
  UniqueFd reader = Must(Open(path, O_RDONLY | O_NONBLOCK));
  ASSERT_TRUE(CreateWithOutput(
      "t", "echo one; while [ ! -e " + (dir_ / "go") + " ]; do sleep 0.02; done; echo two; exit 4",
      path));
  ASSERT_TRUE(Start("t"));
  std::this_thread::sleep_for(milliseconds(200));
  reader.Reset();
  client_.reset();
  events_.Stop();
  std::this_thread::sleep_for(milliseconds(200));
  FifoReader again(path);
  ASSERT_TRUE(WriteFile(dir_ / "go", ""));  // it writes, and ends, without containerd
  EXPECT_EQ(again.Text(), "one\ntwo\n");    // what the first reader left is the second's
  events_.Start();
  client_ = Must(ttrpc::Client::Create(Must(ConnectUnix(dir_ / "shim.sock"))));
  EXPECT_EQ(Wait("t")->exit_status(), 4U);
  EXPECT_TRUE(Delete("t"));
  ASSERT_TRUE(events_.Await(4));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "exit t 4", "delete t 4"}));
}

TEST_F(ScenarioTest, Scenario20_StdinOfAnInitThatNobodyEverOpens) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "cat; exit 5"));
  request.set_stdin(MakeFifo("in"));
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  task_pb::CloseIORequest close;
  close.set_id("t");
  close.set_stdin(true);
  ASSERT_TRUE(Call<pb::Empty>("CloseIO", close));  // before Start
  ASSERT_TRUE(Start("t"));
  EXPECT_EQ(Wait("t")->exit_status(), 5U);
  EXPECT_TRUE(Delete("t"));
}

TEST_F(ScenarioTest, Scenario21_ResizedWhileItRunsAndInterruptedByControlC) {
  CreateOnTerminal(
      "t",
      "trap 'stty size; echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done");
  ResizePty("t", 80, 24);
  ASSERT_TRUE(Start("t"));
  EXPECT_NE(ReadUntil("ready").find("ready"), std::string::npos);
  ResizePty("t", 132, 43);
  ASSERT_TRUE(WriteAll(in_, std::string("\x03")));
  const std::string said = ReadUntil("interrupted");
  EXPECT_NE(said.find("43 132"), std::string::npos) << said;
  EXPECT_EQ(Wait("t")->exit_status(), 9U);
  ResizePty("t", 80, 24);  // of what has ended: no error
  EXPECT_TRUE(Delete("t"));
}

TEST_F(ScenarioTest, Scenario21_DetachedAndAttachedAgain) {
  CreateOnTerminal("t", "while read line; do echo got-$line; [ $line = end ] && exit 0; done");
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(WriteAll(in_, std::string("one\n")));
  EXPECT_NE(ReadUntil("got-one").find("got-one"), std::string::npos);
  in_.Reset();
  out_.Reset();
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);  // no hang-up: that is not how clients detach
  out_ = Must(Open(dir_ / "tty-out", O_RDONLY | O_NONBLOCK));
  in_ = Must(Open(dir_ / "tty-in", O_WRONLY));
  ASSERT_TRUE(WriteAll(in_, std::string("end\n")));
  EXPECT_NE(ReadUntil("got-end").find("got-end"), std::string::npos);
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
}

TEST_F(ScenarioTest, Scenario24_StandardOutputAlone) {
  const std::string path = MakeFifo("out");
  FifoReader out(path);
  ASSERT_TRUE(CreateWithOutput("t", "cat; echo lost >&2; echo kept", path));  // stdin is /dev/null
  ASSERT_TRUE(Start("t"));
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  EXPECT_EQ(out.Text(), "kept\n");
}

TEST_F(ScenarioTest, Scenario25_ManyExecsLeaveNoDescriptorAndNoThread) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  ASSERT_TRUE(Start("t"));
  const auto run = [this](int count) {
    for (int i = 0; i < count; ++i) {
      const std::string name = "e" + std::to_string(i);
      task_pb::ExecProcessRequest exec;
      exec.set_id("t");
      exec.set_exec_id(name);
      exec.set_stdin(dir_ / "in");
      exec.set_stdout(dir_ / "out");
      // One that fails in Start, too: TestContainerIOLeakAfterStartFailed.
      exec.mutable_spec()->set_value(i % 3 == 0 ? R"({"args":["/no/such"],"cwd":"/"})"
                                                : R"({"args":["/bin/true"],"cwd":"/"})");
      ASSERT_TRUE(Call<pb::Empty>("Exec", exec));
      EXPECT_EQ(Start("t", name).has_value(), i % 3 != 0);
      ASSERT_TRUE(Wait("t", name));
      ASSERT_TRUE(Delete("t", name));
    }
  };
  MakeFifo("in");
  const UniqueFd out = Must(Open(MakeFifo("out"), O_RDONLY | O_NONBLOCK));
  run(20);
  const size_t descriptors = OpenDescriptors();
  const size_t threads = Threads();
  run(400);
  for (int i = 0; i < 100 && OpenDescriptors() > descriptors; ++i) {
    std::this_thread::sleep_for(milliseconds(20));  // the last one's ends are closed on the loop
  }
  EXPECT_LE(OpenDescriptors(), descriptors);
  EXPECT_LE(Threads(), threads + 2);  // the pool's idle ones come and go
}

TEST_F(ScenarioTest, Scenario26_MessagesAroundFourMebibytes) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  ASSERT_TRUE(Start("t"));
  // Some bytes below: the protocol carries it; what execve says of 4 MiB is the program's exit.
  const Strings below = {"/bin/true", std::string((4 << 20) - 512, 'x')};
  ASSERT_TRUE(Exec("t", "below", below));
  EXPECT_TRUE(Start("t", "below"));
  EXPECT_NE(Wait("t", "below")->exit_status(), 0U);
  EXPECT_TRUE(Delete("t", "below"));
  const auto above = Exec("t", "above", {"/bin/true", std::string(4 << 20, 'x')});
  ASSERT_FALSE(above);
  EXPECT_EQ(above.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(CodeOf(State("t", "above")), Code::kNotFound);
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
}

TEST_F(ScenarioTest, Scenario38_DeleteThatTakesLongIsAskedAgainAndAgain) {
  std::atomic<bool> slow{false};
  std::atomic<int> deletes{0};
  hook_ = [&](const std::string& operation) -> Result<> {
    if (operation == "delete") {
      ++deletes;
      if (slow) {
        std::this_thread::sleep_for(milliseconds(1500));
      }
    }
    return {};
  };
  ASSERT_TRUE(Create("t", "exit 0"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Wait("t"));
  slow = true;
  task_pb::DeleteRequest request;
  request.set_id("t");
  std::vector<std::future<Code>> clients;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(std::async(std::launch::async, [&] {
      return CodeOf(Call<task_pb::DeleteResponse>("Delete", request, milliseconds(200)));
    }));
  }
  for (auto& client : clients) {
    EXPECT_EQ(client.get(), Code::kDeadlineExceeded);
  }
  EXPECT_EQ(CodeOf(Delete("t")), Code::kNotFound);
  EXPECT_EQ(deletes, 1);
  EXPECT_EQ(ShutdownCode(), Code::kOk);
}

TEST_F(ScenarioTest, Scenario70_CheckpointOfARunningTaskAndARestoreChangeNothing) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  ASSERT_TRUE(Start("t"));
  task_pb::CheckpointTaskRequest checkpoint;
  checkpoint.set_id("t");
  checkpoint.set_path(dir_ / "image");
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Checkpoint", checkpoint)), Code::kUnimplemented);
  EXPECT_NE(access((dir_ / "image").c_str(), F_OK), 0);
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  task_pb::CreateTaskRequest restore;
  restore.set_id("u");
  restore.set_bundle(ShellBundle("u", "exit 0"));
  restore.set_checkpoint(dir_ / "image");
  EXPECT_EQ(CodeOf(Call<task_pb::CreateTaskResponse>("Create", restore)), Code::kUnimplemented);
  EXPECT_EQ(CodeOf(State("u")), Code::kNotFound);
  ASSERT_TRUE(events_.Await(2));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t"}));
}

}  // namespace
}  // namespace wyvern::shim
