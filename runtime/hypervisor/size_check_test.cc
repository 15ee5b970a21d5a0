#include "hypervisor/size_check.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <future>
#include <thread>

namespace wyvern::runtime {
namespace {

MachineOptions MadeWith() {
  MachineOptions options;
  options.vcpus = 1;
  options.max_vcpus = 4;
  options.memory_bytes = 256U << 20U;
  options.hotplug_memory_bytes = 512U << 20U;
  return options;
}

TEST(SizeCheckTest, NumbersAreThoseOfTheMachine) {
  for (const uint64_t vcpus : {uint64_t{0}, uint64_t{5}, UINT64_MAX}) {
    EXPECT_EQ(CheckVcpus(vcpus, MadeWith()).error().code(), Code::kInternal) << vcpus;
  }
  EXPECT_TRUE(CheckVcpus(4, MadeWith()).has_value());
  for (const uint64_t mib : {uint64_t{0}, uint64_t{255}, uint64_t{769}, UINT64_MAX >> 20U}) {
    EXPECT_EQ(CheckMemory(mib << 20U, MadeWith()).error().code(), Code::kInternal) << mib;
  }
  EXPECT_TRUE(CheckMemory(256U << 20U, MadeWith()).has_value());
  EXPECT_TRUE(CheckMemory(768U << 20U, MadeWith()).has_value());
  MachineOptions fixed = MadeWith();
  fixed.max_vcpus = 0;
  fixed.vcpus = 2;
  EXPECT_TRUE(CheckVcpus(2, fixed).has_value());
}

TEST(SizeCheckTest, ThreadsAreTheVmmsOwn) {
  std::promise<pid_t> started;
  std::promise<void> end;
  std::thread other([&] {
    started.set_value(gettid());
    end.get_future().wait();
  });
  const pid_t thread = started.get_future().get();
  const auto check = [&](std::vector<VcpuThread> vcpus) {
    return CheckSize({256U << 20U, std::move(vcpus)}, MadeWith(), getpid());
  };
  EXPECT_TRUE(check({{0, getpid()}, {3, thread}}).has_value());
  EXPECT_FALSE(check({}).has_value());
  EXPECT_FALSE(check({{0, 1}}).has_value()) << "init's";
  EXPECT_FALSE(check({{0, 0}}).has_value());
  EXPECT_FALSE(check({{0, -1}}).has_value());
  EXPECT_FALSE(check({{4, thread}}).has_value()) << "no vCPU of the machine";
  EXPECT_FALSE(check({{1, thread}, {1, getpid()}}).has_value()) << "twice";
  EXPECT_FALSE(CheckSize({0, {{0, getpid()}}}, MadeWith(), getpid()).has_value());
  end.set_value();
  other.join();
}

}  // namespace
}  // namespace wyvern::runtime
