#include "vmm/assembly.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <optional>
#include <utility>

#include "base/log.h"
#include "console/console_device.h"
#include "jail/filter.h"
#include "upcall/preamble.h"
#include "vmm/confine.h"
#include "vsock/vsock_device.h"

namespace wyvern::vmm {

namespace {

using agent::v1::DeviceIdentity;

constexpr std::chrono::seconds kVsockConnectTimeout(10);
constexpr char kNoUpcall[] =
    "what changes after Boot needs the guest's agent, which is asked over a vsock device or the "
    "console port wyvern.upcall: attach one before Boot";
// Block devices beyond these use a thread pool: no ring can be made once the filter is in force.
constexpr size_t kRings = 4;

api::EventKind ToApi(machine::EventKind kind) {
  switch (kind) {
    case machine::EventKind::kPowerOff:
    case machine::EventKind::kReset:
      return api::EventKind::kGuestShutdown;
    case machine::EventKind::kPanicked:
      return api::EventKind::kGuestPanic;
    case machine::EventKind::kFault:
      break;
  }
  return api::EventKind::kVmmFault;
}

mem::RamPages ToMemory(api::RamPages pages) {
  switch (pages) {
    case api::RamPages::kTransparent:
      break;
    case api::RamPages::kSmall:
      return mem::RamPages::kSmall;
    case api::RamPages::k2MiB:
      return mem::RamPages::k2MiB;
    case api::RamPages::k1GiB:
      return mem::RamPages::k1GiB;
  }
  return mem::RamPages::kTransparent;
}

struct Identify {
  DeviceIdentity operator()(const api::PmemSpec& /*spec*/) const {
    DeviceIdentity identity;
    identity.mutable_pmem();  // its size is known when it is made
    return identity;
  }

  DeviceIdentity operator()(const api::RngSpec& /*spec*/) const {
    DeviceIdentity identity;
    identity.mutable_rng();
    return identity;
  }

  DeviceIdentity operator()(const api::VsockSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_vsock()->set_guest_cid(spec.guest_cid);
    return identity;
  }

  DeviceIdentity operator()(const api::BlkSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_blk()->set_serial(spec.serial);
    return identity;
  }

  DeviceIdentity operator()(const api::VhostUserFsSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_fs()->set_tag(spec.tag);
    return identity;
  }

  DeviceIdentity operator()(const api::NetSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_net()->set_mac(std::string(spec.mac.begin(), spec.mac.end()));
    return identity;
  }

  DeviceIdentity operator()(const api::VhostUserNetSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_net()->set_mac(std::string(spec.mac.begin(), spec.mac.end()));
    return identity;
  }

  DeviceIdentity operator()(const api::BalloonSpec& /*spec*/) const {
    DeviceIdentity identity;
    identity.mutable_balloon();
    return identity;
  }

  DeviceIdentity operator()(const api::MemSpec& /*spec*/) const {
    DeviceIdentity identity;
    identity.mutable_mem();
    return identity;
  }

