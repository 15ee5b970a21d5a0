#include "agent/guest_hooks.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::agent {
namespace {

class GuestHooksTest : public testing::Test {
 protected:
  GuestHooksTest() {
    char name[] = "/tmp/wyvern-hooks-XXXXXX";
    dir_ = mkdtemp(name);
  }

  ~GuestHooksTest() override { std::filesystem::remove_all(dir_); }

  void Add(const std::string& name, mode_t mode) const {
    const std::string path = dir_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    ASSERT_TRUE(WriteFile(path, "").has_value());
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
  }

  Result<std::vector<std::string>> Find() const {
    v1::CreateSandboxResponse response;
    WV_TRY_VOID(FindGuestHooks(dir_, &response));
    std::vector<std::string> found;
    for (const v1::GuestHook& hook : response.hooks()) {
      found.push_back(hook.kind() + " " + hook.path().substr(dir_.size()));
    }
    return found;
  }

  std::string dir_;
};

TEST_F(GuestHooksTest, ProgramsOfEachKindByName) {
  Add("prestart/20-b", 0755);
  Add("prestart/10-a", 0755);
  Add("prestart/README", 0644);
  Add("poststop/x", 0500);
  Add("createRuntime/none", 0755);
  std::filesystem::create_directories(dir_ + "/poststart/directory");
  EXPECT_THAT(Must(Find()),
              testing::ElementsAre("prestart /prestart/10-a", "prestart /prestart/20-b",
                                   "poststop /poststop/x"));
}

TEST_F(GuestHooksTest, NothingThereIsNothing) {
  EXPECT_THAT(Must(Find()), testing::IsEmpty());
}

TEST_F(GuestHooksTest, WhatCannotBeIsSaid) {
  v1::CreateSandboxResponse response;
  EXPECT_EQ(FindGuestHooks("hooks", &response).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(FindGuestHooks(dir_ + "/none", &response).error().code(), Code::kNotFound);
  for (int i = 0; i <= kMaxGuestHooks; ++i) {
    Add("poststart/" + std::to_string(i), 0755);
  }
  EXPECT_EQ(FindGuestHooks(dir_, &response).error().code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace wyvern::agent
