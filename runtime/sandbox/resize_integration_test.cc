// A machine that follows its containers' limits, and what becomes of everything when guest, VMM or agent do not. Needs root, as the other
// sandboxes of tests; the agent is a fake, the machine is hollow.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using std::chrono::steady_clock;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kMiBytes = 1ULL << 20U;

class ResizeTest : public SandboxFixture {
 protected:
  void SetUp() override {
    SandboxFixture::SetUp();
    if (IsSkipped()) {
      return;
    }
    config_->sandbox.max_vcpus = 8;
    config_->sandbox.max_memory = 4096 * kMiBytes;
  }

  // Its bundle has these limits and annotations.
  void BootFake(const std::string& resources = "", const std::string& annotations = "") {
    Backend backend;
    backend.make_machine = [this](const MachineOptions& options) {
      sizes_->vcpus = options.vcpus;
      sizes_->memory = options.memory_bytes;
      return MakeHollowMachineWithAgent(agent_.Connector(), nullptr, sizes_);
    };
    BundleOptions options;
    options.resources = resources;
    options.annotations = annotations;
    auto sandbox = StartSandbox(OptionsOf(MakeBundle("box", options), "box"), backend);
    ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
    sandbox_ = std::move(*sandbox);
  }

  Result<> Create(const std::string& id, const std::string& resources = "",
                  const std::string& annotations = "") {
    BundleOptions options;
    options.resources = resources;
    options.annotations = annotations;
    WV_TRY_VOID(sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false)));
    return sandbox_->StartProcess(id, "");
  }

  std::vector<std::string> Calls() {
    const std::lock_guard lock(sizes_->mu);
    return std::exchange(sizes_->calls, {});
  }

  std::string Now() {
    const std::lock_guard lock(sizes_->mu);
    return fmt::format("{} vCPUs, {} MiB", sizes_->vcpus, sizes_->memory / kMiBytes);
  }

  // What it is in the end.
  std::string Becomes(const std::string& expected) {
    const auto deadline = steady_clock::now() + std::chrono::seconds(10);
    while (Now() != expected && steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return Now();
  }

  void Let(const std::function<void(SizeWatch&)>& change) {
    const std::lock_guard lock(sizes_->mu);
    change(*sizes_);
  }

  FakeAgent agent_;
  const std::shared_ptr<SizeWatch> sizes_ = std::make_shared<SizeWatch>();
};

constexpr char kLarge[] =
    R"({"cpu":{"quota":300000,"period":100000},"memory":{"limit":536870912}})";
constexpr char kHuge[] =
    R"({"cpu":{"quota":400000,"period":100000},"memory":{"limit":1073741824}})";

TEST_F(ResizeTest, GrowsBeforeAContainerAndShrinksAfterItHasEnded) {
  BootFake();
  ASSERT_TRUE(Create("a").has_value());
  EXPECT_THAT(Calls(), IsEmpty()) << "it has what the configuration gives";
  ASSERT_TRUE(Create("b", kLarge).has_value());
  EXPECT_THAT(Calls(), ElementsAre("memory 864", "vcpus 4"));
  agent_.Exit("b", 0);
  EXPECT_EQ(Becomes("1 vCPUs, 256 MiB"), "1 vCPUs, 256 MiB") << "before it is deleted";
  ASSERT_TRUE(sandbox_->DeleteProcess("b", "").has_value());
}

