// The binary itself, started as each generation of containerd starts it (with local processes in the sandbox's place).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <thread>

#include "base/cleanup.h"
#include "base/subprocess.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "bootstrap/socket.h"
#include "proto/containerd_bootstrap.pb.h"
#include "proto/containerd_sandbox.pb.h"
#include "proto/containerd_task.pb.h"
#include "testing/fake_events.h"
#include "testing/temp_dir.h"
#include "ttrpc/client.h"

namespace wyvern::shim {
namespace {

namespace boot = containerd::runtime::bootstrap::v1;
namespace sandbox = containerd::sandbox;
namespace task = containerd::task::v2;
using Strings = std::vector<std::string>;

// Of the client, in the metadata of every Create.
constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

class BinaryTest : public ::testing::Test {
 protected:
  BinaryTest() : events_(dir_ / "events.sock") { Bundle("t1", "{}"); }

  void TearDown() override {
    for (const pid_t pid : Servers()) {
      kill(pid, SIGKILL);
    }
  }

  std::string Bundle(const std::string& id, const std::string& annotations) {
    std::string bundle = dir_ / id;
    std::filesystem::create_directories(bundle + "/rootfs");
    WV_CHECK(
        WriteFile(
            bundle + "/config.json",
            R"({"ociVersion":"1.0.2","process":{"args":["/bin/sh","-c","exit 7"],"cwd":"/"},"annotations":)" +
                annotations + "}")
            .has_value());
    return bundle;
  }

  Strings Env() {
    Strings env = {"PATH=/usr/bin:/bin", "TTRPC_ADDRESS=" + (dir_ / "events.sock"), "GOMAXPROCS=2",
                   "WYVERN_SHIM_SOCKET_DIR=" + (dir_ / "s")};
    env.insert(env.end(), more_env_.begin(), more_env_.end());
    return env;
  }

  // Living servers of this test, by their command lines; a zombie has none.
  std::vector<pid_t> Servers() {
    std::vector<pid_t> pids;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string line = ReadFile(entry.path() / "cmdline").value_or("");
      if (line.find(dir_.path() + "/") != std::string::npos &&
          line.ends_with(std::string("serve\0", 6))) {
        pids.push_back(std::stoi(entry.path().filename().string()));
      }
    }
    return pids;
  }

