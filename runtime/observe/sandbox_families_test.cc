#include "observe/sandbox_families.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace wyvern::observe {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kOf[] = "namespace=\"k8s.io\",sandbox=\"pod\"";

std::string TextOf(const Observation& observation,
                   const std::map<EventKind, uint64_t>& events = {}) {
  return FamiliesOf({"k8s.io", "pod"}, observation, events).Text();
}

// "name{namespace…,sandbox…REST"
testing::Matcher<std::string> Says(const std::string& name, const std::string& rest) {
  return HasSubstr("\n" + name + "{" + kOf + rest + "\n");
}

TEST(SandboxFamiliesTest, HostProcessesAndCgroup) {
  Observation seen;
  seen.processes = {{.role = "vmm",
                     .container = "",
                     .pid = 7,
                     .pss = 4096,
                     .rss = 8192,
                     .swap_pss = 0,
                     .cpu_usec = 1'500'000,
                     .read_bytes = 5,
                     .written_bytes = {}},
                    {.role = "anchor", .container = "web", .pid = 8}};
  seen.cgroup = {.memory_current = 100, .memory_max = {}, .oom_kills = 2};
  seen.container_count = 1;
  const std::string text = TextOf(seen);
  EXPECT_THAT(text, Says("wyvern_host_process_pss_bytes", ",process=\"vmm\",pid=\"7\"} 4096"));
  EXPECT_THAT(text,
              Says("wyvern_host_process_cpu_seconds_total", ",process=\"vmm\",pid=\"7\"} 1.5"));
  EXPECT_THAT(text, Says("wyvern_host_process_resident_bytes",
                         ",process=\"anchor\",pid=\"8\",container=\"web\"} 0"));
  EXPECT_THAT(text, Not(HasSubstr("written_bytes_total")));
  EXPECT_THAT(text, Says("wyvern_host_cgroup_memory_bytes", "} 100"));
  EXPECT_THAT(text, Not(HasSubstr("wyvern_host_cgroup_memory_limit_bytes")));
  EXPECT_THAT(text, Says("wyvern_host_cgroup_oom_kills_total", "} 2"));
  EXPECT_THAT(text, Says("wyvern_vmm_up", "} 0"));
  EXPECT_THAT(text, Says("wyvern_guest_up", "} 0"));
  EXPECT_THAT(text, Says("wyvern_sandbox_containers", "} 1"));
}