TEST_F(ResizeTest, LastContainersEndShrinksNothing) {
  BootFake(kLarge);
  EXPECT_EQ(Now(), "3 vCPUs, 608 MiB");
  ASSERT_TRUE(Create("box", kLarge).has_value());
  agent_.Exit("box", 0);
  ASSERT_TRUE(sandbox_->Wait("box", "").has_value());
  ASSERT_TRUE(sandbox_->DeleteProcess("box", "").has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_THAT(Calls(), IsEmpty()) << "the machine is about to end";
}

TEST_F(ResizeTest, PodWaitsForItsNextContainerAsSmallAsCanBe) {
  const std::string pause = R"({"io.kubernetes.cri.container-type":"sandbox"})";
  BootFake(kHuge, pause);
  EXPECT_EQ(Now(), "1 vCPUs, 256 MiB") << "a pause needs nothing";
  ASSERT_TRUE(Create("box", kHuge, pause).has_value());
  EXPECT_THAT(Calls(), IsEmpty());
  ASSERT_TRUE(Create("b", kLarge).has_value());
  EXPECT_EQ(Now(), "3 vCPUs, 608 MiB");
  agent_.Exit("b", 0);
  EXPECT_EQ(Becomes("1 vCPUs, 256 MiB"), "1 vCPUs, 256 MiB");
}

TEST_F(ResizeTest, ContainerForWhichTheGuestDoesNotGrowIsNotMade) {
  BootFake();
  ASSERT_TRUE(Create("a").has_value());
  Let([](SizeWatch& sizes) { sizes.most_vcpus = 2; });
  const auto created = Create("b", kLarge);
  EXPECT_EQ(created.error().code(), Code::kUnavailable);
  EXPECT_THAT(
      created.error().message(),
      HasSubstr("container b: the sandbox does not get from 1 to 4 vCPUs: the guest takes"));
  EXPECT_EQ(Now(), "1 vCPUs, 256 MiB");
  EXPECT_EQ(sandbox_->ContainerIds(), std::vector<std::string>{"a"});
  Let([](SizeWatch& sizes) {
    sizes.most_vcpus = 8;
    sizes.refused["memory 864"] = Code::kDeadlineExceeded;
  });
  EXPECT_EQ(Create("b", kLarge).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Now(), "1 vCPUs, 256 MiB");
  Let([](SizeWatch& sizes) { sizes.refused.clear(); });
  EXPECT_TRUE(Create("b", kLarge).has_value());
}

TEST_F(ResizeTest, LimitsBeyondWhatASandboxCanHaveAreCut) {
  BootFake();
  ASSERT_TRUE(Create("a", R"({"cpu":{"quota":9000000},"memory":{"limit":9223372036854775807}})")
                  .has_value());
  EXPECT_EQ(Now(), "8 vCPUs, 4096 MiB");
}

TEST_F(ResizeTest, UpdateGrowsThenTellsTheGuestThenShrinks) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  sizes_->before = [this](const std::string& call) {
    if (call == "memory 1120") {
      EXPECT_THAT(agent_.Updates(), IsEmpty()) << "it grows first";
    }
  };
  ASSERT_TRUE(sandbox_->UpdateContainer("box", kHuge).has_value());
  EXPECT_EQ(Now(), "4 vCPUs, 1120 MiB");
  ASSERT_EQ(agent_.Updates().size(), 1U);
  EXPECT_THAT(agent_.Updates()[0], HasSubstr("box {"));
  EXPECT_THAT(agent_.Updates()[0], HasSubstr("1073741824"));
  ASSERT_TRUE(sandbox_->UpdateContainer("box", kLarge).has_value());
  EXPECT_EQ(Becomes("3 vCPUs, 608 MiB"), "3 vCPUs, 608 MiB");
  // What an update does not give stays.
  ASSERT_TRUE(sandbox_->UpdateContainer("box", R"({"cpu":{"quota":100000}})").has_value());
  EXPECT_EQ(Becomes("1 vCPUs, 608 MiB"), "1 vCPUs, 608 MiB");
}

TEST_F(ResizeTest, UpdateThatTheMachineRefusesDoesNotReachTheGuest) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  Let([](SizeWatch& sizes) { sizes.most_memory = 700 * kMiBytes; });
  const auto updated = sandbox_->UpdateContainer("box", kHuge);
  EXPECT_EQ(updated.error().code(), Code::kUnavailable);
  EXPECT_EQ(updated.error().message(),
            "the sandbox does not get from 608 to 1120 MiB of memory: the guest keeps some");
  EXPECT_EQ(Now(), "3 vCPUs, 608 MiB");
  EXPECT_THAT(agent_.Updates(), IsEmpty());
  // The old limits count: less than three vCPUs would not do.
  EXPECT_EQ(sandbox_->Resize({.vcpus = 2}).error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(sandbox_->Resize({.vcpus = 3}).has_value());
}

