#include "sandbox_api/service.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <string_view>
#include <utility>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "bootstrap/bundle.h"
#include "task/stats.h"

namespace wyvern::shim {

namespace {

using Clock = std::chrono::system_clock;

constexpr char kReady[] = "SANDBOX_READY";  // CRI's words
constexpr char kNotReady[] = "SANDBOX_NOTREADY";
constexpr uint32_t kKilled = 128 + SIGKILL;
constexpr std::chrono::milliseconds kMaxStopPatience{120'000};
constexpr size_t kMaxStartOptions = 4U << 20U;
constexpr uint64_t kNoLimit = ~uint64_t{0};

// The kernel's name of a machine, and Go's, in which images are told apart.
constexpr std::array<std::array<std::string_view, 2>, 3> kArchitectures = {
    {{"x86_64", "amd64"}, {"aarch64", "arm64"}, {"riscv64", "riscv64"}}};

std::string Architecture() {
  utsname names{};
  uname(&names);
  const auto* const found = std::ranges::find_if(
      kArchitectures, [&](const auto& pair) { return pair[0] == names.machine; });
  return std::string(found == kArchitectures.end() ? std::string_view(names.machine) : (*found)[1]);
}

Result<CreateOptions> ReadStartOptions(const std::string& bundle) {
  const auto text = ReadFile(bundle + "/" + kStartOptionsFile, kMaxStartOptions);
  if (!text && text.error().code() == Code::kNotFound) {
    return CreateOptions();
  }
  pb::Any options;
  if (!text || !options.ParseFromString(*text)) {
    return Fail(Code::kInvalidArgument,
                "runtime options: what `start` was given is " +
                    (text ? std::string("no Any") : text.error().message()));
  }
  return ParseCreateOptions(options);
}

void Add(const std::map<std::string, uint64_t>& from, std::map<std::string, uint64_t>& to) {
  for (const auto& [key, value] : from) {
    to[key] += value;
  }
}

// Limits are those of each; together they have none.
void Add(const runtime::ContainerStats& one, runtime::ContainerStats& sum) {
  sum.cpu_usage_usec += one.cpu_usage_usec;
  sum.cpu_user_usec += one.cpu_user_usec;
  sum.cpu_system_usec += one.cpu_system_usec;
  sum.nr_periods += one.nr_periods;
  sum.nr_throttled += one.nr_throttled;
  sum.throttled_usec += one.throttled_usec;
  sum.memory_current += one.memory_current;
  sum.swap_current += one.swap_current;
  sum.pids_current += one.pids_current;
  Add(one.memory_stat, sum.memory_stat);
  Add(one.memory_events, sum.memory_events);
  sum.io.insert(sum.io.end(), one.io.begin(), one.io.end());
}

sandbox_pb::WaitSandboxResponse WaitAnswer(const runtime::ExitInfo& exit) {
  sandbox_pb::WaitSandboxResponse response;
  response.set_exit_status(exit.status);
  *response.mutable_exited_at() = ToTimestamp(exit.at);
  return response;
}

}  // namespace

SandboxService::SandboxService(SandboxServiceOptions options, TaskService& tasks,
                               ttrpc::BlockingPool& pool)
    : options_(std::move(options)), tasks_(tasks), pool_(pool) {}

SandboxService::~SandboxService() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return pid_ == 0 || machine_gone_; });
}

Result<> SandboxService::CheckIdLocked(const std::string& id) const {
  if (id != options_.id) {
    return Fail(Code::kNotFound, "sandbox " + id + " is not the one of this shim");
  }
  if (state_ == State::kNone || state_ == State::kCreating) {
    return Fail(Code::kNotFound, "sandbox " + id + " was not created");
  }
  return {};
}

