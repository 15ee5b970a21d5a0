#include "machine/machine.h"

#include <linux/kvm.h>

#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "gone/gone_device.h"

namespace wyvern::machine {

namespace {

constexpr uint64_t kPortLimit = 0xffff;
constexpr std::chrono::microseconds kAccessPause{50};

}  // namespace

const char* EventName(EventKind kind) {
  switch (kind) {
    case EventKind::kPowerOff:
      return "power_off";
    case EventKind::kReset:
      return "reset";
    case EventKind::kFault:
      return "fault";
    case EventKind::kPanicked:
      return "panicked";
  }
  return "?";
}

Machine::Machine(MachineConfig config, kvm::Kvm kvm, kvm::Vm vm)
    : config_(std::move(config)),
      kvm_(std::move(kvm)),
      vm_(std::move(vm)),
      mmio_(std::numeric_limits<uint64_t>::max()),
      ports_(kPortLimit) {}

Machine::~Machine() {
  Stop();
}

Result<std::unique_ptr<Machine>> Machine::Create(MachineConfig config) {
  if (config.vcpus < 1 || config.vcpus > kMaxVcpus) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{} vCPUs: must be 1 to {}", config.vcpus, kMaxVcpus));
  }
  config.max_vcpus = config.max_vcpus == 0 ? config.vcpus : config.max_vcpus;
  if (config.max_vcpus < config.vcpus || config.max_vcpus > kMaxVcpus) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{} vCPUs at most, of which {} run at boot: must be {} to {}",
                            config.max_vcpus, config.vcpus, config.vcpus, kMaxVcpus));
  }
  WV_TRY(kvm::Kvm kvm, kvm::Kvm::Create(std::move(config.kvm)));
  WV_TRY(kvm::Vm vm, kvm.CreateVm());
  std::unique_ptr<Machine> machine(new Machine(std::move(config), std::move(kvm), std::move(vm)));
  WV_TRY_VOID(machine->Initialize());
  return machine;
}

Result<> Machine::Initialize() {
  WV_TRY(const unsigned bits, arch::GuestPhysicalBits(kvm_));
  WV_TRY(plan_, arch::PlanAddresses(config_.memory, config_.hotplug_memory, bits));
  WV_TRY_VOID(MakeMemory());
  WV_TRY(platform_, arch::Platform::Create(arch::PlatformConfig{
                        .kvm = &kvm_,
                        .vm = &vm_,
                        .mmio = &mmio_,
                        .ports = &ports_,
                        .vcpus = config_.max_vcpus,
                        .plan = plan_,
                        .console = config_.console,
                        .on_request = [this](legacy::GuestRequest r) { OnRequest(r); }}));
  WV_TRY_VOID(MakePci());
  WV_TRY_VOID(
      platform_->LoadGuest(*memory_, arch::GuestImage{.kernel = config_.kernel,
                                                      .initrd = config_.initrd,
                                                      .command_line = config_.command_line}));
  config_.kernel.Reset();
  config_.initrd.Reset();
  return {};
}

Result<> Machine::MakePci() {
  pci::PciBusOptions options;
  if (plan_.pci64.size != 0) {
    options.windows.push_back({.start = plan_.pci64.start, .size = plan_.pci64.size});
  }
  options.windows.push_back({.start = plan_.pci32.start, .size = plan_.pci32.size});
  options.buses = plan_.pci_buses;
  pci_ = std::make_unique<pci::PciBus>(mmio_, std::move(options));
  WV_TRY_VOID(mmio_.Insert(plan_.ecam.start, plan_.ecam.size, pci_->ecam()));
  return platform_->AttachPciConfigPorts(pci_->config_ports());
}

