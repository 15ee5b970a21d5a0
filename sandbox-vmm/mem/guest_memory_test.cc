#include "mem/guest_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "base/endian.h"

namespace wyvern::mem {
namespace {

constexpr uint64_t kMiB = 1ULL << 20U;
constexpr uint64_t kTop = std::numeric_limits<uint64_t>::max();

RegionSpec Anonymous(uint64_t start, uint64_t size, bool read_only = false) {
  RegionSpec spec;
  spec.start = Gpa{start};
  spec.size = size;
  spec.read_only = read_only;
  return spec;
}

std::shared_ptr<const GuestMemory> Make(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) {
  std::vector<RegionSpec> specs;
  specs.reserve(ranges.size());
  for (auto [start, size] : ranges) {
    specs.push_back(Anonymous(start, size));
  }
  auto memory = GuestMemory::Create(std::move(specs));
  EXPECT_TRUE(memory.has_value());
  return *memory;
}

Code CreateError(std::vector<RegionSpec> specs) {
  auto memory = GuestMemory::Create(std::move(specs));
  return memory ? Code::kOk : memory.error().code();
}

std::vector<RegionSpec> Specs(RegionSpec a) {
  std::vector<RegionSpec> specs;
  specs.push_back(std::move(a));
  return specs;
}

// A file's first page begins with its letter.
RegionSpec FileRegion(uint64_t start, uint64_t size, char letter) {
  RegionSpec spec = Anonymous(start, size, true);
  spec.fd = *MakeMemfd("test", size);
  EXPECT_EQ(::pwrite(spec.fd.get(), &letter, 1, 0), 1);
  return spec;
}

template <typename... More>
std::vector<RegionSpec> Specs(RegionSpec a, More... more) {
  std::vector<RegionSpec> specs = Specs(std::move(a));
  (specs.push_back(std::move(more)), ...);
  return specs;
}

TEST(GuestMemoryTest, AccessPastTheEndFaultsAndChangesNothing) {
  auto memory = Make({{0, kMiB}});
  const uint64_t all_ones = kTop;
  EXPECT_EQ(memory->Write(Gpa{kMiB - 4}, all_ones).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory->Read<uint32_t>(Gpa{kMiB - 4}).value(), 0U);
  EXPECT_EQ(memory->Read<uint64_t>(Gpa{kMiB - 7}).error(), MemFault::kOutOfRange);
  EXPECT_TRUE(memory->Read<uint64_t>(Gpa{kMiB - 8}).has_value());
}

TEST(GuestMemoryTest, AddressArithmeticDoesNotWrap) {
  auto memory = Make({{0, kMiB}, {kTop - 2 * kMiB + 1, kMiB}});
  std::array<std::byte, 16> buffer{};
  EXPECT_EQ(memory->ReadBytes(Gpa{kTop - 7}, buffer).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory->ReadBytes(Gpa{kTop}, buffer).error(), MemFault::kOutOfRange);
  EXPECT_FALSE(memory->Contains(Gpa{8}, kTop));
  EXPECT_FALSE(memory->Contains(Gpa{kTop}, kTop));
  EXPECT_EQ(memory->Map(Gpa{4096}, kTop - 4096, 2, true).error(), MemFault::kOutOfRange);
  std::vector<iovec> parts;
  EXPECT_EQ(memory->ToIovecs(Gpa{1}, kTop, true, 8, &parts).error(), MemFault::kOutOfRange);
}

// CVE-2023-41051 (vm-memory): a slice shorter than what was asked for was taken for the whole.
TEST(GuestMemoryTest, HoleInsideTheRangeFaults) {
  auto memory = Make({{0, kMiB}, {2 * kMiB, kMiB}});
  std::vector<std::byte> buffer(2 * kMiB);
  EXPECT_EQ(memory->ReadBytes(Gpa{kMiB / 2}, buffer).error(), MemFault::kOutOfRange);
  EXPECT_FALSE(memory->Contains(Gpa{kMiB}, 1));
  EXPECT_FALSE(memory->Contains(Gpa{kMiB}, 0));
}

TEST(GuestMemoryTest, AdjacentRegionsAreOneRange) {
  auto memory = Make({{kMiB, kMiB}, {0, kMiB}});
  const std::string_view text = "across the border";
  ASSERT_TRUE(memory->WriteBytes(Gpa{kMiB - 5}, std::as_bytes(std::span(text))).has_value());
  std::array<char, 17> back{};
  ASSERT_TRUE(
      memory->ReadBytes(Gpa{kMiB - 5}, std::as_writable_bytes(std::span(back))).has_value());
  EXPECT_EQ(std::string_view(back.data(), back.size()), text);
  std::vector<iovec> parts;
  ASSERT_TRUE(memory->ToIovecs(Gpa{kMiB - 5}, text.size(), true, 2, &parts).has_value());
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].iov_len, 5U);
  EXPECT_EQ(parts[1].iov_len, text.size() - 5);
  EXPECT_EQ(std::memcmp(parts[1].iov_base, text.data() + 5, text.size() - 5), 0);
  // One area may not span two regions: they are two mappings.
  EXPECT_EQ(memory->Map(Gpa{kMiB - 4}, 8, 2, true).error(), MemFault::kOutOfRange);
}

