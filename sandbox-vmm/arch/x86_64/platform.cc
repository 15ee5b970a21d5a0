// x86_64: split irqchip with a user-space I/O APIC, 16550A, pvpanic, ACPI, PVH boot.
#include "arch/platform.h"

#include <linux/kvm.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "acpi/tables.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/vcpu_setup.h"
#include "base/log.h"
#include "irq/kvm_interrupts.h"
#include "legacy/io_apic.h"
#include "legacy/serial.h"
#include "loader/elf.h"
#include "loader/pvh.h"

namespace wyvern::arch {

namespace {

static_assert(kFirstMsiGsi == legacy::IoApic::kPins && kSerialIrq < legacy::IoApic::kPins);

class X86Platform : public Platform {
 public:
  explicit X86Platform(PlatformConfig config)
      : config_(std::move(config)),
        router_(config_.vm, kFirstMsiGsi, kMsiRoutes),
        doorbells_(config_.vm) {}

  Result<> Initialize();

  irq::MsiRouter& msi_router() override { return router_; }

  irq::DoorbellRegistry& doorbells() override { return doorbells_; }

  Result<> AttachPciConfigPorts(std::shared_ptr<bus::BusDevice> ports) override {
    return config_.ports->Insert(kPciConfigPort, 8, std::move(ports));
  }

  Result<> LoadGuest(const mem::GuestMemory& memory, const GuestImage& image) override;
  Result<> SetUpVcpu(const kvm::Vcpu& vcpu, uint32_t index) override;

  Result<bool> IsVcpuOff(const kvm::Vcpu& vcpu) const override { return IsOff(vcpu); }

  void EndOfInterrupt(uint8_t vector) override { io_apic_->EndOfInterrupt(vector); }

  size_t ConsoleInput(std::span<const std::byte> bytes) override { return serial_->Receive(bytes); }

  std::string DescribeRegisters(const kvm::Vcpu& vcpu) const override {
    return arch::DescribeRegisters(vcpu);
  }

 private:
  void Send(irq::MsiMessage message);
  void SetLevelPins(const legacy::IoApic::PinMessages& messages);
  std::vector<loader::MemoryRange> MemoryMap() const;
  acpi::MachineDescription Describe() const;
  Result<> WriteTables(const mem::GuestMemory& memory, loader::StartInfo info);
  Result<loader::BootModule> LoadInitrd(const mem::GuestMemory& memory, FdRef initrd,
                                        uint64_t kernel_end) const;

