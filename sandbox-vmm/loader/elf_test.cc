#include "loader/elf.h"

#include <unistd.h>

#include <array>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loader/testing/elf_builder.h"

namespace wyvern::loader {
namespace {

using ::testing::HasSubstr;
using testing::TestElf;

constexpr uint64_t kTop = std::numeric_limits<uint64_t>::max();

std::string ErrorOf(const std::vector<std::byte>& bytes) {
  auto kernel = ParseElf(MemorySource(bytes), kMachineX86);
  return kernel ? "no error" : kernel.error().message();
}

std::string ErrorOf(const TestElf& elf) {
  return ErrorOf(elf.Build());
}

std::vector<std::byte> Bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST(ElfTest, OtherFilesAreNamedForWhatTheyAre) {
  std::vector<std::byte> bz_image(0x400);
  std::memcpy(bz_image.data() + 0x202, "HdrS", 4);
  EXPECT_THAT(ErrorOf(bz_image), HasSubstr("bzImage"));
  EXPECT_THAT(ErrorOf(Bytes("\x1f\x8b\x08")), HasSubstr("gzip"));
  EXPECT_THAT(ErrorOf(Bytes("\x28\xb5\x2f\xfd")), HasSubstr("zstd"));
  EXPECT_THAT(ErrorOf(Bytes("")), HasSubstr("not an ELF"));
  EXPECT_THAT(ErrorOf(Bytes("\x7f"
                            "ELF")),
              HasSubstr("not an ELF"));
}

TEST(ElfTest, OtherArchitecturesAndClassesAreRefused) {
  TestElf arm;
  arm.header.e_machine = EM_AARCH64;
  EXPECT_THAT(ErrorOf(arm), HasSubstr("another architecture"));
  TestElf small;
  small.header.e_ident[EI_CLASS] = ELFCLASS32;
  EXPECT_THAT(ErrorOf(small), HasSubstr("64-bit"));
  TestElf big_endian;
  big_endian.header.e_ident[EI_DATA] = ELFDATA2MSB;
  EXPECT_THAT(ErrorOf(big_endian), HasSubstr("little-endian"));
  TestElf object;
  object.header.e_type = ET_REL;
  EXPECT_THAT(ErrorOf(object), HasSubstr("no executable"));
}

// CVE-2022-23523 (linux-loader): sizes and offsets of the header were believed.
TEST(ElfTest, DamagedProgramHeadersAreRefused) {
  for (const uint64_t offset : {kTop, kTop - 8, uint64_t{1} << 40U}) {
    TestElf elf;
    elf.header.e_phoff = offset;
    EXPECT_THAT(ErrorOf(elf), HasSubstr("program headers"));
  }
  TestElf entry_size;
  entry_size.header.e_phentsize = 0;
  EXPECT_THAT(ErrorOf(entry_size), HasSubstr("program headers"));
  TestElf none;
  none.header.e_phnum = 0;
  EXPECT_THAT(ErrorOf(none), HasSubstr("program headers"));
  TestElf many;
  many.header.e_phnum = 0xffff;
  EXPECT_THAT(ErrorOf(many), HasSubstr("program headers"));
}

TEST(ElfTest, SegmentsOutsideOfTheFileAreRefused) {
  const auto damaged = [](auto damage) {
    TestElf elf;
    damage(&elf.programs[0]);
    return ErrorOf(elf);
  };
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_offset = kTop; }), HasSubstr("segment"));
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_offset = kTop - p->p_filesz + 1; }),
              HasSubstr("segment"));
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_filesz = p->p_memsz = kTop; }),
              HasSubstr("segment"));
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_filesz = p->p_memsz + 1; }), HasSubstr("segment"));
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_memsz = kTop; }), HasSubstr("segment"));
  EXPECT_THAT(damaged([](Elf64_Phdr* p) { p->p_paddr = kTop - 8; }), HasSubstr("segment"));
}

TEST(ElfTest, OverlappingSegmentsAreRefused) {
  TestElf elf;
  elf.programs.push_back(elf.programs[0]);
  elf.Layout();
  elf.programs[2].p_offset = elf.programs[0].p_offset;
  EXPECT_THAT(ErrorOf(elf), HasSubstr("overlap"));
}

TEST(ElfTest, DamagedNotesAreRefused) {
  TestElf outside;
  outside.programs[1].p_offset = kTop - 4;
  EXPECT_THAT(ErrorOf(outside), HasSubstr("notes"));
  TestElf huge;
  huge.programs[1].p_filesz = uint64_t{1} << 30U;
  EXPECT_THAT(ErrorOf(huge), HasSubstr("notes"));
  for (const size_t word : {size_t{0}, size_t{1}}) {
    TestElf elf;
    const uint32_t length = 0xffffffff;
    std::memcpy(elf.notes.data() + word * 4, &length, sizeof(length));
    EXPECT_THAT(ErrorOf(elf), HasSubstr("no PVH entry"));
  }
}

