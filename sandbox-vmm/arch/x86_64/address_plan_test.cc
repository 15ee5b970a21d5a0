#include "arch/address_plan.h"

#include <limits>

#include <gtest/gtest.h>

#include "arch/x86_64/layout.h"

namespace wyvern::arch {
namespace {

void ExpectDisjoint(const AddressPlan& plan, uint64_t limit) {
  std::vector<AddressRange> ranges = plan.ram;
  ranges.push_back(plan.pci32);
  ranges.push_back(plan.ecam);
  ranges.push_back({.start = kIoApicAddress, .size = kHoleEnd - kIoApicAddress});
  for (const AddressRange& range : {plan.pmem, plan.hotplug, plan.pci64}) {
    if (range.size != 0) {
      ranges.push_back(range);
    }
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_LE(ranges[i].end(), limit);
    for (size_t j = i + 1; j < ranges.size(); ++j) {
      EXPECT_TRUE(ranges[i].end() <= ranges[j].start || ranges[j].end() <= ranges[i].start)
          << std::hex << ranges[i].start << " and " << ranges[j].start;
    }
  }
}

TEST(AddressPlanTest, BadSizesAreRefused) {
  for (const uint64_t ram : {uint64_t{0}, kMiB, 30 * kMiB, 33 * kMiB, 256 * kMiB + 4096,
                             std::numeric_limits<uint64_t>::max()}) {
    auto plan = PlanAddresses(ram, 0, 40);
    ASSERT_FALSE(plan.has_value()) << ram;
    EXPECT_EQ(plan.error().code(), Code::kInvalidArgument);
  }
}

TEST(AddressPlanTest, RamBeyondTheAddressBitsIsRefused) {
  EXPECT_EQ(PlanAddresses(64 * kGiB, 0, 36).error().code(), Code::kOutOfRange);
  EXPECT_EQ(PlanAddresses(1ULL << 62U, 0, 52).error().code(), Code::kOutOfRange);
  EXPECT_EQ(PlanAddresses(4 * kGiB, 0, 32).error().code(), Code::kOutOfRange);
}

TEST(AddressPlanTest, SmallRamIsOneRange) {
  auto plan = PlanAddresses(256 * kMiB, 0, 40);
  ASSERT_TRUE(plan.has_value());
  ASSERT_EQ(plan->ram.size(), 1U);
  EXPECT_EQ(plan->ram[0].end(), 256 * kMiB);
  EXPECT_GE(plan->pmem.start, 4 * kGiB);
  EXPECT_GE(plan->pci_buses, 8);
}

TEST(AddressPlanTest, LargeRamContinuesAboveTheHole) {
  auto plan = PlanAddresses(8 * kGiB, 0, 40);
  ASSERT_TRUE(plan.has_value());
  ASSERT_EQ(plan->ram.size(), 2U);
  EXPECT_EQ(plan->ram[0].size + plan->ram[1].size, 8 * kGiB);
  EXPECT_EQ(plan->ram[1].start, 4 * kGiB);
  EXPECT_GE(plan->pmem.start, plan->ram[1].end());
}

TEST(AddressPlanTest, RangesAreDisjointAlignedAndBelowTheLimit) {
  for (const unsigned bits : {32U, 36U, 39U, 40U, 46U, 52U}) {
    for (const uint64_t ram : {32 * kMiB, 256 * kMiB, 3 * kGiB - 2 * kMiB, 3 * kGiB,
                               3 * kGiB + 2 * kMiB, 16 * kGiB, 32 * kGiB}) {
      auto plan = PlanAddresses(ram, 0, bits);
      if (!plan) {
        continue;
      }
      ExpectDisjoint(*plan, 1ULL << bits);
      EXPECT_EQ(plan->pmem.start % (2 * kMiB), 0U);
      EXPECT_EQ(plan->pci64.start % kMiB, 0U);
    }
  }
}

TEST(AddressPlanTest, MemoryToPlugHasAWindowOfItsOwn) {
  for (const uint64_t hotplug : {2 * kMiB, 128 * kMiB, 3 * kGiB + 2 * kMiB, 32 * kGiB}) {
    auto plan = PlanAddresses(256 * kMiB, hotplug, 40);
    ASSERT_TRUE(plan.has_value()) << hotplug;
    ExpectDisjoint(*plan, 1ULL << 40U);
    EXPECT_EQ(plan->hotplug.size, hotplug);
    EXPECT_EQ(plan->hotplug.start % kGiB, 0U);
    EXPECT_GT(plan->pci64.size, 0U);
  }
  EXPECT_EQ(PlanAddresses(256 * kMiB, 4096, 40).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(PlanAddresses(256 * kMiB, 64 * kGiB, 36).error().code(), Code::kOutOfRange);
  EXPECT_EQ(PlanAddresses(256 * kMiB, 2 * kMiB, 32).error().code(), Code::kOutOfRange);
  EXPECT_EQ(PlanAddresses(256 * kMiB, ~uint64_t{0} - 2 * kMiB + 1, 52).error().code(),
            Code::kOutOfRange);
}

TEST(AddressPlanTest, FewAddressBitsLeaveNo64BitWindow) {
  auto plan = PlanAddresses(256 * kMiB, 0, 32);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->pmem.size, 0U);
  EXPECT_EQ(plan->pci64.size, 0U);
  EXPECT_GT(plan->pci32.size, 0U);
}

}  // namespace
}  // namespace wyvern::arch