TEST_F(ResizeTest, UpdateThatTheAgentRefusesIsTakenBack) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  agent_.Refuse("UpdateContainer", Code::kInvalidArgument);
  EXPECT_EQ(sandbox_->UpdateContainer("box", kHuge).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Becomes("3 vCPUs, 608 MiB"), "3 vCPUs, 608 MiB");
  EXPECT_TRUE(sandbox_->Resize({.vcpus = 3}).has_value());
}

TEST_F(ResizeTest, UpdateThatIsWrongChangesNothing) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  const auto fails = [this](const std::string& id, const std::string& resources) {
    const auto updated = sandbox_->UpdateContainer(id, resources);
    EXPECT_FALSE(updated.has_value()) << resources;
    return updated.has_value() ? "" : updated.error().message();
  };
  EXPECT_THAT(fails("box", "{"), HasSubstr("linux.resources"));
  EXPECT_THAT(fails("box", "[]"), HasSubstr("linux.resources"));
  EXPECT_THAT(fails("box", R"({"cpu":{"quota":500}})"), HasSubstr("linux.resources.cpu.quota"));
  EXPECT_THAT(fails("box", R"({"cpu":{"quota":"many"}})"), HasSubstr("cpu.quota"));
  EXPECT_THAT(fails("box", R"({"memory":{"limit":1048576,"swap":4096}})"), HasSubstr("swap"));
  EXPECT_THAT(fails("other", kHuge), HasSubstr("container other not found"));
  EXPECT_THAT(fails("", kHuge), HasSubstr("name a container"));
  EXPECT_THAT(Calls(), IsEmpty());
  EXPECT_THAT(agent_.Updates(), IsEmpty());
}

TEST_F(ResizeTest, WhatTheGuestKeepsIsTriedAgainAtTheNextChange) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  ASSERT_TRUE(sandbox_->UpdateContainer("box", kHuge).has_value());
  Let([](SizeWatch& sizes) { sizes.least_memory = 800 * kMiBytes; });
  ASSERT_TRUE(sandbox_->UpdateContainer("box", kLarge).has_value());
  EXPECT_EQ(Becomes("3 vCPUs, 800 MiB"), "3 vCPUs, 800 MiB");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(Calls().size(), 6U) << "a guest that keeps it is not asked again and again";
  Let([](SizeWatch& sizes) { sizes.least_memory = 0; });
  ASSERT_TRUE(sandbox_->UpdateContainer("box", "{}").has_value());
  EXPECT_EQ(Becomes("3 vCPUs, 608 MiB"), "3 vCPUs, 608 MiB");
}

TEST_F(ResizeTest, ResizeTakesThePlaceOfTheConfiguration) {
  BootFake();
  ASSERT_TRUE(Create("a").has_value());
  auto size = sandbox_->Resize({.vcpus = 4, .memory = 2047 * kMiBytes});
  ASSERT_TRUE(size.has_value()) << size.error().message();
  EXPECT_EQ(size->vcpus.size(), 4U);
  EXPECT_EQ(size->vcpus[3].thread, 1003);
  EXPECT_EQ(size->memory, 2048 * kMiBytes);
  EXPECT_EQ(size->boot_memory, 256 * kMiBytes);
  EXPECT_EQ(size->max_vcpus, 8U);
  EXPECT_EQ(size->max_memory, 4096 * kMiBytes);
  // Enough for a container that comes now, and not given back when that ends.
  ASSERT_TRUE(Create("b", kLarge).has_value());
  EXPECT_EQ(Now(), "4 vCPUs, 2048 MiB");
  agent_.Exit("b", 0);
  ASSERT_TRUE(sandbox_->Wait("b", "").has_value());
  ASSERT_TRUE(sandbox_->DeleteProcess("b", "").has_value());
  EXPECT_EQ(Now(), "4 vCPUs, 2048 MiB");
  ASSERT_TRUE(sandbox_->Resize({.vcpus = 1, .memory = 256 * kMiBytes}).has_value());
  EXPECT_EQ(Now(), "1 vCPUs, 256 MiB");
}

