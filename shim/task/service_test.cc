// The RPC sequences of containerd's clients, over ttrpc, with local processes in the sandbox's place. Numbers are those of the acceptance
// scenarios for containerd shims.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <future>

#include "base/testing/must.h"
#include "proto/containerd_cgroups2.pb.h"
#include "testing/task_fixture.h"

namespace wyvern::shim {
namespace {

using Strings = std::vector<std::string>;

class TaskServiceTest : public TaskFixture {
 protected:
  // Create, Start, Wait, Delete; the exit status.
  uint32_t RunOnce(const std::string& id, const std::string& script) {
    EXPECT_TRUE(Create(id, script));
    EXPECT_TRUE(Start(id));
    const auto exit = Wait(id);
    EXPECT_TRUE(exit);
    EXPECT_TRUE(Delete(id));
    return exit ? exit->exit_status() : 999;
  }
};

TEST_F(TaskServiceTest, Scenario01_TrueWithEveryCallOfCtrRun) {
  std::atomic<int> shutdowns{0};
  hook_ = [&shutdowns](const std::string& operation) -> Result<> {
    shutdowns += operation == "shutdown" ? 1 : 0;
    return {};
  };
  const auto created = Create("t", "exit 0");
  ASSERT_TRUE(created);
  EXPECT_GT(created->pid(), 0U);
  task_pb::ConnectRequest connect;
  connect.set_id("t");
  const auto connected = Call<task_pb::ConnectResponse>("Connect", connect);
  ASSERT_TRUE(connected);
  EXPECT_EQ(connected->task_pid(), created->pid());
  EXPECT_EQ(connected->shim_pid(), static_cast<uint32_t>(getpid()));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t"); });
  const auto started = Start("t");
  ASSERT_TRUE(started);
  EXPECT_EQ(started->pid(), created->pid());
  const auto exit = waiting.get();
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->exit_status(), 0U);
  EXPECT_GT(exit->exited_at().seconds(), 1700000000);
  const auto state = State("t");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->status(), task_pb::STOPPED);
  EXPECT_EQ(state->pid(), created->pid());
  const auto deleted = Delete("t");
  ASSERT_TRUE(deleted);
  EXPECT_EQ(deleted->pid(), created->pid());
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  EXPECT_EQ(ShutdownCode(), Code::kOk);
  EXPECT_EQ(shutdowns, 1);  // before the answer
  ASSERT_TRUE(events_.Await(4));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "exit t 0", "delete t 0"}));
}

TEST_F(TaskServiceTest, Scenario01_StartEventBeforeExitWhenItDiesInsideStart) {
  hook_ = [](const std::string& operation) -> Result<> {
    if (operation == "started") {  // the process has died long before StartProcess returns
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    return {};
  };
  ASSERT_TRUE(Create("t", "exit 3"));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t"); });
  const auto started = Start("t");
  ASSERT_TRUE(started);
  EXPECT_GT(started->pid(), 0U);
  EXPECT_EQ(waiting.get()->exit_status(), 3U);
  ASSERT_TRUE(events_.Await(3));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "exit t 3"}));
}

TEST_F(TaskServiceTest, Scenario02_ExitCodesAndSignalDeaths) {
  EXPECT_EQ(RunOnce("c0", "exit 0"), 0U);
  EXPECT_EQ(RunOnce("c1", "exit 1"), 1U);
  EXPECT_EQ(RunOnce("c7", "exit 7"), 7U);
  EXPECT_EQ(RunOnce("c255", "exit 255"), 255U);
  EXPECT_EQ(RunOnce("int", "kill -INT $$"), 130U);
  EXPECT_EQ(RunOnce("abrt", "kill -ABRT $$"), 134U);
  EXPECT_EQ(RunOnce("kill", "kill -KILL $$"), 137U);
  EXPECT_EQ(RunOnce("segv", "kill -SEGV $$"), 139U);
  EXPECT_EQ(RunOnce("term", "kill -TERM $$"), 143U);
}

TEST_F(TaskServiceTest, Scenario03_MissingBinaryFailsCreateAndTheIdIsFreeAgain) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(Bundle("t", {"/no/such/program"}));
  const auto failed = Call<task_pb::CreateTaskResponse>("Create", request);
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message().find("executable file not found"), std::string::npos);
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  EXPECT_EQ(RunOnce("t", "exit 5"), 5U);
  EXPECT_EQ(sandboxes_, 2);  // the failed Create took its sandbox along
}

