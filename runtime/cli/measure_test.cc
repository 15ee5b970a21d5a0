#include "cli/measure.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "base/unix_socket.h"
#include "cli/testing/served_sandboxes.h"

namespace wyvern::cli {
namespace {

using std::chrono::steady_clock;
using testing::HasSubstr;

TEST(MeasureTest, NodeHasEverySandboxAndTellsThemApart) {
  ServedSandboxes served;
  served.Serve("default", "web");
  served.Serve("k8s.io", "web");
  std::filesystem::create_directory(served.DirectoryOf("default", "dead"));
  ASSERT_TRUE(WriteFile(served.DirectoryOf("default", "dead") + "/state.json", "{}"));
  for (const char* ns : {"default", "k8s.io"}) {
    ASSERT_TRUE(WriteFile(served.DirectoryOf(ns, "web") + "/state.json", "{}"));
  }
  const auto families = MeasureNode(served.state_dir());
  ASSERT_TRUE(families.has_value()) << families.error().message();
  const std::string text = families->Text();
  EXPECT_THAT(text, HasSubstr("\nwyvern_node_sandboxes 2\n"));
  EXPECT_THAT(text, HasSubstr("\nwyvern_node_silent_sandboxes 1\n"));
  for (const char* ns : {"default", "k8s.io"}) {
    const std::string of = std::string("{namespace=\"") + ns + "\",sandbox=\"web\"";
    EXPECT_THAT(text, HasSubstr("\nwyvern_sandbox_up" + of + "} 1\n"));
    EXPECT_THAT(text, HasSubstr("\nwyvern_guest_memory_total_bytes" + of +
                                ",source=\"guest\"} 268435456\n"));
  }
  // A family's samples are together, behind one head.
  const std::string head = "# TYPE wyvern_guest_memory_total_bytes gauge\n";
  EXPECT_EQ(text.find(head, text.find(head) + 1), std::string::npos);
}

TEST(MeasureTest, NobodyThereIsANodeWithoutSandboxes) {
  const shim::TempDir empty;
  EXPECT_THAT(MeasureNode(empty.path())->Text(), HasSubstr("\nwyvern_node_sandboxes 0\n"));
  EXPECT_THAT(MeasureNode(empty / "absent")->Text(), HasSubstr("\nwyvern_node_sandboxes 0\n"));
}

TEST(MeasureTest, SandboxWhoseOwnerHangsIsThereWithoutFigures) {
  const SocketPair pair = Must(MakeSocketPair(SOCK_STREAM));  // nobody reads the other end
  std::vector<LivingSandbox> sandboxes(1);
  sandboxes[0].client = Must(ttrpc::Client::Create(UniqueFd(Must(pair.first.Duplicate()))));
  sandboxes[0].hello.set_ns("default");
  sandboxes[0].hello.set_sandbox_id("hung");
  const auto begin = steady_clock::now();
  auto measured = MeasureAll(sandboxes);
  EXPECT_LT(steady_clock::now() - begin, kMeasureTimeout + std::chrono::seconds(2));
  ASSERT_EQ(measured.size(), 1U);
  EXPECT_FALSE(measured[0].families.has_value());
  EXPECT_FALSE(measured[0].why.empty());
  EXPECT_THAT(NodeFamilies(std::move(measured), 0).Text(),
              HasSubstr("\nwyvern_sandbox_up{namespace=\"default\",sandbox=\"hung\"} 0\n"));
}

}  // namespace
}  // namespace wyvern::cli
