// The Sandbox API over a real ttrpc socket, beside the task service, with a fake sandbox below.
#include "sandbox_api/service.h"

#include <gmock/gmock.h>

#include <atomic>
#include <csignal>
#include <future>
#include <thread>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "bootstrap/bundle.h"
#include "proto/containerd_options.pb.h"
#include "sandbox_api/register.h"
#include "testing/task_fixture.h"

namespace wyvern::shim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class SandboxApiTest : public TaskFixture {
 protected:
  SandboxApiTest()
      : api_({.ns = "testns", .id = "pod", .stop_patience = std::chrono::seconds(10)}, *service_,
             *pool_) {
    std::filesystem::create_directories(Bundle());
    const std::string path = dir_ / "api.sock";
    server_thread_->Call([&] {
      api_server_ = Must(ttrpc::Server::Create(server_thread_->loop()));
      RegisterSandboxService(*api_server_, api_, *pool_);
      WV_CHECK(
          api_server_->Listen(Must(ListenUnix(path, 0600)), ttrpc::PeerIsRootOrSelf).has_value());
    });
    api_client_ = Must(ttrpc::Client::Create(Must(ConnectUnix(path))));
  }

  ~SandboxApiTest() override {
    service_->Terminate();
    api_client_.reset();
    server_thread_->Call([this] { api_server_.reset(); });
  }

  SandboxApiTest(const SandboxApiTest&) = delete;
  SandboxApiTest& operator=(const SandboxApiTest&) = delete;

  std::string Bundle() { return dir_ / "pod"; }

  template <typename Resp, typename Req>
  Result<Resp> Ask(const char* method, const Req& request) {
    return api_client_->Call<Req, Resp>("containerd.runtime.sandbox.v1.Sandbox", method, request,
                                        {.timeout = std::chrono::seconds(20)});
  }

  template <typename Req, typename Resp = pb::Empty>
  Result<Resp> AskFor(const char* method, const std::string& id = "pod") {
    Req request;
    request.set_sandbox_id(id);
    return Ask<Resp>(method, request);
  }

  sandbox_pb::CreateSandboxRequest CreateRequest() {
    sandbox_pb::CreateSandboxRequest request;
    request.set_sandbox_id("pod");
    request.set_bundle_path(Bundle());
    return request;
  }

  Result<pb::Empty> CreatePod() { return Ask<pb::Empty>("CreateSandbox", CreateRequest()); }

  Result<sandbox_pb::StartSandboxResponse> StartPod() {
    return AskFor<sandbox_pb::StartSandboxRequest, sandbox_pb::StartSandboxResponse>(
        "StartSandbox");
  }

  void RunPod() {
    const auto created = CreatePod();
    ASSERT_TRUE(created) << created.error().message();
    const auto started = StartPod();
    ASSERT_TRUE(started) << started.error().message();
    EXPECT_GT(started->pid(), 0U);
    EXPECT_GT(started->created_at().seconds(), 0);
  }

  Result<pb::Empty> StopPod(uint32_t seconds = 0) {
    sandbox_pb::StopSandboxRequest request;
    request.set_sandbox_id("pod");
    request.set_timeout_secs(seconds);
    return Ask<pb::Empty>("StopSandbox", request);
  }

  Result<sandbox_pb::WaitSandboxResponse> WaitPod() {
    return AskFor<sandbox_pb::WaitSandboxRequest, sandbox_pb::WaitSandboxResponse>("WaitSandbox");
  }

  sandbox_pb::SandboxStatusResponse StatusOfPod() {
    const auto status = AskFor<sandbox_pb::SandboxStatusRequest, sandbox_pb::SandboxStatusResponse>(
        "SandboxStatus");
    EXPECT_TRUE(status) << status.error().message();
    return status.value_or(sandbox_pb::SandboxStatusResponse());
  }

  Result<pb::Empty> ShutdownPod() {
    return AskFor<sandbox_pb::ShutdownSandboxRequest>("ShutdownSandbox");
  }