TEST(GuestMemoryTest, TooManyPartsLeavesTheOutputAsItWas) {
  auto memory = Make({{0, kMiB}, {kMiB, kMiB}});
  std::vector<iovec> parts(3);
  EXPECT_EQ(memory->ToIovecs(Gpa{kMiB - 1}, 2, false, 1, &parts).error(), MemFault::kTooManyParts);
  EXPECT_EQ(parts.size(), 3U);
}

TEST(GuestMemoryTest, ReadOnlyRegionRefusesWrites) {
  auto memory = *GuestMemory::Create(Specs(Anonymous(0, kMiB, true)));
  std::vector<iovec> parts;
  EXPECT_EQ(memory->Write<uint8_t>(Gpa{0}, 1).error(), MemFault::kReadOnly);
  EXPECT_EQ(memory->ToIovecs(Gpa{0}, 1, true, 8, &parts).error(), MemFault::kReadOnly);
  EXPECT_TRUE(memory->ToIovecs(Gpa{0}, 1, false, 8, &parts).has_value());
  EXPECT_EQ(memory->Map(Gpa{0}, 16, 2, true).error(), MemFault::kReadOnly);
  EXPECT_TRUE(memory->Map(Gpa{0}, 16, 2, false).has_value());
}

TEST(GuestMemoryTest, CreateRefusesBadRegions) {
  EXPECT_EQ(CreateError({}), Code::kInvalidArgument);
  EXPECT_EQ(CreateError(Specs(Anonymous(0, 0))), Code::kInvalidArgument);
  EXPECT_EQ(CreateError(Specs(Anonymous(0, 4095))), Code::kInvalidArgument);
  EXPECT_EQ(CreateError(Specs(Anonymous(1, 4096))), Code::kInvalidArgument);
  EXPECT_EQ(CreateError(Specs(Anonymous(kTop - 4095, 8192))), Code::kInvalidArgument);
  EXPECT_EQ(CreateError(Specs(Anonymous(0, kTop - 4095))), Code::kInvalidArgument);
  auto overlapping = Specs(Anonymous(0, 8192));
  overlapping.push_back(Anonymous(4096, 8192));
  EXPECT_EQ(CreateError(std::move(overlapping)), Code::kInvalidArgument);
}

TEST(GuestMemoryTest, FileSmallerThanItsRegionIsRefused) {
  RegionSpec spec = Anonymous(0, 2 * kMiB);
  spec.fd = *MakeMemfd("test", kMiB);
  EXPECT_EQ(CreateError(Specs(std::move(spec))), Code::kInvalidArgument);
  RegionSpec offset = Anonymous(0, kMiB);
  offset.fd = *MakeMemfd("test", kMiB);
  offset.fd_offset = 4096;
  EXPECT_EQ(CreateError(Specs(std::move(offset))), Code::kInvalidArgument);
}

TEST(GuestMemoryTest, MemfdIsSharedWithOtherMappings) {
  RegionSpec spec = Anonymous(4 * kMiB, kMiB);
  spec.fd = *MakeMemfd("test", 2 * kMiB);
  spec.fd_offset = kMiB;
  auto other = *spec.fd.Duplicate();
  auto memory = *GuestMemory::Create(Specs(std::move(spec)));
  ASSERT_TRUE(memory->Write<Le32>(Gpa{4 * kMiB + 16}, 0xfeedU).has_value());
  Le32 seen;
  ASSERT_EQ(::pread(other.get(), &seen, sizeof(seen), kMiB + 16), 4);
  EXPECT_EQ(seen, 0xfeedU);
  const RegionInfo& info = memory->regions()[0];
  EXPECT_TRUE(info.fd.valid());
  EXPECT_EQ(info.fd_offset, kMiB);
}