// docker's exit codes 127 and 126 come from these words, as Go writes them.
TEST_F(TaskServiceTest, Scenario03_CreateSaysWhatDockerReads) {
  std::string says;
  hook_ = [&says](const std::string& operation) -> Result<> {
    if (operation == "create") {
      return Fail(Code::kUnknown, says);
    }
    return {};
  };
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(Bundle("t", {"/bin/true"}));
  for (const auto& [guest, read] :
       {std::pair("executable file `x` not found in $PATH: No such file or directory",
                  "executable file `x` not found in $PATH: no such file or directory"),
        std::pair("open executable: Permission denied", "open executable: permission denied"),
        std::pair("mount `/x`: No such file or directory",
                  "mount `/x`: No such file or directory")}) {
    says = guest;
    const auto failed = Call<task_pb::CreateTaskResponse>("Create", request);
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().message().find(read), std::string::npos) << failed.error().message();
  }
}

TEST_F(TaskServiceTest, Scenario04_ExecOfMissingBinaryFailsAtStart) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/no/such/program"}));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t", "e"); });
  EXPECT_FALSE(Start("t", "e"));
  EXPECT_TRUE(waiting.get());
  EXPECT_TRUE(Delete("t", "e"));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(events_.Await(3));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "exec-added t/e"}));
}

TEST_F(TaskServiceTest, Scenario05_WaitBeforeStartInParallelAfterExitAndOnExecs) {
  ASSERT_TRUE(Create("t", "exec sleep 60"));
  std::vector<std::future<Result<task_pb::WaitResponse>>> waits;
  for (int i = 0; i < 8; ++i) {
    waits.push_back(std::async(std::launch::async, [this] { return Wait("t"); }));
  }
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sh", "-c", "exit 9"}));
  auto exec_wait = std::async(std::launch::async, [this] { return Wait("t", "e"); });
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(exec_wait.get()->exit_status(), 9U);
  EXPECT_EQ(Wait("t", "e")->exit_status(), 9U);
  ASSERT_TRUE(Kill("t", "", SIGTERM));
  for (auto& wait : waits) {
    EXPECT_EQ(wait.get()->exit_status(), 143U);
  }
  EXPECT_EQ(Wait("t")->exit_status(), 143U);
}

TEST_F(TaskServiceTest, Scenario06_DeleteOfRunningIsRefused) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(CodeOf(Delete("t")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Delete("t", "e")), Code::kFailedPrecondition);
}

TEST_F(TaskServiceTest, Scenario06_ForcedDeleteOfRunningTaskAndExec) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  ASSERT_TRUE(Start("t", "e"));
  ASSERT_TRUE(Kill("t", "e", SIGKILL, true));
  EXPECT_EQ(Wait("t", "e")->exit_status(), 137U);
  EXPECT_EQ(Delete("t", "e")->exit_status(), 137U);
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Kill("t", "", SIGKILL, true));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_EQ(Delete("t")->exit_status(), 137U);
}

TEST_F(TaskServiceTest, Scenario06_DeleteOfExecThatWasNeverStarted) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/true"}));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t", "e"); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(Delete("t", "e"));
  EXPECT_EQ(CodeOf(waiting.get()), Code::kNotFound);
  EXPECT_EQ(CodeOf(State("t", "e")), Code::kNotFound);
  ASSERT_TRUE(Exec("t", "e", {"/bin/true"}));  // the id is free again
}

TEST_F(TaskServiceTest, Scenario07_CreateNeverStartKillDelete) {
  ASSERT_TRUE(Create("t", "exit 0"));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t"); });
  EXPECT_EQ(State("t")->status(), task_pb::CREATED);
  ASSERT_TRUE(Kill("t", "", SIGKILL, true));
  EXPECT_EQ(waiting.get()->exit_status(), 137U);
  EXPECT_EQ(State("t")->status(), task_pb::STOPPED);
  EXPECT_EQ(Delete("t")->exit_status(), 137U);
  ASSERT_TRUE(events_.Await(3));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "exit t 137", "delete t 137"}));
}

TEST_F(TaskServiceTest, Scenario07_DeleteInCreatedStateEndsIt) {
  ASSERT_TRUE(Create("t", "exit 0"));
  EXPECT_EQ(Delete("t")->exit_status(), 137U);
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  ASSERT_TRUE(events_.Await(3));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "exit t 137", "delete t 137"}));
}