  SandboxService api_;
  std::unique_ptr<ttrpc::Server> api_server_;
  std::unique_ptr<ttrpc::Client> api_client_;
};

TEST_F(SandboxApiTest, Scenario42_ContainersComeAndGoInASandboxWithoutATask) {
  RunPod();
  EXPECT_EQ(StatusOfPod().state(), "SANDBOX_READY");
  EXPECT_TRUE(AskFor<sandbox_pb::PingRequest>("PingSandbox"));
  const auto platform =
      AskFor<sandbox_pb::PlatformRequest, sandbox_pb::PlatformResponse>("Platform");
  ASSERT_TRUE(platform);
  EXPECT_EQ(platform->platform().os(), "linux");
  EXPECT_THAT(platform->platform().architecture(), testing::AnyOf("amd64", "arm64", "riscv64"));
  ASSERT_TRUE(TaskFixture::Create("web", "exit 3"));
  ASSERT_TRUE(TaskFixture::Start("web"));
  EXPECT_EQ(TaskFixture::Wait("web")->exit_status(), 3U);
  EXPECT_TRUE(Delete("web"));
  EXPECT_EQ(ShutdownCode(), Code::kOk) << "asked for after each container";
  EXPECT_EQ(StatusOfPod().state(), "SANDBOX_READY");
  EXPECT_FALSE(shut_down_);
  ASSERT_TRUE(TaskFixture::Create("late", "sleep 60"));
  ASSERT_TRUE(TaskFixture::Start("late"));
  EXPECT_EQ(sandboxes_, 1);
  std::future<Result<sandbox_pb::WaitSandboxResponse>> waits =
      std::async(std::launch::async, [this] { return WaitPod(); });
  EXPECT_TRUE(StopPod());
  const auto ended = waits.get();
  ASSERT_TRUE(ended) << ended.error().message();
  EXPECT_EQ(ended->exit_status(), 137U);
  EXPECT_GT(ended->exited_at().seconds(), 0);
  EXPECT_EQ(TaskFixture::Wait("late")->exit_status(), 137U);
  EXPECT_EQ(StatusOfPod().state(), "SANDBOX_NOTREADY");
  EXPECT_GT(StatusOfPod().exited_at().seconds(), 0);
  EXPECT_EQ(CodeOf(AskFor<sandbox_pb::PingRequest>("PingSandbox")), Code::kFailedPrecondition);
  EXPECT_TRUE(StopPod()) << "once more";
  EXPECT_EQ(WaitPod()->exit_status(), 137U) << "after it, too";
  EXPECT_EQ(CodeOf(TaskFixture::Create("later", "true")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(StartPod()), Code::kFailedPrecondition);
  EXPECT_TRUE(Delete("late"));
  EXPECT_FALSE(shut_down_);
  EXPECT_TRUE(ShutdownPod());
  EXPECT_TRUE(shut_down_);
  EXPECT_EQ(endings_, 1);
  EXPECT_TRUE(events_.Await(8));
  EXPECT_THAT(events_.LinesOf("pod"), IsEmpty()) << "it is no task";
  EXPECT_THAT(events_.LinesOf("late"),
              ElementsAre("create late", "start late", "exit late 137", "delete late 137"));
}

TEST_F(SandboxApiTest, WhatIsNotThereOrOfAnotherIsNotFound) {
  const auto codes = [this](const std::string& id) {
    using S = sandbox_pb::SandboxMetricsRequest;
    return std::vector<Code>{CodeOf(AskFor<sandbox_pb::StartSandboxRequest>("StartSandbox", id)),
                             CodeOf(AskFor<sandbox_pb::PlatformRequest>("Platform", id)),
                             CodeOf(AskFor<sandbox_pb::StopSandboxRequest>("StopSandbox", id)),
                             CodeOf(AskFor<sandbox_pb::WaitSandboxRequest>("WaitSandbox", id)),
                             CodeOf(AskFor<sandbox_pb::SandboxStatusRequest>("SandboxStatus", id)),
                             CodeOf(AskFor<sandbox_pb::PingRequest>("PingSandbox", id)),
                             CodeOf(AskFor<S>("SandboxMetrics", id))};
  };
  EXPECT_THAT(codes("pod"), testing::Each(Code::kNotFound)) << "not created";
  ASSERT_TRUE(CreatePod());
  EXPECT_THAT(codes("other"), testing::Each(Code::kNotFound));
  EXPECT_THAT(codes(""), testing::Each(Code::kNotFound));
  EXPECT_EQ(CodeOf(AskFor<sandbox_pb::ShutdownSandboxRequest>("ShutdownSandbox", "other")),
            Code::kNotFound);
  EXPECT_FALSE(shut_down_);
}

TEST_F(SandboxApiTest, CreateIsRefusedForWhatIsNoPodOfThisShim) {
  auto request = CreateRequest();
  request.set_sandbox_id("other");
  EXPECT_EQ(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  request = CreateRequest();
  request.set_bundle_path("bundle");
  EXPECT_EQ(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  request.set_bundle_path("");
  EXPECT_EQ(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  request = CreateRequest();
  request.set_netns_path(std::string("/run\0x", 6));
  EXPECT_EQ(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  request = CreateRequest();
  request.mutable_options()->set_type_url("some.Options");
  EXPECT_EQ(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  request = CreateRequest();
  request.set_bundle_path(dir_ / "none" + "/there");
  EXPECT_NE(CodeOf(Ask<pb::Empty>("CreateSandbox", request)), Code::kOk);
  EXPECT_TRUE(CreatePod()) << "nothing of it is left";
  EXPECT_EQ(CodeOf(CreatePod()), Code::kAlreadyExists);
}

TEST_F(SandboxApiTest, TasksWaitForTheSandboxAndItForNoTask) {
  ASSERT_TRUE(CreatePod());
  EXPECT_EQ(CodeOf(TaskFixture::Create("web", "true")), Code::kFailedPrecondition);
  ASSERT_TRUE(StartPod());
  EXPECT_EQ(CodeOf(StartPod()), Code::kFailedPrecondition);
  EXPECT_TRUE(TaskFixture::Create("web", "true"));
}

TEST_F(SandboxApiTest, AShimOfATaskIsNoSandbox) {
  ASSERT_TRUE(TaskFixture::Create("web", "sleep 60"));
  EXPECT_EQ(CodeOf(CreatePod()), Code::kFailedPrecondition);
  EXPECT_EQ(State("web")->status(), task_pb::CREATED);
}

TEST_F(SandboxApiTest, Scenario29_DeathOfTheMachineIsTheSandboxesEnd) {
  RunPod();
  ASSERT_TRUE(TaskFixture::Create("web", "sleep 60"));
  ASSERT_TRUE(TaskFixture::Start("web"));
  auto waits = std::async(std::launch::async, [this] { return WaitPod(); });
  sandbox_.load()->Die("killed");
  EXPECT_EQ(waits.get()->exit_status(), 137U);
  EXPECT_EQ(TaskFixture::Wait("web")->exit_status(), 137U);
  EXPECT_EQ(StatusOfPod().state(), "SANDBOX_NOTREADY");
  EXPECT_TRUE(StopPod());
  EXPECT_TRUE(StopPod());
  EXPECT_TRUE(ShutdownPod());
  EXPECT_TRUE(shut_down_);
}

TEST_F(SandboxApiTest, StopWhileTheGuestBootsEndsIt) {
  std::atomic<bool> boots{false};
  on_boot_ = [&](const std::stop_token& cancel) -> Result<> {
    boots = true;
    while (!cancel.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return Fail(Code::kUnavailable, "its start was cancelled");
  };
  ASSERT_TRUE(CreatePod());
  auto starts = std::async(std::launch::async, [this] { return StartPod(); });
  while (!boots) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(StopPod());
  EXPECT_EQ(CodeOf(starts.get()), Code::kUnavailable);
  EXPECT_EQ(WaitPod()->exit_status(), 137U);
  EXPECT_TRUE(ShutdownPod());
  EXPECT_TRUE(shut_down_);
}

TEST_F(SandboxApiTest, Scenario36_AStartThatFailsIsTheEnd) {
  start_error_ = Fail(Code::kResourceExhausted, "no memory for a guest");
  ASSERT_TRUE(CreatePod());
  const auto started = StartPod();
  EXPECT_EQ(CodeOf(started), Code::kResourceExhausted);
  EXPECT_THAT(started.error().message(), HasSubstr("no memory for a guest"));
  EXPECT_EQ(WaitPod()->exit_status(), 137U);
  EXPECT_EQ(StatusOfPod().state(), "SANDBOX_NOTREADY");
  EXPECT_TRUE(ShutdownPod());
  EXPECT_TRUE(shut_down_);
}

TEST_F(SandboxApiTest, ShutdownEndsTheShimInEveryState) {
  EXPECT_TRUE(ShutdownPod()) << "as containerd calls it after a Create that failed";
  EXPECT_TRUE(shut_down_);
  EXPECT_NE(CodeOf(CreatePod()), Code::kOk);
}

TEST_F(SandboxApiTest, ShutdownOfARunningPodEndsItsContainers) {
  RunPod();
  ASSERT_TRUE(TaskFixture::Create("web", "sleep 60"));
  ASSERT_TRUE(TaskFixture::Start("web"));
  EXPECT_TRUE(ShutdownPod());
  EXPECT_TRUE(shut_down_);
  EXPECT_TRUE(events_.Await(3));
  EXPECT_THAT(events_.LinesOf("web"), ElementsAre("create web", "start web", "exit web 137"));
}

TEST_F(SandboxApiTest, AGuestThatDoesNotObeyIsEndedAfterItsTime) {
  hook_ = [](const std::string& operation) {
    return operation == "signal" ? Fail(Code::kDeadlineExceeded, "hung") : Result<>();
  };
  RunPod();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(StopPod(1));
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took, std::chrono::milliseconds(900));
  EXPECT_LT(took, std::chrono::seconds(8));
  EXPECT_EQ(WaitPod()->exit_status(), 137U);
}

TEST_F(SandboxApiTest, RuntimeOptionsAreThoseThatStartWasGiven) {
  containerd::options::RuntimeOptions ours;
  ours.set_config_path("/etc/wyvern/other.yaml");
  pb::Any any;
  any.set_type_url("runtimeoptions.v1.Options");
  any.set_value(ours.SerializeAsString());
  const std::string file = Bundle() + "/" + kStartOptionsFile;
  ASSERT_TRUE(WriteFile(file, "\xff\xff"));
  EXPECT_EQ(CodeOf(CreatePod()), Code::kInvalidArgument);
  ASSERT_TRUE(WriteFile(file, any.SerializeAsString()));
  RunPod();
  EXPECT_EQ(options_seen_.config_path, "/etc/wyvern/other.yaml");
}

TEST_F(SandboxApiTest, MetricsAreOfTheWholePod) {
  RunPod();
  ASSERT_TRUE(TaskFixture::Create("web", "sleep 60"));
  const auto metrics =
      AskFor<sandbox_pb::SandboxMetricsRequest, sandbox_pb::SandboxMetricsResponse>(
          "SandboxMetrics");
  ASSERT_TRUE(metrics) << metrics.error().message();
  EXPECT_EQ(metrics->metrics().id(), "pod");
  EXPECT_EQ(metrics->metrics().data().type_url(), "io.containerd.cgroups.v2.Metrics");
  EXPECT_FALSE(metrics->metrics().data().value().empty());
  EXPECT_TRUE(StopPod());
  EXPECT_EQ(CodeOf(AskFor<sandbox_pb::SandboxMetricsRequest>("SandboxMetrics")),
            Code::kFailedPrecondition);
}

}  // namespace
}  // namespace wyvern::shim
