#include "control/control_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <future>
#include <thread>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "control/metrics_wire.h"
#include "proto/control.pb.h"
#include "testing/fake_sandbox.h"
#include "testing/temp_dir.h"
#include "ttrpc/client.h"

namespace wyvern::shim {
namespace {

namespace cp = wyvern::control::v1;

using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kService = "wyvern.control.v1.Control";

class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() {
    WV_CHECK(
        WriteFile(
            dir_ / "config.json",
            R"({"process":{"args":["/bin/sleep","60"],"cwd":"/","env":["PATH=/usr/bin:/bin"]},"root":{"path":"rootfs"}})")
            .has_value());
    runtime::ContainerOptions container;
    container.id = "c";
    container.bundle = dir_.path();
    WV_CHECK(sandbox_.CreateContainer(container).has_value());
    WV_CHECK(sandbox_.StartProcess("c", "").has_value());
    ControlOptions options;
    options.ns = "some-namespace";
    options.sandbox_id = "c";
    options.version = "1.2.3";
    options.containers = [this] {
      return std::vector<ControlContainer>{{"c", dir_.path(), runtime::ProcessStatus::kRunning, 42,
                                            std::chrono::system_clock::now()}};
    };
    options.metrics_socket = dir_ / "metrics.sock";
    options.processes = {{"keeper", getpid()}};
    server_ = Must(ControlServer::Start(dir_ / "control.sock", sandbox_, std::move(options)));
    client_ = Must(ttrpc::Client::Create(Must(ConnectUnix(dir_ / "control.sock"))));
  }

  void TearDown() override {
    client_.reset();
    server_->Close();
    (void)sandbox_.Shutdown();
    server_.reset();
  }

  template <typename Resp, typename Req>
  Result<Resp> Call(const char* method, const Req& request) {
    return client_->Call<Req, Resp>(kService, method, request,
                                    {.timeout = std::chrono::seconds(10)});
  }

  std::string Exec(const std::string& script) {
    cp::ExecRequest request;
    request.set_container_id("c");
    for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) {
      request.add_args(word);
    }
    return Must(Call<cp::ExecResponse>("Exec", request)).exec_id();
  }

  ttrpc::RawClientStream Attach(const std::string& exec_id, bool acknowledge) {
    auto stream = Must(client_->OpenRawStream(kService, "Stream", "", true, {}));
    cp::StreamData first;
    first.set_container_id("c");
    first.set_exec_id(exec_id);
    first.set_stream(acknowledge ? 1 : 0);
    EXPECT_TRUE(stream.Send(first.SerializeAsString()));
    return stream;
  }

  uint32_t WaitExec(const std::string& exec_id) {
    cp::ExecRef ref;
    ref.set_container_id("c");
    ref.set_exec_id(exec_id);
    return Must(Call<cp::WaitExecResponse>("WaitExec", ref)).exit_status();
  }

  // Within 10 s.
  bool IsForgotten(const std::string& exec_id) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (sandbox_.State("c", exec_id) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return !sandbox_.State("c", exec_id).has_value();
  }

  TempDir dir_;
  std::function<void()> on_started_;  // inside StartProcess
  FakeSandbox sandbox_{runtime::SandboxOptions{}, [this](const std::string& operation) {
                         if (operation == "started" && on_started_) {
                           on_started_();
                         }
                         return Result<>();
                       }};
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<ttrpc::Client> client_;
};