  DeviceIdentity operator()(const api::ConsoleSpec& spec) const {
    DeviceIdentity identity;
    identity.mutable_console()->set_port(spec.ports.front().name);
    for (const api::ConsolePortSpec& port : spec.ports) {
      if (port.name == upcall::kConsolePortName) {
        identity.mutable_console()->set_port(port.name);
      }
    }
    return identity;
  }
};

DeviceIdentity IdentityOf(const api::DeviceSpec& spec) {
  return std::visit(Identify(), spec);
}

bool HasUpcallPort(const DeviceIdentity& identity) {
  return identity.console().port() == upcall::kConsolePortName;
}

bool IsVsock(const DeviceIdentity& identity) {
  return identity.has_vsock();
}

}  // namespace

Assembly::Assembly()
    : upcall_({.open =
                   [this](UniqueFd socket, std::function<void(Result<>)> connected) {
                     return OpenUpcall(std::move(socket), std::move(connected));
                   },
               .on_thread_start = [] { Confine(jail::ThreadKind::kUpcall); }}) {
  for (size_t i = 0; i < kRings; ++i) {
    auto ring = devices::IoRing::Create();
    if (!ring) {
      WV_INFO("block devices use a thread pool: {}", ring.error().message());
      break;
    }
    rings_.push_back(*std::move(ring));
  }
}

Assembly::~Assembly() {
  EndWaits();
  const std::lock_guard lock(mu_);
  if (machine_) {
    machine_->Stop();
  }
}

Result<> Assembly::Create(api::MachineSpec spec) {
  const std::lock_guard lock(mu_);
  if (machine_) {
    return Fail(Code::kFailedPrecondition, "the machine exists already");
  }
  machine::MachineConfig config;
  config.kvm = std::move(spec.kvm);
  config.vcpus = spec.vcpus;
  config.max_vcpus = spec.max_vcpus;
  config.memory = spec.memory_bytes;
  config.shared_memory = spec.shared_memory;
  config.hotplug_memory = spec.hotplug_memory_bytes;
  config.ram_pages = ToMemory(spec.ram_pages);
  keeps_ram_ = mem::PageBytes(config.ram_pages) > mem::PageBytes(mem::RamPages::kSmall);
  config.kernel = std::move(spec.kernel);
  config.initrd = std::move(spec.initrd);
  config.command_line = spec.cmdline;
  if (spec.console.valid()) {
    WV_TRY(console_, api::ConsoleRingWriter::Create(spec.console));
    config.console = [this](std::span<const std::byte> bytes) { console_->Append(bytes); };
  }
  config.on_event = [this](const machine::Event& event) { OnMachineEvent(event); };
  config.on_thread_start = [this](const char* /*name*/) { Confine(vcpu_kind_); };
  boot_memory_ = spec.memory_bytes;
  WV_TRY(machine_, machine::Machine::Create(std::move(config)));
  vcpus_ = std::make_unique<hotplug::VcpuSet>(vcpu_threads_, upcall_, spec.vcpus,
                                              std::max(spec.vcpus, spec.max_vcpus));
  return {};
}

Result<std::string> Assembly::MachineBus::Add(std::unique_ptr<virtio::VirtioDevice> device,
                                              std::shared_ptr<mem::FileWindow> window) {
  WV_TRY(const pci::Place place,
         owner_.machine_->AttachDevice(std::move(device), std::move(window)));
  std::string address = place.Text();
  places_[address] = place;
  return address;
}

Result<> Assembly::MachineBus::Remove(const std::string& address) {
  WV_TRY(const pci::Place place, PlaceOf(address));
  WV_TRY_VOID(owner_.machine_->DetachDevice(place));
  places_.erase(address);
  return {};
}

Result<> Assembly::MachineBus::Abandon(const std::string& address) {
  WV_TRY(const pci::Place place, PlaceOf(address));
  return owner_.machine_->FailDevice(place, WorkerFor("gone"));
}

Result<pci::Place> Assembly::MachineBus::PlaceOf(const std::string& address) const {
  const auto found = places_.find(address);
  if (found == places_.end()) {
    return Fail(Code::kNotFound, "no device at " + address);
  }
  return found->second;
}

Result<api::AttachedDevice> Assembly::Attach(const std::string& id, api::DeviceSpec spec,
                                             std::chrono::milliseconds patience) {
  const upcall::Time deadline = upcall::Clock::now() + patience;
  WV_TRY_VOID(CheckAttach(spec));
  const agent::v1::DeviceIdentity identity = IdentityOf(spec);
  // By pointer: a std::function is copied, descriptors are not.
  const auto make = [this, &id, &spec] {
    return std::visit(
        [this, &id](auto&& kind) { return Make(id, std::forward<decltype(kind)>(kind)); },
        std::move(spec));
  };
  auto attached = devices_.Attach(id, identity, make, deadline);
  if (!attached) {
    TellFailure("attach " + id, attached.error());
    return tl::unexpected(std::move(attached).error());
  }
  return api::AttachedDevice{.pci_address = std::move(attached->pci_address),
                             .node = std::move(attached->node),
                             .major = attached->major,
                             .minor = attached->minor};
}

// What can be said before anything is made.
Result<> Assembly::CheckAttach(const api::DeviceSpec& spec) {
  {
    const std::lock_guard lock(mu_);
    if (!machine_) {
      return Fail(Code::kFailedPrecondition, "devices are attached after Create");
    }
    if (!booted_) {
      return {};
    }
    if (paused_) {
      return Fail(Code::kFailedPrecondition,
                  "the machine is paused, and its guest takes up no device: resume it first");
    }
  }
  WV_TRY_VOID(CheckUpcall());
  const auto* fs = std::get_if<api::VhostUserFsSpec>(&spec);
  if (fs != nullptr && fs->dax_window > 0) {
    return Fail(
        Code::kFailedPrecondition,
        "a device with a DAX window is attached before Boot: the vCPUs' filters depend on it");
  }
  return {};
}

Result<> Assembly::Detach(const api::DetachOptions& options) {
  {
    const std::lock_guard lock(mu_);
    if (paused_ && !options.force) {
      return Fail(Code::kFailedPrecondition,
                  "the machine is paused, and its guest lets go of no device: resume it first");
    }
  }
  auto detached =
      devices_.Detach(options.id, options.force, upcall::Clock::now() + options.patience);
  if (!detached) {
    if (detached.error().code() != Code::kNotFound) {
      TellFailure("detach " + options.id, detached.error());
    }
    return tl::unexpected(std::move(detached).error());
  }
  if (detached->surprise) {
    WV_WARN("device {} went without the guest's consent", options.id);
  }
  return {};
}

Result<> Assembly::Boot() {
  return devices_.Boot([this]() -> Result<> {
    const std::lock_guard lock(mu_);
    if (!machine_ || booted_) {
      return Fail(Code::kFailedPrecondition, "Boot comes once, after Create");
    }
    if (!windows_.empty()) {
      vcpu_kind_ = jail::ThreadKind::kWindowVcpu;
    }
    WV_TRY_VOID(machine_->Boot());
    booted_ = true;
    return {};
  });
}

class Assembly::StreamAnswer {
 public:
  // The first one counts.
  void Set(Result<> result) {
    const std::lock_guard lock(mu_);
    if (!result_) {
      result_.emplace(std::move(result));
      set_.notify_all();
    }
  }