TEST_F(TaskServiceTest, Scenario08_HundredParallelOneShotsHaveOneOrderedSetOfEventsEach) {
  constexpr int kCount = 100;
  std::vector<std::thread> threads;
  for (int worker = 0; worker < 10; ++worker) {
    threads.emplace_back([this, worker] {
      for (int i = worker; i < kCount; i += 10) {
        RunOnce("c" + std::to_string(i), "exit " + std::to_string(i % 7));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  ASSERT_TRUE(events_.Await(4 * kCount));
  EXPECT_EQ(events_.Lines().size(), 4U * kCount);
  for (int i = 0; i < kCount; ++i) {
    const std::string id = "c" + std::to_string(i);
    const std::string code = std::to_string(i % 7);
    EXPECT_EQ(events_.LinesOf(id),
              (Strings{"create " + id, "start " + id, "exit " + id + " " + code,
                       "delete " + id + " " + code}));
  }
}

TEST_F(TaskServiceTest, Scenario09_InitDiesWithTwentyRunningExecs) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  for (int i = 0; i < 20; ++i) {
    const std::string exec = "e" + std::to_string(i);
    ASSERT_TRUE(Exec("t", exec, {"/bin/sleep", "60"}));
    ASSERT_TRUE(Start("t", exec));
  }
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Wait("t", "e" + std::to_string(i))->exit_status(), 137U);
  }
  ASSERT_TRUE(events_.Await(2 + 20 * 3 + 1));
  const Strings lines = events_.Lines();
  EXPECT_EQ(lines.back(), "exit t 137");
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const std::string& line) { return line.starts_with("exit "); }),
            21);
}

TEST_F(TaskServiceTest, Scenario09_InitExitsWhileAnExecWaitsForItsLogger) {
  ASSERT_TRUE(Create("t", "while [ ! -e " + (dir_ / "end") + " ]; do sleep 0.02; done; exit 7"));
  ASSERT_TRUE(Start("t"));
  const std::string logger = dir_ / "logger.sh";
  ASSERT_TRUE(WriteFile(logger, "#!/bin/sh\n: >" + (dir_ / "end") + "\nwhile [ ! -e " +
                                    (dir_ / "ready") + " ]; do sleep 0.02; done\nprintf x >&5\n"));
  ASSERT_EQ(chmod(logger.c_str(), 0755), 0);
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}, "binary://" + logger));
  auto exec_waiting = std::async(std::launch::async, [this] { return Wait("t", "e"); });
  auto starting = std::async(std::launch::async, [this] { return Start("t", "e"); });
  const auto exit = Wait("t");
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->exit_status(), 7U);  // whatever becomes of the exec
  ASSERT_TRUE(WriteFile(dir_ / "ready", ""));
  const auto started = starting.get();
  EXPECT_EQ(CodeOf(started), Code::kFailedPrecondition);
  EXPECT_NE(started.error().message().find("the container ended"), std::string::npos);
  const auto exec_exit = exec_waiting.get();
  ASSERT_TRUE(exec_exit);
  EXPECT_EQ(exec_exit->exit_status(), 255U);
  EXPECT_EQ(State("t", "e")->status(), task_pb::STOPPED);
  EXPECT_TRUE(Delete("t", "e"));
  EXPECT_TRUE(Delete("t"));
  ASSERT_TRUE(events_.Await(5));
  EXPECT_EQ(events_.Lines(),
            (Strings{"create t", "start t", "exec-added t/e", "exit t 7", "delete t 7"}));
}

TEST_F(TaskServiceTest, Scenario09_ExecThatHangsInItsStartIsGivenUpWithoutEvents) {
  std::promise<void> release;
  std::atomic<int> starts{0};
  hook_ = [&starts, released = release.get_future().share()](const std::string& operation) {
    if (operation == "started" && ++starts == 2) {  // the init's was the first
      released.wait();
    }
    return Result<>();
  };
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  auto starting = std::async(std::launch::async, [this] { return Start("t", "e"); });
  while (starts < 2) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_EQ(Wait("t", "e")->exit_status(), 137U);
  release.set_value();
  EXPECT_EQ(CodeOf(starting.get()), Code::kFailedPrecondition);
  EXPECT_TRUE(Delete("t"));
  ASSERT_TRUE(events_.Await(5));
  EXPECT_EQ(events_.Lines(),
            (Strings{"create t", "start t", "exec-added t/e", "exit t 137", "delete t 137"}));
}

