#include "systemd/systemd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "systemd/bus.h"
#include "systemd/testing/fake_systemd.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using testing::Contains;
using testing::HasSubstr;
using Manner = FakeSystemd::Manner;

constexpr SystemdOptions kQuick{.timeout = milliseconds(300), .patience = milliseconds(150)};
const Scope kScope{.name = "wyvern-a.scope", .slice = "pods-b.slice", .description = "Wyvern a"};

class SystemdTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "wyvern-systemd-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    fake_ = std::make_unique<FakeSystemd>(dir_, dir_ + "/cgroup");
  }

  void TearDown() override {
    fake_.reset();
    std::filesystem::remove_all(dir_);
  }

  Error StartFails(const SystemdOptions& options = kQuick) {
    const auto begin = std::chrono::steady_clock::now();
    auto started = StartScope(kScope, 4711, {}, options);
    EXPECT_FALSE(started.has_value());
    EXPECT_LT(std::chrono::steady_clock::now() - begin, options.timeout + milliseconds(700));
    return started.has_value() ? Error(Code::kOk, "") : std::move(started).error();
  }

  std::string dir_;
  std::unique_ptr<FakeSystemd> fake_;
};

TEST_F(SystemdTest, ScopeIsStartedWithItsProcessAndLimits) {
  const std::vector<UnitProperty> limits = {{.name = "MemoryMax",
                                             .kind = UnitProperty::Kind::kNumber,
                                             .number = 4096,
                                             .bytes = {},
                                             .text = {}},
                                            {.name = "AllowedCPUs",
                                             .kind = UnitProperty::Kind::kBytes,
                                             .number = 0,
                                             .bytes = {3, 1},
                                             .text = {}},
                                            {.name = "AllowedMemoryNodes",
                                             .kind = UnitProperty::Kind::kBytes,
                                             .number = 0,
                                             .bytes = {},
                                             .text = {}}};
  const auto started = StartScope(kScope, 4711, limits);
  ASSERT_TRUE(started.has_value()) << started.error().message();
  const auto units = fake_->units();
  ASSERT_EQ(units.size(), 1U);
  const FakeSystemd::Unit& unit = units.at("wyvern-a.scope");
  EXPECT_EQ(unit.properties,
            (std::map<std::string, std::string>{{"PIDs", "au 4711"},
                                                {"Description", "s Wyvern a"},
                                                {"Slice", "s pods-b.slice"},
                                                {"Delegate", "b 1"},
                                                {"DefaultDependencies", "b 0"},
                                                {"CollectMode", "s inactive-or-failed"},
                                                {"MemoryMax", "t 4096"},
                                                {"AllowedCPUs", "ay 0301"},
                                                {"AllowedMemoryNodes", "ay "}}));
  EXPECT_EQ(unit.directory, dir_ + "/cgroup/pods.slice/pods-b.slice/wyvern-a.scope");
}

TEST_F(SystemdTest, PropertiesAreSet) {
  ASSERT_TRUE(StartScope(kScope, 1, {}).has_value());
  const UnitProperty weight{.name = "CPUWeight",
                            .kind = UnitProperty::Kind::kNumber,
                            .number = 59,
                            .bytes = {},
                            .text = {}};
  const auto set = SetUnitProperties(kScope.name, {&weight, 1});
  ASSERT_TRUE(set.has_value()) << set.error().message();
  EXPECT_EQ(fake_->units().at(kScope.name).properties.at("CPUWeight"), "t 59");
  const size_t calls = fake_->calls().size();
  EXPECT_TRUE(SetUnitProperties(kScope.name, {}).has_value());
  EXPECT_EQ(fake_->calls().size(), calls);
}

TEST_F(SystemdTest, EveryCallMayStallBeCutOrAnswerNonsense) {
  for (const char* method : {"Hello", "AddMatch", "Subscribe", "StartTransientUnit"}) {
    fake_->Do(method, Manner::kNever);
    EXPECT_EQ(StartFails().code(), Code::kDeadlineExceeded) << method;
    fake_->Do(method, Manner::kCut);
    EXPECT_NE(StartFails().code(), Code::kOk) << method;
    fake_->Do(method, Manner::kGarbage);
    EXPECT_NE(StartFails().code(), Code::kOk) << method;
    fake_->DoRight(method);
  }
  for (const char* method : {"Hello", "StartTransientUnit"}) {
    fake_->Do(method, Manner::kWrongType);
    EXPECT_NE(StartFails().code(), Code::kOk) << method;
    fake_->DoRight(method);
  }
  EXPECT_TRUE(StartScope(kScope, 1, {}, kQuick).has_value());  // the next one works
  fake_->Do("SetUnitProperties", Manner::kNever);
  const UnitProperty weight{.name = "CPUWeight",
                            .kind = UnitProperty::Kind::kNumber,
                            .number = 1,
                            .bytes = {},
                            .text = {}};
  EXPECT_EQ(SetUnitProperties(kScope.name, {&weight, 1}, kQuick).error().code(),
            Code::kDeadlineExceeded);
}

