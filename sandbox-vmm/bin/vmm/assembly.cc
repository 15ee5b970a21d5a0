#include "vmm/assembly.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "base/check.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "blk/blk_device.h"
#include "jail/filter.h"
#include "pmem/image_layout.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "upcall/preamble.h"
#include "vhost_user/frontend.h"

namespace wyvern::vmm {

namespace {

constexpr std::chrono::seconds kVsockConnectTimeout(10);
// Block devices beyond these use a thread pool: no ring can be made once the filter is in force.
constexpr size_t kRings = 4;
// Each takes up to 16,385 of the 65,530 mappings that a process has (SharedMappings::kMaxMappings).
constexpr size_t kMaxWindows = 2;

// A thread that could not be confined must not run guest-controlled work.
void Confine(jail::ThreadKind kind) {
  const auto installed = jail::InstallFilter(kind);
  if (!installed) {
    WV_ERROR("a thread cannot be confined: {}", installed.error().DebugString());
    _exit(1);
  }
}

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

// An image is what other sandboxes boot from, too: whoever takes over this process must not be able
// to change it either (CVE-2020-2025).
Result<> CheckReadOnly(std::span<const UniqueFd> images) {
  for (size_t i = 0; i < images.size(); ++i) {
    const int flags = fcntl(images[i].get(), F_GETFL);
    if (flags < 0) {
      return SysError("fcntl(F_GETFL)");
    }
    if ((flags & O_ACCMODE) != O_RDONLY) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("image {} of {} is open for writing: open it with O_RDONLY", i + 1,
                              images.size()));
    }
  }
  return {};
}

}  // namespace

devices::WorkerOptions Assembly::WorkerFor(const std::string& id) {
  return {.name = id.substr(0, 15),
          .on_thread_start = [](const char* /*kind*/) { Confine(jail::ThreadKind::kDevice); }};
}