TEST_F(TaskServiceTest, Scenario10_SignalsReachTheRightProcess) {
  ASSERT_TRUE(Create("t", "trap 'exit 42' USR1; while :; do sleep 0.05; done"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  EXPECT_EQ(CodeOf(Kill("t", "e", SIGTERM)), Code::kFailedPrecondition);
  ASSERT_TRUE(Start("t", "e"));
  ASSERT_TRUE(Kill("t", "e", SIGTERM));
  EXPECT_EQ(Wait("t", "e")->exit_status(), 143U);
  EXPECT_EQ(CodeOf(Kill("t", "e", SIGTERM)), Code::kNotFound);
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the shell has set its trap
  ASSERT_TRUE(Kill("t", "", SIGUSR1));
  EXPECT_EQ(Wait("t")->exit_status(), 42U);
  EXPECT_EQ(CodeOf(Kill("t", "", SIGKILL)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Kill("t", "", 0)), Code::kInvalidArgument);
}

TEST_F(TaskServiceTest, Scenario14_PauseResumeAndDeathWhilePaused) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  task_pb::PauseRequest pause;
  pause.set_id("t");
  task_pb::ResumeRequest resume;
  resume.set_id("t");
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Pause", pause)), Code::kFailedPrecondition);
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Resume", resume)), Code::kFailedPrecondition);
  ASSERT_TRUE(Call<pb::Empty>("Pause", pause));
  EXPECT_EQ(State("t")->status(), task_pb::PAUSED);
  EXPECT_EQ(State("t", "e")->status(), task_pb::PAUSED);
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Pause", pause)), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Delete("t")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Exec("t", "f", {"/bin/true"})), Code::kFailedPrecondition);
  ASSERT_TRUE(Call<pb::Empty>("Resume", resume));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Call<pb::Empty>("Pause", pause));
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_EQ(State("t")->status(), task_pb::STOPPED);
}

TEST_F(TaskServiceTest, Scenario15_UnknownIdsDuplicatesAndExecAfterExit) {
  EXPECT_EQ(CodeOf(State("x")), Code::kNotFound);
  EXPECT_EQ(CodeOf(Start("x")), Code::kNotFound);
  EXPECT_EQ(CodeOf(Wait("x")), Code::kNotFound);
  EXPECT_EQ(CodeOf(Delete("x")), Code::kNotFound);
  EXPECT_EQ(CodeOf(Kill("x", "", SIGTERM)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Exec("x", "e", {"/bin/true"})), Code::kNotFound);
  task_pb::PidsRequest pids;
  pids.set_id("x");
  EXPECT_EQ(CodeOf(Call<task_pb::PidsResponse>("Pids", pids)), Code::kNotFound);
  task_pb::ConnectRequest connect;
  connect.set_id("x");
  EXPECT_EQ(Call<task_pb::ConnectResponse>("Connect", connect)->task_pid(), 0U);

  ASSERT_TRUE(Create("t", "exec sleep 60"));
  EXPECT_EQ(CodeOf(Create("t", "exit 0")), Code::kAlreadyExists);
  ASSERT_TRUE(Start("t"));
  EXPECT_EQ(CodeOf(Start("t")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Exec("t", "", {"/bin/true"})), Code::kInvalidArgument);
  ASSERT_TRUE(Exec("t", "e", {"/bin/true"}));
  EXPECT_EQ(CodeOf(Exec("t", "e", {"/bin/true"})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(State("t", "nope")), Code::kNotFound);
  ASSERT_TRUE(Kill("t", "", SIGTERM));
  EXPECT_EQ(Wait("t")->exit_status(), 143U);
  EXPECT_EQ(CodeOf(Start("t", "e")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Exec("t", "f", {"/bin/true"})), Code::kFailedPrecondition);
}

TEST_F(TaskServiceTest, Scenario17_OutputWithoutNewlineArrivesAndFifosCloseBeforeDelete) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "printf 'out'; printf 'err' >&2"));
  request.set_stdout(MakeFifo("out"));
  request.set_stderr(MakeFifo("err"));
  FifoReader out(request.stdout());
  FifoReader err(request.stderr());
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  ASSERT_TRUE(Start("t"));
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  // A client waits for both ends before it deletes.
  EXPECT_EQ(out.Text(), "out");
  EXPECT_EQ(err.Text(), "err");
  EXPECT_TRUE(Delete("t"));
}

