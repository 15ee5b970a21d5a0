#include "container/pod_namespaces.h"

#include <gmock/gmock.h>

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

class PodNamespacesTest : public testing::Test {
 protected:
  PodNamespacesTest() {
    pod_.Add(100, "pause", true);
    pod_.Add(200, "web", false);
  }

  std::string Refusal(const std::string& type, const std::string& path) const {
    const auto found = pod_.Find({{type, path}});
    return found.has_value() ? "" : found.error().message();
  }

  PodNamespaces pod_;
};

TEST_F(PodNamespacesTest, PathsOfOthersAreRefused) {
  EXPECT_THAT(Refusal("pid", "/proc/1/ns/pid"), HasSubstr("/proc/1/ns/pid is no pid namespace"));
  EXPECT_THAT(Refusal("ipc", "/proc/1000/ns/ipc"), HasSubstr("is no ipc"));
  EXPECT_THAT(Refusal("ipc", "/proc/100/ns/uts"), HasSubstr("is no ipc"));
  EXPECT_THAT(Refusal("ipc", "/proc/200/ns/ipc"), HasSubstr("is no ipc"));
  EXPECT_THAT(Refusal("pid", "/proc/100/ns/../ns/pid"), HasSubstr("is no pid"));
}

TEST_F(PodNamespacesTest, ThoseOfThePodAreTheGuestsOwn) {
  const auto found = pod_.Find({{"ipc", "/proc/100/ns/ipc"}, {"uts", "/proc/100/ns/uts"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_THAT(found->namespaces, ElementsAre(Pair("ipc", ""), Pair("uts", "")));
  EXPECT_FALSE(found->shared_pids);
}

TEST_F(PodNamespacesTest, PidsAreSharedWithThePodOrOneContainer) {
  const auto pod = pod_.Find({{"pid", "/proc/100/ns/pid"}});
  ASSERT_TRUE(pod.has_value());
  EXPECT_TRUE(pod->shared_pids);
  EXPECT_THAT(pod->namespaces, ElementsAre(Pair("pid", "/run/wyvern/pod/pid")));
  const auto target = pod_.Find({{"pid", "/proc/200/ns/pid"}});
  ASSERT_TRUE(target.has_value());
  EXPECT_FALSE(target->shared_pids);
  EXPECT_THAT(target->namespaces, ElementsAre(Pair("pid", "/run/wyvern/pod/pids/web")));
}

TEST_F(PodNamespacesTest, UsersAreThePodsAndSoIsItsIpc) {
  const auto pod = pod_.Find({{"ipc", "/proc/100/ns/ipc"}, {"user", "/proc/100/ns/user"}});
  ASSERT_TRUE(pod.has_value());
  EXPECT_TRUE(pod->shared_pids);
  EXPECT_TRUE(pod->shared_users);
  EXPECT_THAT(pod->namespaces, ElementsAre(Pair("ipc", "/run/wyvern/pod/ipc"),
                                           Pair("user", "/run/wyvern/pod/user")));
  EXPECT_THAT(Refusal("user", "/proc/200/ns/user"), HasSubstr("is no user namespace of this pod"));
  EXPECT_THAT(Refusal("user", "/proc/1/ns/user"), HasSubstr("is no user namespace of this pod"));
}

TEST_F(PodNamespacesTest, OthersAreLeftToTheTranslation) {
  const auto found = pod_.Find({{"mount", "/proc/1/ns/mnt"}, {"time", "/proc/1/ns/time"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_THAT(found->namespaces, IsEmpty());
}

TEST_F(PodNamespacesTest, OneThatWentIsNoMore) {
  pod_.Remove(200);
  EXPECT_THAT(Refusal("pid", "/proc/200/ns/pid"), HasSubstr("is no pid"));
}

}  // namespace
}  // namespace wyvern::runtime
