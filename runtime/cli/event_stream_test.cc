#include "cli/event_stream.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "cli/testing/served_sandboxes.h"
#include "state/state.h"

namespace wyvern::cli {
namespace {

using observe::EventKind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::MatchesRegex;

class EventStreamTest : public testing::Test {
 protected:
  ~EventStreamTest() override { Stop(); }

  void Follow(const std::string& ns = "", bool only_new = false) {
    thread_ = std::thread([this, ns, only_new] {
      const auto followed = FollowAll(
          served_.state_dir(), ns,
          {.only_new = only_new, .print = [this](const NamedEvent& event) { Print(event); }},
          stop_);
      EXPECT_TRUE(followed.has_value());
    });
  }

  void Stop() {
    if (thread_.joinable()) {
      stop_.Signal();
      thread_.join();
    }
  }

  void Print(const NamedEvent& event) {
    const std::lock_guard lock(mu_);
    seen_.push_back(event.ns + "/" + event.sandbox + " " + event.name +
                    (event.event.text.empty() ? "" : " " + event.event.text));
    changed_.notify_all();
  }

  // Once there are `count`.
  std::vector<std::string> Seen(size_t count) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(10), [&] { return seen_.size() >= count; });
    return seen_;
  }

  ServedSandboxes served_;
  EventFd stop_ = Must(EventFd::Create());
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<std::string> seen_;
  std::thread thread_;
};

TEST_F(EventStreamTest, SandboxesThatAreThereAndThatCome) {
  served_.Serve("default", "old").Events().Add(EventKind::kStarted, "", "in 5 ms");
  Follow();
  Seen(1);
  auto& fresh = served_.Serve("k8s.io", "new");
  fresh.Events().Add(EventKind::kStarted, "", "");
  fresh.Events().Add(EventKind::kOom, "c", "why");
  Seen(3);
  served_.End("default", "old");
  EXPECT_THAT(Seen(4), ElementsAre("default/old started in 5 ms", "k8s.io/new started",
                                   "k8s.io/new oom why", "default/old ended"));
  // The id is used again.
  served_.Serve("default", "old").Events().Add(EventKind::kStarted, "", "again");
  EXPECT_EQ(Seen(5).back(), "default/old started again");
}

TEST_F(EventStreamTest, OnlyWhatIsNewAndOfOneNamespace) {
  auto& one = served_.Serve("default", "one");
  one.Events().Add(EventKind::kStarted, "", "before");
  served_.Serve("k8s.io", "two").Events().Add(EventKind::kStarted, "", "of others");
  Follow("default", true);
  // It is new once it is followed, which nobody tells.
  for (int i = 0; i < 100 && Seen(0).empty(); ++i) {
    one.Events().Add(EventKind::kResized, "", "now");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  Stop();
  const auto seen = Seen(1);
  ASSERT_FALSE(seen.empty());
  for (const std::string& line : seen) {
    EXPECT_EQ(line, "default/one resized now");
  }
}

TEST_F(EventStreamTest, OwnerThatWasKilledIsADeath) {
  served_.Serve("default", "web");
  runtime::SandboxRecord record;
  record.ns = "default";
  record.id = "web";
  record.owner = {"owner", 1, 1};  // process 1 did not begin then
  ASSERT_TRUE(WriteFile(served_.DirectoryOf("default", "web") + "/state.json",
                        runtime::FormatState(record)));
  auto sandbox = Must(ConnectSandbox(served_.DirectoryOf("default", "web")));
  EXPECT_EQ(sandbox.directory, served_.DirectoryOf("default", "web"));
  served_.End("default", "web");
  ASSERT_TRUE(FollowSandbox(std::move(sandbox),
                            {.only_new = false, .print = [this](const auto& e) { Print(e); }},
                            stop_));
  EXPECT_THAT(Seen(1), ElementsAre("default/web died process 1, which served it, was killed"));
}

TEST_F(EventStreamTest, LinesForPeopleAndForPrograms) {
  NamedEvent event{"default", "web", "oom", {}};
  event.event.at =
      std::chrono::system_clock::time_point(std::chrono::milliseconds(1'700'000'000'042));
  event.event.container = "c";
  event.event.text = "a \"b\"";
  EXPECT_EQ(EventLine(event), "2023-11-14T22:13:20.042Z default/web oom c a \"b\"\n");
  EXPECT_EQ(EventJson(event),
            "{\"container\":\"c\",\"event\":\"oom\",\"namespace\":\"default\",\"sandbox\":\"web\","
            "\"text\":\"a \\\"b\\\"\",\"time\":\"2023-11-14T22:13:20.042Z\"}\n");
  event.event.container.clear();
  event.event.text.clear();
  EXPECT_THAT(EventLine(event), MatchesRegex(".*Z default/web oom\n"));
  EXPECT_THAT(EventJson(event), HasSubstr("\"container\":null"));
}

}  // namespace
}  // namespace wyvern::cli