  bool AwaitServers(size_t count) {
    for (int i = 0; i < 1000; ++i) {
      if (Servers().size() == count) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  // Runs one action with `input` as stdin, as containerd does: cwd is the bundle.
  CommandOutput Run(const std::string& id, const Strings& action, const std::string& input) {
    return RunIn("testns", dir_ / "c.sock", id, action, input);
  }

  CommandOutput RunIn(const std::string& ns, const std::string& containerd, const std::string& id,
                      const Strings& action, const std::string& input) {
    UniqueFd memory = Must(MakeMemfd("stdin", 0));
    EXPECT_TRUE(WriteAll(memory, input));
    lseek(memory.get(), 0, SEEK_SET);
    SpawnOptions options;
    options.argv = {WV_FAKE_SHIM,      "-namespace",          ns,    "-address", containerd,
                    "-publish-binary", "/usr/bin/containerd", "-id", id};
    options.argv.insert(options.argv.end(), action.begin(), action.end());
    options.env = Env();
    options.cwd = dir_ / id;
    options.fds = {{0, memory}};
    return Must(RunCommand(options, 15000));
  }

  std::string Start(const std::string& id, const std::string& input = "") {
    const CommandOutput output = Run(id, {"start"}, input);
    EXPECT_EQ(output.status.AsShell(), 0) << output.err;
    EXPECT_EQ(output.err, "");  // containerd reads it together with stdout
    return output.out;
  }

  std::unique_ptr<ttrpc::Client> Connect(const std::string& address) {
    EXPECT_TRUE(address.starts_with("unix:///")) << address;
    sockets_.push_back(address.substr(7));
    return Must(ttrpc::Client::Create(Must(ConnectUnix(sockets_.back()))));
  }

  task::CreateTaskRequest Creation(const std::string& id) const {
    task::CreateTaskRequest create;
    create.set_id(id);
    create.set_bundle(dir_ / id);
    return create;
  }

  static Result<task::CreateTaskResponse> Create(
      ttrpc::Client& client, const task::CreateTaskRequest& create,
      const std::string& service = "containerd.task.v2.Task") {
    return client.Call<task::CreateTaskRequest, task::CreateTaskResponse>(
        service, "Create", create, {.metadata = {{"traceparent", kTrace}}});
  }

  // t1's process lives for a minute.
  void LetItSleep() {
    WV_CHECK(
        WriteFile(dir_ / "t1/config.json", R"({"process":{"args":["/bin/sleep","60"],"cwd":"/"}})")
            .has_value());
  }

  // What `ctr run` asks, to the end.
  void RunTask(ttrpc::Client& client, const std::string& service, const std::string& id) {
    ASSERT_TRUE(Create(client, Creation(id), service));
    task::StartRequest start;
    start.set_id(id);
    ASSERT_TRUE((client.Call<task::StartRequest, task::StartResponse>(service, "Start", start)));
    task::WaitRequest wait;
    wait.set_id(id);
    const auto exit = client.Call<task::WaitRequest, task::WaitResponse>(service, "Wait", wait);
    ASSERT_TRUE(exit);
    EXPECT_EQ(exit->exit_status(), 7U);
    task::DeleteRequest remove;
    remove.set_id(id);
    ASSERT_TRUE(
        (client.Call<task::DeleteRequest, task::DeleteResponse>(service, "Delete", remove)));
    task::ShutdownRequest shutdown;
    shutdown.set_id(id);
    ASSERT_TRUE((client.Call<task::ShutdownRequest, pb::Empty>(service, "Shutdown", shutdown)));
  }

  bool AwaitGone(const std::string& path) {
    for (int i = 0; i < 500; ++i) {
      if (access(path.c_str(), F_OK) != 0) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::string Params(const std::string& id, const std::string& socket_dir) {
    boot::BootstrapParams params;
    params.set_instance_id(id);
    params.set_namespace_("testns");
    params.set_containerd_ttrpc_address(dir_ / "events.sock");
    if (!socket_dir.empty()) {
      params.set_socket_dir(socket_dir);
    }
    return params.SerializeAsString();
  }

  TempDir dir_;
  FakeEvents events_;
  Strings sockets_;
  Strings more_env_;
};

TEST_F(BinaryTest, PlainDialectOfContainerd16And17RunsATaskToTheEnd) {
  const std::string address = Start("t1");
  EXPECT_EQ(Must(ReadFile(dir_ / "t1/address")), address);
  const auto client = Connect(address);
  RunTask(*client, "containerd.task.v2.Task", "t1");
  EXPECT_TRUE(events_.Await(4));
  EXPECT_EQ(events_.Lines(), (Strings{"create t1", "start t1", "exit t1 7", "delete t1 7"}));
  EXPECT_TRUE(AwaitGone(sockets_[0]));
}

TEST_F(BinaryTest, PlainDialectWithRuntimeOptionsOnStdin) {
  pb::Any any;
  any.set_type_url("runtimeoptions.v1.Options");
  any.set_value("\x12\x05/conf");
  const auto client = Connect(Start("t1", any.SerializeAsString()));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

// As `ctr run --uidmap` has it: numbers where the same tags are strings of the bootstrap parameters.
TEST_F(BinaryTest, PlainDialectWithOptionsOfRuncOnStdin) {
  pb::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value("\x48\xa0\x8d\x06\x50\xa0\x8d\x06");  // io_uid and io_gid: 100000
  const auto client = Connect(Start("t1", any.SerializeAsString()));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest,
       Scenario40_BootstrapDialectOfContainerd23SpeaksVersionThreeInItsSocketDirectory) {
  boot::BootstrapResult result;
  ASSERT_TRUE(result.ParseFromString(Start("t1", Params("t1", dir_ / "dir"))));
  EXPECT_EQ(result.version(), 3);
  EXPECT_EQ(result.protocol(), "ttrpc");
  EXPECT_TRUE(result.address().starts_with("unix://" + (dir_ / "dir/")));
  EXPECT_EQ(Must(ReadFile(dir_ / "t1/address")), result.address());
  const auto client = Connect(result.address());
  RunTask(*client, "containerd.task.v3.Task", "t1");
  EXPECT_TRUE(events_.Await(4));
}

TEST_F(BinaryTest, BootstrapParamsOfAnotherInstanceAreThePlainDialect) {
  EXPECT_TRUE(Connect(Start("t1", Params("someone-else", ""))));
}

TEST_F(BinaryTest, GroupSharesOneServer) {
  Bundle("t2", R"({"io.kubernetes.cri.sandbox-id":"t1"})");
  const std::string first = Start("t1");
  const std::string second = Start("t2");
  EXPECT_EQ(first, second);
  EXPECT_EQ(Must(ReadFile(dir_ / "t2/address")), first);
  Connect(first);
}

// containerd 2.x with sandboxer = "shim": a bundle without a config.json, and runtime options that only `start` hears of.
TEST_F(BinaryTest, SandboxOfTheSandboxApiHasItsContainersAndEnds) {
  std::filesystem::create_directories(dir_ / "pod");
  pb::Any any;
  any.set_type_url("runtimeoptions.v1.Options");
  const std::string address = Start("pod", any.SerializeAsString());
  EXPECT_EQ(Must(ReadFile(dir_ / "pod/runtime-options")), any.SerializeAsString());
  const auto client = Connect(address);
  const auto ask = [&]<typename Resp, typename Req>(const char* method, Req request) {
    request.set_sandbox_id("pod");
    return client->Call<Req, Resp>("containerd.runtime.sandbox.v1.Sandbox", method, request);
  };
  sandbox::CreateSandboxRequest create;
  create.set_bundle_path(dir_ / "pod");
  const auto created = ask.operator()<pb::Empty>("CreateSandbox", create);
  ASSERT_TRUE(created) << created.error().message();
  const auto started =
      ask.operator()<sandbox::StartSandboxResponse>("StartSandbox", sandbox::StartSandboxRequest());
  ASSERT_TRUE(started) << started.error().message();
  EXPECT_EQ(Must(ReadFile(dir_ / "pod/init.pid")), std::to_string(started->pid()));
  Bundle("web", R"({"io.kubernetes.cri.sandbox-id":"pod"})");
  EXPECT_EQ(Start("web"), address);
  RunTask(*Connect(address), "containerd.task.v2.Task", "web");
  EXPECT_EQ(Servers().size(), 1U) << "Shutdown of its container is not its own";
  EXPECT_TRUE(ask.operator()<pb::Empty>("ShutdownSandbox", sandbox::ShutdownSandboxRequest()));
  EXPECT_TRUE(AwaitGone(sockets_[0]));
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(events_.Await(4));
  EXPECT_EQ(events_.Lines(), (Strings{"create web", "start web", "exit web 7", "delete web 7"}));
}

TEST_F(BinaryTest, Scenario33_ShutdownBeforeAnyCreateEndsTheServer) {
  const auto client = Connect(Start("t1"));
  task::PidsRequest pids;
  pids.set_id("t1");
  const auto none =
      client->Call<task::PidsRequest, task::PidsResponse>("containerd.task.v2.Task", "Pids", pids);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kNotFound);
  ASSERT_TRUE((client->Call<task::ShutdownRequest, pb::Empty>("containerd.task.v2.Task", "Shutdown",
                                                              task::ShutdownRequest())));
  EXPECT_TRUE(AwaitGone(sockets_[0]));
}

TEST_F(BinaryTest, SameIdStartsAgainWhileTheFirstServerIsEnding) {
  events_.Stop();  // so that it flushes for seconds
  const auto first = Connect(Start("t1"));
  RunTask(*first, "containerd.task.v2.Task", "t1");
  const auto second = Connect(Start("t1"));
  EXPECT_EQ(Servers().size(), 2U);
  // A connection that is there lives on to the end.
  task::ConnectRequest connect;
  connect.set_id("t1");
  EXPECT_TRUE((first->Call<task::ConnectRequest, task::ConnectResponse>("containerd.task.v2.Task",
                                                                        "Connect", connect)));
  RunTask(*second, "containerd.task.v2.Task", "t1");
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "s"));
}

TEST_F(BinaryTest, ServerThatEndsDoesNotRemoveItsSuccessorsSocket) {
  events_.Stop();
  RunTask(*Connect(Start("t1")), "containerd.task.v2.Task", "t1");
  const auto second = Connect(Start("t1"));
  EXPECT_TRUE(AwaitServers(1));
  EXPECT_TRUE(IsConnectable(sockets_[1]));
  RunTask(*second, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, Scenario37_DeleteIsIdempotentWithAndWithoutEverything) {
  const std::string address = Start("t1");
  Connect(address);
  for (int i = 0; i < 2; ++i) {
    const CommandOutput output = Run("t1", {"-bundle", dir_ / "t1", "delete"}, "");
    EXPECT_EQ(output.status.AsShell(), 0) << output.err;
    task::DeleteResponse response;
    ASSERT_TRUE(response.ParseFromString(output.out));
    EXPECT_EQ(response.pid(), 0U);
    EXPECT_EQ(response.exit_status(), 137U);
    EXPECT_GT(response.exited_at().seconds(), 1700000000);
    EXPECT_TRUE(AwaitGone(sockets_[0]));  // a living server is told to end
  }
  std::filesystem::remove(dir_ / "t1/config.json");
  std::filesystem::remove(dir_ / "t1/address");
  EXPECT_EQ(Run("t1", {"delete"}, "").status.AsShell(), 0);
}

TEST_F(BinaryTest, Scenario37_ManyDeletesAtOnceOfALivingSandbox) {
  LetItSleep();
  {
    const auto client = Connect(Start("t1"));
    ASSERT_TRUE(Create(*client, Creation("t1")));
  }
  std::vector<std::thread> deletes;
  for (int i = 0; i < 4; ++i) {
    deletes.emplace_back([this] {
      const CommandOutput output = Run("t1", {"-bundle", dir_ / "t1", "delete"}, "");
      EXPECT_EQ(output.status.AsShell(), 0) << output.err;
      task::DeleteResponse response;
      EXPECT_TRUE(response.ParseFromString(output.out));
      EXPECT_EQ(response.exit_status(), 137U);
    });
  }
  for (std::thread& one : deletes) {
    one.join();
  }
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "s"));
}

TEST_F(BinaryTest, Scenario40_LongestNamesAndOneIdInTwoNamespacesAndTwoContainerds) {
  const std::string id(64, 'i');
  Bundle(id, "{}");

  struct Place {
    std::string ns;
    std::string containerd;
  };

  const std::vector<Place> places = {{std::string(76, 'n'), dir_ / "c.sock"},
                                     {"other", dir_ / "c.sock"},
                                     {"other", dir_ / "another/containerd.sock"}};
  std::vector<std::unique_ptr<ttrpc::Client>> clients;
  for (const Place& place : places) {
    const CommandOutput output = RunIn(place.ns, place.containerd, id, {"start"}, "");
    EXPECT_EQ(output.status.AsShell(), 0) << output.err;
    clients.push_back(Connect(output.out));
  }
  EXPECT_EQ(std::set<std::string>(sockets_.begin(), sockets_.end()).size(), places.size());
  EXPECT_EQ(Servers().size(), places.size());
  for (const auto& client : clients) {
    RunTask(*client, "containerd.task.v2.Task", id);
  }
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "s"));
}

