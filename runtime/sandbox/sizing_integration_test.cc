// How large a machine is made for what the container may use: the options that reach the hypervisor. Needs root (cgroups, a network namespace).
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1ULL << 20U;

// Keeps what it was made with, and starts nothing.
class RecordedMachine final : public Machine {
 public:
  Result<> Start(const SpawnHook& /*spawned*/) override {
    return Fail(Code::kUnavailable, "recorded");
  }

  Result<> Boot(EventCallback /*events*/) override { return {}; }

  Result<UniqueFd> ConnectVsock(uint32_t /*port*/) override {
    return Fail(Code::kUnavailable, "recorded");
  }

  Result<> AttachExport(const std::string&, FdRef, const ExportPolicy&) override { return {}; }

  Result<> DetachExport(const std::string&) override { return {}; }

  Result<> AttachDisk(const std::string&, FdRef, bool) override { return {}; }

  Result<> AttachNetwork(const std::string&, const std::vector<UniqueFd>&,
                         const NetworkDevice&) override {
    return {};
  }

  Result<> DetachDevice(const std::string&, bool) override { return {}; }

  Result<> ResizeDisk(const std::string&) override { return {}; }

  Result<ResizedVcpus> ResizeVcpus(uint32_t, std::chrono::milliseconds) override {
    return Fail(Code::kUnavailable, "recorded");
  }

  Result<ResizedMemory> ResizeMemory(uint64_t, std::chrono::milliseconds) override {
    return Fail(Code::kUnavailable, "recorded");
  }

  Result<MachineSize> Size() override { return Fail(Code::kUnavailable, "recorded"); }

  Result<observe::VmmUsage> Usage(std::chrono::milliseconds /*limit*/) override {
    return observe::VmmUsage();
  }

  api::ConsoleText Console() override { return {}; }

  void End() override {}
};

uint64_t HostPages(int name) {
  return static_cast<uint64_t>(sysconf(name));
}

// In whole 2 MiB.
uint64_t MemoryOfHost() {
  return HostPages(_SC_PHYS_PAGES) * HostPages(_SC_PAGESIZE) / (2 * kMiB) * (2 * kMiB);
}

uint32_t ProcessorsOfHost(uint32_t wanted) {
  return std::min(wanted, static_cast<uint32_t>(HostPages(_SC_NPROCESSORS_ONLN)));
}

class SizingTest : public SandboxFixture {
 protected:
  // `resources`: linux.resources, JSON. None: the machine was never made.
  std::optional<MachineOptions> MachineFor(const std::string& resources,
                                           const std::string& annotations = "") {
    BundleOptions options;
    options.resources = resources;
    options.annotations = annotations;
    const std::string bundle = MakeBundle("box", options);
    std::optional<MachineOptions> made;
    Backend backend;
    backend.make_machine = [&made](MachineOptions options) {
      made = std::move(options);
      return std::make_unique<RecordedMachine>();
    };
    const auto sandbox = StartSandbox(OptionsOf(bundle, "box"), backend);
    EXPECT_FALSE(sandbox.has_value());
    if (!sandbox.has_value()) {
      EXPECT_THAT(sandbox.error().message(), HasSubstr("recorded"));
    }
    EXPECT_EQ(LeftBehind(), "");
    return made;
  }
};

struct MemoryCase {
  const char* limit;
  uint64_t configured;
  uint64_t expected;
};

TEST_F(SizingTest, MemoryIsWhatTheContainerMayUseAndTheGuestsOwn) {
  for (const auto& [limit, configured, expected] : std::initializer_list<MemoryCase>{
           {"0", 256 * kMiB, 256 * kMiB},
           {"-1", 256 * kMiB, 256 * kMiB},
           {"67108864", 256 * kMiB, 256 * kMiB},  // 64 MiB fit into what the configuration gives
           {"536870912", 256 * kMiB, 608 * kMiB},
           {"536870913", 256 * kMiB, 610 * kMiB},  // a byte more: rounded up
           {"536870912", 1024 * kMiB, 1024 * kMiB},
           {"4611686018427387904", 256 * kMiB, MemoryOfHost()},
           {"9223372036854775807", 256 * kMiB, MemoryOfHost()}}) {
    config_->sandbox.memory = configured;
    const auto machine = MachineFor(std::string(R"({"memory":{"limit":)") + limit + "}}");
    ASSERT_TRUE(machine.has_value()) << limit;
    EXPECT_EQ(machine->memory_bytes, expected) << limit << " with " << configured;
    EXPECT_EQ(machine->vcpus, 1U) << limit;
  }
}