Result<pci::Place> Machine::AttachDevice(std::unique_ptr<virtio::VirtioDevice> device,
                                         std::shared_ptr<mem::FileWindow> window) {
  const std::lock_guard lock(memory_mu_);
  if (window != nullptr) {
    const auto& regions = device->traits().shared_memory;
    WV_CHECK(regions.size() == 1 && regions[0].length == window->size());
  }
  WV_TRY(auto transport,
         transport::PciTransport::Create(std::move(device), memory_, platform_->msi_router(),
                                         platform_->doorbells()));
  std::optional<Window> placed;
  if (window != nullptr) {
    WV_TRY(const uint32_t number, TakeMemslot());
    auto memslot = std::make_shared<WindowSlot>(vm_, number, std::move(window));
    transport->set_shared_memory_callback(
        [memslot](uint8_t /*id*/, std::optional<mem::Gpa> address) { memslot->Place(address); });
    placed = {.memslot = number, .slot = std::move(memslot)};
  }
  auto place = pci_->Add(transport);
  if (placed && place) {
    windows_.emplace(*place, *std::move(placed));
  } else if (placed) {
    GiveMemslot(placed->memslot);
  }
  if (place) {
    devices_.emplace(*place, std::move(transport));
  }
  return place;
}

Result<> Machine::DetachDevice(pci::Place place, pci::PciBus::After then) {
  std::shared_ptr<transport::PciTransport> transport;
  {
    const std::lock_guard lock(memory_mu_);
    const auto found = devices_.find(place);
    if (found == devices_.end()) {
      return Fail(Code::kNotFound, "no device at " + place.Text());
    }
    transport = std::move(found->second);
    devices_.erase(found);
    WV_CHECK(pci_->Remove(place, then).has_value());
  }
  // Off the bus, nobody can begin an access to it. One that a vCPU is in ends soon; the device is destroyed here, not there.
  while (transport.use_count() > 1) {
    std::this_thread::sleep_for(kAccessPause);
  }
  transport.reset();
  CloseWindow(place);
  return {};
}

void Machine::CloseWindow(pci::Place place) {
  const std::lock_guard lock(memory_mu_);
  const auto window = windows_.find(place);
  if (window != windows_.end() && window->second.slot->Close()) {
    GiveMemslot(window->second.memslot);
    windows_.erase(window);
  }
}

Result<> Machine::FailDevice(pci::Place place, const devices::WorkerOptions& worker) {
  std::shared_ptr<transport::PciTransport> transport;
  {
    const std::lock_guard lock(memory_mu_);
    const auto found = devices_.find(place);
    if (found == devices_.end()) {
      return Fail(Code::kNotFound, "no device at " + place.Text());
    }
    transport = found->second;
  }
  transport::TransportCore& core = transport->core();
  if (core.status() != 0) {
    std::vector<std::byte> config(core.traits().config_length);
    core.ReadConfig(0, config);
    auto gone = devices::GoneDevice::Create(worker, core.traits(), std::move(config));
    if (gone) {
      // Not under memory_mu_: a device that plugs memory takes it before it can stop.
      core.ReplaceDevice(*std::move(gone));
      CloseWindow(place);
      return {};
    }
    WV_WARN("{}: nobody will answer its driver: {}", core.traits().name, gone.error().message());
  }
  transport.reset();
  return DetachDevice(place, pci::PciBus::After::kRetired);
}

Result<> Machine::Boot() {
  if (vcpus_) {
    return Fail(Code::kFailedPrecondition, "the machine has already been booted");
  }
  std::vector<kvm::Vcpu> vcpus;
  for (uint32_t i = 0; i < config_.max_vcpus; ++i) {
    WV_TRY(kvm::Vcpu vcpu, vm_.CreateVcpu(i));
    WV_TRY_VOID(platform_->SetUpVcpu(vcpu, i));
    vcpus.push_back(std::move(vcpu));
  }
  ExitHandler* handler = this;
  vcpus_ = std::make_unique<VcpuThreads>(std::move(vcpus), handler, config_.on_thread_start);
  return vcpus_->Start(config_.vcpus);
}

Result<> Machine::StartVcpu(uint32_t id) {
  return vcpus_ ? vcpus_->StartOne(id) : Fail(Code::kFailedPrecondition, "not booted yet");
}