TEST_F(BinaryTest, Scenario28_AfterKillOfTheServerDeleteCleansUpAndStartWorksAgain) {
  const std::string address = Start("t1");
  uint32_t pid = 0;
  {
    const auto client = Connect(address);
    const auto created = Create(*client, Creation("t1"));
    ASSERT_TRUE(created);
    pid = created->pid();
  }
  const pid_t server = ListenerPid(sockets_[0]);
  ASSERT_GT(server, 0);
  ASSERT_EQ(kill(server, SIGKILL), 0);
  for (int i = 0; i < 100 && IsConnectable(sockets_[0]); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const CommandOutput deleted = Run("t1", {"-bundle", dir_ / "t1", "delete"}, "");
  EXPECT_EQ(deleted.status.AsShell(), 0) << deleted.err;
  task::DeleteResponse response;
  ASSERT_TRUE(response.ParseFromString(deleted.out));
  EXPECT_GT(pid, 0U);
  EXPECT_EQ(response.pid(), pid);
  EXPECT_NE(access(sockets_[0].c_str(), F_OK), 0);
  const auto client = Connect(Start("t1"));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, TermEndsTheSandboxAndPublishesTheExit) {
  LetItSleep();
  const auto client = Connect(Start("t1"));
  ASSERT_TRUE(Create(*client, Creation("t1")));
  ASSERT_EQ(kill(ListenerPid(sockets_[0]), SIGTERM), 0);
  EXPECT_TRUE(AwaitGone(sockets_[0]));
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_EQ(events_.Lines(), (Strings{"create t1", "exit t1 137"}));
}

TEST_F(BinaryTest, LoggerThatTakesItsTimeWritesItsLastLineAfterShutdown) {
  const std::string logger = dir_ / "logger.sh";
  ASSERT_TRUE(WriteFile(logger, "#!/bin/sh\ntrap '' TERM\nprintf x >&5\nexec 5>&-\ncat <&3 >" +
                                    (dir_ / "log") + "\nsleep 2\necho last >>" + (dir_ / "log") +
                                    "\n"));
  ASSERT_EQ(chmod(logger.c_str(), 0755), 0);
  WV_CHECK(WriteFile(dir_ / "t1/config.json",
                     R"({"process":{"args":["/bin/sh","-c","echo one; sleep 60"],"cwd":"/"}})")
               .has_value());
  const auto client = Connect(Start("t1"));
  task::CreateTaskRequest create = Creation("t1");
  create.set_stdout("binary://" + logger);
  ASSERT_TRUE(Create(*client, create));
  task::StartRequest start;
  start.set_id("t1");
  ASSERT_TRUE((client->Call<task::StartRequest, task::StartResponse>("containerd.task.v2.Task",
                                                                     "Start", start)));
  for (int i = 0; i < 500 && ReadFile(dir_ / "log").value_or("") != "one\n"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  // Not by Delete, which would wait for the logger itself.
  ASSERT_EQ(kill(ListenerPid(sockets_[0]), SIGTERM), 0);
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_EQ(Must(ReadFile(dir_ / "log")), "one\nlast\n");
}

TEST_F(BinaryTest, Scenario73_LogThatIsFullBlocksNothingAndTheServerIsDetachedAndScoredForOom) {
  // The log FIFO is full and nobody reads it: nothing may block on it.
  ASSERT_EQ(mkfifo((dir_ / "t1/log").c_str(), 0700), 0);
  const UniqueFd log = Must(Open(dir_ / "t1/log", O_RDWR | O_NONBLOCK));
  while (WriteAll(log, std::string(4096, 'x'))) {
  }
  const auto client = Connect(Start("t1"));
  const pid_t server = ListenerPid(sockets_[0]);
  const std::string proc = "/proc/" + std::to_string(server);
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/fd/0"), "/dev/null");
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/fd/1"), "/dev/null");
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/fd/2"), dir_ / "t1/log");
  EXPECT_EQ(getsid(server), server);
  const int ours = std::stoi(Must(ReadFile("/proc/self/oom_score_adj")));
  EXPECT_EQ(std::stoi(Must(ReadFile(proc + "/oom_score_adj"))), std::min(ours + 1, 1000));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, LogLinesNameNamespaceSandboxContainerAndTrace) {
  ASSERT_EQ(mkfifo((dir_ / "t1/log").c_str(), 0700), 0);
  const UniqueFd log = Must(Open(dir_ / "t1/log", O_RDWR | O_NONBLOCK));
  const auto client = Connect(Start("t1"));
  task::CreateTaskRequest create = Creation("t1");
  create.set_id("c1");
  create.mutable_options()->set_type_url("example.com/options.of.another");
  ASSERT_TRUE(Create(*client, create));
  ASSERT_EQ(kill(ListenerPid(sockets_[0]), SIGTERM), 0);
  EXPECT_TRUE(AwaitServers(0));
  std::string said(1 << 16, '\0');
  const ssize_t got = read(log.get(), said.data(), said.size());
  ASSERT_GT(got, 0);
  said.resize(static_cast<size_t>(got));
  EXPECT_NE(said.find(" shim ns=testns sandbox=t1 container=c1 "
                      "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7: "),
            std::string::npos)
      << said;
  EXPECT_NE(said.find(" shim ns=testns sandbox=t1: signal 15"), std::string::npos) << said;
}

TEST_F(BinaryTest, Scenario65_FailureOfStartIsTextOnStderrAndNothingStays) {
  WV_CHECK(WriteFile(dir_ / "t1/config.json", "not json").has_value());
  const CommandOutput output = Run("t1", {"start"}, "");
  EXPECT_NE(output.status.AsShell(), 0);
  EXPECT_EQ(output.out, "");
  EXPECT_NE(output.err.find("config.json"), std::string::npos);
  EXPECT_NE(access((dir_ / "t1/address").c_str(), F_OK), 0);
}

TEST_F(BinaryTest, StartThatFailsAfterItsServerRunsEndsIt) {
  std::filesystem::create_directory(dir_ / "t1/address");
  const CommandOutput output = Run("t1", {"start"}, "");
  EXPECT_EQ(output.status.AsShell(), 1);
  EXPECT_NE(output.err.find("address"), std::string::npos);
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "s"));
  std::filesystem::remove(dir_ / "t1/address");
  const auto client = Connect(Start("t1"));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, StartThatFailsLeavesAServerOfItsGroupAlone) {
  Bundle("t2", R"({"io.kubernetes.cri.sandbox-id":"t1"})");
  const auto client = Connect(Start("t1"));
  std::filesystem::create_directory(dir_ / "t2/address");
  EXPECT_EQ(Run("t2", {"start"}, "").status.AsShell(), 1);
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, ServerThatNobodyConnectsToEnds) {
  more_env_ = {"WYVERN_FAKE_CONNECT_PATIENCE_MS=1000"};
  Start("t1");
  EXPECT_EQ(Servers().size(), 1U);
  EXPECT_TRUE(AwaitServers(0));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "s"));
  // One that has its connection stays.
  const auto client = Connect(Start("t1"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, Scenario73_GarbageOnTheSocketDoesNotHurt) {
  const auto client = Connect(Start("t1"));
  for (int i = 0; i < 20; ++i) {
    const UniqueFd socket = Must(ConnectUnix(sockets_[0]));
    EXPECT_TRUE(
        WriteAll(socket, std::string(static_cast<size_t>(i * 37), static_cast<char>(0xff - i))));
  }
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, Scenario73_ThousandConnectionsAndFramesThatEndInTheMiddle) {
  const auto client = Connect(Start("t1"));
  std::vector<UniqueFd> others;
  for (int i = 0; i < 1000; ++i) {
    others.push_back(Must(ConnectUnix(sockets_[0])));
    // A frame of 100 bytes of which a part comes; then one with an even id, and an unknown type.
    constexpr std::string_view kPart("\0\0\0\x64\0\0\0\1\1\0abc", 13);
    constexpr std::string_view kEven("\0\0\0\0\0\0\0\2\1\0\0\0\0\0\0\0\0\3\x77\0", 20);
    EXPECT_TRUE(WriteAll(others.back(), i % 2 == 0 ? kPart : kEven));
  }
  RunTask(*client, "containerd.task.v2.Task", "t1");
}

TEST_F(BinaryTest, InfoAndVersion) {
  SpawnOptions options;
  options.argv = {WV_FAKE_SHIM, "-info"};
  const CommandOutput info = Must(RunCommand(options, 5000));
  boot::RuntimeInfo parsed;
  ASSERT_TRUE(parsed.ParseFromString(info.out));
  EXPECT_EQ(parsed.name(), "io.containerd.wyvern.v2");
  EXPECT_EQ(parsed.features().type_url(),
            "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  options.argv = {WV_FAKE_SHIM, "-v"};
  EXPECT_NE(Must(RunCommand(options, 5000)).out.find("containerd-shim-wyvern-v2"),
            std::string::npos);
}

}  // namespace
}  // namespace wyvern::shim