TEST_F(TaskServiceTest, Scenario18_StalledReaderDoesNotBlockStateKillWaitDelete) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "exec cat /dev/zero"));
  request.set_stdout(MakeFifo("out"));
  const UniqueFd never_read = Must(Open(request.stdout(), O_RDONLY | O_NONBLOCK));
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  ASSERT_TRUE(Start("t"));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  ASSERT_TRUE(Kill("t", "", SIGKILL));
  EXPECT_EQ(Wait("t")->exit_status(), 137U);
  EXPECT_TRUE(Delete("t"));  // after the drain patience of 2 s
}

TEST_F(TaskServiceTest, Scenario20_StdinEndsByCloseIoAlsoWhenClosedBeforeStart) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "cat; exec cat"));
  request.set_stdin(MakeFifo("in"));
  request.set_stdout(MakeFifo("out"));
  FifoReader out(request.stdout());
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  UniqueFd in = Must(Open(request.stdin(), O_WRONLY));
  ASSERT_TRUE(WriteAll(in, "before start\n"));
  ASSERT_TRUE(Start("t"));
  in.Reset();  // a client that goes away is not the end
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
  in = Must(Open(request.stdin(), O_WRONLY));
  ASSERT_TRUE(WriteAll(in, "after\n"));
  task_pb::CloseIORequest close;
  close.set_id("t");
  close.set_stdin(true);
  ASSERT_TRUE(Call<pb::Empty>("CloseIO", close));
  in.Reset();
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  EXPECT_EQ(out.Text(), "before start\nafter\n");
}

TEST_F(TaskServiceTest, Scenario20_CloseIoBeforeStartAndAfterFailedStartOfExec) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  task_pb::ExecProcessRequest exec;
  exec.set_id("t");
  exec.set_exec_id("e");
  exec.set_stdin(MakeFifo("in"));  // nobody ever opens it
  exec.mutable_spec()->set_value(R"({"args":["/bin/cat"],"cwd":"/"})");
  ASSERT_TRUE(Call<pb::Empty>("Exec", exec));
  task_pb::CloseIORequest close;
  close.set_id("t");
  close.set_exec_id("e");
  close.set_stdin(true);
  ASSERT_TRUE(Call<pb::Empty>("CloseIO", close));
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(Wait("t", "e")->exit_status(), 0U);

  exec.set_exec_id("missing");
  exec.mutable_spec()->set_value(R"({"args":["/no/such"],"cwd":"/"})");
  ASSERT_TRUE(Call<pb::Empty>("Exec", exec));
  EXPECT_FALSE(Start("t", "missing"));
  close.set_exec_id("missing");
  EXPECT_TRUE(Call<pb::Empty>("CloseIO", close));
  EXPECT_TRUE(Delete("t", "missing"));
}

TEST_F(TaskServiceTest, Scenario22_ExecThatLeavesItsOutputOpenIsDeletedAfterThePatience) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  task_pb::ExecProcessRequest exec;
  exec.set_id("t");
  exec.set_exec_id("e");
  exec.set_stdout(MakeFifo("out"));
  exec.mutable_spec()->set_value(
      R"({"args":["/bin/sh","-c","setsid sleep 30 & echo done"],"cwd":"/"})");
  FifoReader out(exec.stdout());
  ASSERT_TRUE(Call<pb::Empty>("Exec", exec));
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(Wait("t", "e")->exit_status(), 0U);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Delete("t", "e"));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1900));
  EXPECT_EQ(out.Text(), "done\n");
}

TEST_F(TaskServiceTest, Scenario25_TwoHundredExecsLoseNoOutput) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  std::atomic<int> lost{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 20; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 10; ++i) {
        const std::string name = "e" + std::to_string(client) + "-" + std::to_string(i);
        task_pb::ExecProcessRequest exec;
        exec.set_id("t");
        exec.set_exec_id(name);
        exec.set_stdout(MakeFifo(name));
        exec.mutable_spec()->set_value(R"({"args":["/bin/echo",")" + name + R"("],"cwd":"/"})");
        FifoReader out(exec.stdout());
        EXPECT_TRUE(Call<pb::Empty>("Exec", exec));
        EXPECT_TRUE(Start("t", name));
        EXPECT_TRUE(Wait("t", name));
        EXPECT_TRUE(Delete("t", name));
        lost += out.Text() == name + "\n" ? 0 : 1;
      }
    });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  EXPECT_EQ(lost, 0);
}

