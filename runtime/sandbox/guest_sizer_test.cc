#include "sandbox/guest_sizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kMeg = 1ULL << 20U;
constexpr uint64_t kBlock = 4 * kMeg;
constexpr SizePlan kPlan = {.boot = {1, 256 * kMeg}, .most = {8, 4096 * kMeg}};

// Follows as far as a test lets it, in blocks of 4 MiB.
class ObedientMachine final : public Machine {
 public:
  Result<> Start(const SpawnHook& /*spawned*/) override { return {}; }

  Result<> Boot(EventCallback /*events*/) override { return {}; }

  Result<UniqueFd> ConnectVsock(uint32_t /*port*/) override { return UniqueFd(); }

  Result<> AttachExport(const std::string&, FdRef, const ExportPolicy&) override { return {}; }

  Result<> DetachExport(const std::string&) override { return {}; }

  Result<> AttachDisk(const std::string&, FdRef, bool) override { return {}; }

  Result<> AttachNetwork(const std::string&, const std::vector<UniqueFd>&,
                         const NetworkDevice&) override {
    return {};
  }

  Result<> DetachDevice(const std::string&, bool) override { return {}; }

  Result<> ResizeDisk(const std::string&) override { return {}; }

  Result<ResizedVcpus> ResizeVcpus(uint32_t wanted, milliseconds patience) override {
    calls.push_back(fmt::format("vcpus {}", wanted));
    patiences.push_back(patience);
    if (vcpus_error.has_value()) {
      vcpus = std::min(wanted, most_vcpus);
      return tl::unexpected(Error(*vcpus_error, "cut"));
    }
    vcpus = std::clamp(wanted, least_vcpus, most_vcpus);
    return ResizedVcpus{vcpus, vcpus == wanted ? "" : "CPU 3 is busy"};
  }

  Result<ResizedMemory> ResizeMemory(uint64_t bytes, milliseconds /*patience*/) override {
    calls.push_back(fmt::format("memory {}", bytes / kMeg));
    if (memory_error.has_value()) {
      return tl::unexpected(Error(*memory_error, "cut"));
    }
    const uint64_t blocks = (bytes + kBlock - 1) / kBlock * kBlock;
    memory = std::clamp(blocks, least_memory, most_memory);
    return ResizedMemory{memory, memory == blocks ? "" : "no room"};
  }

  Result<MachineSize> Size() override {
    MachineSize size;
    size.memory_bytes = memory;
    size.vcpus.resize(vcpus);
    return size;
  }

  Result<observe::VmmUsage> Usage(milliseconds /*limit*/) override { return observe::VmmUsage(); }

  api::ConsoleText Console() override { return {}; }

  void End() override {}

  uint32_t vcpus = 1, least_vcpus = 1, most_vcpus = 32;
  uint64_t memory = 256 * kMeg, least_memory = 256 * kMeg, most_memory = 1ULL << 40U;
  std::optional<Code> vcpus_error, memory_error;
  std::vector<std::string> calls;
  std::vector<milliseconds> patiences;
};

class GuestSizerTest : public testing::Test {
 protected:
  Result<> LimitHost(uint64_t memory) {
    machine_.calls.push_back(fmt::format("host {}", memory / kMeg));
    return host_error_.has_value() ? Fail(*host_error_, "no cgroup") : Result<>();
  }

  Result<uint64_t> Used() const {
    if (!used_.has_value()) {
      return Fail(Code::kDeadlineExceeded, "hangs");
    }
    return *used_;
  }

  ObedientMachine machine_;
  std::optional<Code> host_error_;
  std::optional<uint64_t> used_ = 0;  // none: it does not say
  GuestSizer sizer_{{.machine = &machine_,
                     .plan = kPlan,
                     .limit_host = [this](uint64_t memory) { return LimitHost(memory); },
                     .in_use = [this](uint64_t /*memory*/) { return Used(); },
                     .patience = milliseconds(700)}};
};

