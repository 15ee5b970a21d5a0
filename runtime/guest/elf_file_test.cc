#include "guest/elf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guest/testing/images.h"

namespace wyvern::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MakeKernel;
using testing::MakeModule;
using testing::Put;

std::string ElfErrorOf(const std::string& file) {
  const auto checked = CheckKernelElf(file);
  return checked ? "(no error)" : checked.error().message();
}

TEST(KernelElfTest, OtherFilesAreNamed) {
  EXPECT_THAT(ElfErrorOf(""), HasSubstr("not a kernel"));
  EXPECT_THAT(ElfErrorOf("\x7f"
                         "ELF"),
              HasSubstr("not a kernel"));
  std::string arm = MakeKernel("1");
  Put(arm, offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_AARCH64});
  EXPECT_THAT(ElfErrorOf(arm), HasSubstr("64-bit x86"));
}

TEST(KernelElfTest, NoPvhEntryHasARemedy) {
  EXPECT_THAT(ElfErrorOf(MakeKernel("1", 17)), HasSubstr("CONFIG_PVH=y"));
}

TEST(KernelElfTest, DamagedHeadersAreErrors) {
  const std::string good = MakeKernel("1");
  EXPECT_EQ(ElfErrorOf(good), "(no error)");
  for (size_t size = 0; size < sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) + 20; ++size) {
    EXPECT_NE(ElfErrorOf(good.substr(0, size)), "(no error)") << size;
  }
  std::string file = good;
  Put(file, offsetof(Elf64_Ehdr, e_phoff), ~uint64_t{0});
  EXPECT_NE(ElfErrorOf(file), "(no error)");
  file = good;
  Put(file, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_filesz), ~uint64_t{0});
  EXPECT_THAT(ElfErrorOf(file), HasSubstr("cut short"));
  file = good;
  Put(file, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), uint32_t{0xffffffff});  // n_namesz
  EXPECT_NE(ElfErrorOf(file), "(no error)");
}

TEST(KernelElfTest, ReleaseIsTheBanners) {
  EXPECT_EQ(KernelRelease(MakeKernel("6.1.0-50-cloud-amd64")), "6.1.0-50-cloud-amd64");
  EXPECT_EQ(KernelRelease("Linux version 6.1"), "");
  EXPECT_EQ(KernelRelease("Linux version "), "");
  EXPECT_EQ(KernelRelease(""), "");
}

TEST(ModuleInfoTest, DependsAndWishes) {
  const auto info = *ReadModuleInfo(MakeModule(
      {"license=GPL", "depends=a,b-c", "softdep=pre: crc32c post: x", "vermagic=6.1.0 SMP"}));
  EXPECT_EQ(info.release, "6.1.0");
  EXPECT_THAT(info.depends, ElementsAre("a", "b-c"));
  EXPECT_THAT(info.wishes, ElementsAre("crc32c"));
  EXPECT_THAT(ReadModuleInfo(MakeModule({"depends=", "vermagic=6.1.0 SMP"}))->depends,
              ElementsAre());
}

TEST(ModuleInfoTest, EveryTruncationIsAnError) {
  const std::string good = MakeModule({"depends=a", "vermagic=6.1.0 SMP"});
  EXPECT_TRUE(ReadModuleInfo(good));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(ReadModuleInfo(good.substr(0, size))) << size;
  }
}

TEST(ModuleInfoTest, DamagedFieldsAreErrors) {
  const std::string good = MakeModule({"vermagic=6.1.0 SMP"});
  std::string file = good;
  Put(file, offsetof(Elf64_Ehdr, e_shoff), ~uint64_t{0});
  EXPECT_FALSE(ReadModuleInfo(file));
  file = good;
  Put(file, offsetof(Elf64_Ehdr, e_shstrndx), uint16_t{0xffff});
  EXPECT_FALSE(ReadModuleInfo(file));
  file = good;
  Put(file, offsetof(Elf64_Ehdr, e_shentsize), uint16_t{1});
  EXPECT_FALSE(ReadModuleInfo(file));
  EXPECT_FALSE(ReadModuleInfo(MakeModule({"license=GPL"})));
  EXPECT_FALSE(ReadModuleInfo(MakeKernel("1")));
}

}  // namespace
}  // namespace wyvern::guest