TEST_F(TaskServiceTest, Scenario26_ExecWithLargeEnvironment) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  const std::string large(120000, 'x');  // below the kernel's limit for one argument
  ASSERT_TRUE(Exec("t", "e", {"/bin/sh", "-c", "test ${#1} -eq 120000", "sh", large}));
  ASSERT_TRUE(Start("t", "e"));
  EXPECT_EQ(Wait("t", "e")->exit_status(), 0U);
  // Above the 4 MiB of a ttrpc message: refused by the protocol, and everything goes on.
  EXPECT_FALSE(Exec("t", "f", {"/bin/sh", "-c", std::string(5 << 20, 'x')}));
  EXPECT_EQ(State("t")->status(), task_pb::RUNNING);
}

TEST_F(TaskServiceTest, Scenario29_SandboxDeathGivesOneExitEach) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Exec("t", "e", {"/bin/sleep", "60"}));
  ASSERT_TRUE(Start("t", "e"));
  ASSERT_TRUE(Exec("t", "never", {"/bin/sleep", "60"}));
  auto waiting = std::async(std::launch::async, [this] { return Wait("t"); });
  sandbox_.load()->Die("the test says so");
  EXPECT_EQ(waiting.get()->exit_status(), 137U);
  EXPECT_EQ(Wait("t", "e")->exit_status(), 137U);
  EXPECT_EQ(CodeOf(Kill("t", "", SIGKILL)), Code::kNotFound);
  EXPECT_EQ(State("t")->status(), task_pb::STOPPED);
  task_pb::PidsRequest pids;
  pids.set_id("t");
  EXPECT_GE(Call<task_pb::PidsResponse>("Pids", pids)->processes_size(), 1);
  EXPECT_EQ(Delete("t", "e")->exit_status(), 137U);
  EXPECT_EQ(Delete("t")->exit_status(), 137U);
  EXPECT_EQ(ShutdownCode(), Code::kOk);
  ASSERT_TRUE(events_.Await(8));
  EXPECT_EQ(events_.Lines(),
            (Strings{"create t", "start t", "exec-added t/e", "exec-started t/e",
                     "exec-added t/never", "exit t/e 137", "exit t 137", "delete t 137"}));
}

TEST_F(TaskServiceTest, Scenario34_EventsRefusedThenDeliveredInOrder) {
  events_.Stop();
  EXPECT_EQ(RunOnce("t", "exit 2"), 2U);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  events_.Start();
  ASSERT_TRUE(events_.Await(4));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "start t", "exit t 2", "delete t 2"}));
}

TEST_F(TaskServiceTest, Scenario36_FailedSandboxStartLeavesNothing) {
  start_error_ = Fail(Code::kUnavailable, "no /dev/kvm");
  const auto failed = Create("t", "exit 0");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Code::kUnavailable);
  EXPECT_NE(failed.error().message().find("no /dev/kvm"), std::string::npos);
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  EXPECT_EQ(ShutdownCode(), Code::kOk);
  EXPECT_TRUE(events_.Lines().empty());
}

TEST_F(TaskServiceTest, Scenario36_FailedStartOfInitKeepsItCreated) {
  hook_ = [](const std::string& operation) -> Result<> {
    return operation == "start" ? Result<>(Fail(Code::kInternal, "crun said no")) : Result<>();
  };
  ASSERT_TRUE(Create("t", "exit 0"));
  EXPECT_EQ(CodeOf(Start("t")), Code::kInternal);
  EXPECT_EQ(State("t")->status(), task_pb::CREATED);
  EXPECT_EQ(Delete("t")->exit_status(), 137U);
}

