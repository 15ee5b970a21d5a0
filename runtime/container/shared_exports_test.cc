#include "container/shared_exports.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::runtime {
namespace {

class SharedExportsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-exports-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  static oci::Export Item(const std::string& name, const std::string& source) {
    oci::Export item;
    item.name = name;
    item.source = source;
    return item;
  }

  static oci::Export Mapped(oci::Export item, uint32_t outside) {
    item.ids = {{{0, outside, 65536}}, {{0, outside, 65536}}};
    return item;
  }

  std::string Acquire(const oci::Export& item) {
    return Must(exports_.Acquire(item, [&]() -> Result<> {
      ++attached_;
      return {};
    }));
  }

  std::string dir_;
  int attached_ = 0;
  SharedExports exports_;
};

TEST_F(SharedExportsTest, OneSourceIsOneExportUntilItsLastUserGoes) {
  std::filesystem::create_directory(dir_ + "/v");
  std::filesystem::create_directory_symlink("v", dir_ + "/link");
  EXPECT_EQ(Acquire(Item("c0-v0", dir_ + "/v")), "c0-v0");
  EXPECT_EQ(Acquire(Item("c1-v0", dir_ + "/link")), "c0-v0");
  EXPECT_EQ(attached_, 1);
  EXPECT_FALSE(exports_.Release("c0-v0"));
  EXPECT_TRUE(exports_.Release("c0-v0"));
  EXPECT_FALSE(exports_.Release("c0-v0"));
  EXPECT_EQ(Acquire(Item("c2-v0", dir_ + "/v")), "c2-v0");
}

TEST_F(SharedExportsTest, AnotherPolicyOrAnotherFileIsAnotherExport) {
  ASSERT_TRUE(WriteFile(dir_ + "/f", "").has_value());
  oci::Export read_only = Item("c1-v0", dir_ + "/f");
  read_only.read_only = true;
  EXPECT_EQ(Acquire(Item("c0-v0", dir_ + "/f")), "c0-v0");
  EXPECT_EQ(Acquire(read_only), "c1-v0");
  // The host replaces it: who comes later gets the new one.
  ASSERT_TRUE(WriteFile(dir_ + "/new", "").has_value());
  std::filesystem::rename(dir_ + "/new", dir_ + "/f");
  EXPECT_EQ(Acquire(Item("c2-v0", dir_ + "/f")), "c2-v0");
}

TEST_F(SharedExportsTest, WhatCannotBeAttachedIsNobodys) {
  const auto refuse = []() -> Result<> { return Fail(Code::kInternal, "no"); };
  EXPECT_EQ(exports_.Acquire(Item("c0-v0", dir_), refuse).error().code(), Code::kInternal);
  EXPECT_EQ(Acquire(Item("c1-v0", dir_)), "c1-v0");
  EXPECT_EQ(exports_.Acquire(Item("c2-v0", dir_ + "/none"), refuse).error().code(),
            Code::kNotFound);
}

TEST_F(SharedExportsTest, OtherIdsAreAnotherExport) {
  EXPECT_EQ(Acquire(Item("a", dir_)), "a");
  EXPECT_EQ(Acquire(Mapped(Item("b", dir_), 100000)), "b");
  EXPECT_EQ(Acquire(Mapped(Item("c", dir_), 200000)), "c");
  EXPECT_EQ(Acquire(Mapped(Item("d", dir_), 100000)), "b");
}

}  // namespace
}  // namespace wyvern::runtime