TEST(GuestMemoryTest, HostAndGuestAddressAgreeModuloHugePages) {
  auto memory = Make({{0, kMiB}, {3 * kMiB, 5 * kMiB}, {1ULL << 32U, 4 * kMiB}});
  for (const RegionInfo& info : memory->regions()) {
    EXPECT_EQ(info.host_address % (2 * kMiB), Raw(info.start) % (2 * kMiB));
  }
}

// Of huge pages the kernel maps whole ones, at addresses that are multiples of them. No page is
// touched here: the host need not have any.
class HugePageFileTest : public ::testing::TestWithParam<unsigned> {
 protected:
  void SetUp() override {
    file_ = MakeMemfd("wv-huge", 2 * page(), MFD_HUGETLB | (GetParam() << MFD_HUGE_SHIFT))
                .value_or(UniqueFd());
    if (!file_.valid()) {
      GTEST_SKIP() << "this host has no huge pages of " << (page() >> 20U) << " MiB";
    }
  }

  static uint64_t page() { return uint64_t{1} << GetParam(); }

  Result<std::shared_ptr<const GuestMemory>> Map(uint64_t start, uint64_t size, uint64_t offset) {
    RegionSpec spec = Anonymous(start, size);
    spec.fd = *file_.Duplicate();
    spec.fd_offset = offset;
    return GuestMemory::Create(Specs(std::move(spec)));
  }

  struct Area {
    uint64_t begin = 0;
    uint64_t end = 0;
    uint64_t offset = 0;
  };

  // Where the file is mapped in this process.
  static std::vector<Area> Mapped() {
    std::vector<Area> areas;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      Area area;
      if (line.find("wv-huge") != std::string::npos &&
          std::sscanf(line.c_str(), "%lx-%lx %*s %lx", &area.begin, &area.end, &area.offset) == 3) {
        areas.push_back(area);
      }
    }
    return areas;
  }

  // The region is mapped once, from its offset of the file on, and nothing of it is left afterwards.
  void ExpectMapped(uint64_t start, uint64_t size, uint64_t offset) {
    auto memory = Map(start, size, offset);
    ASSERT_TRUE(memory.has_value()) << memory.error().message();
    const RegionInfo info = (*memory)->regions()[0];
    const std::vector<Area> areas = Mapped();
    ASSERT_EQ(areas.size(), 1U);
    EXPECT_EQ(areas[0].begin % page(), 0U);
    EXPECT_EQ(info.host_address - areas[0].begin, offset - areas[0].offset);
    EXPECT_LE(info.host_address + size, areas[0].end);
    EXPECT_EQ(info.size, size);
    EXPECT_EQ(info.fd_offset, offset);
    memory->reset();
    EXPECT_TRUE(Mapped().empty());
  }

  UniqueFd file_;
};

TEST_P(HugePageFileTest, WholePagesAreMappedWhereGuestAndHostAgree) {
  ExpectMapped(0, page(), 0);
  ExpectMapped(4 * page(), 2 * page(), 0);
  ExpectMapped(page(), page(), page());
  const auto memory = Map(4 * page(), page(), page());
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ((*memory)->regions()[0].host_address % page(), 0U);
}

TEST_P(HugePageFileTest, PartOfAPageIsMappedAndNothingBehindIt) {
  // As QEMU's RAM above the hole for legacy devices.
  ExpectMapped(0xc0000, page() - 0xc0000, 0xc0000);
  ExpectMapped(0, 4096, 0);
  ExpectMapped(0, 4096, 2 * page() - 4096);
  ExpectMapped(page() - 4096, page() + 4096, page() - 4096);
}

TEST_P(HugePageFileTest, AmongSeveralRegionsItIsRefused) {
  RegionSpec spec = Anonymous(4 * page(), page());
  spec.fd = *file_.Duplicate();
  const auto memory =
      Make({{0, kMiB}})->WithAdjacentRegions(Specs(std::move(spec), Anonymous(5 * page(), 4096)));
  ASSERT_FALSE(memory.has_value());
  EXPECT_EQ(memory.error().code(), Code::kInvalidArgument);
}

