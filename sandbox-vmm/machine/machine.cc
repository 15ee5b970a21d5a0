#include "machine/machine.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include <limits>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"

namespace wyvern::machine {

namespace {

constexpr uint64_t kHugePage = 2ULL << 20U;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kPortLimit = 0xffff;

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// RAM that a back-end process maps too. Sealed: the back-end must not be able to shrink it under us.
Result<UniqueFd> MakeSharedRam(uint64_t size) {
  WV_TRY(UniqueFd ram, MakeMemfd("wyvern-ram", size, MFD_ALLOW_SEALING));
  if (::fcntl(ram.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
    return SysError("sealing guest memory");
  }
  return ram;
}

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
  WV_TRY(kvm::Kvm kvm, kvm::Kvm::Create(std::move(config.kvm)));
  WV_TRY(kvm::Vm vm, kvm.CreateVm());
  std::unique_ptr<Machine> machine(new Machine(std::move(config), std::move(kvm), std::move(vm)));
  WV_TRY_VOID(machine->Initialize());
  return machine;
}

Result<> Machine::Initialize() {
  WV_TRY(const unsigned bits, arch::GuestPhysicalBits(kvm_));
  WV_TRY(plan_, arch::PlanAddresses(config_.memory, bits));
  next_pmem_ = plan_.pmem.start;
  WV_TRY_VOID(MakeMemory());
  WV_TRY(platform_, arch::Platform::Create(arch::PlatformConfig{
                        .kvm = &kvm_,
                        .vm = &vm_,
                        .mmio = &mmio_,
                        .ports = &ports_,
                        .vcpus = config_.vcpus,
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
  pci_ = std::make_unique<pci::PciBus>(mmio_, std::move(options));
  WV_TRY_VOID(mmio_.Insert(plan_.ecam.start, plan_.ecam.size, pci_->ecam()));
  return platform_->AttachPciConfigPorts(pci_->config_ports());
}

Result<uint8_t> Machine::AttachDevice(std::unique_ptr<virtio::VirtioDevice> device) {
  WV_TRY(auto transport,
         transport::PciTransport::Create(std::move(device), memory_, platform_->msi_router(),
                                         platform_->doorbells()));
  WV_TRY(const uint8_t slot, pci_->Add(transport));
  devices_.emplace(slot, std::move(transport));
  return slot;
}

Result<> Machine::MakeMemory() {
  UniqueFd shared;
  if (config_.shared_memory) {
    WV_TRY(shared, MakeSharedRam(config_.memory));
  }
  std::vector<mem::RegionSpec> regions;
  uint64_t offset = 0;
  for (const arch::AddressRange& range : plan_.ram) {
    mem::RegionSpec region;
    region.start = mem::Gpa{range.start};
    region.size = range.size;
    region.guest_ram = true;
    if (shared.valid()) {
      WV_TRY(region.fd, shared.Duplicate());
      region.fd_offset = offset;
    }
    offset += range.size;
    regions.push_back(std::move(region));
  }
  WV_TRY_CONTEXT(memory_, mem::GuestMemory::Create(std::move(regions)), "guest memory");
  return AddMemslots(memory_->regions());
}

Result<> Machine::AddMemslots(std::span<const mem::RegionInfo> regions) {
  for (const mem::RegionInfo& region : regions) {
    WV_TRY_VOID(vm_.SetMemslot(next_slot_, region));
    ++next_slot_;
  }
  return {};
}

Result<> Machine::PublishMemory(mem::RegionSpec region) {
  const mem::Gpa start = region.start;
  WV_TRY(auto memory, memory_->WithRegion(std::move(region)));
  for (const mem::RegionInfo& info : memory->regions()) {
    if (info.start == start) {
      WV_TRY_VOID(AddMemslots(std::span(&info, 1)));
    }
  }
  memory_ = std::move(memory);
  for (const auto& [slot, transport] : devices_) {
    transport->core().SetMemory(memory_);
  }
  return {};
}

Result<arch::AddressRange> Machine::MapReadOnlySlot(UniqueFd file, uint64_t size) {
  WV_TRY_CONTEXT(const auto st, Fstat(file), "image");
  if (size == 0 || st.st_size < 0 || size > static_cast<uint64_t>(st.st_size)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("image: {} bytes asked for, the file has {}", size, st.st_size));
  }
  const uint64_t window_left = plan_.pmem.end() - next_pmem_;
  if (size > window_left || AlignUp(size, kHugePage) > window_left) {
    return Fail(Code::kResourceExhausted,
                fmt::format("image: {} bytes do not fit in the {} MiB left of the guest's "
                            "persistent memory window",
                            size, window_left >> 20U));
  }
  const arch::AddressRange range{.start = next_pmem_, .size = AlignUp(size, kHugePage)};
  const uint64_t from_file = AlignUp(size, kPage);
  mem::RegionSpec image;
  image.start = mem::Gpa{range.start};
  image.size = from_file;
  image.fd = std::move(file);
  image.read_only = true;
  WV_TRY_VOID_CONTEXT(PublishMemory(std::move(image)), "image");
  if (from_file < range.size) {
    mem::RegionSpec padding;
    padding.start = mem::Gpa{range.start + from_file};
    padding.size = range.size - from_file;
    padding.read_only = true;
    WV_TRY_VOID_CONTEXT(PublishMemory(std::move(padding)), "image");
  }
  next_pmem_ = range.end();
  return range;
}

Result<> Machine::Boot() {
  if (vcpus_) {
    return Fail(Code::kFailedPrecondition, "the machine has already been booted");
  }
  std::vector<kvm::Vcpu> vcpus;
  for (uint32_t i = 0; i < config_.vcpus; ++i) {
    WV_TRY(kvm::Vcpu vcpu, vm_.CreateVcpu(i));
    WV_TRY_VOID(platform_->SetUpVcpu(vcpu, i));
    vcpus.push_back(std::move(vcpu));
  }
  ExitHandler* handler = this;
  vcpus_ = std::make_unique<VcpuThreads>(std::move(vcpus), handler, config_.on_thread_start);
  return vcpus_->Start();
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
  return MachineCounters{.exits = vcpus_ ? vcpus_->exits() : ExitCounts{},
                         .mmio = mmio_.counters(),
                         .ports = ports_.counters(),
                         .read_only_writes = read_only_writes_.load(std::memory_order_relaxed)};
}

}  // namespace wyvern::machine
