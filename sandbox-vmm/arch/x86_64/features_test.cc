#include "arch/x86_64/features.h"

#include <asm/kvm_para.h>

#include <optional>

#include <gtest/gtest.h>

#include "base/check.h"

namespace wyvern::arch {
namespace {

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
                      uint32_t edx) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

// A host that has everything.
std::vector<kvm_cpuid_entry2> GenerousHost() {
  constexpr uint32_t kAll = 0xffffffff;
  return {Leaf(0, 0, 0x1f, 1, 2, 3),
          Leaf(1, 0, 0x00a20f12, 0x07100800, kAll, kAll),
          Leaf(4, 0, 0x1c000121, 0, 0, 0),  // L1 data
          Leaf(4, 3, 0x1c03c163, 0, 0, 0),  // L3
          Leaf(6, 0, kAll, kAll, kAll, kAll),
          Leaf(7, 0, 1, kAll, kAll, kAll),
          Leaf(0xa, 0, kAll, kAll, kAll, kAll),
          Leaf(0xb, 0, 1, 2, 0x100, 77),
          Leaf(0xd, 0, 7, 832, 832, 0),
          Leaf(0x12, 0, kAll, kAll, kAll, kAll),
          Leaf(0x14, 0, kAll, kAll, kAll, kAll),
          Leaf(0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d),
          Leaf(0x40000001, 0, kAll, 0, 0, 0),
          Leaf(0x80000001, 0, 0, 0, kAll, kAll),
          Leaf(0x80000008, 0, 0x3028, 0, 0x7fff, 0),
          Leaf(0x8000000a, 0, 1, 8, 0, kAll),
          Leaf(0x8000001d, 3, 0x163, 0, 0, 0),
          Leaf(0x8000001e, 0, 9, 0x109, 2, 0),
          Leaf(0x8000001f, 0, kAll, kAll, kAll, kAll)};
}

std::optional<kvm_cpuid_entry2> Find(const std::vector<kvm_cpuid_entry2>& entries,
                                     uint32_t function, uint32_t index = 0) {
  for (const auto& entry : entries) {
    if (entry.function == function && entry.index == index) {
      return entry;
    }
  }
  return std::nullopt;
}

// One that must be there.
kvm_cpuid_entry2 Get(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                     uint32_t index = 0) {
  const auto entry = Find(entries, function, index);
  WV_CHECK(entry.has_value());
  return *entry;
}

std::vector<kvm_cpuid_entry2> Guest(uint32_t apic_id, uint32_t vcpus) {
  return GuestCpuid(GenerousHost(),
                    CpuIdentity{.apic_id = apic_id, .vcpus = vcpus, .tsc_deadline = true});
}

TEST(FeaturesTest, NestedVirtualizationIsHidden) {
  const auto cpuid = Guest(0, 1);
  EXPECT_EQ(Get(cpuid, 1).ecx & (1U << 5U), 0U);           // VMX
  EXPECT_EQ(Get(cpuid, 0x80000001).ecx & (1U << 2U), 0U);  // SVM
  EXPECT_EQ(Get(cpuid, 0x8000000a).edx, 0U);
}

TEST(FeaturesTest, HostOnlyFeaturesAreHidden) {
  const auto cpuid = Guest(0, 1);
  for (const uint32_t function : {0xaU, 0x12U, 0x14U, 0x8000001fU}) {
    const auto leaf = Get(cpuid, function);
    EXPECT_EQ(leaf.eax | leaf.ebx | leaf.ecx | leaf.edx, 0U) << std::hex << function;
  }
  EXPECT_EQ(Get(cpuid, 1).ecx & (1U << 3U), 0U);   // MONITOR
  EXPECT_EQ(Get(cpuid, 1).ecx & (1U << 15U), 0U);  // PDCM
  EXPECT_EQ(Get(cpuid, 7).ebx & (1U << 2U | 1U << 25U), 0U);
}

TEST(FeaturesTest, ParavirtualFeaturesAreAListOfOurs) {
  const uint32_t features = Get(Guest(0, 1), 0x40000001).eax;
  for (const unsigned on :
       {KVM_FEATURE_CLOCKSOURCE2, KVM_FEATURE_PV_EOI, KVM_FEATURE_NOP_IO_DELAY}) {
    EXPECT_NE(features & (1U << on), 0U) << on;
  }
  for (const unsigned off : {KVM_FEATURE_ASYNC_PF, KVM_FEATURE_ASYNC_PF_VMEXIT,
                             KVM_FEATURE_ASYNC_PF_INT, KVM_FEATURE_MSI_EXT_DEST_ID}) {
    EXPECT_EQ(features & (1U << off), 0U) << off;
  }
}

TEST(FeaturesTest, GuestKnowsThatItIsOneAndHasItsTimers) {
  const auto cpuid = Guest(0, 1);
  EXPECT_NE(Get(cpuid, 1).ecx & (1U << 31U), 0U);  // hypervisor
  EXPECT_NE(Get(cpuid, 1).ecx & (1U << 21U), 0U);  // x2APIC
  EXPECT_NE(Get(cpuid, 1).ecx & (1U << 24U), 0U);  // TSC deadline
  EXPECT_EQ(Get(cpuid, 6).eax, 1U << 2U);          // ARAT and nothing else
  const auto without = GuestCpuid(GenerousHost(), CpuIdentity{.tsc_deadline = false});
  EXPECT_EQ(Get(without, 1).ecx & (1U << 24U), 0U);
}

TEST(FeaturesTest, EachVcpuHasItsOwnApicId) {
  for (uint32_t id = 0; id < 8; ++id) {
    const auto cpuid = Guest(id, 8);
    EXPECT_EQ(Get(cpuid, 1).ebx >> 24U, id);
    EXPECT_EQ(Get(cpuid, 0xb, 0).edx, id);
    EXPECT_EQ(Get(cpuid, 0xb, 1).edx, id);
    EXPECT_EQ(Get(cpuid, 0x1f, 1).edx, id);
    EXPECT_EQ(Get(cpuid, 0x8000001e).eax, id);
  }
}

TEST(FeaturesTest, TopologyIsOneThreadPerCore) {
  const auto cpuid = Guest(2, 6);
  EXPECT_EQ(Get(cpuid, 1).ebx >> 16U & 0xffU, 6U);
  EXPECT_NE(Get(cpuid, 1).edx & (1U << 28U), 0U);  // HTT
  const auto threads = Get(cpuid, 0xb, 0);
  EXPECT_EQ(threads.eax, 0U);
  EXPECT_EQ(threads.ebx, 1U);
  EXPECT_EQ(threads.ecx, 0x100U);
  const auto cores = Get(cpuid, 0xb, 1);
  EXPECT_EQ(cores.eax, 3U);
  EXPECT_EQ(cores.ebx, 6U);
  EXPECT_EQ(cores.ecx, 0x201U);
  EXPECT_EQ(Get(cpuid, 0xb, 2).ebx, 0U);
  EXPECT_EQ(Get(cpuid, 0x80000008).ecx & 0xf0ffU, 0x3005U);
  EXPECT_EQ(Get(cpuid, 4, 0).eax >> 14U & 0xfffU, 0U);  // L1 is not shared
  EXPECT_EQ(Get(cpuid, 4, 3).eax >> 14U & 0xfffU, 7U);  // L3 is
  EXPECT_EQ(Get(cpuid, 0x8000001d, 3).eax >> 14U & 0xfffU, 7U);
  EXPECT_EQ(Get(Guest(0, 1), 1).edx & (1U << 28U), 0U);
}

TEST(FeaturesTest, NoLeafIsInventedThatTheHostDoesNotReach) {
  const std::vector<kvm_cpuid_entry2> old = {Leaf(0, 0, 7, 1, 2, 3), Leaf(1, 0, 0, 0, 0, 0)};
  const auto cpuid = GuestCpuid(old, CpuIdentity{.vcpus = 2});
  EXPECT_FALSE(Find(cpuid, 0xb).has_value());
  EXPECT_EQ(cpuid.size(), 2U);
}

TEST(FeaturesTest, PhysicalBitsFollowTheLeaf) {
  EXPECT_EQ(PhysicalBits(std::vector{Leaf(0x80000008, 0, 0x302e, 0, 0, 0)}), 46U);
  EXPECT_EQ(PhysicalBits(std::vector{Leaf(0x80000008, 0, 0x28302e, 0, 0, 0)}), 40U);
  EXPECT_EQ(PhysicalBits({}), 36U);
}

}  // namespace
}  // namespace wyvern::arch
