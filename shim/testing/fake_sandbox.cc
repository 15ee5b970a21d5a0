#include "testing/fake_sandbox.h"

#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <utility>

#include <nlohmann/json.hpp>

#include "base/log.h"

namespace wyvern::shim {

namespace {

using nlohmann::json;

std::vector<std::string> Strings(const json& object, const char* key) {
  std::vector<std::string> strings;
  if (const auto found = object.find(key); found != object.end() && found->is_array()) {
    for (const json& entry : *found) {
      if (entry.is_string()) {
        strings.push_back(entry.get<std::string>());
      }
    }
  }
  return strings;
}

Result<FakeProcessOptions> ReadProcess(const json& process) {
  if (!process.is_object()) {
    return Fail(Code::kInvalidArgument, "process is not an object");
  }
  FakeProcessOptions options;
  options.args = Strings(process, "args");
  options.env = Strings(process, "env");
  if (const auto cwd = process.find("cwd"); cwd != process.end() && cwd->is_string()) {
    options.cwd = cwd->get<std::string>();
  }
  return options;
}

// Then it is never run.
bool StandsForPod(const json& spec) {
  const auto annotations = spec.find("annotations");
  return annotations != spec.end() && annotations->is_object() &&
         annotations->value("io.kubernetes.cri.container-type", json()) == "sandbox";
}

// Enough of mount(8)'s words for overlay and bind.
Result<> MountOne(const runtime::Mount& mount, const std::string& target) {
  unsigned long flags = 0;
  std::string data;
  for (const std::string& option : mount.options) {
    if (option == "ro") {
      flags |= MS_RDONLY;
    } else if (option == "bind" || option == "rbind") {
      flags |= MS_BIND | (option == "rbind" ? MS_REC : 0);
    } else if (option != "rw") {
      data += (data.empty() ? "" : ",") + option;
    }
  }
  if (::mount(mount.source.c_str(), target.c_str(), mount.type.c_str(), flags, data.c_str()) != 0) {
    return SysError("mount " + mount.type + " on " + target);
  }
  return {};
}

}  // namespace

FakeSandbox::FakeSandbox(runtime::SandboxOptions options, Hook before)
    : options_(std::move(options)), before_(std::move(before)) {}

FakeSandbox::~FakeSandbox() {
  (void)Shutdown();
}

Result<> FakeSandbox::Check(const std::string& operation) {
  if (before_) {
    WV_TRY_VOID(before_(operation));
  }
  const std::lock_guard lock(mu_);
  if (dead_) {
    return Fail(Code::kUnavailable, "the sandbox is dead");
  }
  return {};
}

Result<std::shared_ptr<FakeProcess>> FakeSandbox::Find(const std::string& id,
                                                       const std::string& exec_id) {
  const std::lock_guard lock(mu_);
  const auto found = processes_.find({id, exec_id});
  if (found == processes_.end()) {
    return Fail(Code::kNotFound, "process not found");
  }
  return found->second;
}

Result<runtime::ProcessIo> FakeSandbox::CreateContainer(const runtime::ContainerOptions& options) {
  WV_TRY_VOID(Check("create"));
  WV_TRY(const std::string text, ReadFile(options.bundle + "/config.json"));
  const json spec = json::parse(text, nullptr, false);
  if (!spec.is_object() || !spec.contains("process")) {
    return Fail(Code::kInvalidArgument, "config.json has no process");
  }
  WV_TRY(FakeProcessOptions process, ReadProcess(spec["process"]));
  if (StandsForPod(spec)) {
    process.args = {"/bin/sleep", "2147483647"};
  }
  process.io = options.io;
  const std::string root = options.bundle + "/rootfs";
  bool ignore = false;
  {
    const std::lock_guard lock(mu_);
    ignore = ignore_rootfs_;
  }
  for (const runtime::Mount& mount : options.rootfs) {
    if (!ignore) {
      WV_TRY_VOID(MountOne(mount, root));
      process.root = root;
    }
  }
  runtime::ProcessIo io;
  auto created = FakeProcess::Create(process, &io);
  if (!created) {
    if (!process.root.empty()) {
      umount2(root.c_str(), MNT_DETACH);
    }
    return tl::unexpected(std::move(created).error());
  }
  (void)WriteFile(options.bundle + "/fake.pid", std::to_string((*created)->State().pid));
  const std::lock_guard lock(mu_);
  if (!process.root.empty()) {
    mounted_[options.id] = root;
  }
  processes_[{options.id, ""}] = *std::move(created);
  return io;
}

Result<runtime::ProcessIo> FakeSandbox::AddExec(const std::string& id, const std::string& exec_id,
                                                const std::string& process_json,
                                                const runtime::IoWanted& io) {
  WV_TRY_VOID(Check("exec"));
  if (!id.empty()) {  // else in the guest itself
    WV_TRY_VOID(Find(id, ""));
  }
  if (Find(id, exec_id)) {
    return Fail(Code::kAlreadyExists, "exec exists");
  }
  WV_TRY(FakeProcessOptions process, ReadProcess(json::parse(process_json, nullptr, false)));
  process.io = io;
  {
    const std::lock_guard lock(mu_);
    if (const auto root = mounted_.find(id); root != mounted_.end()) {
      process.root = root->second;
    }
  }
  // A program that is missing is told at start, by exit code 127 of a shell that says so.
  const bool missing =
      process.args.empty() || FindProgram(process.args[0], process.env, process.root).empty();
  if (missing) {
    process.args = {"/bin/false", "missing"};
    process.root.clear();
  }
  runtime::ProcessIo streams;
  WV_TRY(auto created, FakeProcess::Create(process, &streams));
  const std::lock_guard lock(mu_);
  processes_[{id, exec_id}] = std::move(created);
  if (missing) {
    missing_.insert({id, exec_id});
  }
  return streams;
}

Result<> FakeSandbox::StartProcess(const std::string& id, const std::string& exec_id) {
  WV_TRY_VOID(Check("start"));
  WV_TRY(const auto process, Find(id, exec_id));
  {
    const std::lock_guard lock(mu_);
    if (missing_.contains({id, exec_id})) {
      return Fail(Code::kNotFound, "exec: executable file not found in $PATH");
    }
  }
  WV_TRY_VOID(process->Start());
  return Check("started");
}

Result<runtime::ExitInfo> FakeSandbox::Wait(const std::string& id, const std::string& exec_id) {
  WV_TRY(const auto process, Find(id, exec_id));
  runtime::ExitInfo exit = process->Wait();
  if (exec_id.empty()) {
    std::vector<std::shared_ptr<FakeProcess>> execs;
    {
      const std::lock_guard lock(mu_);
      for (const auto& [key, exec] : processes_) {
        if (key.first == id && !key.second.empty()) {
          execs.push_back(exec);
        }
      }
      if (dead_) {
        exit.status = 137;
      }
    }
    for (const auto& exec : execs) {
      (void)exec->Signal(SIGKILL, true);
    }
  }
  return exit;
}

Result<> FakeSandbox::Signal(const std::string& id, const std::string& exec_id, int signal,
                             bool all) {
  WV_TRY_VOID(Check("signal"));
  WV_TRY(const auto process, Find(id, exec_id));
  return process->Signal(signal, all);
}

Result<> FakeSandbox::ResizeTerminal(const std::string& id, const std::string& exec_id,
                                     uint32_t rows, uint32_t columns) {
  WV_TRY_VOID(Check("resize"));
  WV_TRY(const auto process, Find(id, exec_id));
  return process->Resize(rows, columns);
}

Result<> FakeSandbox::CloseStdin(const std::string& id, const std::string& exec_id) {
  WV_TRY_VOID(Find(id, exec_id));
  return {};
}

Result<runtime::ExitInfo> FakeSandbox::DeleteProcess(const std::string& id,
                                                     const std::string& exec_id) {
  WV_TRY_VOID(Check("delete"));
  WV_TRY(const auto process, Find(id, exec_id));
  const runtime::ProcessState state = process->State();
  if (state.status == runtime::ProcessStatus::kRunning) {
    return Fail(Code::kFailedPrecondition, "process is running");
  }
  std::vector<std::shared_ptr<FakeProcess>> gone;
  const std::lock_guard lock(mu_);
  for (auto it = processes_.begin(); it != processes_.end();) {
    const bool match = it->first.first == id && (exec_id.empty() || it->first.second == exec_id);
    it = match ? processes_.erase(it) : std::next(it);
  }
  if (const auto root = mounted_.find(id); exec_id.empty() && root != mounted_.end()) {
    umount2(root->second.c_str(), MNT_DETACH);
    mounted_.erase(root);
  }
  return state.exit.value_or(runtime::ExitInfo());
}

Result<runtime::ProcessState> FakeSandbox::State(const std::string& id,
                                                 const std::string& exec_id) {
  WV_TRY(const auto process, Find(id, exec_id));
  return process->State();
}

Result<> FakeSandbox::PauseContainer(const std::string& id) {
  return Signal(id, "", SIGSTOP, true);
}

Result<> FakeSandbox::ResumeContainer(const std::string& id) {
  return Signal(id, "", SIGCONT, true);
}

Result<> FakeSandbox::UpdateContainer(const std::string& id, const std::string& resources_json) {
  WV_TRY_VOID(Check("update"));
  WV_TRY_VOID(Find(id, ""));
  if (!json::parse(resources_json, nullptr, false).is_object()) {
    return Fail(Code::kInvalidArgument, "resources are not a JSON object");
  }
  return {};
}

Result<runtime::SandboxSize> FakeSandbox::Resize(const runtime::SizeWish& wish) {
  WV_TRY_VOID(Check("resize"));
  {
    const std::lock_guard lock(mu_);
    const uint32_t vcpus = wish.vcpus.value_or(vcpus_);
    const uint64_t memory = wish.memory.value_or(memory_);
    if (vcpus < 1 || vcpus > 4 || memory < 256U << 20U || memory > 1024U << 20U) {
      return Fail(Code::kInvalidArgument, "must be 1 to 4 vCPUs, 256 to 1024 MiB");
    }
    vcpus_ = vcpus;
    memory_ = memory;
  }
  return Size();
}

Result<runtime::SandboxSize> FakeSandbox::Size() {
  const std::lock_guard lock(mu_);
  runtime::SandboxSize size;
  for (uint32_t i = 0; i < vcpus_; ++i) {
    size.vcpus.push_back({i, getpid()});
  }
  size.max_vcpus = 4;
  size.memory = memory_;
  size.boot_memory = 256U << 20U;
  size.max_memory = 1024U << 20U;
  return size;
}

Result<std::vector<std::pair<pid_t, std::string>>> FakeSandbox::Pids(const std::string& id) {
  WV_TRY_VOID(Check("pids"));
  const std::lock_guard lock(mu_);
  std::vector<std::pair<pid_t, std::string>> pids;
  for (const auto& [key, process] : processes_) {
    if (key.first == id) {
      pids.emplace_back(process->State().pid, key.second);
    }
  }
  return pids;
}

Result<runtime::ContainerStats> FakeSandbox::Stats(const std::string& id) {
  WV_TRY_VOID(Check("stats"));
  WV_TRY_VOID(Find(id, ""));
  runtime::ContainerStats stats;
  stats.cpu_usage_usec = 1234;
  stats.memory_current = 4096;
  stats.memory_stat = {{"anon", 1024}, {"pgmajfault", 7}};
  stats.memory_events = {{"oom_kill", 1}};
  stats.pids_current = 1;
  return stats;
}

std::vector<std::string> FakeSandbox::ContainerIds() {
  const std::lock_guard lock(mu_);
  std::vector<std::string> ids;
  for (const auto& [key, process] : processes_) {
    if (key.second.empty()) {
      ids.push_back(key.first);
    }
  }
  return ids;
}

size_t FakeSandbox::ContainerCount() {
  return ContainerIds().size();
}

observe::Observation FakeSandbox::Observe() {
  observe::Observation seen;
  seen.processes = {{.role = "owner", .container = "", .pid = getpid(), .pss = 1U << 20U}};
  seen.vmm = observe::VmmUsage{.counters = {{"vcpus.running", 2}},
                               .devices = {{"disk", "blk", {{"bytes_read", 512}}}},
                               .vcpus = {{0, {{"halt", 7}}}}};
  seen.guest = observe::GuestUsage();
  seen.guest->memory_total = 256U << 20U;
  for (const std::string& id : ContainerIds()) {
    seen.containers.push_back({.id = id, .memory_current = 4096});
  }
  seen.container_count = seen.containers.size();
  return seen;
}

void FakeSandbox::OnDeath(std::function<void(std::string reason)> callback) {
  const std::lock_guard lock(mu_);
  on_death_ = std::move(callback);
}

void FakeSandbox::OnOom(std::function<void(std::string container_id)> callback) {
  const std::lock_guard lock(mu_);
  on_oom_ = std::move(callback);
}

void FakeSandbox::Oom(const std::string& container_id) {
  std::function<void(std::string)> callback;
  {
    const std::lock_guard lock(mu_);
    callback = on_oom_;
  }
  callback(container_id);
}

void FakeSandbox::IgnoreRootfs() {
  const std::lock_guard lock(mu_);
  ignore_rootfs_ = true;
}

void FakeSandbox::KillAll() {
  std::vector<std::shared_ptr<FakeProcess>> all;
  {
    const std::lock_guard lock(mu_);
    for (const auto& [key, process] : processes_) {
      all.push_back(process);
    }
  }
  for (const auto& process : all) {
    (void)process->Signal(SIGKILL, true);
  }
}

void FakeSandbox::Die(const std::string& reason) {
  std::function<void(std::string)> callback;
  {
    const std::lock_guard lock(mu_);
    dead_ = true;
    callback = on_death_;
  }
  KillAll();
  if (callback) {
    callback(reason);
  }
}

Result<> FakeSandbox::Shutdown() {
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(down_, true)) {
      return {};
    }
  }
  if (before_) {
    (void)before_("shutdown");
  }
  KillAll();
  const std::lock_guard lock(mu_);
  dead_ = true;
  for (const auto& [id, root] : mounted_) {
    umount2(root.c_str(), MNT_DETACH);
  }
  mounted_.clear();
  return {};
}

}  // namespace wyvern::shim
