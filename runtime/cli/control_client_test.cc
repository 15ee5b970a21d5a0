#include "cli/control_client.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "base/testing/must.h"
#include "control/control_server.h"
#include "testing/fake_sandbox.h"
#include "testing/temp_dir.h"

namespace wyvern::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Sandboxes that serve their control sockets in one state directory.
class FindTest : public testing::Test {
 protected:
  void TearDown() override {
    for (const auto& server : servers_) {
      server->Close();
    }
    (void)sandbox_.Shutdown();
  }

  void Serve(const std::string& ns, const std::string& id,
             const std::vector<std::string>& containers) {
    const std::string directory = dir_ / ns + "-" + id;
    std::filesystem::create_directory(directory);
    shim::ControlOptions options;
    options.ns = ns;
    options.sandbox_id = id;
    options.version = "1.2.3";
    options.containers = [containers] {
      std::vector<shim::ControlContainer> list;
      for (const std::string& container : containers) {
        list.push_back({.id = container, .bundle = "/bundle", .pid = 42, .created_at = {}});
      }
      return list;
    };
    servers_.push_back(Must(
        shim::ControlServer::Start(directory + "/control.sock", sandbox_, std::move(options))));
  }

  // "namespace/sandbox/container", or the error.
  std::string Container(const std::string& id, const std::string& ns = "") {
    const auto found = FindContainer(dir_.path(), {.id = id, .ns = ns});
    return found ? found->sandbox.hello.ns() + "/" + found->sandbox.hello.sandbox_id() + "/" +
                       found->container_id
                 : found.error().message();
  }

  std::string Sandbox(const std::string& id, const std::string& ns = "") {
    const auto found = FindSandbox(dir_.path(), {.id = id, .ns = ns});
    return found ? found->hello.ns() + "/" + found->hello.sandbox_id() : found.error().message();
  }

  shim::TempDir dir_;
  shim::FakeSandbox sandbox_{runtime::SandboxOptions{}};
  std::vector<std::unique_ptr<shim::ControlServer>> servers_;
};

TEST_F(FindTest, SameIdInTwoNamespacesIsAnErrorThatListsThem) {
  Serve("wyvern-run", "web", {"web"});
  Serve("default", "web", {"web"});
  Serve("k8s.io", "webhook", {"webhook"});
  EXPECT_EQ(FindContainer(dir_.path(), {.id = "web", .ns = ""}).error().code(),
            Code::kInvalidArgument);
  for (const std::string& said : {Container("web"), Sandbox("web")}) {
    EXPECT_THAT(said, AllOf(HasSubstr("\"web\""), HasSubstr("default/web, wyvern-run/web"),
                            HasSubstr("--namespace")));
    EXPECT_THAT(said, testing::Not(HasSubstr("webhook")));
  }
  EXPECT_EQ(Container("web", "default"), "default/web/web");
  EXPECT_EQ(Container("web", "wyvern-run"), "wyvern-run/web/web");
  EXPECT_EQ(Sandbox("web", "wyvern-run"), "wyvern-run/web");
  EXPECT_EQ(Sandbox("web", "k8s.io"), "k8s.io/webhook");
  EXPECT_THAT(Container("web", "nobodys"),
              HasSubstr("no living sandbox or container \"web\" in the namespace nobodys"));
}

TEST_F(FindTest, BeginningOfOneIdWillDoAndTheWholeIdIsNoBeginning) {
  Serve("default", "web", {"web"});
  Serve("default", "website", {"website"});
  EXPECT_EQ(Container("web"), "default/web/web");
  EXPECT_EQ(Container("webs"), "default/website/website");
  EXPECT_THAT(Container("we"), AllOf(HasSubstr("beginning of several ids"),
                                     HasSubstr("default/web, default/website")));
  EXPECT_THAT(Container("x"), HasSubstr("no living sandbox or container \"x\"; `wyvern ps`"));
}

TEST_F(FindTest, ContainersOfOneSandbox) {
  Serve("k8s.io", "pod", {"pod", "app-1", "app-2"});
  EXPECT_EQ(Container("app-2"), "k8s.io/pod/app-2");
  EXPECT_EQ(Container("po"), "k8s.io/pod/pod");
  EXPECT_THAT(Container("app"), HasSubstr("k8s.io/app-1, k8s.io/app-2"));
  EXPECT_EQ(Sandbox("app"), "k8s.io/pod");
}

TEST_F(FindTest, SandboxWithoutAContainer) {
  Serve("default", "empty", {});
  EXPECT_EQ(Container("empty"), "default/empty/");
  EXPECT_EQ(Sandbox("em"), "default/empty");
  Serve("k8s.io", "pod", {"empty"});
  EXPECT_THAT(Sandbox("empty"), HasSubstr("default/empty, k8s.io/empty"));
}

TEST_F(FindTest, ListIsByNamespaceAndId) {
  Serve("b", "1", {"1"});
  Serve("a", "2", {"2"});
  Serve("a", "1", {});
  std::filesystem::create_directory(dir_ / "leftover");
  const auto sandboxes = ListSandboxes(dir_.path());
  ASSERT_TRUE(sandboxes) << sandboxes.error().message();
  std::string list;
  for (const LivingSandbox& sandbox : *sandboxes) {
    list += sandbox.hello.ns() + "/" + sandbox.hello.sandbox_id() + " ";
  }
  EXPECT_EQ(list, "a/1 a/2 b/1 ");
  EXPECT_TRUE(ListSandboxes(dir_ / "absent")->empty());
}

}  // namespace
}  // namespace wyvern::cli
