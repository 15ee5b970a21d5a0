#include "sandbox/vcpu_pins.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace wyvern::runtime {
namespace {

// Stands for a vCPU's thread.
class Parked {
 public:
  Parked() : thread_([this] { Run(); }) { id_.wait(0); }

  ~Parked() {
    end_ = true;
    end_.notify_all();
    thread_.join();
  }

  Parked(const Parked&) = delete;
  Parked& operator=(const Parked&) = delete;

  pid_t id() const { return id_; }

  std::vector<uint32_t> Cpus() const {
    cpu_set_t set;
    CPU_ZERO(&set);
    EXPECT_EQ(sched_getaffinity(id_, sizeof(set), &set), 0);
    std::vector<uint32_t> cpus;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) {
        cpus.push_back(cpu);
      }
    }
    return cpus;
  }

 private:
  void Run() {
    id_ = gettid();
    id_.notify_all();
    end_.wait(false);
  }

  std::atomic<pid_t> id_{0};
  std::atomic<bool> end_{false};
  std::thread thread_;
};

class VcpuPinsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    all_ = first_.Cpus();
    if (all_.size() < 2) {
      GTEST_SKIP() << "one CPU: nothing to choose from";
    }
  }

  Parked first_, second_;
  std::vector<uint32_t> all_;
  VcpuPins pins_;
};

TEST_F(VcpuPinsTest, EachVcpuHasOneOfAsManyCpus) {
  ASSERT_TRUE(pins_.Apply({{0, first_.id()}, {1, second_.id()}}, {all_[0], all_[1]}).has_value());
  EXPECT_TRUE(pins_.pinned());
  EXPECT_EQ(first_.Cpus(), std::vector{all_[0]});
  EXPECT_EQ(second_.Cpus(), std::vector{all_[1]});
}

TEST_F(VcpuPinsTest, FewerOrMoreCpusLetThemGo) {
  const std::vector<VcpuThread> both = {{0, first_.id()}, {1, second_.id()}};
  ASSERT_TRUE(pins_.Apply(both, {all_[0], all_[1]}).has_value());
  for (const std::vector<uint32_t>& cpus : {std::vector<uint32_t>{}, {all_[1]}, {0, 1, 2}}) {
    ASSERT_TRUE(pins_.Apply(both, {all_[0], all_[1]}).has_value());
    ASSERT_TRUE(pins_.Apply(both, cpus).has_value());
    EXPECT_FALSE(pins_.pinned());
    EXPECT_EQ(first_.Cpus(), all_);
    EXPECT_EQ(second_.Cpus(), all_);
  }
}

TEST_F(VcpuPinsTest, WhoseAffinityIsOthersIsLeftAlone) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(all_[1], &one);
  ASSERT_EQ(sched_setaffinity(first_.id(), sizeof(one), &one), 0);
  ASSERT_TRUE(pins_.Apply({{0, first_.id()}}, {}).has_value());
  EXPECT_EQ(first_.Cpus(), std::vector{all_[1]});
}

TEST_F(VcpuPinsTest, MissingThreadOrCpuIsAnErrorAndIsTriedAgain) {
  EXPECT_FALSE(pins_.Apply({{0, first_.id()}, {1, second_.id()}}, {all_[0], 8191}).has_value());
  EXPECT_TRUE(pins_.pinned());
  ASSERT_TRUE(pins_.Apply({{0, first_.id()}, {1, second_.id()}}, {}).has_value());
  EXPECT_EQ(first_.Cpus(), all_);
  constexpr pid_t kNobody = 1 << 22;
  EXPECT_FALSE(pins_.Apply({{0, kNobody}}, {all_[0]}).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
