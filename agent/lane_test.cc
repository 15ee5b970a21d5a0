#include "agent/lane.h"

#include <gtest/gtest.h>

#include <future>

#include "agent/testing/upcall_harness.h"

namespace wyvern::agent {
namespace {

using Clock = std::chrono::steady_clock;

// Says what became of it, once.
class TestJob final : public Job {
 public:
  explicit TestJob(std::function<Progress()> step) : step_(std::move(step)) {}

  Progress Step() override {
    const Progress progress = step_();
    if (progress == Progress::kDone) {
      End("done");
    }
    return progress;
  }

  void Expire() override { End("expired"); }

  std::string Outcome() {
    return outcome_.wait_for(20s) == std::future_status::ready ? outcome_.get() : "nothing";
  }

 private:
  void End(const char* how) {
    if (!ended_.exchange(true)) {
      promise_.set_value(how);
    }
  }

  std::function<Progress()> step_;
  std::atomic<bool> ended_{false};
  std::promise<std::string> promise_;
  std::shared_future<std::string> outcome_ = promise_.get_future().share();
};

class LaneTest : public testing::Test {
 protected:
  LaneTest() : loop_(Must(LoopThread::Start("lane-test"))) {
    loop_->Call([this] { lane_.emplace(loop_->loop(), "lane"); });
  }

  ~LaneTest() override {
    loop_->Call([this] { lane_.reset(); });
  }

  Result<> Submit(const std::shared_ptr<Job>& job, std::chrono::milliseconds within) {
    Result<> result;
    loop_->Call([&] { result = lane_->Submit(job, Clock::now() + within); });
    return result;
  }

  static std::shared_ptr<TestJob> Make(std::function<Job::Progress()> step) {
    return std::make_shared<TestJob>(std::move(step));
  }

  std::unique_ptr<LoopThread> loop_;
  std::optional<Lane> lane_;
};

TEST_F(LaneTest, JobStuckInTheKernelIsAnsweredAtItsDeadlineAndTheNextWhenItIsOver) {
  Gate gate;
  const auto stuck = Make([wait = gate.waiter()] {
    wait();
    return Job::Progress::kDone;
  });
  const auto next = Make([] { return Job::Progress::kDone; });
  const auto late = Make([] { return Job::Progress::kDone; });
  ASSERT_TRUE(Submit(stuck, 50ms));
  ASSERT_TRUE(Submit(late, 60ms));
  ASSERT_TRUE(Submit(next, 20s));
  EXPECT_EQ(stuck->Outcome(), "expired");
  EXPECT_EQ(late->Outcome(), "expired");
  gate.Open();
  EXPECT_EQ(next->Outcome(), "done");
}

TEST_F(LaneTest, WhatIsLateIsNotBegun) {
  Gate gate;
  std::atomic<bool> begun{false};
  const auto stuck = Make([wait = gate.waiter()] {
    wait();
    return Job::Progress::kDone;
  });
  const auto late = Make([&begun] {
    begun = true;
    return Job::Progress::kDone;
  });
  ASSERT_TRUE(Submit(stuck, 20s));
  ASSERT_TRUE(Submit(late, 10ms));
  EXPECT_EQ(late->Outcome(), "expired");
  gate.Open();
  EXPECT_EQ(stuck->Outcome(), "done");
  const auto last = Make([] { return Job::Progress::kDone; });
  ASSERT_TRUE(Submit(last, 20s));
  EXPECT_EQ(last->Outcome(), "done");
  EXPECT_FALSE(begun);
}

TEST_F(LaneTest, JobThatWaitsHoldsNoOtherUp) {
  std::atomic<bool> come{false};
  const auto waits = Make([&come] { return come ? Job::Progress::kDone : Job::Progress::kWait; });
  ASSERT_TRUE(Submit(waits, 20s));
  const auto other = Make([] { return Job::Progress::kDone; });
  ASSERT_TRUE(Submit(other, 20s));
  EXPECT_EQ(other->Outcome(), "done");
  come = true;
  EXPECT_EQ(waits->Outcome(), "done");
}

TEST_F(LaneTest, MoreThanFitAreRefusedAndThoseThatExpireMakeRoom) {
  Gate gate;
  const auto stuck = Make([wait = gate.waiter()] {
    wait();
    return Job::Progress::kDone;
  });
  ASSERT_TRUE(Submit(stuck, 20s));
  std::vector<std::shared_ptr<TestJob>> jobs;
  while (jobs.size() < Lane::kMaxJobs - 1) {
    jobs.push_back(Make([] { return Job::Progress::kDone; }));
    ASSERT_TRUE(Submit(jobs.back(), jobs.size() == 1 ? 10ms : 20000ms));
  }
  EXPECT_EQ(jobs.front()->Outcome(), "expired");
  EXPECT_TRUE(Submit(Make([] { return Job::Progress::kDone; }), 20s));
  EXPECT_EQ(CodeOf(Submit(stuck, 20s)), Code::kResourceExhausted);
  gate.Open();
  EXPECT_EQ(jobs.back()->Outcome(), "done");
}

TEST_F(LaneTest, EndsWithJobsInIt) {
  ASSERT_TRUE(Submit(Make([] { return Job::Progress::kWait; }), 20s));
  ASSERT_TRUE(Submit(Make([] { return Job::Progress::kMore; }), 20s));
}

}  // namespace
}  // namespace wyvern::agent
