#include "cli/ps.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

std::vector<control::v1::HelloResponse> Sandboxes() {
  std::vector<control::v1::HelloResponse> sandboxes(2);
  sandboxes[0].set_sandbox_id("pod");
  sandboxes[0].set_ns("k8s.io");
  sandboxes[0].set_kernel_release("6.12.0");
  sandboxes[0].set_metrics_socket("/run/x/metrics.sock");
  for (const char* id : {"one", "two"}) {
    auto& container = *sandboxes[0].add_containers();
    container.set_id(id);
    container.set_status("running");
    container.set_anchor_pid(42);
    container.set_bundle("/bundle");
  }
  sandboxes[1].set_sandbox_id("empty");
  sandboxes[1].set_ns("default");
  sandboxes[1].set_kernel_release("6.1.0");
  return sandboxes;
}

TEST(PsTest, TableHasARowForEachContainerAndForASandboxWithoutOne) {
  EXPECT_THAT(PsTable(Sandboxes()),
              MatchesRegex("SANDBOX +CONTAINER +NAMESPACE +STATUS +PID +KERNEL\n"
                           "pod +one +k8s.io +running +42 +6.12.0\n"
                           "pod +two +k8s.io +running +42 +6.12.0\n"
                           "empty +- +default +- +-  6.1.0\n"));
  EXPECT_THAT(PsTable({}), HasSubstr("SANDBOX"));
}

TEST(PsTest, JsonHasTheSame) {
  using Json = nlohmann::json;
  const Json list = Json::parse(PsJson(Sandboxes()));
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[1], (Json{{"sandbox", "pod"},
                           {"namespace", "k8s.io"},
                           {"container", "two"},
                           {"status", "running"},
                           {"pid", 42},
                           {"bundle", "/bundle"},
                           {"kernel", "6.12.0"},
                           {"metrics_socket", "/run/x/metrics.sock"}}));
  EXPECT_EQ(list[2]["sandbox"], "empty");
  EXPECT_EQ(list[2]["container"], nullptr);
  EXPECT_EQ(list[2]["pid"], nullptr);
  EXPECT_EQ(list[2]["metrics_socket"], nullptr);
  EXPECT_EQ(PsJson({}), "[]\n");
}

}  // namespace
}  // namespace wyvern::cli