TEST_P(HugePageFileTest, RegionBehindTheFilesEndIsRefused) {
  for (const auto& memory : {Map(0, 2 * page() + 4096, 0), Map(0, 4096, 2 * page())}) {
    ASSERT_FALSE(memory.has_value());
    EXPECT_EQ(memory.error().code(), Code::kInvalidArgument);
  }
  EXPECT_TRUE(Mapped().empty());
}

INSTANTIATE_TEST_SUITE_P(Memory, HugePageFileTest, ::testing::Values(21U, 30U),
                         [](const auto& info) {
                           return std::to_string((uint64_t{1} << info.param) >> 20U) + "MiB";
                         });

TEST(GuestMemoryTest, WithRegionSharesTheOldRegions) {
  auto before = Make({{0, kMiB}});
  auto after = *before->WithRegion(Anonymous(8 * kMiB, kMiB));
  ASSERT_TRUE(after->Write<uint32_t>(Gpa{64}, 7).has_value());
  EXPECT_EQ(before->Read<uint32_t>(Gpa{64}).value(), 7U);
  EXPECT_FALSE(before->Contains(Gpa{8 * kMiB}, 1));
  EXPECT_TRUE(after->Contains(Gpa{8 * kMiB}, kMiB));
  EXPECT_EQ(before->WithRegion(Anonymous(0, 4096)).error().code(), Code::kInvalidArgument);
}

TEST(GuestMemoryTest, AdjacentRegionsFollowEachOtherOnTheHostToo) {
  auto before = Make({{0, kMiB}});
  auto after = *before->WithAdjacentRegions(
      Specs(FileRegion(8 * kMiB, 4096, 'a'), Anonymous(8 * kMiB + 4096, 2 * kMiB - 4096, true),
            FileRegion(10 * kMiB, 3 * kMiB, 'b'), FileRegion(13 * kMiB, 8192, 'c')));
  ASSERT_EQ(after->regions().size(), 5U);
  const std::span<const RegionInfo> added = after->regions().subspan(1);
  for (const RegionInfo& info : added) {
    EXPECT_EQ(info.host_address - added[0].host_address, Raw(info.start) - 8 * kMiB);
  }
  EXPECT_EQ(added[0].host_address % (2 * kMiB), 0U);
  EXPECT_FALSE(added[1].fd.valid());
  EXPECT_EQ(after->Read<char>(Gpa{8 * kMiB}).value(), 'a');
  EXPECT_EQ(after->Read<char>(Gpa{8 * kMiB + 4096}).value(), '\0');
  EXPECT_EQ(after->Read<char>(Gpa{10 * kMiB}).value(), 'b');
  EXPECT_EQ(after->Read<char>(Gpa{13 * kMiB}).value(), 'c');
  EXPECT_FALSE(after->Contains(Gpa{13 * kMiB + 8192}, 1));
  EXPECT_FALSE(before->Contains(Gpa{8 * kMiB}, 1));
  // What one of them is part of outlives the others.
  auto area = after->Map(Gpa{13 * kMiB}, 64, 2, false).value();
  after = *after->WithoutRegion(Gpa{8 * kMiB});
  EXPECT_EQ(after->Read<char>(Gpa{10 * kMiB}).value(), 'b');
  after.reset();
  EXPECT_EQ(area.Load16(0), 'c');
}