TEST_F(TaskServiceTest, Scenario38_RetriedDeleteGetsNotFoundAndShutdownMeanwhileIsNotLost) {
  std::atomic<bool> slow{false};
  hook_ = [&slow](const std::string& operation) -> Result<> {
    if (operation == "delete" && slow) {
      std::this_thread::sleep_for(std::chrono::milliseconds(800));
    }
    return {};
  };
  ASSERT_TRUE(Create("t", "exit 0"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Wait("t"));
  slow = true;
  task_pb::DeleteRequest request;
  request.set_id("t");
  auto first = std::async(std::launch::async, [&] {
    return Call<task_pb::DeleteResponse>("Delete", request, std::chrono::milliseconds(100));
  });
  EXPECT_EQ(CodeOf(first.get()), Code::kDeadlineExceeded);
  EXPECT_EQ(ShutdownCode(), Code::kOk);  // ignored for now
  EXPECT_FALSE(shut_down_);
  EXPECT_EQ(endings_, 0);
  EXPECT_EQ(CodeOf(Delete("t")), Code::kNotFound);
  EXPECT_EQ(endings_, 1);  // told before the Delete is answered that ends it
  for (int i = 0; i < 100 && !shut_down_; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(shut_down_);
}

TEST_F(TaskServiceTest, Scenario43_ShutdownIsIgnoredWhileContainersRemain) {
  ASSERT_TRUE(Create("a", "sleep 60"));
  ASSERT_TRUE(Create("b", "exit 0"));
  ASSERT_TRUE(Start("b"));
  ASSERT_TRUE(Wait("b"));
  ASSERT_TRUE(Delete("b"));
  EXPECT_EQ(ShutdownCode(), Code::kOk);
  EXPECT_FALSE(shut_down_);
  EXPECT_EQ(endings_, 0);
  EXPECT_EQ(State("a")->status(), task_pb::CREATED);
  EXPECT_EQ(sandboxes_, 1);
  EXPECT_EQ(RunOnce("b", "exit 4"), 4U);  // the id may be used again
}

TEST_F(TaskServiceTest, Scenario59_OomEvent) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  sandbox_.load()->Oom("t");
  ASSERT_TRUE(events_.Await(2));
  EXPECT_EQ(events_.Lines(), (Strings{"create t", "oom t"}));
}

TEST_F(TaskServiceTest, Scenario60_StatsStayReadableUntilDelete) {
  ASSERT_TRUE(Create("t", "exit 0"));
  task_pb::StatsRequest request;
  request.set_id("t");
  const auto live = Call<task_pb::StatsResponse>("Stats", request);
  ASSERT_TRUE(live);
  EXPECT_EQ(live->stats().type_url(), "io.containerd.cgroups.v2.Metrics");
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Wait("t"));
  EXPECT_TRUE(Call<task_pb::StatsResponse>("Stats", request));
  ASSERT_TRUE(Delete("t"));
  EXPECT_EQ(CodeOf(Call<task_pb::StatsResponse>("Stats", request)), Code::kNotFound);
}

TEST_F(TaskServiceTest, Scenario60_FiguresAreThoseAfterTheExitWhenTheExitIsTold) {
  std::atomic<bool> ended{false};
  hook_ = [&ended](const std::string& operation) -> Result<> {
    if (operation == "stats") {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      ended = true;
    }
    return {};
  };
  ASSERT_TRUE(Create("t", "exit 0"));
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Wait("t"));
  EXPECT_TRUE(ended);
  task_pb::StatsRequest request;
  request.set_id("t");
  const auto stats = Call<task_pb::StatsResponse>("Stats", request);
  ASSERT_TRUE(stats);
  io::containerd::cgroups::v2::Metrics metrics;
  ASSERT_TRUE(metrics.ParseFromString(stats->stats().value()));
  EXPECT_EQ(metrics.memory_events().oom_kill(), 1U);
  EXPECT_TRUE(Delete("t"));
}

TEST_F(TaskServiceTest, Scenario60_FiguresThatDoNotComeDelayTheExitByASecond) {
  std::promise<void> release;
  hook_ = [released = release.get_future().share()](const std::string& operation) -> Result<> {
    if (operation == "stats") {
      released.wait();
    }
    return {};
  };
  ASSERT_TRUE(Create("t", "exit 3"));
  ASSERT_TRUE(Start("t"));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Wait("t")->exit_status(), 3U);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(Delete("t"));
  release.set_value();
}

TEST_F(TaskServiceTest, Scenario65_OptionsOfEveryKindAreAcceptedMalformedOnesAreNot) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "exit 0"));
  request.mutable_options()->set_type_url("types.example.com/some.other.Options");
  request.mutable_options()->set_value("\xff\xff");
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  request.set_id("u");
  request.mutable_options()->set_type_url("runtimeoptions.v1.Options");
  EXPECT_EQ(CodeOf(Call<task_pb::CreateTaskResponse>("Create", request)), Code::kInvalidArgument);
  request.mutable_options()->Clear();
  request.set_bundle(dir_ / "nowhere");
  EXPECT_FALSE(Call<task_pb::CreateTaskResponse>("Create", request));
}