TEST_F(SystemdTest, ErrorsAreTyped) {
  fake_->Do("StartTransientUnit", Manner::kError, "org.freedesktop.DBus.Error.AccessDenied");
  const Error denied = StartFails();
  EXPECT_EQ(denied.code(), Code::kPermissionDenied);
  EXPECT_THAT(std::string(denied.message()), HasSubstr("wyvern-a.scope"));
  EXPECT_THAT(std::string(denied.message()), HasSubstr("the fake says no"));
  fake_->Do("StartTransientUnit", Manner::kError, "org.freedesktop.DBus.Error.ServiceUnknown");
  EXPECT_EQ(StartFails().code(), Code::kUnavailable);
  fake_->Do("Subscribe", Manner::kError, "org.freedesktop.DBus.Error.Spawn.ChildExited");
  const Error none = StartFails();
  EXPECT_EQ(none.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(none.message()), HasSubstr("SystemdCgroup = false"));
  fake_->DoRight("Subscribe");
  fake_->Do("StartTransientUnit", Manner::kError, "org.freedesktop.systemd1.NoneOfThese");
  EXPECT_EQ(StartFails().code(), Code::kInternal);
}

TEST_F(SystemdTest, JobsThatFailOrNeverEnd) {
  fake_->EndJobsAs("failed");
  const Error failed = StartFails();
  EXPECT_EQ(failed.code(), Code::kInternal);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("its start ends as 'failed'"));
  fake_->EndJobsAs("");
  EXPECT_EQ(StartFails().code(), Code::kDeadlineExceeded);
}

TEST_F(SystemdTest, SignalsOfOthersAreNotBelieved) {
  fake_->LetOthersLie();
  EXPECT_TRUE(StartScope(kScope, 1, {}, kQuick).has_value());
}

TEST_F(SystemdTest, AnEarlierScopeOfOursIsWaitedFor) {
  fake_->Have(kScope.name, kScope.description, 2);
  const auto started = StartScope(kScope, 1, {});
  EXPECT_TRUE(started.has_value()) << started.error().message();
  EXPECT_THAT(fake_->calls(), Contains("ResetFailedUnit"));
}

TEST_F(SystemdTest, OneThatStaysIsReported) {
  fake_->Have(kScope.name, kScope.description);
  EXPECT_EQ(StartFails().code(), Code::kAlreadyExists);
}

TEST_F(SystemdTest, SomebodyElsesUnitIsLeftAlone) {
  fake_->Have(kScope.name, "a unit of the host");
  const Error error = StartFails();
  EXPECT_EQ(error.code(), Code::kAlreadyExists);
  EXPECT_THAT(std::string(error.message()), HasSubstr("is not ours"));
  EXPECT_THAT(fake_->calls(), testing::Not(Contains("ResetFailedUnit")));
}

TEST(SystemdAddressTest, NobodyThereSaysWhatToDo) {
  setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/at/all", 1);
  const auto started = StartScope(kScope, 1, {}, kQuick);
  unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code(), Code::kUnavailable);
  EXPECT_THAT(std::string(started.error().message()), HasSubstr("SystemdCgroup = false"));
}

TEST(UnitNameTest, WhatSystemdTakes) {
  for (const char* name : {"a.scope", "cri-containerd-0a1b.scope", "a:b_c\\x2d.slice"}) {
    EXPECT_TRUE(IsUnitName(name)) << name;
  }
  for (const std::string& name :
       {std::string(), std::string("a b"), std::string("a/b"), std::string("\xc3\xa4"),
        std::string("a\n"), std::string(256, 'a')}) {
    EXPECT_FALSE(IsUnitName(name)) << name;
  }
}

}  // namespace
}  // namespace wyvern::runtime