TEST(ElfTest, LinuxLoaderGhsa52h2_NoteLengthsThatOverflowEndTheSearch) {
  // Lengths whose sum is 0 in 32 bits, with the note's header, with padding: the search stood still.
  constexpr uint32_t kHeader = 12;
  const std::vector<std::array<uint32_t, 2>> lengths = {{0U - kHeader, 0},
                                                        {0, 0U - kHeader},
                                                        {0x80000000U - kHeader, 0x80000000U},
                                                        {0xfffffffaU, 0xfffffffaU},
                                                        {0xfffffffdU, 4}};
  for (const auto& pair : lengths) {
    TestElf elf;
    std::memcpy(elf.notes.data(), pair.data(), sizeof(pair));
    EXPECT_THAT(ErrorOf(elf), HasSubstr("no PVH entry")) << std::hex << pair[0] << " " << pair[1];
  }
}

TEST(ElfTest, KernelWithoutPvhEntryIsRefused) {
  TestElf other_type;
  const uint32_t type = 17;
  std::memcpy(other_type.notes.data() + 8, &type, sizeof(type));
  EXPECT_THAT(ErrorOf(other_type), HasSubstr("no PVH entry"));
  EXPECT_THAT(ErrorOf(other_type), HasSubstr("CONFIG_PVH"));
  TestElf other_owner;
  std::memcpy(other_owner.notes.data() + 12, "Xxx", 4);
  EXPECT_THAT(ErrorOf(other_owner), HasSubstr("no PVH entry"));
}

TEST(ElfTest, EntryOutsideOfTheSegmentsIsRefused) {
  for (const uint64_t entry : {uint64_t{0}, TestElf::kLoadAddress - 1,
                               TestElf::kLoadAddress + 0x200,  // zero-filled part
                               (uint64_t{1} << 32U) + TestElf::kLoadAddress, kTop}) {
    TestElf elf;
    elf.notes.clear();
    elf.AddNote("Xen", 18, std::as_bytes(std::span(&entry, 1)));
    elf.Layout();
    EXPECT_THAT(ErrorOf(elf), HasSubstr("outside")) << std::hex << entry;
  }
}

TEST(ElfTest, EntryIsFoundBehindOtherNotes) {
  TestElf elf;
  elf.notes.clear();
  const uint32_t entry = TestElf::kLoadAddress + 0x20;
  elf.AddNote("GNU", 3, std::as_bytes(std::span("abcdefg", 7)));
  elf.AddNote("Xen", 18, std::as_bytes(std::span(&entry, 1)));
  elf.Layout();
  const auto bytes = elf.Build();
  auto kernel = ParseElf(MemorySource(bytes), kMachineX86);
  ASSERT_TRUE(kernel.has_value()) << kernel.error().message();
  EXPECT_EQ(kernel->pvh_entry, entry);
  ASSERT_EQ(kernel->segments.size(), 1U);
  EXPECT_EQ(kernel->segments[0].memory_size, 0x1000U);
}

TEST(ElfTest, EveryTruncationIsAnErrorOrTheSameKernel) {
  const auto bytes = TestElf().Build();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ParseElf(MemorySource(std::span(bytes).first(size)), kMachineX86).has_value())
        << size;
  }
}

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto bytes = TestElf().Build();
    file_ = *MakeMemfd("kernel", 0);
    ASSERT_TRUE(WriteAll(file_, bytes).has_value());
    kernel_ = *ParseElf(MemorySource(bytes), kMachineX86);
    std::vector<mem::RegionSpec> regions(1);
    regions[0].size = 32 << 20U;
    memory_ = *mem::GuestMemory::Create(std::move(regions));
  }

  UniqueFd file_;
  ElfKernel kernel_;
  std::shared_ptr<const mem::GuestMemory> memory_;
};

TEST_F(LoadTest, SegmentsOutsideOfTheAllowedRangeAreRefused) {
  constexpr uint64_t kEnd = 32 << 20U;
  EXPECT_FALSE(LoadSegments(kernel_, file_, *memory_, TestElf::kLoadAddress + 1, kEnd).has_value());
  EXPECT_FALSE(
      LoadSegments(kernel_, file_, *memory_, 0, TestElf::kLoadAddress + 0xfff).has_value());
  kernel_.segments[0].address = kEnd - 0xfff;
  EXPECT_FALSE(LoadSegments(kernel_, file_, *memory_, 0, kTop).has_value());
}

TEST_F(LoadTest, SegmentsArriveInMemory) {
  auto end = LoadSegments(kernel_, file_, *memory_, 0, 32 << 20U);
  ASSERT_TRUE(end.has_value()) << end.error().message();
  EXPECT_EQ(*end, TestElf::kLoadAddress + 0x1000);
  EXPECT_EQ(memory_->Read<uint8_t>(mem::Gpa{TestElf::kLoadAddress + 0x1ff}).value(), 0xf4);
  EXPECT_EQ(memory_->Read<uint8_t>(mem::Gpa{TestElf::kLoadAddress + 0x200}).value(), 0);
}

TEST_F(LoadTest, FileThatShrinksMeanwhileIsAnError) {
  ASSERT_EQ(::ftruncate(file_.get(), 200), 0);
  EXPECT_EQ(LoadSegments(kernel_, file_, *memory_, 0, 32 << 20U).error().code(), Code::kDataLoss);
}

TEST(FdSourceTest, OnlyRegularFilesAreKernels) {
  auto pipe = *MakePipe();
  EXPECT_EQ(FdSource::Create(pipe.read).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::loader