  const PlatformConfig config_;
  irq::KvmMsiRouter router_;
  irq::KvmDoorbells doorbells_;
  std::shared_ptr<legacy::IoApic> io_apic_;
  std::shared_ptr<legacy::Serial> serial_;
  std::vector<kvm_cpuid_entry2> cpuid_;
  bool tsc_deadline_ = false;
  uint32_t entry_ = 0;
};

Result<> WriteBlock(const mem::GuestMemory& memory, uint64_t address,
                    std::span<const std::byte> bytes, uint64_t room, const char* what) {
  if (bytes.size() > room || !memory.WriteBytes(mem::Gpa{address}, bytes)) {
    return Fail(Code::kInvalidArgument, fmt::format("{} do not fit in low memory", what));
  }
  return {};
}

Result<> X86Platform::Initialize() {
  WV_TRY_VOID(config_.kvm->Require({
      {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
      {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
      {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
      {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
      {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
  }));
  tsc_deadline_ = config_.kvm->CheckExtension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  WV_TRY(cpuid_, SupportedCpuid(*config_.kvm));
  const kvm::Vm& vm = *config_.vm;
  const uint64_t identity = kIdentityMapAddress;
  WV_TRY_VOID(vm.Call(KVM_SET_IDENTITY_MAP_ADDR, &identity, "ioctl(KVM_SET_IDENTITY_MAP_ADDR)"));
  WV_TRY_VOID(vm.CallValue(KVM_SET_TSS_ADDR, kTssAddress, "ioctl(KVM_SET_TSS_ADDR)"));
  WV_TRY_VOID(vm.EnableCapability(KVM_CAP_SPLIT_IRQCHIP, legacy::IoApic::kPins,
                                  "ioctl(KVM_ENABLE_CAP) KVM_CAP_SPLIT_IRQCHIP"));

  io_apic_ = std::make_shared<legacy::IoApic>(
      [this](irq::MsiMessage message) { Send(message); },
      [this](const legacy::IoApic::PinMessages& messages) { SetLevelPins(messages); });
  serial_ = std::make_shared<legacy::Serial>(io_apic_->Line(kSerialIrq), config_.console);
  WV_TRY_VOID(config_.mmio->Insert(kIoApicAddress, legacy::IoApic::kSize, io_apic_));
  WV_TRY_VOID(config_.ports->Insert(kSerialPort, legacy::Serial::kPorts, serial_));
  WV_TRY_VOID(config_.ports->Insert(kPowerPort, legacy::PowerRegisters::kPorts,
                                    std::make_shared<legacy::PowerRegisters>(config_.on_request)));
  WV_TRY_VOID(config_.ports->Insert(legacy::KeyboardReset::kPort, 1,
                                    std::make_shared<legacy::KeyboardReset>(config_.on_request)));
  return config_.ports->Insert(kPvPanicPort, 1,
                               std::make_shared<legacy::PvPanic>(config_.on_request));
}

void X86Platform::Send(irq::MsiMessage message) {
  auto sent = router_.Send(message);
  if (!sent) {
    // The guest chose the destination; KVM refuses what it cannot deliver.
    WV_WARN_LIMITED("I/O APIC: {}", sent.error().message());
  }
}

void X86Platform::SetLevelPins(const legacy::IoApic::PinMessages& messages) {
  auto set = router_.SetPins(messages);
  if (!set) {
    WV_WARN_LIMITED("I/O APIC: {}", set.error().message());
  }
}

std::vector<loader::MemoryRange> X86Platform::MemoryMap() const {
  using loader::MemoryKind;
  std::vector<loader::MemoryRange> map;
  map.push_back({.start = 0, .size = kLowRamEnd, .kind = MemoryKind::kRam});
  map.push_back({.start = kAcpiAddress, .size = kAcpiSize, .kind = MemoryKind::kReserved});
  for (const AddressRange& ram : config_.plan.ram) {
    const uint64_t start = std::max(ram.start, kKernelLowest);
    map.push_back({.start = start, .size = ram.end() - start, .kind = MemoryKind::kRam});
  }
  map.push_back({.start = kEcamStart, .size = kEcamSize, .kind = MemoryKind::kReserved});
  std::sort(map.begin(), map.end(), [](const auto& a, const auto& b) { return a.start < b.start; });
  return map;
}

acpi::MachineDescription X86Platform::Describe() const {
  acpi::MachineDescription machine;
  for (uint32_t i = 0; i < config_.vcpus; ++i) {
    machine.cpus.push_back({.apic_id = i, .enabled = true});
  }
  machine.local_apic = kLocalApicAddress;
  machine.io_apic = kIoApicAddress;
  machine.pci = {.ecam = config_.plan.ecam.start,
                 .buses = config_.plan.pci_buses,
                 .window32_start = static_cast<uint32_t>(config_.plan.pci32.start),
                 .window32_size = static_cast<uint32_t>(config_.plan.pci32.size),
                 .window64_start = config_.plan.pci64.start,
                 .window64_size = config_.plan.pci64.size};
  machine.ports = {.power = kPowerPort,
                   .serial = kSerialPort,
                   .serial_irq = kSerialIrq,
                   .pvpanic = kPvPanicPort};
  return machine;
}

Result<> X86Platform::WriteTables(const mem::GuestMemory& memory, loader::StartInfo info) {
  const acpi::TableBlock tables = acpi::BuildTables(Describe(), kAcpiAddress);
  WV_TRY_VOID(WriteBlock(memory, kAcpiAddress, std::as_bytes(std::span(tables.bytes)), kAcpiSize,
                         "ACPI tables"));
  info.rsdp = tables.rsdp;
  info.memory = MemoryMap();
  WV_TRY(const auto block, loader::BuildStartInfo(info, kStartInfoAddress));
  return WriteBlock(memory, kStartInfoAddress, block, kStartInfoSize, "boot parameters");
}

// As high as possible below the hole, page-aligned: the kernel decompresses nothing over it.
Result<loader::BootModule> X86Platform::LoadInitrd(const mem::GuestMemory& memory, FdRef initrd,
                                                   uint64_t kernel_end) const {
  constexpr uint64_t kPage = 4096;
  WV_TRY_CONTEXT(const auto st, Fstat(initrd), "initrd");
  const auto size = static_cast<uint64_t>(std::max<off_t>(st.st_size, 0));
  const uint64_t low_end = config_.plan.ram.front().end();
  if (!S_ISREG(st.st_mode) || size == 0 || size > low_end - std::min(kernel_end, low_end)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("initrd: {} bytes do not fit behind the kernel in {} MiB of memory",
                            size, low_end / kMiB));
  }
  const uint64_t start = (low_end - size) / kPage * kPage;
  if (start < kernel_end) {
    return Fail(Code::kInvalidArgument, "initrd: does not fit behind the kernel");
  }
  WV_TRY_VOID_CONTEXT(loader::ReadIntoGuest(initrd, 0, size, memory, mem::Gpa{start}), "initrd");
  return loader::BootModule{.address = start, .size = size};
}

Result<> X86Platform::LoadGuest(const mem::GuestMemory& memory, const GuestImage& image) {
  WV_TRY(const auto source, loader::FdSource::Create(image.kernel));
  WV_TRY(const auto kernel, loader::ParseElf(source, loader::kMachineX86));
  WV_TRY(const uint64_t kernel_end,
         loader::LoadSegments(kernel, image.kernel, memory, kKernelLowest,
                              config_.plan.ram.front().end()));
  entry_ = kernel.pvh_entry;
  loader::StartInfo info;
  info.command_line = image.command_line;
  if (image.initrd.valid()) {
    WV_TRY(const auto module, LoadInitrd(memory, image.initrd, kernel_end));
    info.modules.push_back(module);
  }
  return WriteTables(memory, std::move(info));
}

Result<> X86Platform::SetUpVcpu(const kvm::Vcpu& vcpu, uint32_t index) {
  const CpuIdentity identity{
      .apic_id = index, .vcpus = config_.vcpus, .tsc_deadline = tsc_deadline_};
  WV_TRY_VOID(SetUpCpu(vcpu, cpuid_, identity));
  if (index != 0) {
    return {};
  }
  return SetPvhEntry(vcpu, entry_, static_cast<uint32_t>(kStartInfoAddress));
}

}  // namespace

Result<unsigned> GuestPhysicalBits(const kvm::Kvm& kvm) {
  WV_TRY(const auto cpuid, SupportedCpuid(kvm));
  return PhysicalBits(cpuid);
}

Result<std::unique_ptr<Platform>> Platform::Create(PlatformConfig config) {
  auto platform = std::make_unique<X86Platform>(std::move(config));
  WV_TRY_VOID(platform->Initialize());
  return platform;
}

}  // namespace wyvern::arch
