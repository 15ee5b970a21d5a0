// From a bundle to a booted virtual machine whose agent answers.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/log.h"
#include "guest/store.h"
#include "sandbox/cleanup.h"
#include "sandbox/guest_hooks.h"
#include "sandbox/host_memory.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

constexpr uint32_t kFirstGuestCid = 3;
constexpr char kCancelled[] = "its start was cancelled";

// An imported kernel comes with its own initial RAM disk; the root image stays the same.
Result<> UseImportedGuest(const Config& config, MachineOptions& machine) {
  if (config.guest.name.empty()) {
    return {};
  }
  WV_TRY_CONTEXT(const guest::Guest guest, guest::FindGuest(config.paths.guests, config.guest.name),
                 "guest.name");
  machine.kernel = guest.kernel_path();
  machine.initrd = guest.initrd_path();
  if (!guest.cmdline.empty()) {
    machine.extra_cmdline = guest.cmdline + " " + machine.extra_cmdline;
  }
  return {};
}

bool LimitsGuest(const Config& config) {
  const std::set<std::string_view> allowed(config.guest.allow.begin(), config.guest.allow.end());
  return allowed.size() < GuestPermissions().size();
}

// An older agent knows no policy, and an imported guest's or sandbox.kernel_cmdline's words come later than ours.
Result<> CheckPolicy(const Config& config, const agent_pb::HelloResponse& hello) {
  if (!LimitsGuest(config)) {
    return {};
  }
  const std::set<std::string_view> asked(config.guest.allow.begin(), config.guest.allow.end());
  const std::set<std::string_view> told(hello.policy().allow().begin(),
                                        hello.policy().allow().end());
  if (!hello.has_policy() || asked != told) {
    return Fail(Code::kFailedPrecondition,
                "guest.allow: the guest's agent does not keep to it; install image and programs of "
                "one version, and leave wyvern.allow out of sandbox.kernel_cmdline");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Sandbox>> Sandbox::Start(SandboxOptions options) {
  return StartSandbox(std::move(options), Backend());
}

Result<std::unique_ptr<Sandbox>> StartSandbox(SandboxOptions options, Backend backend) {
  if (options.config == nullptr) {
    WV_TRY(options.config, LoadConfig({}));
  }
  const std::string what = "sandbox " + options.id;
  auto sandbox = std::make_unique<SandboxImpl>(std::move(options), std::move(backend));
  auto started = sandbox->Start();
  if (!started.has_value()) {
    Error error = std::move(started).error();
    if (sandbox->CheckAlive().has_value()) {  // else its death has logged it
      sandbox->LogConsole();
    }
    static_cast<void>(sandbox->Shutdown());
    return tl::unexpected(std::move(error).WithContext(what));
  }
  return sandbox;
}

SandboxImpl::SandboxImpl(SandboxOptions options, Backend backend)
    : options_(std::move(options)),
      backend_(std::move(backend)),
      config_(*options_.config),
      timeline_(options_.asked_at),
      host_limits_(config_.overhead.cpu_percent) {}

Result<> SandboxImpl::Start() {
  WV_TRY_VOID(oci::CheckId(options_.id));
  WV_TRY_VOID(ReadBundle());
  WV_TRY_VOID(CheckCgroupRoot(config_.cgroup_root));
  WV_TRY_CONTEXT(anchor_, Open(config_.paths.anchor, O_PATH),
                 "wyvern-anchor (install Wyvern, or set paths.anchor)");
  pool_ = std::make_unique<ttrpc::BlockingPool>("sandbox-pool");
  WV_TRY(loop_, LoopThread::Start("sandbox-loop"));
  WV_TRY_VOID(OpenState());
  WV_TRY_VOID(MakeCgroup());
  WV_TRY_VOID(OpenNetwork());
  WV_TRY_VOID(CheckCancelled());
  WV_TRY_VOID(StartMachine());
  WV_TRY_VOID(BootMachine());
  WV_TRY_VOID(ConnectAgent());
  events_.Add(observe::EventKind::kStarted, "",
              fmt::format("in {} ms", timeline_.Now() / 1'000'000));
  return {};
}

Result<> SandboxImpl::CheckCancelled() const {
  return options_.cancel.stop_requested() ? Fail(Code::kUnavailable, kCancelled) : Result<>();
}

Result<> SandboxImpl::ReadBundle() {
  const std::string path = options_.bundle + "/config.json";
  WV_TRY_CONTEXT(const std::string text, ReadFile(path, oci::kMaxConfigBytes), "bundle");
  WV_TRY_CONTEXT(const oci::Spec spec, oci::Spec::Parse(text), options_.bundle);
  facts_ = spec.facts();
  return {};
}

Result<> SandboxImpl::OpenState() {
  SandboxRecord record;
  record.ns = options_.ns;
  record.id = options_.id;
  record.bundle = options_.bundle;
  WV_TRY(record.owner, RecordProcess("owner", getpid()));
  auto store = StateStore::Create(config_.state_dir, record, backend_.step);
  if (!store.has_value() && store.error().code() == Code::kFailedPrecondition) {
    WV_WARN("sandbox {}: cleaning up after an earlier one", options_.id);
    WV_TRY_VOID(CleanUpIn({config_.state_dir, config_.cgroup_root}, options_.ns, options_.id,
                          options_.bundle));
    store = StateStore::Create(config_.state_dir, record, backend_.step);
  }
  WV_TRY(state_, std::move(store));
  return {};
}

Result<> SandboxImpl::MakeCgroup() {
  WV_TRY(const CgroupPlace place, ParseCgroupsPath(facts_.cgroups_path, options_.id));
  const CgroupPlace leaf = SandboxPlace(place, options_.id);
  WV_TRY_VOID(Cgroup::CheckUnused(config_.cgroup_root, leaf.path));
  WV_TRY_VOID(state_->Update("sandbox-cgroup", [&](SandboxRecord& r) {
    r.cgroups.push_back(config_.cgroup_root + leaf.path);
  }));
  WV_TRY(Cgroup group, Cgroup::Make(config_.cgroup_root, leaf, options_.id));
  cgroup_.emplace(std::move(group));
  return {};
}

Result<> SandboxImpl::StartMachine() {
  WV_CHECK(cgroup_.has_value());  // MakeCgroup came before
  Cgroup& cgroup = *cgroup_;
  MachineOptions machine;
  machine.id = options_.id;
  machine.vmm_binary = config_.paths.vmm;
  machine.fs_binary = config_.paths.fs;
  machine.kernel = config_.sandbox.kernel;
  machine.initrd = config_.sandbox.initrd;
  machine.image = config_.sandbox.image;
  machine.extra_cmdline = config_.sandbox.kernel_cmdline;
  if (LimitsGuest(config_)) {
    machine.allow = fmt::format("{}", fmt::join(config_.guest.allow, ","));
  }
  WV_TRY_VOID(UseImportedGuest(config_, machine));
  machine.guest_cid =
      kFirstGuestCid;  // each VMM has a vsock of its own: the same number everywhere
  machine.share_queues = config_.share.queues;
  machine.log_level = config_.log.level;
  machine.call_timeout = config_.timeouts.boot;
  machine.ram_pages = RamPagesOf(config_.memory.huge_pages);
  machine.page_reporting = config_.memory.page_reporting;
  machine.user_network = UserNetworkOptions();
  const SizePlan plan = PlanMachine(machine);
  WV_TRY_VOID(CheckHugePages(machine.ram_pages, machine.memory_bytes));
  WV_TRY_VOID(LimitHost(plan.boot.memory));
  // Before guest memory is where it then stays.
  WV_TRY_VOID_CONTEXT(
      cgroup.Apply({.cpus = facts_.limits.cpus, .memory_nodes = facts_.limits.memory_nodes}),
      "the sandbox's cgroup on the host");
  const int64_t start = timeline_.Now();
  machine_ = backend_.make_machine(std::move(machine));
  sizer_.emplace(
      GuestSizer::Options{.machine = machine_.get(),
                          .plan = plan,
                          .limit_host = [this](uint64_t memory) { return LimitHost(memory); },
                          .in_use = [this](uint64_t memory) { return MemoryInUse(memory); },
                          .patience = config_.timeouts.resize});
  WV_TRY_VOID(state_->Update("spawn", [](SandboxRecord&) {}));
  auto spawned = [this, &cgroup](const MachineProcess& process) -> Result<> {
    WV_TRY(const ProcessRecord record, RecordProcess(process.role, process.pid));
    WV_TRY_VOID(cgroup.Add(process.pid));
    if (auto set = SetOomScore(process.pid, OomScoreOf(facts_).value_or(0)); !set.has_value()) {
      WV_WARN("sandbox {}: {}", options_.id, set.error().message());
    }
    return state_->Update("spawned-" + process.role,
                          [&](SandboxRecord& r) { r.processes.push_back(record); });
  };
  WV_TRY_VOID(machine_->Start(spawned));
  timeline_.Add("vmm-exec", start);
  return {};
}

Result<> SandboxImpl::BootMachine() {
  const int64_t start = timeline_.Now();
  WV_TRY_VOID(machine_->Boot([this](const MachineEvent& event) { OnMachineEvent(event); }));
  timeline_.Add("vmm-ready", start);
  return {};
}

Result<> SandboxImpl::ConnectAgent() {
  const int64_t start = timeline_.Now();
  AgentOptions options;
  options.boot_timeout = config_.timeouts.boot;
  options.call_timeout = config_.timeouts.agent_call;
  options.give_up = [this] {
    const std::lock_guard lock(mu_);
    return death_.has_value();
  };
  options.on_close = [this] { DieSoon("the agent in the guest is gone"); };
  options.on_oom = [this](const std::string& id) { TellOom(id); };
  options.on_socket = [this](const std::string& name) { sockets_->Pending(name); };
  options.on_guest_oom = [this](const std::string& id) { TellGuestOom(id); };
  // The guest's boot is what takes long; the machine can be ended from here on.
  const std::stop_callback cancelled(options_.cancel, [this] { Die(kCancelled); });
  auto connected = AgentClient::Connect(
      [this](uint32_t port) { return machine_->ConnectVsock(port); }, std::move(options));
  if (!connected.has_value()) {
    const std::lock_guard lock(mu_);
    if (death_.has_value()) {
      return Fail(Code::kUnavailable, *death_);
    }
    return tl::unexpected(std::move(connected).error());
  }
  agent_ = std::move(*connected);
  WV_TRY_VOID(CheckPolicy(config_, agent_->hello()));
  const int64_t hello = timeline_.Now();
  timeline_.AddGuest(agent_->hello(), start, hello);
  sockets_ = std::make_unique<HostSockets>(HostSockets::Options{
      .id = options_.id,
      .sources = config_.sockets.proxy,
      .add = [this](const auto& request) { return agent_->AddSocket(request); },
      .accept = [this](const std::string& name) { return agent_->AcceptSocket(name); },
      .loop = loop_.get(),
      .run = [this](auto work) { pool_->Run(std::move(work)); }});
  // The sandbox's sysctls may be of an interface by its name.
  WV_TRY_VOID(ConnectNetwork());
  WV_TRY(const agent_pb::CreateSandboxRequest request, GuestSandbox());
  WV_TRY(const agent_pb::CreateSandboxResponse made, agent_->CreateSandbox(request));
  WV_TRY_CONTEXT(guest_hooks_, CheckGuestHooks(made, config_.guest.hooks), "guest.hooks");
  WV_TRY_VOID(ShareBindMounts());
  volumes_ = std::make_unique<SandboxVolumes>(SandboxVolumes::Options{
      .id = options_.id, .agent = agent_.get(), .loop = loop_.get(), .run = [this](auto work) {
        pool_->Run([this, work = std::move(work)] {
          const Busy busy(*this);  // Shutdown waits
          work();
        });
      }});
  WatchHostCache();
  timeline_.Add("sandbox", hello);
  FindDiskFilesystems();
  return {};
}

// Asked before there is a container, so it is still our kernel that answers.
void SandboxImpl::FindDiskFilesystems() {
  for (const std::string_view name : oci::kDiskFilesystems) {
    const auto& theirs = agent_->hello().block_filesystems();
    if (std::ranges::find(theirs, name) != theirs.end()) {
      disk_filesystems_.emplace_back(name);
    }
  }
}

}  // namespace wyvern::runtime