TEST_F(ControlServerTest, HelloTellsVersionAndContainersAndRefusesOtherProtocols) {
  cp::HelloRequest request;
  request.set_protocol(1);
  const auto hello = Call<cp::HelloResponse>("Hello", request);
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->version(), "1.2.3");
  EXPECT_EQ(hello->ns(), "some-namespace");
  EXPECT_EQ(hello->kernel_release(), "6.12.0-fake");
  ASSERT_EQ(hello->containers_size(), 1);
  EXPECT_EQ(hello->containers(0).status(), "running");
  EXPECT_EQ(hello->containers(0).anchor_pid(), 42U);
  request.set_protocol(2);
  EXPECT_FALSE(Call<cp::HelloResponse>("Hello", request));

  struct stat info {};

  ASSERT_EQ(stat((dir_ / "control.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(ControlServerTest, ExecWithInputOutputAndExitStatus) {
  const std::string exec = Exec("cat; echo err >&2; exit 9");
  auto stream = Attach(exec, false);
  cp::StreamData input;
  input.set_data("hello");
  ASSERT_TRUE(stream.Send(input.SerializeAsString()));
  input.set_data("");
  input.set_eof(true);
  ASSERT_TRUE(stream.Send(input.SerializeAsString()));
  std::string out;
  std::string err;
  while (const auto payload = Must(stream.Read(std::chrono::seconds(10)))) {
    cp::StreamData message;
    ASSERT_TRUE(message.ParseFromString(payload.value_or("")));
    (message.stream() == 2 ? err : out) += message.data();
  }
  EXPECT_EQ(out, "hello");
  EXPECT_EQ(err, "err\n");
  EXPECT_EQ(WaitExec(exec), 9U);
  cp::ExecRef ref;
  ref.set_container_id("c");
  ref.set_exec_id(exec);
  EXPECT_FALSE(Call<cp::WaitExecResponse>("WaitExec", ref));  // told once, then forgotten
}

TEST_F(ControlServerTest, AcknowledgedOutputIsBoundedByASlowClient) {
  const std::string exec = Exec("exec head -c 8000000 /dev/zero");
  auto stream = Attach(exec, true);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // nothing is read meanwhile
  size_t total = 0;
  while (const auto payload = Must(stream.Read(std::chrono::seconds(10)))) {
    cp::StreamData message;
    ASSERT_TRUE(message.ParseFromString(payload.value_or("")));
    total += message.data().size();
    if (!message.data().empty()) {
      cp::StreamData acknowledgement;
      acknowledgement.set_stream(message.stream());
      (void)stream.Send(
          acknowledgement.SerializeAsString());  // the stream may have ended meanwhile
    }
  }
  EXPECT_EQ(total, 8000000U);
  EXPECT_EQ(WaitExec(exec), 0U);
}

TEST_F(ControlServerTest, SignalReachesTheExecAndOnlyOurs) {
  const std::string exec = Exec("exec sleep 60");
  cp::SignalExecRequest request;
  request.set_container_id("c");
  request.set_exec_id(exec);
  request.set_signal(15);
  ASSERT_TRUE(Call<cp::Empty>("SignalExec", request));
  EXPECT_EQ(WaitExec(exec), 143U);
  request.set_exec_id("somebody-elses");
  EXPECT_FALSE(Call<cp::Empty>("SignalExec", request));
}

TEST_F(ControlServerTest, ExecInTheGuestItselfNeedsNoContainer) {
  cp::ExecRequest request;
  request.set_guest(true);
  for (const char* const word : {"/bin/sh", "-c", "echo $HOME; exit 7"}) {
    request.add_args(word);
  }
  const std::string exec = Must(Call<cp::ExecResponse>("Exec", request)).exec_id();
  cp::StreamData first;
  first.set_exec_id(exec);
  auto stream = Must(client_->OpenRawStream(kService, "Stream", "", true, {}));
  ASSERT_TRUE(stream.Send(first.SerializeAsString()));
  std::string out;
  while (const auto payload = Must(stream.Read(std::chrono::seconds(10)))) {
    cp::StreamData message;
    ASSERT_TRUE(message.ParseFromString(payload.value_or("")));
    out += message.data();
  }
  EXPECT_EQ(out, "/\n");
  cp::ExecRef ref;
  ref.set_exec_id(exec);
  EXPECT_EQ(Must(Call<cp::WaitExecResponse>("WaitExec", ref)).exit_status(), 7U);
}

TEST_F(ControlServerTest, UserOfAnExecIsLookedUpInTheContainersRoot) {
  cp::ExecRequest request;
  request.set_container_id("c");
  request.add_args("/bin/true");
  request.set_user("somebody-there");
  EXPECT_FALSE(Call<cp::ExecResponse>("Exec", request));
  std::filesystem::create_directories(dir_ / "rootfs/etc");
  const auto absent = Call<cp::ExecResponse>("Exec", request);
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().message().find("somebody-there"), std::string::npos);
  ASSERT_TRUE(WriteFile(dir_ / "rootfs/etc/passwd", "somebody-there:x:33:44::/:\n"));
  const auto found = Call<cp::ExecResponse>("Exec", request);
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(WaitExec(found->exec_id()), 0U);
}

TEST_F(ControlServerTest, ClientThatIsGoneHangsTheTerminalUpAndLeavesNoProcess) {
  cp::ExecRequest request;
  request.set_container_id("c");
  request.set_terminal(true);
  for (const char* const word : {"/bin/sh", "-c", "echo up; exec sleep 60"}) {
    request.add_args(word);
  }
  const std::string exec = Must(Call<cp::ExecResponse>("Exec", request)).exec_id();
  {
    auto stream = Attach(exec, true);
    ASSERT_TRUE(Must(stream.Read(std::chrono::seconds(10))).has_value());
    client_.reset();
  }
  EXPECT_TRUE(IsForgotten(exec));
}

TEST_F(ControlServerTest, ClientThatIsGoneBeforeItAttachesLeavesNoProcess) {
  const std::string exec = Exec("exec cat");  // ends with its input
  client_.reset();
  EXPECT_TRUE(IsForgotten(exec));
}

TEST_F(ControlServerTest, ClientThatIsGoneWhileItsExecIsStartedLeavesNoProcess) {
  std::promise<void> started;
  std::promise<void> go_on;
  on_started_ = [&] {
    started.set_value();
    go_on.get_future().wait();
  };
  cp::ExecRequest request;
  request.set_container_id("c");
  request.add_args("/bin/cat");
  client_->RawCallAsync(kService, "Exec", request.SerializeAsString(), {},
                        [](const Result<std::string>&) {});
  started.get_future().wait();
  client_.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the server has seen it
  EXPECT_EQ(Must(sandbox_.Pids("c")).size(), 2U);
  go_on.set_value();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (Must(sandbox_.Pids("c")).size() > 1 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(Must(sandbox_.Pids("c")).size(), 1U);
}

TEST_F(ControlServerTest, ClientThatIsGoneBeforeItAsksForTheExitStatusLeavesNoProcess) {
  const std::string exec = Exec("exit 3");
  auto stream = Attach(exec, false);
  while (Must(stream.Read(std::chrono::seconds(10)))) {
  }
  client_.reset();
  EXPECT_TRUE(IsForgotten(exec));
}

TEST_F(ControlServerTest, ClientThatIsGoneAfterTheEndOfItsInputLeavesNoProcess) {
  const std::string exec = Exec("echo up; cat; sleep 0.3");
  auto stream = Attach(exec, false);
  ASSERT_TRUE(Must(stream.Read(std::chrono::seconds(10))).has_value());
  ASSERT_TRUE(stream.CloseSend());
  client_.reset();
  EXPECT_TRUE(IsForgotten(exec));
}

TEST_F(ControlServerTest, AttachToNothingIsRefused) {
  auto stream = Attach("nope", false);
  EXPECT_FALSE(stream.Read(std::chrono::seconds(10)));
}

TEST_F(ControlServerTest, SizeIsToldAndChanged) {
  cp::SizeResponse size = Must(Call<cp::SizeResponse>("Size", cp::Empty()));
  ASSERT_EQ(size.vcpus_size(), 1);
  EXPECT_EQ(size.vcpus(0).thread(), static_cast<uint32_t>(getpid()));
  EXPECT_EQ(size.max_vcpus(), 4U);
  EXPECT_EQ(size.memory_bytes(), 256U << 20U);
  EXPECT_EQ(size.boot_memory_bytes(), 256U << 20U);
  EXPECT_EQ(size.max_memory_bytes(), 1024U << 20U);
  cp::ResizeRequest request;
  request.set_vcpus(4);
  size = Must(Call<cp::SizeResponse>("Resize", request));
  EXPECT_EQ(size.vcpus_size(), 4);
  EXPECT_EQ(size.memory_bytes(), 256U << 20U) << "what is not given stays";
  request.set_vcpus(0);
  request.set_memory_bytes(512U << 20U);
  size = Must(Call<cp::SizeResponse>("Resize", request));
  EXPECT_EQ(size.vcpus_size(), 4);
  EXPECT_EQ(size.memory_bytes(), 512U << 20U);
  request.set_vcpus(5);
  const auto refused = Call<cp::SizeResponse>("Resize", request);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_NE(refused.error().message().find("1 to 4 vCPUs"), std::string::npos);
}

TEST_F(ControlServerTest, LogConfigMetricsTimeline) {
  const auto console = Must(Call<cp::ConsoleLogResponse>("ConsoleLog", cp::Empty()));
  EXPECT_EQ(console.text(), "fake console\n");
  EXPECT_EQ(console.dropped(), 99U);
  EXPECT_NE(
      Must(Call<cp::EffectiveConfigResponse>("EffectiveConfig", cp::Empty())).yaml().find("vcpus"),
      std::string::npos);
  const auto metrics = Must(Call<cp::MetricsResponse>("Metrics", cp::Empty()));
  const std::string text = FromMessage(metrics).Text();
  const std::string of = "{namespace=\"some-namespace\",sandbox=\"c\"";
  EXPECT_THAT(text, HasSubstr("wyvern_sandbox_containers" + of + "} 1\n"));
  EXPECT_THAT(text, HasSubstr("wyvern_log_lines_dropped_total" + of + ",sink=\"journal\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("wyvern_container_memory_bytes" + of +
                              ",container=\"c\",source=\"guest\"} 4096\n"));
  EXPECT_THAT(text, HasSubstr("wyvern_vcpu_exits_total" + of + ",vcpu=\"0\",reason=\"halt\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("wyvern_host_process_pss_bytes" + of + ",process=\"keeper\""));
  const auto timeline = Must(Call<cp::TimelineResponse>("Timeline", cp::Empty()));
  ASSERT_EQ(timeline.points_size(), 1);
  EXPECT_EQ(timeline.points(0).name(), "vmm-exec");
}

TEST_F(ControlServerTest, MetricsSocketHasTheSameAsText) {
  const std::string path = dir_ / "metrics.sock";
  cp::HelloRequest hello;
  hello.set_protocol(1);
  EXPECT_EQ(Must(Call<cp::HelloResponse>("Hello", hello)).metrics_socket(), path);
  const UniqueFd client = Must(ConnectUnix(path));
  ASSERT_TRUE(WriteAll(client, std::string_view("GET /metrics HTTP/1.1\r\n\r\n")));
  const std::string answer = Must(ReadToEnd(client, 1U << 20U));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("\n# TYPE wyvern_guest_memory_total_bytes gauge\n"));
}

TEST_F(ControlServerTest, EventsOfBeforeAndOfNow) {
  sandbox_.Events().Add(observe::EventKind::kStarted, "", "in 5 ms");
  const auto watch = [this](bool only_new) {
    cp::WatchEventsRequest request;
    request.set_only_new(only_new);
    return Must(client_->OpenStream<cp::WatchEventsRequest, cp::SandboxEvent>(
        kService, "WatchEvents", request));
  };
  auto all = watch(false);
  const auto first = Must(all.Read(std::chrono::seconds(10)));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->kind(), cp::SandboxEvent::STARTED);
  EXPECT_EQ(first->number(), 1U);
  auto fresh = watch(true);
  cp::HelloRequest hello;
  hello.set_protocol(1);
  (void)Must(Call<cp::HelloResponse>("Hello", hello));  // behind it on the loop
  sandbox_.Events().Add(observe::EventKind::kOom, "c", "why");
  for (auto* stream : {&all, &fresh}) {
    const auto event = Must(stream->Read(std::chrono::seconds(10)));
    ASSERT_TRUE(event.has_value());
    EXPECT_EQ(event->number(), 2U);
    EXPECT_EQ(FromMessage(*event).kind, observe::EventKind::kOom);
    EXPECT_EQ(event->container(), "c");
  }
}