TEST_F(SizingTest, PagesAndReportsAreThoseOfTheConfiguration) {
  auto machine = MachineFor("{}");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->ram_pages, RamPages::kTransparent);
  EXPECT_TRUE(machine->page_reporting);
  config_->memory.huge_pages = Config::Memory::HugePages::kNone;
  config_->memory.page_reporting = false;
  machine = MachineFor("{}");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->ram_pages, RamPages::kSmall);
  EXPECT_FALSE(machine->page_reporting);
}

TEST_F(SizingTest, MachineIsMadeWithWhatItCanGrowTo) {
  const auto machine = MachineFor("{}");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->max_vcpus, ProcessorsOfHost(32));
  constexpr uint64_t kMost = 32768 * kMiB;
  EXPECT_GE(machine->memory_bytes + machine->hotplug_memory_bytes, std::min(MemoryOfHost(), kMost));
  EXPECT_LT(machine->memory_bytes + machine->hotplug_memory_bytes,
            std::min(MemoryOfHost(), kMost) + kHotplugStep);
  EXPECT_EQ(machine->hotplug_memory_bytes % kHotplugStep, 0U);
  config_->sandbox.max_vcpus = 1;
  config_->sandbox.max_memory = 256 * kMiB;
  const auto fixed = MachineFor("{}");
  ASSERT_TRUE(fixed.has_value());
  EXPECT_EQ(fixed->max_vcpus, 1U);
  EXPECT_EQ(fixed->hotplug_memory_bytes, 0U);
}

TEST_F(SizingTest, PodIsAsLargeAsItsContainersTogether) {
  config_->sandbox.max_vcpus = 8;
  config_->sandbox.max_memory = 4096 * kMiB;
  const std::string mark = R"({"io.kubernetes.cri.container-type":"sandbox")";
  // The pause's own limits are nobody's.
  const char* own = R"({"cpu":{"shares":2,"quota":700000},"memory":{"limit":4294967296}})";
  auto machine = MachineFor(own, mark + "}");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->vcpus, 1U);
  EXPECT_EQ(machine->memory_bytes, 256 * kMiB);
  machine = MachineFor(own, mark + R"(,"io.kubernetes.cri.sandbox-cpu-quota":"250000",
      "io.kubernetes.cri.sandbox-cpu-period":"100000",
      "io.kubernetes.cri.sandbox-memory":"536870912"})");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->vcpus, 3U);
  EXPECT_EQ(machine->memory_bytes, 608 * kMiB);
  machine = MachineFor(own, mark + R"(,"io.kubernetes.cri.sandbox-cpu-quota":"many",
      "io.kubernetes.cri.sandbox-cpu-period":"-3","io.kubernetes.cri.sandbox-memory":"0"})");
  ASSERT_TRUE(machine.has_value());
  EXPECT_EQ(machine->vcpus, 1U);
  EXPECT_EQ(machine->memory_bytes, 256 * kMiB);
}

struct CpuCase {
  const char* cpu;
  uint32_t configured;
  uint32_t expected;
};

TEST_F(SizingTest, VcpusAreWhatTheQuotaCanKeepBusyOnThisHost) {
  for (const auto& [cpu, configured, expected] : std::initializer_list<CpuCase>{
           {"{}", 1, 1},
           {R"({"shares":4096})", 1, 1},
           {R"({"quota":-1,"period":100000})", 1, 1},
           {R"({"quota":50000,"period":100000})", 1, 1},
           {R"({"quota":100000,"period":100000})", 1, 1},
           {R"({"quota":100001,"period":100000})", 1, ProcessorsOfHost(2)},
           {R"({"quota":200000,"period":100000})", 1, ProcessorsOfHost(2)},
           {R"({"quota":200000})", 1, ProcessorsOfHost(2)},  // the kernel's period
           {R"({"quota":200000,"period":0})", 1, ProcessorsOfHost(2)},
           {R"({"quota":100000,"period":100000})", 4, 4},
           {R"({"quota":9223372036854775807,"period":1000})", 1, ProcessorsOfHost(8)}}) {
    config_->sandbox.vcpus = configured;
    const auto machine = MachineFor(std::string(R"({"cpu":)") + cpu + "}");
    ASSERT_TRUE(machine.has_value()) << cpu;
    EXPECT_EQ(machine->vcpus, expected) << cpu << " with " << configured;
    EXPECT_EQ(machine->memory_bytes, 256 * kMiB) << cpu;
  }
}

}  // namespace
}  // namespace wyvern::runtime
