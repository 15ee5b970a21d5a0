#include "testing/task_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern::shim {

namespace {

std::string ProcessJson(const std::vector<std::string>& args) {
  const nlohmann::json process = {
      {"args", args}, {"cwd", "/"}, {"env", {"PATH=/usr/bin:/bin"}}, {"terminal", false}};
  return process.dump();
}

}  // namespace

FifoReader::FifoReader(std::string path)
    : path_(std::move(path)), thread_([this] {
        const auto fd = Open(path_, O_RDONLY);
        if (fd) {
          text_ = ReadToEnd(*fd, size_t{1} << 30).value_or("");
        }
        done_ = true;
      }) {}

FifoReader::~FifoReader() {
  // Nobody wrote: a writer that comes and goes ends the open, and the read.
  while (thread_.joinable() && !done_) {
    (void)Open(path_, O_WRONLY | O_NONBLOCK);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (thread_.joinable()) {
    thread_.join();
  }
}

std::string FifoReader::Text() {
  thread_.join();
  return text_;
}

TaskFixture::TaskFixture() : events_(dir_ / "events.sock") {
  publisher_ = std::make_unique<Publisher>(
      PublisherOptions{.address = dir_ / "events.sock", .ns = "testns"});
  stdio_ = Must(LoopThread::Start("stdio"));
  server_thread_ = Must(LoopThread::Start("server"));
  pool_ = std::make_unique<ttrpc::BlockingPool>("task");
  TaskServiceOptions options;
  options.ns = "testns";
  options.start_sandbox =
      [this](const SandboxRequest& request) -> Result<std::unique_ptr<runtime::Sandbox>> {
    options_seen_ = request.options;
    if (!start_error_) {
      return Fail(start_error_.error().code(), start_error_.error().message());
    }
    if (on_boot_) {
      WV_TRY_VOID(on_boot_(request.cancel));
    }
    runtime::SandboxOptions sandbox_options;
    sandbox_options.id = request.id;
    auto sandbox = std::make_unique<FakeSandbox>(sandbox_options, hook_);
    if (ignore_rootfs_) {
      sandbox->IgnoreRootfs();
    }
    sandbox_ = sandbox.get();
    ++sandboxes_;
    return sandbox;
  };
  const auto streams = StreamHub::Create(stdio_->loop());
  options.streams = streams;
  options.on_ending = [this] { ++endings_; };
  options.on_shutdown = [this] { shut_down_ = true; };
  options.drain_patience = std::chrono::milliseconds(2000);
  options.exec_exit_patience = std::chrono::milliseconds(2000);
  service_ = std::make_unique<TaskService>(std::move(options), stdio_->loop(), *publisher_, *pool_);
  const std::string path = dir_ / "shim.sock";
  server_thread_->Call([&] {
    server_ = Must(ttrpc::Server::Create(server_thread_->loop()));
    RegisterTaskService(*server_, *service_, *pool_);
    streams->Register(*server_);
    WV_CHECK(server_->Listen(Must(ListenUnix(path, 0600)), ttrpc::PeerIsRootOrSelf).has_value());
  });
  client_ = Must(ttrpc::Client::Create(Must(ConnectUnix(path))));
}

TaskFixture::~TaskFixture() {
  service_->Terminate();
  client_.reset();
  server_thread_->Call([this] { server_.reset(); });
  server_thread_.reset();
  pool_.reset();
  service_.reset();
  stdio_->Call([] {});  // what the service left there is done
  stdio_.reset();
  publisher_.reset();
}

std::string TaskFixture::Bundle(const std::string& id, const std::vector<std::string>& args) {
  const std::string bundle = dir_ / id;
  std::filesystem::create_directories(bundle + "/rootfs");
  const std::string text = "{\"ociVersion\":\"1.0.2\",\"process\":" + ProcessJson(args) + "}";
  WV_CHECK(WriteFile(bundle + "/config.json", text).has_value());
  return bundle;
}

std::string TaskFixture::ShellBundle(const std::string& id, const std::string& script) {
  return Bundle(id, {"/bin/sh", "-c", script});
}

std::string TaskFixture::MakeFifo(const std::string& name) {
  const std::string path = dir_ / name;
  WV_CHECK(mkfifo(path.c_str(), 0700) == 0);
  return path;
}

Result<task_pb::CreateTaskResponse> TaskFixture::Create(const std::string& id,
                                                        const std::string& script) {
  task_pb::CreateTaskRequest request;
  request.set_id(id);
  request.set_bundle(ShellBundle(id, script));
  return Call<task_pb::CreateTaskResponse>("Create", request);
}

Result<task_pb::StartResponse> TaskFixture::Start(const std::string& id,
                                                  const std::string& exec_id) {
  task_pb::StartRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  return Call<task_pb::StartResponse>("Start", request);
}

Result<pb::Empty> TaskFixture::Exec(const std::string& id, const std::string& exec_id,
                                    const std::vector<std::string>& args,
                                    const std::string& stdout_uri) {
  task_pb::ExecProcessRequest request;
  request.set_id(id);
  request.set_stdout(stdout_uri);
  request.set_exec_id(exec_id);
  request.mutable_spec()->set_type_url("types.containerd.io/opencontainers/runtime-spec/1/Process");
  request.mutable_spec()->set_value(ProcessJson(args));
  return Call<pb::Empty>("Exec", request);
}

Result<task_pb::WaitResponse> TaskFixture::Wait(const std::string& id, const std::string& exec_id) {
  task_pb::WaitRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  return Call<task_pb::WaitResponse>("Wait", request);
}

Result<task_pb::StateResponse> TaskFixture::State(const std::string& id,
                                                  const std::string& exec_id) {
  task_pb::StateRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  return Call<task_pb::StateResponse>("State", request, std::chrono::seconds(2));
}

Result<task_pb::DeleteResponse> TaskFixture::Delete(const std::string& id,
                                                    const std::string& exec_id) {
  task_pb::DeleteRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  return Call<task_pb::DeleteResponse>("Delete", request);
}

Result<pb::Empty> TaskFixture::Kill(const std::string& id, const std::string& exec_id, int signal,
                                    bool all) {
  task_pb::KillRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_signal(static_cast<uint32_t>(signal));
  request.set_all(all);
  return Call<pb::Empty>("Kill", request);
}

Code TaskFixture::ShutdownCode() {
  task_pb::ShutdownRequest request;
  return CodeOf(Call<pb::Empty>("Shutdown", request));
}

}  // namespace wyvern::shim