Result<pb::Empty> SandboxService::Create(const sandbox_pb::CreateSandboxRequest& request) {
  if (request.sandbox_id() != options_.id) {
    return Fail(Code::kInvalidArgument,
                "CreateSandbox: this shim was started for sandbox " + options_.id);
  }
  for (const std::string& path : {request.bundle_path(), request.netns_path()}) {
    if ((!path.empty() && path.front() != '/') || path.find('\0') != std::string::npos) {
      return Fail(Code::kInvalidArgument, "CreateSandbox: bundle_path and netns_path are absolute");
    }
  }
  if (request.bundle_path().empty()) {
    return Fail(Code::kInvalidArgument, "CreateSandbox without a bundle_path");
  }
  {
    const std::lock_guard lock(mu_);
    if (state_ != State::kNone) {
      return Fail(Code::kAlreadyExists, "sandbox " + options_.id + " exists already");
    }
    state_ = State::kCreating;
  }
  Cleanup undo([this] {
    const std::lock_guard lock(mu_);
    state_ = State::kNone;
  });
  WV_TRY(const HostNames host, ReadHostNames());
  WV_TRY(const PodBundle pod, DescribePod(request, host));
  WV_TRY(const CreateOptions runtime_options, ReadStartOptions(request.bundle_path()));
  WV_TRY_VOID(tasks_.UseSandboxApi());
  WV_TRY_VOID(WritePodBundle(request.bundle_path(), pod));
  undo.Cancel();
  const std::lock_guard lock(mu_);
  request_ = {options_.ns, options_.id, request.bundle_path(), runtime_options, {}};
  state_ = State::kCreated;
  return pb::Empty();
}

Result<sandbox_pb::StartSandboxResponse> SandboxService::Start(
    const sandbox_pb::StartSandboxRequest& request) {
  {
    const std::lock_guard lock(mu_);
    WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
    if (state_ != State::kCreated) {
      return Fail(Code::kFailedPrecondition, state_ == State::kEnded
                                                 ? "the sandbox has been stopped"
                                                 : "the sandbox was started already");
    }
    state_ = State::kStarting;
  }
  if (auto started = StartPod(); !started) {
    tasks_.StopSandbox();
    const std::lock_guard lock(mu_);
    machine_gone_ = true;
    EndLocked({kKilled, Clock::now()});
    return tl::unexpected(std::move(started).error());
  }
  const std::lock_guard lock(mu_);
  sandbox_pb::StartSandboxResponse response;
  response.set_pid(static_cast<uint32_t>(pid_));
  *response.mutable_created_at() = ToTimestamp(created_at_);
  return response;
}

Result<> SandboxService::StartPod() {
  WV_TRY(const auto box, tasks_.StartSandbox(request_));
  runtime::ContainerOptions pause;
  pause.id = options_.id;
  pause.bundle = request_.bundle;
  WV_TRY_VOID(box->CreateContainer(pause));
  WV_TRY_VOID(box->StartProcess(options_.id, ""));
  WV_TRY(const runtime::ProcessState state, box->State(options_.id, ""));
  // As Create of a task does it, for `delete` after our death.
  if (auto written = WriteFile(request_.bundle + "/init.pid", std::to_string(state.pid));
      !written) {
    WV_WARN("{}", written.error().message());
  }
  {
    const std::lock_guard lock(mu_);
    box_ = box;
    pid_ = state.pid;
    created_at_ = Clock::now();
    state_ = State::kRunning;
  }
  pool_.Run([this, box] { AwaitEnd(box); });
  return {};
}

void SandboxService::AwaitEnd(const std::shared_ptr<runtime::Sandbox>& box) {
  auto waited = box->Wait(options_.id, "");
  if (!waited) {
    WV_WARN("waiting for the sandbox's end: {}", waited.error().message());
  }
  {
    const std::lock_guard lock(mu_);
    EndLocked(waited.value_or(runtime::ExitInfo{kKilled, Clock::now()}));
  }
  tasks_.StopSandbox();
  const std::lock_guard lock(mu_);
  machine_gone_ = true;
  changed_.notify_all();
}

void SandboxService::EndLocked(const runtime::ExitInfo& exit) {
  state_ = State::kEnded;
  exit_ = exit;
  box_.reset();
  for (const WaitSandboxResponder& waiter : std::exchange(waiters_, {})) {
    waiter.Ok(WaitAnswer(exit));
  }
  changed_.notify_all();
}

// The containers are killed first, and write back what they wrote; then the machine goes, at the latest after `patience`.
void SandboxService::EndPod(std::chrono::milliseconds patience) {
  std::unique_lock lock(mu_);
  if (state_ == State::kCreated) {
    machine_gone_ = true;
    EndLocked({kKilled, Clock::now()});
    return;
  }
  if (state_ == State::kStarting) {  // Start ends it
    lock.unlock();
    tasks_.StopSandbox();
    lock.lock();
  }
  if (const auto box = box_; box != nullptr) {
    lock.unlock();
    if (auto killed = box->Signal(options_.id, "", SIGKILL, true); !killed) {
      WV_INFO("ending the sandbox: {}", killed.error().message());  // it has ended or died
    }
    lock.lock();
  }
  if (!changed_.wait_for(lock, patience, [this] { return machine_gone_; })) {
    lock.unlock();
    WV_WARN("the sandbox's containers did not end within {} ms", patience.count());
    tasks_.StopSandbox();
  }
}