Result<> Machine::StopVcpu(uint32_t id) {
  return vcpus_ ? vcpus_->StopOne(id) : Fail(Code::kFailedPrecondition, "not booted yet");
}

std::vector<VcpuThreadId> Machine::vcpu_threads() const {
  return vcpus_ ? vcpus_->threads() : std::vector<VcpuThreadId>();
}

void Machine::Pause() {
  if (vcpus_) {
    vcpus_->Pause();
  }
}

void Machine::Resume() {
  if (vcpus_) {
    vcpus_->Resume();
  }
}

void Machine::Stop() {
  if (vcpus_) {
    vcpus_->Stop();
  }
}

void Machine::OnPort(const kvm::Exit& exit) {
  for (uint32_t i = 0; i < exit.count; ++i) {
    const auto item = exit.data.subspan(size_t{i} * exit.size, exit.size);
    if (exit.reason == kvm::ExitReason::kPortRead) {
      ports_.Read(exit.address, item);
    } else {
      ports_.Write(exit.address, item);
    }
  }
}

void Machine::OnMmio(const kvm::Exit& exit) {
  if (exit.reason == kvm::ExitReason::kMmioRead) {
    mmio_.Read(exit.address, exit.data);
    return;
  }
  if (exit.address >= plan_.pmem.start && exit.address - plan_.pmem.start < plan_.pmem.size) {
    read_only_writes_.fetch_add(1, std::memory_order_relaxed);
    WV_WARN_LIMITED("guest write to read-only memory at {:#x} dropped", exit.address);
    return;
  }
  mmio_.Write(exit.address, exit.data);
}

void Machine::OnEndOfInterrupt(uint8_t vector) {
  platform_->EndOfInterrupt(vector);
}

bool Machine::OnSystemEvent(uint64_t type) {
  switch (type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      End(EventKind::kPowerOff, "");
      return false;
    case KVM_SYSTEM_EVENT_RESET:
      End(EventKind::kReset, "");
      return false;
    default:
      End(EventKind::kFault, fmt::format("guest crashed (KVM system event {})", type));
      return false;
  }
}

void Machine::OnFault(const kvm::Vcpu& vcpu, const std::string& what) {
  End(EventKind::kFault,
      fmt::format("vCPU {}: {}; {}", vcpu.id(), what, platform_->DescribeRegisters(vcpu)));
}

bool Machine::IsOff(const kvm::Vcpu& vcpu) {
  const auto off = platform_->IsVcpuOff(vcpu);
  if (!off) {
    WV_WARN_LIMITED("vCPU {}: {}", vcpu.id(), off.error().message());
  }
  return off.value_or(false);
}

void Machine::OnRequest(legacy::GuestRequest request) {
  switch (request) {
    case legacy::GuestRequest::kPowerOff:
      End(EventKind::kPowerOff, "");
      return;
    case legacy::GuestRequest::kReset:
      End(EventKind::kReset, "");
      return;
    case legacy::GuestRequest::kPanicked:
      if (config_.on_event) {
        config_.on_event(
            Event{.kind = EventKind::kPanicked, .text = "the guest's kernel panicked"});
      }
      return;
    case legacy::GuestRequest::kCrashLoaded:
    case legacy::GuestRequest::kShutdown:
      return;
  }
}

void Machine::End(EventKind kind, std::string text) {
  vcpus_->RequestStop();
  if (!ended_.exchange(true) && config_.on_event) {
    config_.on_event(Event{.kind = kind, .text = std::move(text)});
  }
}

MachineCounters Machine::counters() const {
  return MachineCounters{.exits = vcpus_ ? vcpus_->exits() : std::vector<ExitCounts>(),
                         .mmio = mmio_.counters(),
                         .ports = ports_.counters(),
                         .read_only_writes = read_only_writes_.load(std::memory_order_relaxed),
                         .memslots = memslots_.load(std::memory_order_relaxed)};
}

}  // namespace wyvern::machine
