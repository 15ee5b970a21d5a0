#include "acpi/tables.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <numeric>

#include "base/check.h"
#include "base/endian.h"

namespace wyvern::acpi {

namespace {

constexpr std::string_view kOemId = "WYVERN";
constexpr std::string_view kOemTableId = "WYVERNVM";

struct Header {  // §5.2.6
  char signature[4];
  Le32 length;
  uint8_t revision;
  uint8_t checksum;
  char oem_id[6];
  char oem_table_id[8];
  Le32 oem_revision;
  char creator_id[4];
  Le32 creator_revision;
};

static_assert(sizeof(Header) == 36);

struct GenericAddress {  // §5.2.3.2
  uint8_t space;
  uint8_t bit_width;
  uint8_t bit_offset;
  uint8_t access_size;
  Le64 address;
};

static_assert(sizeof(GenericAddress) == 12);

struct FadtBody {  // §5.2.9, after the header; revision 6.5
  uint8_t before_boot_arch[109 - 36];
  Le16 boot_arch;
  uint8_t reserved1;
  Le32 flags;
  GenericAddress reset_register;
  uint8_t reset_value;
  Le16 arm_boot_arch;
  uint8_t minor_revision;
  Le64 x_firmware_control;
  Le64 x_dsdt;
  uint8_t fixed_blocks[8 * sizeof(GenericAddress)];
  GenericAddress sleep_control;
  GenericAddress sleep_status;
  char hypervisor_vendor[8];
};

static_assert(sizeof(FadtBody) + sizeof(Header) == 276);

struct Rsdp {  // §5.2.5.3
  char signature[8];
  uint8_t checksum;
  char oem_id[6];
  uint8_t revision;
  Le32 rsdt;
  Le32 length;
  Le64 xsdt;
  uint8_t extended_checksum;
  uint8_t reserved[3];
};

static_assert(sizeof(Rsdp) == 36);

// FADT boot architecture flags, §5.2.9.3.
constexpr uint16_t kBootNoVga = 1U << 2U;
constexpr uint16_t kBootNoCmosRtc = 1U << 5U;
// FADT fixed feature flags, §5.2.9.
constexpr uint32_t kFadtWbinvd = 1U << 0U;
constexpr uint32_t kFadtPowerButtonControlMethod = 1U << 4U;
constexpr uint32_t kFadtSleepButtonControlMethod = 1U << 5U;
constexpr uint32_t kFadtResetRegister = 1U << 10U;
constexpr uint32_t kFadtHardwareReduced = 1U << 20U;

constexpr uint32_t kMadtEnabled = 1U << 0U;
constexpr uint32_t kMadtOnlineCapable = 1U << 1U;

template <typename T>
void AppendStruct(Bytes* out, const T& value) {
  const size_t at = out->size();
  out->resize(at + sizeof(value));
  std::memcpy(out->data() + at, &value, sizeof(value));
}

uint8_t ChecksumOf(const uint8_t* bytes, size_t size) {
  const unsigned sum = std::accumulate(bytes, bytes + size, 0U);
  return static_cast<uint8_t>(0U - sum);
}

GenericAddress PortRegister(uint16_t port) {
  GenericAddress address{};
  address.space = 1;  // system I/O
  address.bit_width = 8;
  address.access_size = 1;  // byte
  address.address = port;
  return address;
}

Bytes PciDevice(const PciHost& pci) {
  Bytes resources = Concat({BusNumbers(0, pci.buses), IoPorts(0xcf8, 8),
                            MemoryWindow32(pci.window32_start, pci.window32_size)});
  if (pci.window64_size != 0) {
    resources = Concat({resources, MemoryWindow64(pci.window64_start, pci.window64_size)});
  }
  return Device("PCI0", {Name("_HID", EisaId("PNP0A08")), Name("_CID", EisaId("PNP0A03")),
                         Name("_UID", Integer(0)), Name("_SEG", Integer(0)),
                         Name("_BBN", Integer(0)), Name("_CRS", ResourceTemplate({resources}))});
}

}  // namespace

Bytes BuildTable(std::string_view signature, uint8_t revision, const Bytes& body) {
  WV_CHECK(signature.size() == 4);
  Header header{};
  signature.copy(header.signature, 4);
  header.length = static_cast<uint32_t>(sizeof(header) + body.size());
  header.revision = revision;
  kOemId.copy(header.oem_id, sizeof(header.oem_id));
  kOemTableId.copy(header.oem_table_id, sizeof(header.oem_table_id));
  header.oem_revision = 1;
  kOemId.copy(header.creator_id, sizeof(header.creator_id));
  header.creator_revision = 1;
  Bytes out;
  AppendStruct(&out, header);
  out.insert(out.end(), body.begin(), body.end());
  out[offsetof(Header, checksum)] = ChecksumOf(out.data(), out.size());
  return out;
}

Bytes BuildDsdt(const MachineDescription& machine) {
  const PortPlan& ports = machine.ports;
  const uint32_t ecam_size = uint32_t{machine.pci.buses} << 20U;
  const Bytes board = Device(
      "MBRD",
      {Name("_HID", EisaId("PNP0C02")), Name("_UID", Integer(0)),
       Name("_CRS", ResourceTemplate({Memory32(static_cast<uint32_t>(machine.pci.ecam), ecam_size),
                                      IoPorts(ports.power, 3)}))});
  const Bytes serial = Device(
      "COM1",
      {Name("_HID", EisaId("PNP0501")), Name("_UID", Integer(0)),
       Name("_CRS", ResourceTemplate({IoPorts(ports.serial, 8), IsaInterrupt(ports.serial_irq)}))});
  const Bytes pvpanic =
      Device("PEVT", {Name("_HID", String("QEMU0001")), Name("_UID", Integer(0)),
                      Name("_STA", Integer(0x0f)),
                      Name("_CRS", ResourceTemplate({IoPorts(ports.pvpanic, 1)}))});
  const Bytes body =
      Concat({Name("\\_S5", Package({Integer(kSleepTypeS5), Integer(0), Integer(0), Integer(0)})),
              Scope("\\_SB", {PciDevice(machine.pci), board, serial, pvpanic})});
  return BuildTable("DSDT", 6, body);
}

Bytes BuildMadt(const MachineDescription& machine) {  // §5.2.12
  Bytes body;
  AppendLe<uint32_t>(&body, machine.local_apic);
  AppendLe<uint32_t>(&body, 0);  // no PC/AT interrupt controllers
  uint32_t uid = 0;
  for (const CpuEntry& cpu : machine.cpus) {
    const uint32_t flags = cpu.enabled ? kMadtEnabled : kMadtOnlineCapable;
    if (cpu.apic_id < 255) {
      body.insert(body.end(), {0, 8, static_cast<uint8_t>(uid), static_cast<uint8_t>(cpu.apic_id)});
      AppendLe<uint32_t>(&body, flags);
    } else {  // local x2APIC
      body.insert(body.end(), {9, 16, 0, 0});
      AppendLe<uint32_t>(&body, cpu.apic_id);
      AppendLe<uint32_t>(&body, flags);
      AppendLe<uint32_t>(&body, uid);
    }
    ++uid;
  }
  body.insert(body.end(), {1, 12, 0, 0});  // I/O APIC, id 0
  AppendLe<uint32_t>(&body, machine.io_apic);
  AppendLe<uint32_t>(&body, 0);  // first GSI
  return BuildTable("APIC", 6, body);
}

Bytes BuildMcfg(const PciHost& pci) {
  Bytes body(8);
  AppendLe<uint64_t>(&body, pci.ecam);
  AppendLe<uint16_t>(&body, 0);  // segment
  body.push_back(0);             // first bus
  body.push_back(static_cast<uint8_t>(pci.buses - 1));
  AppendLe<uint32_t>(&body, 0);
  return BuildTable("MCFG", 1, body);
}

Bytes BuildFadt(const MachineDescription& machine, uint64_t dsdt) {
  FadtBody fadt{};
  fadt.boot_arch = kBootNoVga | kBootNoCmosRtc;
  fadt.flags = kFadtWbinvd | kFadtPowerButtonControlMethod | kFadtSleepButtonControlMethod |
               kFadtResetRegister | kFadtHardwareReduced;
  fadt.reset_register = PortRegister(static_cast<uint16_t>(machine.ports.power + 2));
  fadt.reset_value = kResetValue;
  fadt.minor_revision = 5;
  fadt.x_dsdt = dsdt;
  fadt.sleep_control = PortRegister(machine.ports.power);
  fadt.sleep_status = PortRegister(static_cast<uint16_t>(machine.ports.power + 1));
  kOemId.copy(fadt.hypervisor_vendor, sizeof(fadt.hypervisor_vendor));
  Bytes body;
  AppendStruct(&body, fadt);
  return BuildTable("FACP", 6, body);
}

TableBlock BuildTables(const MachineDescription& machine, uint64_t address) {
  WV_CHECK(address % 64 == 0 && !machine.cpus.empty() && machine.pci.buses > 0);
  TableBlock block;
  const auto place = [&](const Bytes& table) {
    block.bytes.resize((block.bytes.size() + 63) / 64 * 64);
    const uint64_t at = address + block.bytes.size();
    block.bytes.insert(block.bytes.end(), table.begin(), table.end());
    return at;
  };
  block.bytes.resize(sizeof(Rsdp));
  const uint64_t dsdt = place(BuildDsdt(machine));
  Bytes pointers;
  for (const uint64_t at : {place(BuildFadt(machine, dsdt)), place(BuildMadt(machine)),
                            place(BuildMcfg(machine.pci))}) {
    AppendLe<uint64_t>(&pointers, at);
  }
  Rsdp rsdp{};
  std::string_view("RSD PTR ").copy(rsdp.signature, sizeof(rsdp.signature));
  kOemId.copy(rsdp.oem_id, sizeof(rsdp.oem_id));
  rsdp.revision = 2;
  rsdp.length = sizeof(rsdp);
  rsdp.xsdt = place(BuildTable("XSDT", 1, pointers));
  auto* bytes = reinterpret_cast<uint8_t*>(&rsdp);
  rsdp.checksum = ChecksumOf(bytes, 20);
  rsdp.extended_checksum = ChecksumOf(bytes, sizeof(rsdp));
  std::copy_n(bytes, sizeof(rsdp), block.bytes.begin());
  block.rsdp = address;
  return block;
}

}  // namespace wyvern::acpi