Result<pb::Empty> SandboxService::Stop(const sandbox_pb::StopSandboxRequest& request) {
  {
    const std::lock_guard lock(mu_);
    WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
  }
  const std::chrono::milliseconds asked = std::chrono::seconds(request.timeout_secs());
  EndPod(asked.count() == 0 ? options_.stop_patience : std::min(asked, kMaxStopPatience));
  return pb::Empty();
}

Result<pb::Empty> SandboxService::Shutdown(const sandbox_pb::ShutdownSandboxRequest& request) {
  bool created = false;
  {
    const std::lock_guard lock(mu_);
    if (request.sandbox_id() != options_.id) {
      return CheckIdLocked(request.sandbox_id()).map([] { return pb::Empty(); });
    }
    created = state_ != State::kNone && state_ != State::kCreating;
  }
  if (created) {
    EndPod(options_.stop_patience);
  }
  tasks_.Terminate();
  return pb::Empty();
}

Result<sandbox_pb::PlatformResponse> SandboxService::Platform(
    const sandbox_pb::PlatformRequest& request) {
  const std::lock_guard lock(mu_);
  WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
  sandbox_pb::PlatformResponse response;
  response.mutable_platform()->set_os("linux");
  response.mutable_platform()->set_architecture(Architecture());
  return response;
}

Result<sandbox_pb::SandboxStatusResponse> SandboxService::Status(
    const sandbox_pb::SandboxStatusRequest& request) {
  const std::lock_guard lock(mu_);
  WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
  sandbox_pb::SandboxStatusResponse response;
  response.set_sandbox_id(options_.id);
  response.set_pid(static_cast<uint32_t>(pid_));
  response.set_state(state_ == State::kRunning ? kReady : kNotReady);
  if (pid_ != 0) {
    *response.mutable_created_at() = ToTimestamp(created_at_);
  }
  if (exit_) {
    *response.mutable_exited_at() = ToTimestamp(exit_->at);
  }
  if (request.verbose()) {
    // Under the name, and with the field, that CRI gives a sandbox of its podsandbox mode.
    (*response.mutable_info())["info"] = "{\"pid\":" + std::to_string(pid_) + "}";
  }
  return response;
}

Result<pb::Empty> SandboxService::Ping(const sandbox_pb::PingRequest& request) {
  const std::lock_guard lock(mu_);
  WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
  if (state_ != State::kRunning) {
    return Fail(Code::kFailedPrecondition, "the sandbox does not run");
  }
  return pb::Empty();
}

Result<sandbox_pb::SandboxMetricsResponse> SandboxService::Metrics(
    const sandbox_pb::SandboxMetricsRequest& request) {
  std::shared_ptr<runtime::Sandbox> box;
  {
    const std::lock_guard lock(mu_);
    WV_TRY_VOID(CheckIdLocked(request.sandbox_id()));
    box = box_;
  }
  if (box == nullptr) {
    return Fail(Code::kFailedPrecondition, "the sandbox does not run");
  }
  runtime::ContainerStats sum;
  sum.memory_limit = sum.swap_limit = sum.pids_limit = kNoLimit;
  for (const std::string& id : box->ContainerIds()) {
    if (const auto stats = box->Stats(id); stats) {  // else it went meanwhile
      Add(*stats, sum);
    }
  }
  sandbox_pb::SandboxMetricsResponse response;
  auto& metric = *response.mutable_metrics();
  *metric.mutable_timestamp() = ToTimestamp(Clock::now());
  metric.set_id(options_.id);
  *metric.mutable_data() = EncodeStats(sum);
  return response;
}

void SandboxService::Wait(const sandbox_pb::WaitSandboxRequest& request,
                          WaitSandboxResponder responder) {
  const std::lock_guard lock(mu_);
  if (auto known = CheckIdLocked(request.sandbox_id()); !known) {
    responder.Fail(std::move(known).error());
  } else if (exit_) {
    responder.Ok(WaitAnswer(*exit_));
  } else {
    // Clients that gave up leave their responders behind.
    std::erase_if(waiters_, [](const WaitSandboxResponder& waiter) { return !waiter.alive(); });
    waiters_.push_back(std::move(responder));
  }
}

}  // namespace wyvern::shim
