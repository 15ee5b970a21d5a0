#include "acpi/tables.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <span>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace wyvern::acpi {
namespace {

MachineDescription Machine(uint32_t cpus = 4) {
  MachineDescription machine;
  for (uint32_t i = 0; i < cpus; ++i) {
    machine.cpus.push_back({.apic_id = i, .enabled = i < 2});
  }
  machine.local_apic = 0xfee00000;
  machine.io_apic = 0xfec00000;
  machine.pci = {.ecam = 0xe0000000,
                 .buses = 8,
                 .window32_start = 0xc0000000,
                 .window32_size = 0x20000000,
                 .window64_start = 1ULL << 36U,
                 .window64_size = 1ULL << 35U};
  machine.ports = {.power = 0x600, .serial = 0x3f8, .serial_irq = 4, .pvpanic = 0x505};
  return machine;
}

uint8_t Sum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0U));
}

template <typename T>
T Load(std::span<const uint8_t> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.subspan(at, sizeof(value)).data(), sizeof(value));
  return value;
}

TEST(TablesTest, EveryTableIsReachableFromTheRsdpWithRightChecksums) {
  constexpr uint64_t kAddress = 0xe0000;
  const TableBlock block = BuildTables(Machine(), kAddress);
  ASSERT_EQ(block.rsdp, kAddress);
  const std::span<const uint8_t> all(block.bytes);
  EXPECT_EQ(Sum(all.first(20)), 0);
  EXPECT_EQ(Sum(all.first(36)), 0);
  const auto table = [&](uint64_t address) {
    const uint64_t at = address - kAddress;
    EXPECT_EQ(at % 64, 0U);
    const auto length = Load<uint32_t>(all, at + 4);
    EXPECT_EQ(Sum(all.subspan(at, length)), 0);
    return all.subspan(at, length);
  };
  const auto xsdt = table(Load<uint64_t>(all, 24));
  EXPECT_EQ(std::memcmp(xsdt.data(), "XSDT", 4), 0);
  ASSERT_EQ(xsdt.size(), 36U + 3 * 8);
  const auto fadt = table(Load<uint64_t>(xsdt, 36));
  EXPECT_EQ(std::memcmp(fadt.data(), "FACP", 4), 0);
  const auto dsdt = table(Load<uint64_t>(fadt, 140));  // X_DSDT
  EXPECT_EQ(std::memcmp(dsdt.data(), "DSDT", 4), 0);
  EXPECT_EQ(std::memcmp(table(Load<uint64_t>(xsdt, 44)).data(), "APIC", 4), 0);
  EXPECT_EQ(std::memcmp(table(Load<uint64_t>(xsdt, 52)).data(), "MCFG", 4), 0);
}

TEST(TablesTest, FadtSaysHardwareReducedWithResetAndSleepRegisters) {
  const Bytes fadt = BuildFadt(Machine(), 0x1234);
  ASSERT_EQ(fadt.size(), 276U);
  const auto flags = Load<uint32_t>(fadt, 112);
  EXPECT_NE(flags & (1U << 20U), 0U);
  EXPECT_NE(flags & (1U << 10U), 0U);
  EXPECT_EQ(Load<uint64_t>(fadt, 120), 0x602U);  // reset register
  EXPECT_EQ(fadt[128], kResetValue);
  EXPECT_EQ(Load<uint64_t>(fadt, 248), 0x600U);           // sleep control
  EXPECT_EQ(Load<uint64_t>(fadt, 260), 0x601U);           // sleep status
  EXPECT_NE(Load<uint16_t>(fadt, 109) & (1U << 5U), 0U);  // no CMOS clock
}

TEST(TablesTest, MadtFlagsCpusAsEnabledOrOnlineCapable) {
  const Bytes madt = BuildMadt(Machine(4));
  size_t at = 44;
  for (uint32_t i = 0; i < 4; ++i, at += 8) {
    EXPECT_EQ(madt[at], 0);
    EXPECT_EQ(madt[at + 1], 8);
    EXPECT_EQ(madt[at + 3], i);
    EXPECT_EQ(Load<uint32_t>(madt, at + 4), i < 2 ? 1U : 2U);
  }
  EXPECT_EQ(madt[at], 1);  // I/O APIC
  EXPECT_EQ(Load<uint32_t>(madt, at + 4), 0xfec00000U);
}

