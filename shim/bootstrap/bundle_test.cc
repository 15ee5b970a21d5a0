#include "bootstrap/bundle.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>

#include "base/fd.h"

namespace wyvern::shim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST(BundleTest, GroupByAnnotationInContainerdsOrder) {
  EXPECT_EQ(*GroupOfSpec(R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}})"), "pod");
  EXPECT_EQ(
      *GroupOfSpec(
          R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}})"),
      "g");
  EXPECT_EQ(*GroupOfSpec("{}"), "");
  EXPECT_EQ(*GroupOfSpec(R"({"annotations":{"io.containerd.runc.v2.group":7}})"), "");
  EXPECT_EQ(*GroupOfSpec(R"({"annotations":[]})"), "");
}

TEST(BundleTest, MalformedConfigIsAnError) {
  EXPECT_FALSE(GroupOfSpec(""));
  EXPECT_FALSE(GroupOfSpec("not json"));
  EXPECT_FALSE(GroupOfSpec("[1]"));
  EXPECT_FALSE(GroupOfSpec(std::string(100000, '[')));
  EXPECT_FALSE(GroupOfSpec(R"({"annotations":{"io.containerd.runc.v2.group":")" +
                           std::string(5000, 'x') + "\"}}"));
  EXPECT_FALSE(GroupOf("/no/such/bundle"));
}

TEST(BundleTest, AllAnnotationsThatAreTextAreFound) {
  EXPECT_THAT(
      *AnnotationsOfSpec(
          R"({"annotations":{"io.wyvern.vcpus":"2","org.example/a b":"","io.wyvern.memory":512,"x":null,"y":{"z":"1"}}})"),
      ElementsAre(Pair("io.wyvern.vcpus", "2"), Pair("org.example/a b", "")));
  for (const char* none : {"{}", R"({"annotations":{}})", R"({"annotations":["io.wyvern.vcpus"]})",
                           R"({"annotations":null})", R"({"process":{"annotations":{"a":"b"}}})"}) {
    EXPECT_THAT(*AnnotationsOfSpec(none), IsEmpty()) << none;
  }
}

TEST(BundleTest, AnnotationsAreThoseOfTheBundlesConfig) {
  std::string bundle = std::filesystem::temp_directory_path() / "wyvern-bundle-XXXXXX";
  ASSERT_NE(mkdtemp(bundle.data()), nullptr);
  const auto absent = AnnotationsOf(bundle);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code(), Code::kNotFound);
  ASSERT_TRUE(WriteFile(bundle + "/config.json", R"({"annotations":{"io.wyvern.memory":"1GiB"}})"));
  EXPECT_THAT(*AnnotationsOf(bundle), ElementsAre(Pair("io.wyvern.memory", "1GiB")));
  ASSERT_TRUE(WriteFile(bundle + "/config.json", "{"));
  const auto damaged = AnnotationsOf(bundle);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code(), Code::kInvalidArgument);
  std::filesystem::remove_all(bundle);
}

}  // namespace
}  // namespace wyvern::shim