TEST_F(GuestSizerTest, HostGrantsFirstAndTakesBackLast) {
  ASSERT_TRUE(sizer_.Set({4, 2048 * kMeg}).has_value());
  EXPECT_EQ(sizer_.now(), (GuestSize{4, 2048 * kMeg}));
  EXPECT_THAT(machine_.calls, ElementsAre("host 2176", "memory 2048", "host 2048", "vcpus 4"));
  EXPECT_THAT(machine_.patiences, ElementsAre(milliseconds(700)));
  machine_.calls.clear();
  ASSERT_TRUE(sizer_.Set(kPlan.boot).has_value());
  EXPECT_EQ(sizer_.now(), kPlan.boot);
  EXPECT_THAT(machine_.calls, ElementsAre("memory 256", "host 256", "vcpus 1"));
  machine_.calls.clear();
  ASSERT_TRUE(sizer_.Set(kPlan.boot).has_value());
  EXPECT_THAT(machine_.calls, IsEmpty());
}

TEST_F(GuestSizerTest, WholeBlocksAreMoreThanAskedAndFine) {
  ASSERT_TRUE(sizer_.Set({1, 302 * kMeg}).has_value());
  EXPECT_EQ(sizer_.now().memory, 304 * kMeg);
  EXPECT_EQ(machine_.calls.back(), "host 304");
  ASSERT_TRUE(sizer_.Set({1, 302 * kMeg}).has_value()) << "no less can be";
  EXPECT_EQ(sizer_.now().memory, 304 * kMeg);
}

TEST_F(GuestSizerTest, HostThatDoesNotGrantLeavesTheGuestAsItIs) {
  host_error_ = Code::kPermissionDenied;
  const auto set = sizer_.Set({4, 2048 * kMeg});
  EXPECT_EQ(set.error().code(), Code::kPermissionDenied);
  EXPECT_THAT(machine_.calls, ElementsAre("host 2176"));
  EXPECT_EQ(sizer_.now(), kPlan.boot);
}

TEST_F(GuestSizerTest, GuestThatTakesAPartGoesBack) {
  machine_.most_memory = 512 * kMeg;
  auto set = sizer_.Set({4, 2048 * kMeg});
  EXPECT_EQ(set.error().code(), Code::kUnavailable);
  EXPECT_EQ(set.error().message(),
            "the sandbox does not get from 256 to 2048 MiB of memory: no room");
  EXPECT_EQ(sizer_.now(), kPlan.boot);
  EXPECT_THAT(machine_.calls,
              ElementsAre("host 2176", "memory 2048", "host 512", "memory 256", "host 256"));
  machine_.most_memory = 1ULL << 40U;
  machine_.most_vcpus = 3;
  set = sizer_.Set({4, 512 * kMeg});
  EXPECT_EQ(set.error().message(), "the sandbox does not get from 1 to 4 vCPUs: CPU 3 is busy");
  EXPECT_EQ(sizer_.now(), kPlan.boot);
}

TEST_F(GuestSizerTest, GuestThatDoesNotGoBackEitherIsToldSo) {
  machine_.most_vcpus = 3;
  machine_.least_memory = 512 * kMeg;
  const auto set = sizer_.Set({4, 512 * kMeg});
  EXPECT_EQ(set.error().code(), Code::kUnavailable);
  EXPECT_THAT(set.error().message(), HasSubstr("does not get from 1 to 4 vCPUs: CPU 3 is busy"));
  EXPECT_THAT(set.error().message(), HasSubstr("does not go back"));
  EXPECT_EQ(sizer_.now(), (GuestSize{3, 512 * kMeg})) << "what is, not what was asked for";
}

