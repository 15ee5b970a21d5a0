// A sandbox whose cgroupsPath asks for systemd's driver: its scopes, by a fake systemd on the real hierarchy. Needs root.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "sandbox/testing/sandbox_fixture.h"
#include "systemd/testing/fake_systemd.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class SystemdDriverTest : public SandboxFixture {
 protected:
  void SetUp() override {
    SandboxFixture::SetUp();
    if (!IsSkipped()) {
      slice_ = "wyverntest" + std::to_string(getpid()) + ".slice";
      fake_ = std::make_unique<FakeSystemd>(dir_, config_->cgroup_root);
    }
  }

  void TearDown() override {
    SandboxFixture::TearDown();
    fake_.reset();
    if (!slice_.empty()) {
      rmdir((config_->cgroup_root + "/" + slice_).c_str());
    }
  }

  BundleOptions Bundle(const std::string& id) const {
    BundleOptions options;
    options.args = {"sleep", "1000"};
    options.cgroups_path = slice_ + ":t:" + id;
    return options;
  }

  std::string ProcessesOf(const std::string& unit) const {
    return ReadFile(config_->cgroup_root + "/" + slice_ + "/" + unit + "/cgroup.procs", 4096)
        .value_or("none");
  }

  std::string slice_;
  std::unique_ptr<FakeSystemd> fake_;
};

TEST_F(SystemdDriverTest, ProcessesAreInScopesAndNothingIsLeft) {
  Boot(Bundle("c"));
  const auto io =
      sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", Bundle("c")), false, false));
  ASSERT_TRUE(io.has_value()) << io.error().message();
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  const auto units = fake_->units();
  ASSERT_EQ(units.size(), 2U);
  EXPECT_EQ(units.at("t-c.scope").properties.at("Description"), "s Wyvern, c");
  EXPECT_EQ(units.at("t-c.scope").properties.at("Slice"), "s " + slice_);
  EXPECT_EQ(ProcessesOf("t-c.scope"), std::to_string(sandbox_->State("c", "")->pid) + "\n");
  EXPECT_EQ(units.at("wyvern-sandbox-box.scope").properties.at("Description"), "s Wyvern, box");
  EXPECT_NE(ProcessesOf("wyvern-sandbox-box.scope"), "");
  ASSERT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  ASSERT_TRUE(sandbox_->Wait("c", "").has_value());
  ASSERT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_EQ(ProcessesOf("t-c.scope"), "none");
  ASSERT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_THAT(fake_->units(), IsEmpty());
}

TEST_F(SystemdDriverTest, SystemdThatRefusesTheSandbox) {
  fake_->Do("StartTransientUnit", FakeSystemd::Manner::kError,
            "org.freedesktop.DBus.Error.AccessDenied");
  const auto sandbox = StartSandboxOf(MakeBundle("box", Bundle("c")));
  ASSERT_FALSE(sandbox.has_value());
  EXPECT_EQ(sandbox.error().code(), Code::kPermissionDenied);
  EXPECT_THAT(sandbox.error().message(), HasSubstr("wyvern-sandbox-box.scope"));
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(SystemdDriverTest, SystemdThatRefusesAContainer) {
  Boot(Bundle("c"));
  fake_->Do("StartTransientUnit", FakeSystemd::Manner::kCut);
  const std::string bundle = MakeBundle("c", Bundle("c"));
  EXPECT_FALSE(sandbox_->CreateContainer(ContainerOf("c", bundle, false, false)).has_value());
  EXPECT_THAT(sandbox_->ContainerIds(), IsEmpty());
  fake_->DoRight("StartTransientUnit");
  const auto io = sandbox_->CreateContainer(ContainerOf("c", bundle, false, false));
  EXPECT_TRUE(io.has_value()) << io.error().message();
}

}  // namespace
}  // namespace wyvern::runtime