TEST(SandboxFamiliesTest, VcpusDevicesUpcallsAndHotplug) {
  Observation seen;
  seen.vmm = VmmUsage{.counters = {{"exits.halt", 9},
                                   {"vcpus.running", 2},
                                   {"memory.boot_bytes", 256},
                                   {"pmem.dropped_writes", 3},
                                   {"hotplug.attached", 4},
                                   {"hotplug.unsettled_addresses", 1},
                                   {"upcall.streams", 5},
                                   {"upcall.pci_rescan.calls", 6},
                                   {"upcall.pci_rescan.micros", 3'000'000},
                                   {"upcall.pci_rescan.max_micros", 250'000},
                                   {"upcall.pci_rescan.failures.unavailable", 1}},
                      .devices = {{"c0-root", "blk", {{"bytes_read", 512}, {"reads", 1}}},
                                  {"balloon", "balloon", {{"actual_bytes", 77}}},
                                  {"mem", "mem", {{"plugged_bytes", 88}}},
                                  {"rng", "rng", {{"faults", 1}}}},
                      .vcpus = {{1, {{"halt", 9}}}}};
  const std::string text = TextOf(seen);
  EXPECT_THAT(text, Says("wyvern_vcpu_exits_total", ",vcpu=\"1\",reason=\"halt\"} 9"));
  EXPECT_THAT(text, Says("wyvern_vcpus_running", "} 2"));
  EXPECT_THAT(text, Says("wyvern_block_read_bytes_total", ",device=\"c0-root\"} 512"));
  EXPECT_THAT(text,
              Says("wyvern_block_operations_total", ",device=\"c0-root\",operation=\"read\"} 1"));
  EXPECT_THAT(text, Says("wyvern_balloon_bytes", ",device=\"balloon\"} 77"));
  EXPECT_THAT(text, Says("wyvern_memory_hotplugged_bytes", ",device=\"mem\"} 88"));
  EXPECT_THAT(text,
              Says("wyvern_device_counts", ",device=\"rng\",kind=\"rng\",counter=\"faults\"} 1"));
  EXPECT_THAT(text, Says("wyvern_machine_counts", ",counter=\"pmem.dropped_writes\"} 3"));
  EXPECT_THAT(text, Says("wyvern_hotplug_operations_total", ",outcome=\"attached\"} 4"));
  EXPECT_THAT(text, Says("wyvern_hotplug_unsettled_addresses", "} 1"));
  EXPECT_THAT(text, Says("wyvern_upcall_streams_total", "} 5"));
  EXPECT_THAT(text, Says("wyvern_upcall_duration_seconds_count", ",call=\"pci_rescan\"} 6"));
  EXPECT_THAT(text, Says("wyvern_upcall_duration_seconds_sum", ",call=\"pci_rescan\"} 3"));
  EXPECT_THAT(text, Says("wyvern_upcall_duration_max_seconds", ",call=\"pci_rescan\"} 0.25"));
  EXPECT_THAT(text,
              Says("wyvern_upcall_failures_total", ",call=\"pci_rescan\",code=\"unavailable\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("exits.halt"))) << "that of the vCPUs says it";
  EXPECT_THAT(text, HasSubstr("# TYPE wyvern_upcall_duration_seconds summary\n"));
}

TEST(SandboxFamiliesTest, WhatTheGuestSaysIsLabelledAsItsWord) {
  Observation seen;
  seen.guest = GuestUsage{.memory_total = 1000, .memory_free = 300, .buffers = 50, .cached = 200};
  seen.guest->memory_some_usec = 2'500'000;
  seen.containers = {{.id = "web",
                      .cpu_usec = 1'000'000,
                      .memory_current = 10,
                      .memory_limit = {},
                      .pids = 3,
                      .oom_kills = 1}};
  const std::string text = TextOf(seen, {{EventKind::kOom, 1}});
  EXPECT_THAT(text, Says("wyvern_guest_memory_used_bytes", ",source=\"guest\"} 450"));
  EXPECT_THAT(text, Says("wyvern_guest_pressure_stalled_seconds_total",
                         ",resource=\"memory\",share=\"some\",source=\"guest\"} 2.5"));
  EXPECT_THAT(text,
              Says("wyvern_container_memory_bytes", ",container=\"web\",source=\"guest\"} 10"));
  EXPECT_THAT(text, Not(HasSubstr("wyvern_container_memory_limit_bytes")));
  EXPECT_THAT(text, Says("wyvern_events_total", ",event=\"oom\"} 1"));
}

TEST(SandboxFamiliesTest, GuestThatContradictsItselfUsesNothing) {
  GuestUsage guest;
  guest.memory_total = 10;
  guest.memory_free = UINT64_MAX;
  guest.cached = UINT64_MAX;
  EXPECT_EQ(UsedMemory(guest), 0U);
}

// A VMM that its guest has taken over says what it likes.
TEST(SandboxFamiliesTest, HostileVmmIsBoundedAndStaysInItsLabels) {
  Observation seen;
  VmmUsage& vmm = seen.vmm.emplace();
  for (uint32_t i = 0; i < 1000; ++i) {
    const std::string name = "x\"} 1\nwyvern_host_process_pss_bytes{" + std::to_string(i);
    vmm.counters["upcall." + name + ".calls"] = i;
    vmm.counters[name + ".y"] = i;
    DeviceUsage device{name, "blk", {}};
    VcpuUsage vcpu{i, {}};
    for (int k = 0; k < 100; ++k) {
      device.counters[name + std::to_string(k)] = UINT64_MAX;
      vcpu.exits[name + std::to_string(k)] = UINT64_MAX;
    }
    vmm.devices.push_back(std::move(device));
    vmm.vcpus.push_back(std::move(vcpu));
  }
  const FamilySet set = FamiliesOf({"k8s.io", "pod"}, seen, {});
  EXPECT_EQ(set.Find("wyvern_vcpu_exits_total")->samples.size(), kMaxVcpus * kMaxCounters);
  EXPECT_EQ(set.Find("wyvern_device_counts")->samples.size(), kMaxDevices * kMaxCounters);
  EXPECT_EQ(set.Find("wyvern_host_process_pss_bytes"), nullptr);
  const std::string text = set.Text();
  EXPECT_LT(text.size(), 16U << 20U);
  EXPECT_THAT(text, Not(HasSubstr("\nwyvern_host_process_pss_bytes")));
}

}  // namespace
}  // namespace wyvern::observe
