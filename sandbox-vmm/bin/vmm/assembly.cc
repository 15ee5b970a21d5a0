#include "vmm/assembly.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>
#include <future>

#include "base/check.h"
#include "base/log.h"
#include "blk/blk_device.h"
#include "jail/filter.h"
#include "pmem/image_layout.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
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

devices::WorkerOptions WorkerFor(const std::string& id) {
  return {.name = id.substr(0, 15),
          .on_thread_start = [](const char* /*kind*/) { Confine(jail::ThreadKind::kDevice); }};
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

Assembly::Assembly() {
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

Result<std::string> Assembly::Attach(const std::string& id, api::DeviceSpec spec) {
  const std::lock_guard lock(mu_);
  if (!machine_ || booted_) {
    return Fail(Code::kFailedPrecondition, "devices are attached after Create and before Boot");
  }
  if (devices_.contains(id)) {
    return Fail(Code::kAlreadyExists, "a device " + id + " is already here");
  }
  auto slot = Plug(id, std::move(spec));
  if (!slot) {
    windows_.erase(id);
    return tl::unexpected(std::move(slot).error().WithContext("device " + id));
  }
  if (!windows_.empty()) {
    vcpu_kind_ = jail::ThreadKind::kWindowVcpu;
  }
  return fmt::format("0000:00:{:02x}.0", *slot);
}

Result<uint8_t> Assembly::Plug(const std::string& id, api::DeviceSpec spec) {
  const bool is_vsock = std::holds_alternative<api::VsockSpec>(spec);
  WV_TRY(std::unique_ptr<virtio::VirtioDevice> device, MakeDevice(id, std::move(spec)));
  virtio::VirtioDevice* const borrowed = device.get();
  const auto window = windows_.find(id);
  WV_TRY(const uint8_t slot,
         machine_->AttachDevice(std::move(device),
                                window == windows_.end() ? nullptr : window->second));
  devices_.emplace(id, borrowed);
  if (is_vsock) {
    vsock_ = static_cast<devices::VsockDevice*>(borrowed);
  }
  return slot;
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

Result<std::shared_ptr<mem::FileWindow>> Assembly::MakeWindow(const std::string& id,
                                                              uint64_t size) {
  if (windows_.size() >= kMaxWindows) {
    return Fail(Code::kResourceExhausted,
                fmt::format("a machine has {} DAX windows at most", kMaxWindows));
  }
  WV_TRY(auto window, mem::FileWindow::Create(size));
  windows_.emplace(id, window);
  return window;
}

Result<> Assembly::Boot() {
  const std::lock_guard lock(mu_);
  if (!machine_ || booted_) {
    return Fail(Code::kFailedPrecondition, "Boot comes once, after Create");
  }
  WV_TRY_VOID(machine_->Boot());
  booted_ = true;
  return {};
}

Result<> Assembly::ConnectVsock(uint32_t port, UniqueFd socket) {
  auto answer = std::make_shared<std::promise<Result<>>>();
  std::future<Result<>> result = answer->get_future();
  {
    const std::lock_guard lock(mu_);
    if (vsock_ == nullptr || !booted_) {
      return Fail(Code::kFailedPrecondition,
                  "the machine has no vsock device, or does not run yet");
    }
    WV_TRY_VOID(vsock_->ConnectStream(port, std::move(socket), [answer](Result<> connected) {
      answer->set_value(std::move(connected));
    }));
  }
  if (result.wait_for(kVsockConnectTimeout) != std::future_status::ready) {
    return Fail(Code::kDeadlineExceeded,
                fmt::format("the guest did not answer on vsock port {}", port));
  }
  return result.get();
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
  for (const auto& [id, device] : devices_) {
    for (const virtio::CounterValue& counter : device->counters()) {
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