TEST_F(ResizeTest, ResizeSaysWhatItMayBe) {
  BootFake();
  ASSERT_TRUE(Create("a", R"({"memory":{"limit":536870912}})").has_value());
  EXPECT_EQ(Now(), "1 vCPUs, 608 MiB");
  const auto fails = [this](const SizeWish& wish, Code code) {
    const auto resized = sandbox_->Resize(wish);
    EXPECT_EQ(resized.error().code(), code);
    return resized.has_value() ? "" : resized.error().message();
  };
  EXPECT_THAT(fails({}, Code::kInvalidArgument), HasSubstr("nothing to resize"));
  EXPECT_THAT(fails({.vcpus = 0}, Code::kInvalidArgument), HasSubstr("must be 1 to 8"));
  EXPECT_THAT(fails({.vcpus = 9}, Code::kInvalidArgument), HasSubstr("sandbox.max_vcpus"));
  EXPECT_THAT(fails({.memory = 128 * kMiBytes}, Code::kInvalidArgument),
              HasSubstr("must be 256 MiB, which the sandbox booted with, to 4096 MiB"));
  EXPECT_THAT(fails({.memory = ~uint64_t{0}}, Code::kInvalidArgument), HasSubstr("4096 MiB"));
  EXPECT_THAT(fails({.memory = 300 * kMiBytes}, Code::kFailedPrecondition),
              HasSubstr("the limits of its containers need 608 MiB of memory"));
  EXPECT_THAT(Calls(), ElementsAre("memory 608"));
  Let([](SizeWatch& sizes) { sizes.refused["vcpus 4"] = Code::kUnavailable; });
  fails({.vcpus = 4, .memory = 1024 * kMiBytes}, Code::kUnavailable);
  EXPECT_EQ(Now(), "1 vCPUs, 608 MiB") << "all or nothing";
}

TEST_F(ResizeTest, GuestThatStallsKeepsWhoDoesNotResizeFromNothing) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  std::promise<void> stalls, answers;
  sizes_->before = [&, once = true](const std::string& /*call*/) mutable {
    if (std::exchange(once, false)) {
      stalls.set_value();
      answers.get_future().wait();
    }
  };
  auto update = std::async(std::launch::async,
                           [&] { return sandbox_->UpdateContainer("box", kHuge).has_value(); });
  stalls.get_future().wait();
  EXPECT_EQ(sandbox_->State("box", "")->status, ProcessStatus::kRunning);
  EXPECT_EQ(sandbox_->Size()->vcpus.size(), 3U);
  EXPECT_TRUE(sandbox_->Stats("box").has_value());
  EXPECT_TRUE(sandbox_->AddExec("box", "e", R"({"args":["sh"],"cwd":"/"})", {}).has_value());
  agent_.Exit("box", 3);
  EXPECT_EQ(sandbox_->Wait("box", "")->status, 3U);
  answers.set_value();
  EXPECT_TRUE(update.get());
  EXPECT_EQ(sandbox_->DeleteProcess("box", "")->status, 3U);
}

TEST_F(ResizeTest, GuestThatStallsDoesNotKeepTheSandboxFromItsEnd) {
  BootFake(kLarge);
  ASSERT_TRUE(Create("box", kLarge).has_value());
  std::promise<void> stalls;
  const auto end = std::make_shared<std::promise<void>>();
  sizes_->before = [&stalls, once = true,
                    ended = end->get_future().share()](const std::string& /*call*/) mutable {
    if (std::exchange(once, false)) {
      stalls.set_value();
      ended.wait();  // as a call to a VMM, which its end releases
    }
  };
  Let([](SizeWatch& sizes) { sizes.refused["memory 1120"] = Code::kUnavailable; });
  auto update = std::async(std::launch::async,
                           [&] { return sandbox_->UpdateContainer("box", kHuge).error().code(); });
  stalls.get_future().wait();
  const auto begin = steady_clock::now();
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(10));
  end->set_value();
  EXPECT_EQ(update.get(), Code::kUnavailable);
}

TEST_F(ResizeTest, DeadSandboxHasNoSize) {
  BootFake();
  ASSERT_TRUE(Create("a").has_value());
  ASSERT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(sandbox_->Size().error().code(), Code::kUnavailable);
  EXPECT_EQ(sandbox_->Resize({.vcpus = 2}).error().code(), Code::kUnavailable);
  EXPECT_EQ(sandbox_->UpdateContainer("a", kHuge).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace wyvern::runtime
