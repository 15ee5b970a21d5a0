#include "cli/kata_import.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/testing/must.h"
#include "config/config.h"

namespace wyvern::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr char kKata[] = R"(
[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
kernel = "/usr/share/kata-containers/vmlinux.container"
machine_type = "q35"
enable_annotations = ["enable_iommu", "default_vcpus", "tx_rate_limiter_max_rate"]
default_vcpus = 2
default_maxvcpus = 240
default_memory = 2048 # MiB
kernel_params = " agent.log=debug systemd.unit=x quiet mitigations=off "
enable_hugepages = true
rx_rate_limiter_max_rate = 5000000
tx_rate_limiter_max_rate = 0
virtio_fs_cache = "never"
odd = """
two
lines"""
#enable_iothreads = true

[agent.kata]
enable_debug = true
debug_console_enabled = true
dial_timeout = 45

[runtime]
sandbox_cgroup_only=false
enable_vcpus_pinning=true
guest_hook_path = "/usr/share/oci/hooks"
sandbox_bind_mounts=["/etc/certs:ro", "/opt/x", "/w:rw"]
create_container_timeout = 90
)";

std::string ErrorOf(const char* toml) {
  return ImportKata(toml, "kata.toml").error().message();
}

// What wyvern makes of it.
runtime::Config Loaded(const std::string& yaml) {
  std::string pattern = std::filesystem::temp_directory_path() / "wyvern-kata-XXXXXX";
  const std::filesystem::path directory = mkdtemp(pattern.data());
  runtime::ConfigSources sources;
  sources.file = directory / "wyvern.yaml";
  sources.directory = "";
  EXPECT_TRUE(WriteFile(sources.file, yaml));
  const auto config = Must(runtime::LoadConfig(sources));
  std::filesystem::remove_all(directory);
  return *config;
}

TEST(KataImportTest, WhatHasACounterpartIsTaken) {
  const runtime::Config config = Loaded(Must(ImportKata(kKata, "kata.toml")));
  EXPECT_EQ(config.sandbox.vcpus, 2U);
  EXPECT_EQ(config.guest.hooks, "/usr/share/oci/hooks");
  EXPECT_EQ(config.sandbox.max_vcpus, 32U);
  EXPECT_EQ(config.sandbox.memory, 2048ULL << 20U);
  EXPECT_EQ(config.sandbox.kernel_cmdline, "quiet mitigations=off");
  EXPECT_EQ(config.memory.huge_pages, runtime::Config::Memory::HugePages::k2MiB);
  EXPECT_EQ(config.share.cache_root, std::chrono::seconds(0));
  EXPECT_EQ(config.log.level, LogLevel::kDebug);
  EXPECT_TRUE(config.guest.debug_exec);
  EXPECT_TRUE(config.sandbox.pin_vcpus);
  EXPECT_THAT(config.sandbox.bind_mounts, ElementsAre("/etc/certs", "/opt/x"));
  EXPECT_EQ(config.timeouts.boot, std::chrono::seconds(45));
  EXPECT_EQ(config.timeouts.agent_call, std::chrono::seconds(90));
  EXPECT_EQ(config.network.rx_rate, 5'000'000U);
  EXPECT_THAT(config.annotations.allow, ElementsAre("sandbox.vcpus", "network.tx_rate"));
}

TEST(KataImportTest, WhatHasNoneIsALineThatSaysWhy) {
  const std::string yaml = Must(ImportKata(kKata, "kata.toml"));
  EXPECT_THAT(
      yaml, HasSubstr("# hypervisor.qemu.machine_type = \"q35\" (line 5): there is one machine\n"));
  EXPECT_THAT(yaml, HasSubstr("# runtime.sandbox_cgroup_only = false (line 26): always so\n"));
  EXPECT_THAT(yaml, HasSubstr("# hypervisor.qemu.odd = \"\"\"… (line 15): no counterpart\n"));
  EXPECT_THAT(yaml, HasSubstr("a guest does not write there: /w:rw"));
  EXPECT_THAT(yaml, HasSubstr("no annotation of ours is like enable_iommu"));
  EXPECT_THAT(yaml, Not(HasSubstr("iothreads")));
  EXPECT_THAT(yaml, HasSubstr("sandbox.vcpus: 2  # hypervisor.qemu.default_vcpus, line 7\n"));
}

TEST(KataImportTest, AValueThatCannotBeOursIsAnErrorWithItsLine) {
  EXPECT_THAT(ErrorOf("[hypervisor.clh]\ndefault_vcpus = 64\n"),
              AllOf(HasSubstr("kata.toml:2"), HasSubstr("64"), HasSubstr("1..8")));
  EXPECT_THAT(ErrorOf("[hypervisor.clh]\ndefault_memory = 3\n"), HasSubstr("at least"));
  EXPECT_THAT(ErrorOf("[agent.kata]\ndebug_console_enabled = maybe\n"), HasSubstr("true or false"));
}

TEST(KataImportTest, OneHypervisorIsTaken) {
  const std::string yaml = Must(ImportKata(
      "[hypervisor.qemu]\ndefault_vcpus = 1\n[hypervisor.clh]\ndefault_vcpus = 4\n", "k"));
  EXPECT_THAT(yaml, AllOf(HasSubstr("sandbox.vcpus: 1"),
                          HasSubstr("only the settings of hypervisor.qemu")));
}

TEST(KataImportTest, WhatIsNotKatasIsRefusedAndNothingIsTooStrange) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("no settings of Kata"));
  EXPECT_THAT(ErrorOf("just words\n"), HasSubstr("no settings of Kata"));
  for (const char* text :
       {"[hypervisor.x]\nkernel_params = \"a\nb\"\n", "[agent.\x01]\nx = \"\x1b[2J\"\n",
        "[hypervisor.x]\nenable_annotations = 3\nkernel_params = \"a \\\"b\"\n"}) {
    const auto yaml = ImportKata(text, "k");
    if (yaml) {
      Loaded(*yaml);
      EXPECT_THAT(*yaml, Not(HasSubstr("\x1b")));
    }
  }
}

}  // namespace
}  // namespace wyvern::cli