TEST(TablesTest, HighApicIdsAreX2Apic) {
  MachineDescription machine = Machine(1);
  machine.cpus.push_back({.apic_id = 255, .enabled = true});
  const Bytes madt = BuildMadt(machine);
  EXPECT_EQ(madt[52], 9);
  EXPECT_EQ(madt[53], 16);
  EXPECT_EQ(Load<uint32_t>(madt, 56), 255U);
}

TEST(TablesTest, TablesOf254CpusFitTheirArea) {
  EXPECT_LT(BuildTables(Machine(254), 0xe0000).bytes.size(), 128U << 10U);
}

TEST(AmlTest, PackageLengthsOfEverySize) {
  // The length field grows at 63, 4095 and so on; iasl reads the real tables below, this checks the borders.
  for (const size_t size : {0U, 55U, 56U, 57U, 58U, 4080U, 4090U, 4100U, 70000U}) {
    const Bytes scope = Scope("\\_SB", {Bytes(size, 0xa3)});
    const unsigned extra = scope[1] >> 6U;
    size_t length = scope[1] & (extra == 0 ? 0x3fU : 0xfU);
    for (unsigned i = 0; i < extra; ++i) {
      length |= size_t{scope[2 + i]} << (4 + 8 * i);
    }
    EXPECT_EQ(length, scope.size() - 1) << size;
  }
}

TEST(AmlTest, EisaIdIsTheCompressedForm) {
  // PNP0A08 is 0x080AD041 in every machine's tables.
  EXPECT_EQ(EisaId("PNP0A08"), (Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x08}));
}

TEST(AmlTest, IntegersUseTheShortestForm) {
  EXPECT_EQ(Integer(0), Bytes{0x00});
  EXPECT_EQ(Integer(1), Bytes{0x01});
  EXPECT_EQ(Integer(0xff), (Bytes{0x0a, 0xff}));
  EXPECT_EQ(Integer(0x100), (Bytes{0x0b, 0x00, 0x01}));
  EXPECT_EQ(Integer(0x10000), (Bytes{0x0c, 0x00, 0x00, 0x01, 0x00}));
  EXPECT_EQ(Integer(1ULL << 32U).size(), 9U);
}

TEST(AmlDeathTest, BadNamesAbort) {
  EXPECT_DEATH(Name("TOOLONG", Integer(0)), "CHECK failed");
  EXPECT_DEATH(Name("", Integer(0)), "CHECK failed");
}

class IaslTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v iasl >/dev/null 2>&1") != 0) {  // NOLINT(concurrency-mt-unsafe)
      GTEST_SKIP() << "iasl (acpica-tools) is not installed";
    }
    std::string name = std::filesystem::temp_directory_path() / "wyvern-acpi-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }

  void TearDown() override {
    if (!directory_.empty()) {
      std::filesystem::remove_all(directory_);
    }
  }

  // The output of a command in the directory; its exit code must be 0.
  std::string Run(const std::string& command) {
    const std::string line =
        fmt::format("cd '{}' && {} > out.txt 2>&1", directory_.string(), command);
    EXPECT_EQ(std::system(line.c_str()), 0);  // NOLINT(concurrency-mt-unsafe)
    std::ifstream in(directory_ / "out.txt");
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  void Write(const char* name, const Bytes& bytes) {
    std::ofstream out(directory_ / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }

  std::filesystem::path directory_;
};

TEST_F(IaslTest, DsdtDisassemblesAndCompilesAgainWithoutWarnings) {
  Write("dsdt.aml", BuildDsdt(Machine()));
  const std::string disassembly = Run("iasl -d dsdt.aml");
  EXPECT_EQ(disassembly.find("Error"), std::string::npos) << disassembly;
  EXPECT_EQ(disassembly.find("Warning"), std::string::npos) << disassembly;
  const std::string compilation = Run("iasl -p again dsdt.dsl");
  EXPECT_NE(compilation.find("0 Errors, 0 Warnings"), std::string::npos) << compilation;
}

TEST_F(IaslTest, DataTablesDisassembleWithoutComplaint) {
  Write("facp.dat", BuildFadt(Machine(), 0xe0040));
  Write("apic.dat", BuildMadt(Machine(8)));
  Write("mcfg.dat", BuildMcfg(Machine().pci));
  for (const char* name : {"facp", "apic", "mcfg"}) {
    const std::string output = Run(fmt::format("iasl -d {}.dat", name));
    EXPECT_EQ(output.find("rror"), std::string::npos) << output;
    EXPECT_EQ(output.find("arning"), std::string::npos) << output;
  }
}

}  // namespace
}  // namespace wyvern::acpi