TEST_F(GuestSizerTest, AfterAnErrorTheMachineIsAskedWhatIs) {
  machine_.vcpus_error = Code::kDeadlineExceeded;
  machine_.most_vcpus = 2;
  const auto set = sizer_.Set({4, kPlan.boot.memory});
  EXPECT_EQ(set.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(sizer_.now().vcpus, 1U) << "it was asked to go back";
  EXPECT_THAT(machine_.calls, ElementsAre("vcpus 4", "vcpus 1"));
  machine_.memory_error = Code::kUnavailable;
  machine_.calls.clear();
  EXPECT_EQ(sizer_.Set({1, 512 * kMeg}).error().code(), Code::kUnavailable);
  EXPECT_THAT(machine_.calls, ElementsAre("host 640", "memory 512", "host 256"));
}

TEST_F(GuestSizerTest, ShrinkKeepsWhatTheGuestKeepsAndGrowsNothing) {
  ASSERT_TRUE(sizer_.Set({4, 2048 * kMeg}).has_value());
  machine_.calls.clear();
  machine_.least_vcpus = 2;
  machine_.least_memory = 640 * kMeg;
  auto shrunk = sizer_.Shrink(kPlan.boot, milliseconds(50));
  EXPECT_TRUE(shrunk.moved);
  EXPECT_THAT(shrunk.kept, HasSubstr("CPU 3 is busy"));
  EXPECT_THAT(shrunk.kept, HasSubstr("no room"));
  EXPECT_EQ(sizer_.now(), (GuestSize{2, 640 * kMeg}));
  EXPECT_THAT(machine_.calls, ElementsAre("vcpus 1", "memory 256", "host 640"));
  EXPECT_EQ(machine_.patiences.back(), milliseconds(50));
  shrunk = sizer_.Shrink(kPlan.boot, milliseconds(50));
  EXPECT_FALSE(shrunk.moved);
  machine_.least_vcpus = 1;
  machine_.least_memory = 0;
  shrunk = sizer_.Shrink({1, 256 * kMeg}, milliseconds(50));
  EXPECT_TRUE(shrunk.moved);
  EXPECT_EQ(shrunk.kept, "");
  machine_.calls.clear();
  EXPECT_FALSE(sizer_.Shrink({8, 1024 * kMeg}, milliseconds(50)).moved);
  EXPECT_THAT(machine_.calls, IsEmpty());
}

TEST_F(GuestSizerTest, LessThanTheGuestUsesIsRefusedBeforeItIsAsked) {
  ASSERT_TRUE(sizer_.Set({4, 2048 * kMeg}).has_value());
  machine_.calls.clear();
  used_ = 700 * kMeg;
  const auto set = sizer_.Set({1, 512 * kMeg});
  EXPECT_EQ(set.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(set.error().message(), "512 MiB of memory: the guest uses 700 MiB");
  EXPECT_THAT(machine_.calls, IsEmpty());
  EXPECT_TRUE(sizer_.Set({4, 768 * kMeg}).has_value());
}

TEST_F(GuestSizerTest, ShrinksToWhatTheGuestUses) {
  ASSERT_TRUE(sizer_.Set({1, 2048 * kMeg}).has_value());
  used_ = 701 * kMeg;
  auto shrunk = sizer_.Shrink(kPlan.boot, milliseconds(1));
  EXPECT_TRUE(shrunk.moved);
  EXPECT_EQ(shrunk.kept, "the guest uses 701 MiB");
  EXPECT_EQ(sizer_.now().memory, 704 * kMeg) << "in blocks";
  used_ = 680 * kMeg;
  machine_.calls.clear();
  shrunk = sizer_.Shrink(kPlan.boot, milliseconds(1));
  EXPECT_FALSE(shrunk.moved) << "not for so little";
  EXPECT_THAT(machine_.calls, IsEmpty());
}

TEST_F(GuestSizerTest, GuestThatDoesNotSayWhatItUsesKeepsItsMemory) {
  ASSERT_TRUE(sizer_.Set({4, 2048 * kMeg}).has_value());
  machine_.calls.clear();
  used_.reset();
  EXPECT_EQ(sizer_.Set(kPlan.boot).error().code(), Code::kDeadlineExceeded);
  const auto shrunk = sizer_.Shrink(kPlan.boot, milliseconds(1));
  EXPECT_EQ(shrunk.kept, "hangs");
  EXPECT_EQ(sizer_.now(), (GuestSize{1, 2048 * kMeg})) << "its vCPUs go";
  EXPECT_THAT(machine_.calls, ElementsAre("vcpus 1"));
}

}  // namespace
}  // namespace wyvern::runtime
