#include "guest/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/fd.h"
#include "guest/initramfs.h"
#include "guest/modules.h"
#include "guest/testing/images.h"

namespace wyvern::guest {
namespace {

namespace fs = std::filesystem;
using testing::Compress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MakeBzImage;
using testing::MakeKernel;
using testing::MakeModule;

constexpr char kRelease[] = "6.1.0-test";

// A kernel with virtio built in; erofs is a module that needs libcrc32c, virtiofs one that needs fuse.
class ImportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "wyvern-import-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directories(tree() + "/kernel/fs");
    Write("lib/6.1.0-test/modules.builtin",
          "kernel/a/virtio_pci.ko\nkernel/virtio_pmem.ko\nkernel/nd_pmem.ko\n"
          "kernel/vmw_vsock_virtio_transport.ko\n");
    AddModule("erofs.ko", {"depends=libcrc32c"});
    AddModule("libcrc32c.ko", {"softdep=pre: crc32c"});
    AddModule("crc32c_generic.ko", {});
    AddModule("fuse.ko", {});
    Write("lib/6.1.0-test/kernel/fs/virtiofs.ko.xz",
          Compress(MakeModule({"depends=fuse", Vermagic()}), ARCHIVE_FILTER_XZ));
    const std::string kernel = MakeKernel(kRelease);
    Write("vmlinuz", MakeBzImage(Compress(kernel, ARCHIVE_FILTER_ZSTD),
                                 static_cast<uint32_t>(kernel.size()), true, kRelease));
    Write("vmlinux", kernel);
    Write("image", testing::MakeErofs("the agent"));
    options_ = {.kernel = root_ + "/vmlinuz",
                .modules = root_ + "/lib",
                .name = "",
                .image = root_ + "/image",
                .agent = "",
                .extra_modules = {},
                .cmdline = "",
                .directory = root_ + "/guests"};
  }

  void TearDown() override { fs::remove_all(root_); }

  static std::string Vermagic() { return std::string("vermagic=") + kRelease + " SMP"; }

  std::string tree() const { return root_ + "/lib/" + kRelease; }

  void Write(const std::string& path, const std::string& bytes) {
    ASSERT_TRUE(WriteFile(root_ + "/" + path, bytes));
  }

  void AddModule(const std::string& file, std::vector<std::string> lines) {
    lines.push_back(Vermagic());
    Write("lib/6.1.0-test/kernel/fs/" + file, MakeModule(lines));
  }

  std::string ErrorOf() {
    const auto imported = ImportGuest(options_);
    EXPECT_FALSE(fs::exists(root_ + "/guests/.new"));
    return imported ? "(no error)" : imported.error().message();
  }

  std::string root_;
  ImportOptions options_;
};

TEST_F(ImportTest, WhatIsNoKernelIsSaidSo) {
  Write("vmlinuz", "this is no kernel");
  EXPECT_THAT(ErrorOf(), HasSubstr("vmlinuz"));
  EXPECT_THAT(ErrorOf(), HasSubstr("it is no kernel"));
  options_.kernel = root_ + "/nothing";
  EXPECT_THAT(ErrorOf(), HasSubstr("No such file"));
  options_.kernel = root_;
  EXPECT_THAT(ErrorOf(), HasSubstr("not a file"));
}

TEST_F(ImportTest, KernelWithoutPvhEntryIsRefused) {
  const std::string kernel = MakeKernel(kRelease, 17);
  Write("vmlinuz", MakeBzImage(Compress(kernel, ARCHIVE_FILTER_GZIP),
                               static_cast<uint32_t>(kernel.size()), false, kRelease));
  EXPECT_THAT(ErrorOf(), HasSubstr("CONFIG_PVH=y"));
  EXPECT_FALSE(fs::exists(root_ + "/guests/6.1.0-test"));
}

TEST_F(ImportTest, DirectoryWithoutModulesHasARemedy) {
  options_.modules = root_ + "/guests";
  EXPECT_THAT(ErrorOf(), HasSubstr("/lib/modules/6.1.0-test"));
}

TEST_F(ImportTest, ModulesOfAnotherKernelAreRefused) {
  options_.modules = tree();
  Write("lib/6.1.0-test/kernel/fs/fuse.ko", MakeModule({"vermagic=6.1.0-other SMP"}));
  EXPECT_THAT(ErrorOf(), HasSubstr("modules of the kernel 6.1.0-other, not of 6.1.0-test"));
}

TEST_F(ImportTest, MissingDriverIsNamed) {
  fs::remove(tree() + "/kernel/fs/erofs.ko");
  EXPECT_THAT(ErrorOf(), HasSubstr("no driver erofs, the guest's root file system"));
}

TEST_F(ImportTest, MissingDependencyIsNamed) {
  fs::remove(tree() + "/kernel/fs/fuse.ko");
  EXPECT_THAT(ErrorOf(), HasSubstr("virtiofs needs fuse"));
}