TEST(GuestMemoryTest, RegionsThatAreNotAdjacentAreNotAddedTogether) {
  auto memory = Make({{0, kMiB}});
  const auto add = [&](auto... specs) {
    const auto added = memory->WithAdjacentRegions(Specs(std::move(specs)...));
    return added ? Code::kOk : added.error().code();
  };
  EXPECT_EQ(memory->WithAdjacentRegions({}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(add(FileRegion(8 * kMiB, 4096, 'a'), FileRegion(8 * kMiB + 4096, 4096, 'b')),
            Code::kOk);
  EXPECT_EQ(add(FileRegion(8 * kMiB, 4096, 'a'), FileRegion(8 * kMiB + 8192, 4096, 'b')),
            Code::kInvalidArgument);
  EXPECT_EQ(add(FileRegion(8 * kMiB, 8192, 'a'), FileRegion(8 * kMiB + 4096, 4096, 'b')),
            Code::kInvalidArgument);
  EXPECT_EQ(add(FileRegion(8 * kMiB, 4096, 'a'), FileRegion(4 * kMiB, 4096, 'b')),
            Code::kInvalidArgument);
  EXPECT_EQ(add(Anonymous(8 * kMiB, 4096), Anonymous(8 * kMiB + 4096, 0)), Code::kInvalidArgument);
  // Together as large as the address space: sums of their sizes must not wrap.
  constexpr uint64_t kQuarter = uint64_t{1} << 62U;
  EXPECT_EQ(add(Anonymous(8192, kQuarter), Anonymous(8192 + kQuarter, kQuarter),
                Anonymous(8192 + 2 * kQuarter, kQuarter),
                Anonymous(8192 + 3 * kQuarter, kQuarter - 16384)),
            Code::kInvalidArgument);
  EXPECT_EQ(memory->regions().size(), 1U);
}

TEST(GuestMemoryTest, WithoutRegionLeavesTheOthersAndTheOldList) {
  auto before = Make({{0, kMiB}, {8 * kMiB, kMiB}});
  auto after = *before->WithoutRegion(Gpa{8 * kMiB});
  EXPECT_FALSE(after->Contains(Gpa{8 * kMiB}, 1));
  EXPECT_EQ(after->Read<uint32_t>(Gpa{8 * kMiB}).error(), MemFault::kOutOfRange);
  ASSERT_TRUE(after->Write<uint32_t>(Gpa{64}, 7).has_value());
  EXPECT_EQ(before->Read<uint32_t>(Gpa{64}).value(), 7U);
  EXPECT_TRUE(before->Contains(Gpa{8 * kMiB}, kMiB));
  EXPECT_EQ(before->WithoutRegion(Gpa{kMiB}).error().code(), Code::kNotFound);
  EXPECT_EQ(after->WithoutRegion(Gpa{0}).error().code(), Code::kFailedPrecondition);
}

class FreeRangeTest : public ::testing::TestWithParam<bool> {
 protected:
  // Two adjacent regions of RAM in one memfd (or anonymous), with file content before and behind
  // that is not theirs, and a read-only and an ordinary region above.
  void SetUp() override {
    std::vector<RegionSpec> specs;
    if (GetParam()) {
      file_ = *MakeMemfd("test", 4 * kMiB);
      EXPECT_TRUE(WriteAll(file_, std::string(4 * kMiB, 'h')));
    }
    for (uint64_t i = 0; i < 2; ++i) {
      specs.push_back(Anonymous(i * kMiB, kMiB));
      specs.back().guest_ram = true;
      if (GetParam()) {
        specs.back().fd = *file_.Duplicate();
        specs.back().fd_offset = (i + 1) * kMiB;
      }
    }
    specs.push_back(Anonymous(8 * kMiB, kMiB, true));
    specs.push_back(Anonymous(16 * kMiB, kMiB));
    memory_ = *GuestMemory::Create(std::move(specs));
    const std::string full(2 * kMiB, 'g');
    EXPECT_TRUE(memory_->WriteBytes(Gpa{0}, std::as_bytes(std::span(full))));
  }

  // The first byte of each page in [0, 2 MiB) as it reads now: 'g' or 0.
  bool PagesAre(uint64_t from, uint64_t to, char value) const {
    for (uint64_t at = from; at < to; at += 4096) {
      if (memory_->Read<char>(Gpa{at}).value() != value) {
        return false;
      }
    }
    return true;
  }

  UniqueFd file_;
  std::shared_ptr<const GuestMemory> memory_;
};

TEST_P(FreeRangeTest, RangeReadsAsZerosAndItsNeighboursStay) {
  ASSERT_TRUE(memory_->FreeRange(Gpa{8192}, 16384));
  EXPECT_TRUE(PagesAre(0, 8192, 'g'));
  EXPECT_TRUE(PagesAre(8192, 8192 + 16384, 0));
  EXPECT_TRUE(PagesAre(8192 + 16384, 2 * kMiB, 'g'));
  ASSERT_TRUE(memory_->Write<char>(Gpa{8192}, 'n'));
  EXPECT_EQ(memory_->Read<char>(Gpa{8192}).value(), 'n');
}

TEST_P(FreeRangeTest, WholeRegionsAreFreed) {
  ASSERT_TRUE(memory_->FreeRange(Gpa{0}, kMiB));
  ASSERT_TRUE(memory_->FreeRange(Gpa{kMiB}, kMiB));
  EXPECT_TRUE(PagesAre(0, 2 * kMiB, 0));
}

TEST_P(FreeRangeTest, Ch326cd8807_RangeThatCrossesARegionIsRefused) {
  EXPECT_EQ(memory_->FreeRange(Gpa{kMiB - 4096}, 8192).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory_->FreeRange(Gpa{2 * kMiB - 4096}, 8192).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory_->FreeRange(Gpa{0}, 2 * kMiB).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory_->FreeRange(Gpa{0}, kTop - 4095).error(), MemFault::kOutOfRange);
  EXPECT_EQ(memory_->FreeRange(Gpa{kTop - 4095}, 8192).error(), MemFault::kOutOfRange);
  EXPECT_TRUE(PagesAre(0, 2 * kMiB, 'g'));
  if (file_.valid()) {
    char byte = 0;
    ASSERT_EQ(::pread(file_.get(), &byte, 1, 0), 1);
    EXPECT_EQ(byte, 'h');
    ASSERT_EQ(::pread(file_.get(), &byte, 1, static_cast<off_t>(3 * kMiB)), 1);
    EXPECT_EQ(byte, 'h');
  }
}

TEST_P(FreeRangeTest, PiecesOfPagesAndNothingAreRefused) {
  EXPECT_EQ(memory_->FreeRange(Gpa{1}, 4096).error(), MemFault::kUnaligned);
  EXPECT_EQ(memory_->FreeRange(Gpa{0}, 4095).error(), MemFault::kUnaligned);
  EXPECT_EQ(memory_->FreeRange(Gpa{0}, 0).error(), MemFault::kOutOfRange);
}

TEST_P(FreeRangeTest, OnlyRamIsGivenBack) {
  EXPECT_EQ(memory_->FreeRange(Gpa{8 * kMiB}, 4096).error(), MemFault::kReadOnly);
  EXPECT_EQ(memory_->FreeRange(Gpa{16 * kMiB}, 4096).error(), MemFault::kNotRam);
  EXPECT_EQ(memory_->FreeRange(Gpa{4 * kMiB}, 4096).error(), MemFault::kOutOfRange);
}

INSTANTIATE_TEST_SUITE_P(Memory, FreeRangeTest, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Memfd" : "Anonymous");
});

TEST(GuestMemoryTest, MemoryThatTheHostWillNotTakeBackStaysAsItWas) {
  RegionSpec spec = Anonymous(0, kMiB);
  spec.fd = *MakeMemfd("test", kMiB, MFD_ALLOW_SEALING);
  spec.guest_ram = true;
  auto sealed = *spec.fd.Duplicate();
  auto memory = *GuestMemory::Create(Specs(std::move(spec)));
  ASSERT_TRUE(memory->Write<char>(Gpa{0}, 'g'));
  // No writes by system calls any more, and so no holes; the mapping that is there may still write.
  ASSERT_EQ(::fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  EXPECT_EQ(memory->FreeRange(Gpa{0}, 4096).error(), MemFault::kHostRefused);
  EXPECT_EQ(memory->Read<char>(Gpa{0}).value(), 'g');
}

TEST(MappedAreaTest, AreaOutlivesTheMemory) {
  auto memory = Make({{0, kMiB}});
  auto area = memory->Map(Gpa{4096}, 64, 16, true).value();
  memory.reset();
  area.Store16(2, 0x1234);
  area.StoreRelease16(4, 0x5678);
  EXPECT_EQ(area.LoadAcquire16(2), 0x1234);
  EXPECT_EQ(area.Load16(4), 0x5678);
  std::array<std::byte, 4> raw{};
  area.Read(2, raw);
  EXPECT_EQ(raw[0], std::byte{0x34});
  EXPECT_EQ(raw[3], std::byte{0x56});
}

TEST(MappedAreaTest, UnalignedStartIsAFault) {
  auto memory = Make({{0, kMiB}});
  EXPECT_EQ(memory->Map(Gpa{4097}, 64, 2, true).error(), MemFault::kUnaligned);
  EXPECT_EQ(memory->Map(Gpa{4098}, 64, 4, true).error(), MemFault::kUnaligned);
}

TEST(MappedAreaDeathTest, OffsetPastTheAreaAborts) {
  auto memory = Make({{0, kMiB}});
  auto area = memory->Map(Gpa{0}, 64, 2, true).value();
  EXPECT_DEATH(area.Load16(63), "CHECK failed");
  EXPECT_DEATH(area.Store16(1, 0), "CHECK failed");
  EXPECT_DEATH(area.Store16(kTop, 0), "CHECK failed");
}

}  // namespace
}  // namespace wyvern::mem