TEST_F(ControlServerTest, WatchersAreBoundedAndTheirPlacesComeBack) {
  const auto watch = [](ttrpc::Client& client) {
    return Must(
        client.OpenStream<cp::WatchEventsRequest, cp::SandboxEvent>(kService, "WatchEvents", {}));
  };
  sandbox_.Events().Add(observe::EventKind::kStarted, "", "");
  for (int round = 0; round < 3; ++round) {
    const auto other = Must(ttrpc::Client::Create(Must(ConnectUnix(dir_ / "control.sock"))));
    std::vector<ttrpc::ClientStream<cp::SandboxEvent>> streams;
    for (int i = 0; i < 64; ++i) {
      streams.push_back(watch(*other));
      ASSERT_TRUE(streams.back().Read(std::chrono::seconds(10)).has_value());
    }
    const auto refused = watch(*other).Read(std::chrono::seconds(10));
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  }
}

TEST_F(ControlServerTest, CloseRemovesTheSocket) {
  server_->Close();
  EXPECT_NE(access((dir_ / "metrics.sock").c_str(), F_OK), 0);
  EXPECT_NE(access((dir_ / "control.sock").c_str(), F_OK), 0);
  EXPECT_FALSE(Call<cp::MetricsResponse>("Metrics", cp::Empty()));
}

}  // namespace
}  // namespace wyvern::shim
