#include "guest/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/fd.h"

namespace wyvern::guest {
namespace {

using ::testing::HasSubstr;

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "wyvern-guests-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }

  void TearDown() override { std::filesystem::remove_all(root_); }

  void PutOne(const std::string& name, const std::string& kernel) {
    const std::string from = root_ + "/.new";
    std::filesystem::create_directory(from);
    EXPECT_TRUE(WriteFile(from + "/vmlinux", kernel));
    EXPECT_TRUE(WriteFile(from + "/initrd", "initrd"));
    Guest guest;
    guest.name = name;
    guest.release = "6.1";
    guest.kernel = {.digest = "sha256:1", .size = kernel.size()};
    guest.initrd = {.digest = "sha256:2", .size = 6};
    guest.modules = {"a", "b"};
    const auto put = PutGuest(root_, guest, from);
    ASSERT_TRUE(put) << put.error().message();
  }

  std::string root_;
};

TEST_F(StoreTest, NamesThatCouldLeaveTheDirectoryAreNone) {
  for (const char* name : {"", ".", "..", "a/b", "/etc", ".new", "-x", "a\nb", "a\"b"}) {
    EXPECT_FALSE(IsGuestName(name)) << name;
    EXPECT_FALSE(FindGuest(root_, name)) << name;
    EXPECT_FALSE(RemoveGuest(root_, name)) << name;
  }
  EXPECT_TRUE(IsGuestName("6.12.107+deb13-cloud-amd64"));
  EXPECT_FALSE(IsGuestName(std::string(65, 'a')));
}

TEST_F(StoreTest, MissingGuestHasARemedy) {
  EXPECT_THAT(FindGuest(root_, "x").error().message(), HasSubstr("wyvern guest import"));
  EXPECT_TRUE(ListGuests(root_)->empty());
  EXPECT_TRUE(ListGuests(root_ + "/nothing")->empty());
}

TEST_F(StoreTest, DamagedGuestIsSaidSoAndNotListed) {
  PutOne("a", "kernel");
  PutOne("b", "kernel");
  ASSERT_TRUE(WriteFile(root_ + "/a/vmlinux", "kern"));
  EXPECT_THAT(FindGuest(root_, "a").error().message(), HasSubstr("import it again"));
  ASSERT_EQ(ListGuests(root_)->size(), 1U);
  for (const char* text : {"", "{", "[]", "null", R"({"version":2})", R"({"version":"1"})",
                           R"({"version":1,"modules":7,"kernel":[]})"}) {
    ASSERT_TRUE(WriteFile(root_ + "/b/guest.json", text));
    EXPECT_EQ(FindGuest(root_, "b").error().code(), Code::kDataLoss) << text;
  }
}

TEST_F(StoreTest, LaterGuestTakesThePlaceOfTheFirst) {
  PutOne("a", "kernel");
  PutOne("a", "another");
  const auto guest = *FindGuest(root_, "a");
  EXPECT_EQ(*ReadFile(guest.kernel_path()), "another");
  EXPECT_EQ(guest.modules, (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/.new"));
  ASSERT_TRUE(RemoveGuest(root_, "a"));
  EXPECT_TRUE(ListGuests(root_)->empty());
}

}  // namespace
}  // namespace wyvern::guest