Assembly::Assembly()
    : channel_({.connect = [this](upcall::Deadline deadline) -> Result<UniqueFd> {
                  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
                  WV_TRY_VOID(OpenStream(upcall::kVsockPort, std::move(pair.second), deadline));
                  return std::move(pair.first);
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
  config.memory = spec.memory_bytes;
  config.shared_memory = spec.shared_memory;
  config.kernel = std::move(spec.kernel);
  config.initrd = std::move(spec.initrd);
  config.command_line = spec.cmdline;
  if (spec.console.valid()) {
    WV_TRY(console_, api::ConsoleRingWriter::Create(spec.console));
    config.console = [this](std::span<const std::byte> bytes) { console_->Append(bytes); };
  }
  config.on_event = [this](const machine::Event& event) { OnMachineEvent(event); };
  config.on_thread_start = [this](const char* /*name*/) { Confine(vcpu_kind_); };
  WV_TRY(machine_, machine::Machine::Create(std::move(config)));
  return {};
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::MakeDevice(const std::string& id,
                                                                   api::DeviceSpec spec) {
  return std::visit(
      [this, &id](auto&& kind) { return Make(id, std::forward<decltype(kind)>(kind)); },
      std::move(spec));
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::Make(const std::string& id,
                                                             api::PmemSpec spec) {
  static_assert(api::kMaxImages == devices::kMaxImages);
  WV_TRY_VOID(CheckReadOnly(spec.images));
  WV_TRY(const arch::AddressRange range, machine_->MapReadOnlyImages(std::move(spec.images)));
  devices_[id].images = range;
  return devices::PmemDevice::Create(WorkerFor(id),
                                     {.start = mem::Gpa{range.start}, .size = range.size});
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::Make(const std::string& id,
                                                             api::RngSpec /*spec*/) {
  return devices::RngDevice::Create(WorkerFor(id));
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::Make(const std::string& id,
                                                             api::VsockSpec spec) {
  if (vsock_ != nullptr) {
    return Fail(Code::kFailedPrecondition, "the guest's driver can use one vsock device only");
  }
  return devices::VsockDevice::Create({.worker = WorkerFor(id), .guest_cid = spec.guest_cid});
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::Make(const std::string& id,
                                                             api::BlkSpec spec) {
  std::unique_ptr<devices::IoRing> ring;
  if (!rings_.empty()) {
    ring = std::move(rings_.back());
    rings_.pop_back();
  }
  return devices::BlkDevice::Create({.worker = WorkerFor(id),
                                     .file = std::move(spec.file),
                                     .read_only = spec.read_only,
                                     .serial = std::move(spec.serial),
                                     .ring = std::move(ring)});
}

Result<std::unique_ptr<virtio::VirtioDevice>> Assembly::Make(const std::string& id,
                                                             api::VhostUserFsSpec spec) {
  std::shared_ptr<mem::FileWindow> window;
  if (spec.dax_window > 0) {
    WV_TRY(window, MakeWindow(id, spec.dax_window));
  }
  const auto kind = window ? jail::ThreadKind::kWindow : jail::ThreadKind::kDevice;
  WV_TRY(auto device,
         vhost_user::Frontend::CreateFs(
             std::move(spec.socket), spec.tag, static_cast<uint16_t>(spec.request_queues),
             static_cast<uint16_t>(spec.queue_size), [kind] { Confine(kind); }, window));
  device->set_lost_callback([this, id](const std::string& why) {
    Publish({api::EventKind::kBackendLost, "the back-end of " + id + " is gone: " + why});
  });
  return device;
}

size_t Assembly::Windows() const {
  return static_cast<size_t>(std::ranges::count_if(
      devices_, [](const auto& entry) { return entry.second.window != nullptr; }));
}

Result<std::shared_ptr<mem::FileWindow>> Assembly::MakeWindow(const std::string& id,
                                                              uint64_t size) {
  if (Windows() >= kMaxWindows) {
    return Fail(Code::kResourceExhausted,
                fmt::format("a machine has {} DAX windows at most", kMaxWindows));
  }
  WV_TRY(auto window, mem::FileWindow::Create(size));
  devices_[id].window = window;
  return window;
}

Result<> Assembly::Boot() {
  const std::lock_guard lock(mu_);
  if (!machine_ || booted_) {
    return Fail(Code::kFailedPrecondition, "Boot comes once, after Create");
  }
  if (Windows() > 0) {
    vcpu_kind_ = jail::ThreadKind::kWindowVcpu;
  }
  WV_TRY_VOID(machine_->Boot());
  booted_ = true;
  return {};
}

Result<> Assembly::ConnectVsock(uint32_t port, UniqueFd socket) {
  if (port == upcall::kVsockPort) {
    return Fail(Code::kPermissionDenied,
                fmt::format("vsock port {} of the guest is the VMM's own", port));
  }
  return OpenStream(port, std::move(socket),
                    std::chrono::steady_clock::now() + kVsockConnectTimeout);
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

  Result<> Wait(uint32_t port, upcall::Deadline deadline) {
    std::unique_lock lock(mu_);
    if (!set_.wait_until(lock, deadline, [this] { return result_.has_value(); })) {
      return Fail(Code::kDeadlineExceeded,
                  fmt::format("the guest did not answer on vsock port {}", port));
    }
    return std::move(result_).value();
  }

 private:
  std::mutex mu_;
  std::condition_variable set_;
  std::optional<Result<>> result_;  // guarded by mu_
};

Result<> Assembly::OpenStream(uint32_t port, UniqueFd socket, upcall::Deadline deadline) {
  const auto answer = std::make_shared<StreamAnswer>();
  {
    const std::lock_guard lock(mu_);
    if (vsock_ == nullptr || !booted_) {
      return Fail(Code::kFailedPrecondition,
                  "the machine has no vsock device, or does not run yet");
    }
    if (ending_) {
      return Fail(Code::kUnavailable, "the machine ends");
    }
    WV_TRY_VOID(vsock_->ConnectStream(port, std::move(socket), [answer](Result<> connected) {
      answer->Set(std::move(connected));
    }));
    awaited_.insert(answer);
  }
  Result<> result = answer->Wait(port, deadline);
  const std::lock_guard lock(mu_);
  awaited_.erase(answer);
  return result;
}

void Assembly::EndWaits() {
  channel_.Close();
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
  return {};
}

Result<> Assembly::Resume() {
  const std::lock_guard lock(mu_);
  if (!booted_) {
    return Fail(Code::kFailedPrecondition, "the machine does not run");
  }
  machine_->Resume();
  return {};
}

std::map<std::string, uint64_t> Assembly::Metrics() {
  const std::lock_guard lock(mu_);
  std::map<std::string, uint64_t> metrics;
  if (!machine_) {
    return metrics;
  }
  const machine::MachineCounters counters = machine_->counters();
  for (size_t i = 0; i < counters.exits.size(); ++i) {
    metrics[std::string("exits.") + kvm::ExitReasonName(static_cast<kvm::ExitReason>(i))] =
        counters.exits.at(i);
  }
  metrics["pmem.dropped_writes"] = counters.read_only_writes;
  for (const upcall::ChannelCounter& counter : channel_.counters()) {
    metrics["upcall." + counter.name] = counter.value;
  }
  for (const auto& [id, device] : devices_) {
    for (const virtio::CounterValue& counter : device.device->counters()) {
      metrics[id + "." + counter.name] = counter.value;
    }
  }
  return metrics;
}

void Assembly::SetEventListener(std::function<void(api::MachineEvent)> listener) {
  const std::lock_guard lock(listener_mu_);
  listener_ = std::move(listener);
}

void Assembly::OnMachineEvent(const machine::Event& event) {
  Publish({ToApi(event.kind), fmt::format("{}: {}", machine::EventName(event.kind), event.text)});
}

void Assembly::Publish(api::MachineEvent event) {
  const std::lock_guard lock(listener_mu_);
  if (listener_) {
    listener_(std::move(event));
  }
}

}  // namespace wyvern::vmm