TEST_F(ImportTest, SymlinksInTheTreeAreNotFollowed) {
  fs::rename(tree() + "/kernel/fs/erofs.ko", root_ + "/erofs.ko");
  fs::create_symlink(root_ + "/erofs.ko", tree() + "/kernel/fs/erofs.ko");
  EXPECT_THAT(ErrorOf(), HasSubstr("no driver erofs"));
  fs::rename(tree() + "/kernel/fs", root_ + "/fs");
  fs::create_directory_symlink(root_ + "/fs", tree() + "/kernel/fs");
  EXPECT_THAT(ErrorOf(), HasSubstr("no driver erofs"));
}

TEST_F(ImportTest, DamagedModulesAreErrors) {
  Write("lib/6.1.0-test/kernel/fs/fuse.ko", "nothing");
  EXPECT_THAT(ErrorOf(), HasSubstr("not a kernel module"));
  Write("lib/6.1.0-test/kernel/fs/virtiofs.ko.xz", std::string("\xfd\x37zXZ\0garbage", 13));
  EXPECT_THAT(ErrorOf(), HasSubstr("virtiofs.ko.xz: the compressed data is damaged"));
}

TEST_F(ImportTest, ModulesThatNeedEachOtherEnd) {
  AddModule("fuse.ko", {"depends=virtiofs"});
  EXPECT_EQ(ErrorOf(), "(no error)");
}

TEST_F(ImportTest, ImageWithoutAgentHasARemedy) {
  Write("image", "no image");
  EXPECT_THAT(ErrorOf(), HasSubstr("--agent"));
}

TEST_F(ImportTest, NameIsChecked) {
  options_.name = "../x";
  EXPECT_THAT(ErrorOf(), HasSubstr("--name"));
}

TEST_F(ImportTest, DependenciesComeFirst) {
  const auto imported = ImportGuest(options_);
  ASSERT_TRUE(imported) << imported.error().message();
  EXPECT_THAT(imported->guest.modules,
              ElementsAre("crc32c_generic", "libcrc32c", "erofs", "fuse", "virtiofs"));
  EXPECT_THAT(imported->missing, ::testing::Contains("overlay"));
  EXPECT_EQ(imported->guest.name, kRelease);
  EXPECT_EQ(*ReadFile(imported->guest.kernel_path()), MakeKernel(kRelease));
  const std::string initrd = *ReadFile(imported->guest.initrd_path());
  EXPECT_TRUE(initrd.starts_with("070701"));
  EXPECT_THAT(initrd, HasSubstr("the agent"));
  EXPECT_THAT(initrd, HasSubstr("libcrc32c.ko required\nerofs.ko required\n"));
}

TEST_F(ImportTest, OptionalModuleThatSomethingNeedsIsRequired) {
  AddModule("overlay.ko", {"depends=net_failover"});
  AddModule("net_failover.ko", {});
  options_.extra_modules = {"net-failover"};
  const auto imported = ImportGuest(options_);
  ASSERT_TRUE(imported) << imported.error().message();
  const std::string initrd = *ReadFile(imported->guest.initrd_path());
  EXPECT_THAT(initrd, HasSubstr("net_failover.ko required\noverlay.ko optional\n"));
  options_.extra_modules = {"nothing"};
  EXPECT_THAT(ErrorOf(), HasSubstr("no module nothing"));
}

TEST_F(ImportTest, SecondImportIsACacheHit) {
  ASSERT_TRUE(ImportGuest(options_));
  const auto first = fs::last_write_time(root_ + "/guests/6.1.0-test/vmlinux");
  EXPECT_TRUE(ImportGuest(options_)->cached);
  EXPECT_EQ(fs::last_write_time(root_ + "/guests/6.1.0-test/vmlinux"), first);
}

TEST_F(ImportTest, WhatChangedIsImportedAgain) {
  ASSERT_TRUE(ImportGuest(options_));
  Write("guests/6.1.0-test/vmlinux", std::string(MakeKernel(kRelease).size(), 'x'));
  EXPECT_FALSE(ImportGuest(options_)->cached);
  EXPECT_EQ(*ReadFile(root_ + "/guests/6.1.0-test/vmlinux"), MakeKernel(kRelease));
  options_.cmdline = "debug";
  EXPECT_FALSE(ImportGuest(options_)->cached);
  Write("image", testing::MakeErofs("a newer agent"));
  EXPECT_FALSE(ImportGuest(options_)->cached);
  options_.kernel = root_ + "/vmlinux";
  EXPECT_FALSE(ImportGuest(options_)->cached);
  EXPECT_TRUE(ImportGuest(options_)->cached);
}

TEST(InitramfsTest, SameInputSameBytes) {
  const std::vector<Module> modules = {{.name = "a", .required = true, .bytes = "xyz"}};
  EXPECT_EQ(*BuildInitramfs("agent", modules), *BuildInitramfs("agent", modules));
}

}  // namespace
}  // namespace wyvern::guest