TEST_F(TaskServiceTest, Scenario69_PidsHasTheInitAlsoAfterExit) {
  ASSERT_TRUE(Create("t", "exit 0"));
  task_pb::PidsRequest request;
  request.set_id("t");
  const auto before = Call<task_pb::PidsResponse>("Pids", request);
  ASSERT_TRUE(before);
  ASSERT_EQ(before->processes_size(), 1);
  EXPECT_GT(before->processes(0).pid(), 0U);
  ASSERT_TRUE(Start("t"));
  ASSERT_TRUE(Wait("t"));
  const auto after = Call<task_pb::PidsResponse>("Pids", request);
  ASSERT_TRUE(after);
  EXPECT_EQ(after->processes_size(), 1);
}

TEST_F(TaskServiceTest, Scenario70_CheckpointIsUnimplementedWithoutEffect) {
  ASSERT_TRUE(Create("t", "sleep 60"));
  task_pb::CheckpointTaskRequest request;
  request.set_id("t");
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Checkpoint", request)), Code::kUnimplemented);
  EXPECT_EQ(State("t")->status(), task_pb::CREATED);
}

TEST_F(TaskServiceTest, TerminateDoesNotWaitForTheBoot) {
  std::promise<void> booting;
  on_boot_ = [&booting](const std::stop_token& cancel) -> Result<> {
    booting.set_value();
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!cancel.stop_requested() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return Fail(cancel.stop_requested() ? Code::kUnavailable : Code::kDeadlineExceeded, "boot");
  };
  auto creating = std::async(std::launch::async, [this] { return CodeOf(Create("t", "exit 0")); });
  booting.get_future().wait();
  service_->Terminate();
  EXPECT_TRUE(shut_down_);
  EXPECT_EQ(creating.get(), Code::kUnavailable);
  EXPECT_EQ(CodeOf(State("t")), Code::kNotFound);
  EXPECT_EQ(sandboxes_, 0);
}

TEST_F(TaskServiceTest, VersionThreeIsTheSameService) {
  service_name_ = "containerd.task.v3.Task";
  EXPECT_EQ(RunOnce("t", "exit 6"), 6U);
  service_name_ = "containerd.task.v4.Task";
  EXPECT_EQ(CodeOf(State("t")), Code::kUnimplemented);
}

TEST_F(TaskServiceTest, UpdateResizeAndCloseIoWhereTheyMeanNothing) {
  ASSERT_TRUE(Create("t", "exit 0"));
  task_pb::ResizePtyRequest resize;
  resize.set_id("t");
  resize.set_width(80);
  resize.set_height(24);
  EXPECT_TRUE(Call<pb::Empty>("ResizePty", resize));
  task_pb::UpdateTaskRequest update;
  update.set_id("t");
  update.mutable_resources()->set_value("{}");
  EXPECT_TRUE(Call<pb::Empty>("Update", update));
  update.mutable_resources()->set_value("not json");
  EXPECT_EQ(CodeOf(Call<pb::Empty>("Update", update)), Code::kInvalidArgument);
  task_pb::CloseIORequest close;
  close.set_id("t");
  close.set_stdin(true);
  EXPECT_TRUE(Call<pb::Empty>("CloseIO", close));
}

TEST_F(TaskServiceTest, Scenario21_TerminalHasItsSizeBeforeTheProgramRuns) {
  task_pb::CreateTaskRequest request;
  request.set_id("t");
  request.set_bundle(ShellBundle("t", "stty size; read line; echo got $line"));
  request.set_terminal(true);
  request.set_stdin(MakeFifo("in"));
  request.set_stdout(MakeFifo("out"));
  FifoReader out(request.stdout());
  ASSERT_TRUE(Call<task_pb::CreateTaskResponse>("Create", request));
  task_pb::ResizePtyRequest resize;
  resize.set_id("t");
  resize.set_width(101);
  resize.set_height(33);
  ASSERT_TRUE(Call<pb::Empty>("ResizePty", resize));
  ASSERT_TRUE(Start("t"));
  const UniqueFd in = Must(Open(request.stdin(), O_WRONLY));
  ASSERT_TRUE(WriteAll(in, "typed\n"));
  EXPECT_EQ(Wait("t")->exit_status(), 0U);
  ASSERT_TRUE(Delete("t"));
  const std::string text = out.Text();
  EXPECT_NE(text.find("33 101"), std::string::npos) << text;
  EXPECT_NE(text.find("got typed"), std::string::npos) << text;
}

}  // namespace
}  // namespace wyvern::shim
