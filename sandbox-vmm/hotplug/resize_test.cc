#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "hotplug/memory_size.h"
#include "hotplug/vcpu_set.h"
#include "upcall/testing/fake_agent.h"

namespace wyvern::hotplug {
namespace {

using namespace std::chrono_literals;
using agent::v1::CpuRequest;
using agent::v1::CpuResponse;
using agent::v1::MemoryRequest;
using agent::v1::MemoryResponse;
using upcall::Clock;

upcall::Time Within(std::chrono::milliseconds time) {
  return Clock::now() + time;
}

class FakeThreads final : public VcpuThreadSwitch {
 public:
  Result<> Start(uint32_t id) override {
    if (id == refuses) {
      return Fail(Code::kResourceExhausted, "no thread");
    }
    EXPECT_TRUE(running.insert(id).second);
    return {};
  }

  Result<> Stop(uint32_t id) override {
    if (in_guest.contains(id)) {
      return Fail(Code::kFailedPrecondition, "the guest has not stopped it");
    }
    EXPECT_EQ(running.erase(id), 1U);
    return {};
  }

  std::set<uint32_t> running = {0};
  std::set<uint32_t> in_guest;  // on which the guest runs, whatever it says
  uint32_t refuses = 99;
};

class VcpuSetTest : public testing::Test {
 protected:
  VcpuSetTest() {
    const auto handler = [this](const CpuRequest& request, const auto& answer, bool online) {
      CpuResponse response;
      for (const uint32_t id : request.id()) {
        if (id == stubborn_) {
          auto* refusal = response.add_refused();
          refusal->set_id(id);
          refusal->set_text("busy\n");
        } else if (online) {
          guest_.insert(id);
        } else {
          guest_.erase(id);
        }
      }
      for (const uint32_t id : guest_) {
        response.add_online(id);
      }
      answer.Ok(response);
    };
    agent_.On<CpuRequest, CpuResponse>("CpuOnline",
                                       [=](const auto& q, const auto& a) { handler(q, a, true); });
    agent_.On<CpuRequest, CpuResponse>("CpuOffline",
                                       [=](const auto& q, const auto& a) { handler(q, a, false); });
  }

  std::set<uint32_t> guest_ = {0};  // the agent's loop
  uint32_t stubborn_ = 99;
  FakeThreads threads_;
  upcall::FakeAgent agent_;
  upcall::Session upcall_{{.open = agent_.channel()}};
  VcpuSet set_{threads_, upcall_, 1, 4};
};

TEST_F(VcpuSetTest, GrowsAndShrinksTogetherWithTheGuest) {
  for (const uint32_t count : {4U, 2U, 3U, 1U, 1U}) {
    const auto reached = set_.Resize(count, Within(10s));
    ASSERT_TRUE(reached.has_value()) << reached.error().message();
    EXPECT_EQ(reached->vcpus, count);
    EXPECT_EQ(reached->why, "");
    EXPECT_EQ(threads_.running, guest_);
    EXPECT_EQ(set_.running(), count);
  }
}

TEST_F(VcpuSetTest, NoneOrMoreThanThereAreIsRefused) {
  for (const uint32_t count : {0U, 5U, UINT32_MAX}) {
    EXPECT_EQ(set_.Resize(count, Within(10s)).error().code(), Code::kInvalidArgument);
  }
}

TEST_F(VcpuSetTest, CpuThatTheGuestDoesNotTakeStopsAgain) {
  stubborn_ = 2;
  const auto reached = set_.Resize(4, Within(10s));
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->vcpus, 3U);
  EXPECT_EQ(reached->why, "the guest did not take vCPU 2: busy?");
  EXPECT_EQ(threads_.running, (std::set<uint32_t>{0, 1, 3}));
  stubborn_ = 99;
  EXPECT_EQ(set_.Resize(4, Within(10s))->vcpus, 4U);
}

TEST_F(VcpuSetTest, CpuThatOnlyIsSaidToBeOfflineRunsOn) {
  ASSERT_EQ(set_.Resize(3, Within(10s))->vcpus, 3U);
  threads_.in_guest = {2};
  const auto reached = set_.Resize(1, Within(10s));
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->vcpus, 2U);
  EXPECT_EQ(reached->why, "vCPU 2 runs on: the guest has not stopped it");
}

