#include "cli/image_store.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <future>

#include "storage/testing/private_mounts.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ImageStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "wyvern-store-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    store_ = root_ + "/store";
  }

  void TearDown() override { fs::remove_all(root_); }

  // With a file of a mebibyte; its path.
  std::string AddLayer(char digit) const {
    std::string path = store_ + "/layers/" + std::string(64, digit);
    fs::create_directories(path + "/bin");
    EXPECT_TRUE(WriteFile(path + "/bin/tool", std::string(1U << 20U, 'x')).has_value());
    return path;
  }

  std::string root_;
  std::string store_;
};

TEST_F(ImageStoreTest, LayersThatNobodyHoldsAreRemoved) {
  const std::string used = AddLayer('a');
  const std::string unused = AddLayer('b');
  fs::create_hard_link(unused + "/bin/tool", unused + "/bin/same");
  {
    const UniqueFd held = *HoldLayer(used);
    const auto pruned = PruneStore(store_);
    ASSERT_TRUE(pruned.has_value()) << pruned.error().message();
    EXPECT_EQ(pruned->removed, 1U);
    EXPECT_EQ(pruned->in_use, 1U);
    EXPECT_GE(pruned->bytes, 1U << 20U);
    EXPECT_LT(pruned->bytes, 2U << 20U);
    EXPECT_THAT(pruned->left, IsEmpty());
    EXPECT_TRUE(fs::exists(used + "/bin/tool"));
    EXPECT_FALSE(fs::exists(unused));
  }
  EXPECT_EQ(PruneStore(store_)->removed, 1U);
  EXPECT_TRUE(fs::is_empty(store_ + "/layers"));
}

TEST_F(ImageStoreTest, WhatKilledRunsLeftIsRemovedAndNothingElse) {
  for (const char* name : {"layers/unpack-a1b2c3/x", "layers/prune-a1b2c3/x", "archive-a1b2c3/x",
                           "layers/mine", "mine"}) {
    fs::create_directories(store_ + "/" + name);
  }
  const auto pruned = PruneStore(store_);
  ASSERT_TRUE(pruned.has_value()) << pruned.error().message();
  EXPECT_EQ(pruned->removed, 0U);
  std::vector<std::string> left;
  for (const auto& entry : fs::recursive_directory_iterator(store_)) {
    left.push_back(fs::relative(entry.path(), store_).string());
  }
  EXPECT_THAT(left, testing::UnorderedElementsAre(".lock", "layers", "layers/mine", "mine"));
}

TEST_F(ImageStoreTest, NoStoreIsNothingToRemove) {
  const auto pruned = PruneStore(store_);
  ASSERT_TRUE(pruned.has_value()) << pruned.error().message();
  EXPECT_EQ(pruned->removed, 0U);
  EXPECT_FALSE(fs::exists(store_));
}

TEST_F(ImageStoreTest, RunThatUnpacksIsWaitedFor) {
  auto lock = LockStore(store_);
  ASSERT_TRUE(lock.has_value()) << lock.error().message();
  const std::string layer = AddLayer('a');
  auto pruning = std::async(std::launch::async, [this] { return PruneStore(store_); });
  EXPECT_EQ(pruning.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  const UniqueFd held = *HoldLayer(layer);
  lock->Reset();
  const auto pruned = pruning.get();
  ASSERT_TRUE(pruned.has_value()) << pruned.error().message();
  EXPECT_EQ(pruned->in_use, 1U);
  EXPECT_TRUE(fs::exists(layer));
}

class MountedLayerTest : public runtime::PrivateMountsTest {};

TEST_F(MountedLayerTest, StaysAndTheMountPointIsNamed) {
  const std::string layer = MakeDir("layers") + "/" + std::string(64, 'a');
  fs::create_directories(layer + "/mnt");
  ASSERT_EQ(mount("tmpfs", (layer + "/mnt").c_str(), "tmpfs", 0, nullptr), 0);
  const auto pruned = PruneStore(dir_);
  ASSERT_TRUE(pruned.has_value()) << pruned.error().message();
  EXPECT_EQ(pruned->removed, 0U);
  EXPECT_THAT(pruned->left, ElementsAre(HasSubstr("umount " + layer + "/mnt")));
  ASSERT_EQ(umount2((layer + "/mnt").c_str(), 0), 0);
  EXPECT_EQ(PruneStore(dir_)->removed, 1U);
}

}  // namespace
}  // namespace wyvern::cli