  Result<> Wait(uint32_t port, upcall::Time deadline) {
    std::unique_lock lock(mu_);
    if (!set_.wait_until(lock, deadline, [this] { return result_.has_value(); })) {
      return Fail(Code::kDeadlineExceeded,
                  fmt::format("the guest did not answer on vsock port {}", port));
    }
    return *std::move(result_);
  }

 private:
  std::mutex mu_;
  std::condition_variable set_;
  std::optional<Result<>> result_;  // guarded by mu_
};

Result<> Assembly::ConnectVsock(uint32_t port, UniqueFd socket) {
  if (port == upcall::kVsockPort) {
    return Fail(Code::kPermissionDenied,
                fmt::format("vsock port {} of the guest is the VMM's own", port));
  }
  const auto answer = std::make_shared<StreamAnswer>();
  {
    const std::lock_guard lock(mu_);
    if (!booted_) {
      return Fail(Code::kFailedPrecondition, "the machine does not run yet");
    }
    if (ending_) {
      return Fail(Code::kUnavailable, "the machine ends");
    }
    awaited_.insert(answer);
  }
  Result<> result = devices_.WithUsable(IsVsock, [&](virtio::VirtioDevice& device) {
    return static_cast<devices::VsockDevice&>(device).ConnectStream(
        port, std::move(socket),
        [answer](Result<> connected) { answer->Set(std::move(connected)); });
  });
  if (result) {
    result = answer->Wait(port, upcall::Clock::now() + kVsockConnectTimeout);
  } else if (result.error().code() == Code::kNotFound) {
    result = Fail(Code::kFailedPrecondition, "the machine has no vsock device");
  }
  const std::lock_guard lock(mu_);
  awaited_.erase(answer);
  return result;
}

Result<> Assembly::CheckUpcall() const {
  const auto is_way = [](const DeviceIdentity& identity) {
    return IsVsock(identity) || HasUpcallPort(identity);
  };
  const bool there = devices_.WithUsable(is_way, [](auto&) { return Result<>(); }).has_value();
  return there ? Result<>() : Fail(Code::kFailedPrecondition, kNoUpcall);
}

Result<upcall::ChannelKind> Assembly::OpenUpcall(UniqueFd socket,
                                                 std::function<void(Result<>)> connected) {
  auto opened = devices_.WithUsable(IsVsock, [&](virtio::VirtioDevice& device) {
    return static_cast<devices::VsockDevice&>(device).ConnectStream(
        upcall::kVsockPort, std::move(socket), std::move(connected));
  });
  if (opened) {
    return upcall::ChannelKind::kVsock;
  }
  if (opened.error().code() != Code::kNotFound) {
    return tl::unexpected(std::move(opened).error());
  }
  opened = devices_.WithUsable(HasUpcallPort, [&](virtio::VirtioDevice& device) -> Result<> {
    auto& console = static_cast<devices::ConsoleDevice&>(device);
    const uint32_t port = upcall_port_;
    WV_TRY_VOID(console.Detach(port));  // the session before
    return console.Attach(port, {.in = std::move(socket), .out = UniqueFd(), .in_is_out = true});
  });
  if (!opened && opened.error().code() == Code::kNotFound) {
    return Fail(Code::kFailedPrecondition, kNoUpcall);
  }
  WV_TRY_VOID(std::move(opened));
  return upcall::ChannelKind::kConsole;
}

void Assembly::EndWaits() {
  upcall_.Close();
  const std::lock_guard lock(mu_);
  ending_ = true;
  for (const auto& answer : awaited_) {
    answer->Set(Fail(Code::kUnavailable, "the machine ends"));
  }
}

Result<> Assembly::Pause() {
  const std::lock_guard lock(mu_);
  if (!booted_) {
    return Fail(Code::kFailedPrecondition, "the machine does not run");
  }
  machine_->Pause();
  paused_ = true;
  return {};
}

Result<> Assembly::Resume() {
  const std::lock_guard lock(mu_);
  if (!booted_) {
    return Fail(Code::kFailedPrecondition, "the machine does not run");
  }
  machine_->Resume();
  paused_ = false;
  return {};
}

namespace {

void AddExits(const machine::MachineCounters& counters, api::MachineMetrics& metrics) {
  for (size_t i = 0; i < kvm::kExitReasons; ++i) {
    const auto reason = static_cast<kvm::ExitReason>(i);
    const char* const name = kvm::ExitReasonName(reason);
    metrics.counters[std::string("exits.") + name] = counters.exits_by(reason);
    metrics.vcpus.resize(counters.exits.size());
    for (size_t id = 0; id < counters.exits.size(); ++id) {
      metrics.vcpus[id].id = static_cast<uint32_t>(id);
      metrics.vcpus[id].exits[name] = counters.exits[id].at(i);
    }
  }
}

}  // namespace

api::MachineMetrics Assembly::Metrics() {
  api::MachineMetrics metrics;
  {
    const std::lock_guard lock(mu_);
    if (!machine_) {
      return metrics;
    }
    const machine::MachineCounters counters = machine_->counters();
    AddExits(counters, metrics);
    metrics.counters["vcpus.running"] = vcpus_->running();
    metrics.counters["memslots"] = counters.memslots;
    metrics.counters["pmem.dropped_writes"] = counters.read_only_writes;
    metrics.counters["memory.boot_bytes"] = boot_memory_;
  }
  metrics.counters.merge(upcall_.counters());
  metrics.counters.merge(devices_.counters());
  devices_.ForEach([&metrics](const std::string& id, const virtio::VirtioDevice& device) {
    api::DeviceMetrics& out = metrics.devices.emplace_back();
    out.id = id;
    out.kind = device.traits().name;
    for (const virtio::CounterValue& counter : device.counters()) {
      out.counters[counter.name] = counter.value;
    }
  });
  return metrics;
}

void Assembly::SetEventListener(std::function<void(api::MachineEvent)> listener) {
  const std::lock_guard lock(listener_mu_);
  listener_ = std::move(listener);
}

void Assembly::OnMachineEvent(const machine::Event& event) {
  Publish({ToApi(event.kind), fmt::format("{}: {}", machine::EventName(event.kind), event.text)});
}

void Assembly::TellFailure(const std::string& what, const Error& error) {
  if (error.code() == Code::kInvalidArgument || error.code() == Code::kAlreadyExists) {
    return;  // the caller's mistake, which the caller hears of
  }
  {
    const std::lock_guard lock(mu_);
    if (!booted_ || ending_) {
      return;
    }
  }
  Publish({api::EventKind::kHotplugFailed, fmt::format("{}: {}", what, error.message())});
}

void Assembly::Publish(api::MachineEvent event) {
  const std::lock_guard lock(listener_mu_);
  if (listener_) {
    listener_(std::move(event));
  }
}

}  // namespace wyvern::vmm