TEST_F(VcpuSetTest, SilentGuestGetsNone) {
  agent_.On<CpuRequest, CpuResponse>("CpuOnline", [](const auto&, const auto& answer) {
    static std::vector<ttrpc::Responder<CpuResponse>> kept;
    kept.push_back(answer);
  });
  EXPECT_EQ(set_.Resize(4, Within(200ms)).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(threads_.running, (std::set<uint32_t>{0}));
  EXPECT_EQ(set_.running(), 1U);
}

TEST_F(VcpuSetTest, ThreadThatDoesNotStartUndoesTheOthers) {
  threads_.refuses = 3;
  EXPECT_EQ(set_.Resize(4, Within(10s)).error().code(), Code::kResourceExhausted);
  EXPECT_EQ(threads_.running, (std::set<uint32_t>{0}));
  EXPECT_EQ(agent_.opened(), 0);
}

// --- Memory ---

constexpr uint64_t kMiB = 1 << 20U;

// A driver that plugs what is requested, at once or as far as it can.
class FakeMemory final : public PluggableMemory {
 public:
  uint64_t start() const override { return 4096 * kMiB; }

  uint64_t size() const override { return 1024 * kMiB; }

  Result<uint64_t> plugged() const override { return plugged_.load(); }

  Result<> Request(uint64_t bytes) override {
    if (bytes > size() || bytes % (2 * kMiB) != 0) {
      return Fail(Code::kInvalidArgument, "whole blocks of the region");
    }
    requested = bytes;
    plugged_ = std::clamp(bytes, least.load(), most.load());
    return {};
  }

  std::atomic<uint64_t> requested{0};
  std::atomic<uint64_t> least{0};
  std::atomic<uint64_t> most{1024 * kMiB};
  std::atomic<uint64_t> plugged_{0};
};

class MemorySizeTest : public testing::Test {
 protected:
  MemorySizeTest() {
    agent_.On<MemoryRequest, MemoryResponse>(
        "MemoryOnline", [this](const auto& request, const auto& answer) {
          EXPECT_EQ(request.start(), memory_.start());
          MemoryResponse response;
          response.set_online_bytes(memory_.plugged_);
          response.set_complete(memory_.plugged_ >= request.bytes());
          answer.Ok(response);
        });
    agent_.On<MemoryRequest, MemoryResponse>(
        "MemoryOffline", [this](const auto& request, const auto& answer) {
          if (helps_) {
            memory_.least = 0;
            memory_.plugged_ = memory_.requested.load();
          }
          MemoryResponse response;
          response.set_online_bytes(memory_.plugged_);
          response.set_complete(memory_.plugged_ <= request.bytes());
          answer.Ok(response);
        });
  }

  Result<MemoryReached> Resize(uint64_t mib, std::chrono::milliseconds time = 10s) {
    return ResizeMemory(memory_, upcall_, mib * kMiB, Within(time));
  }

  bool helps_ = false;
  FakeMemory memory_;
  upcall::FakeAgent agent_;
  upcall::Session upcall_{{.open = agent_.channel()}};
};

TEST_F(MemorySizeTest, GrowsAndShrinks) {
  for (const uint64_t mib : {512U, 1024U, 2U, 0U}) {
    const auto reached = Resize(mib);
    ASSERT_TRUE(reached.has_value()) << reached.error().message();
    EXPECT_EQ(reached->plugged, mib * kMiB);
    EXPECT_EQ(reached->why, "");
  }
}

TEST_F(MemorySizeTest, WhatCannotBeIsRefused) {
  EXPECT_EQ(Resize(1).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Resize(2048).error().code(), Code::kInvalidArgument);
}

TEST_F(MemorySizeTest, GuestThatTakesLessIsToldAndAskedForNoMore) {
  memory_.most = 256 * kMiB;
  const auto reached = Resize(512, 200ms);
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->plugged, 256 * kMiB);
  EXPECT_EQ(reached->why, "the guest has plugged 256 of 512 MiB");
  EXPECT_EQ(memory_.requested, 256 * kMiB);
}

TEST_F(MemorySizeTest, MemoryThatDoesNotComeOnlineIsTold) {
  agent_.On<MemoryRequest, MemoryResponse>("MemoryOnline", [](const auto&, const auto& answer) {
    MemoryResponse response;
    response.set_online_bytes(128 * kMiB);
    answer.Ok(response);
  });
  const auto reached = Resize(512);
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->online, 128 * kMiB);
  EXPECT_EQ(reached->why, "the guest has 128 of 512 MiB online");
}

TEST_F(MemorySizeTest, DriverThatIsStuckIsHelpedByTheAgent) {
  ASSERT_TRUE(Resize(512).has_value());
  memory_.least = 512 * kMiB;
  helps_ = true;
  const auto reached = Resize(0);
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->plugged, 0U);
  EXPECT_EQ(reached->why, "");
}

TEST_F(MemorySizeTest, MemoryThatTheGuestKeepsStaysRequested) {
  ASSERT_TRUE(Resize(512).has_value());
  memory_.least = 300 * kMiB;
  const auto reached = Resize(0, 1500ms);
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->plugged, 300 * kMiB);
  EXPECT_EQ(memory_.requested, 300 * kMiB);
  EXPECT_EQ(reached->why, "the guest has plugged 300 of 0 MiB");
}

TEST_F(MemorySizeTest, SilentGuestIsNoError) {
  agent_.Refuse(1'000'000);
  const auto reached = Resize(512, 200ms);
  ASSERT_TRUE(reached.has_value());
  EXPECT_EQ(reached->plugged, 512 * kMiB);
  EXPECT_EQ(reached->online, 0U);
  EXPECT_NE(reached->why.find("refused"), std::string::npos) << reached->why;
}

}  // namespace
}  // namespace wyvern::hotplug
