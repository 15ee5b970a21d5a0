#include "events/publisher.h"

#include <gtest/gtest.h>

#include "testing/fake_events.h"
#include "testing/temp_dir.h"
#include "ttrpc/frame.h"

namespace wyvern::shim {
namespace {

using std::chrono::milliseconds;

std::string StartEvent(const std::string& id) {
  containerd::events::TaskStart event;
  event.set_container_id(id);
  return event.SerializeAsString();
}

std::string ExitEvent(const std::string& id) {
  containerd::events::TaskExit event;
  event.set_container_id(id);
  event.set_id(id);
  event.set_exit_status(137);
  return event.SerializeAsString();
}

class PublisherTest : public ::testing::Test {
 protected:
  PublisherOptions Options() { return {.address = dir_ / "sock", .ns = "k8s.io"}; }

  void PublishMany(Publisher& publisher, int from, int to) {
    for (int i = from; i < to; ++i) {
      publisher.Publish("/tasks/start", "containerd.events.TaskStart",
                        StartEvent(std::to_string(i)));
    }
  }

  void PublishOoms(Publisher& publisher, int from, int to) {
    for (int i = from; i < to; ++i) {
      publisher.Publish("/tasks/oom", "containerd.events.TaskOOM", StartEvent(std::to_string(i)));
    }
  }

  void ExpectInOrder(FakeEvents& events, int count) {
    ASSERT_TRUE(events.Await(static_cast<size_t>(count)));
    const auto lines = events.Lines();
    ASSERT_EQ(lines.size(), static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(lines[static_cast<size_t>(i)], "start " + std::to_string(i));
    }
  }

  TempDir dir_;
};

TEST_F(PublisherTest, EnvelopeHasTopicTypeNamespaceAndTime) {
  FakeEvents events(dir_ / "sock");
  Publisher publisher(Options());
  PublishMany(publisher, 0, 1);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  const auto envelopes = events.Envelopes();
  ASSERT_EQ(envelopes.size(), 1U);
  EXPECT_EQ(envelopes[0].namespace_(), "k8s.io");
  EXPECT_EQ(envelopes[0].topic(), "/tasks/start");
  EXPECT_EQ(envelopes[0].event().type_url(), "containerd.events.TaskStart");
  EXPECT_GT(envelopes[0].timestamp().seconds(), 1700000000);
}

TEST_F(PublisherTest, ThousandEventsInOrder) {
  FakeEvents events(dir_ / "sock");
  Publisher publisher(Options());
  PublishMany(publisher, 0, 1000);
  EXPECT_TRUE(publisher.Flush(milliseconds(20000)));
  ExpectInOrder(events, 1000);
}

TEST_F(PublisherTest, Scenario32_ContainerdRestartsMeanwhile) {
  FakeEvents events(dir_ / "sock");
  Publisher publisher(Options());
  PublishMany(publisher, 0, 10);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  events.Stop();
  PublishMany(publisher, 10, 20);
  EXPECT_FALSE(publisher.Flush(milliseconds(300)));
  events.Start();
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  ExpectInOrder(events, 20);
}

TEST_F(PublisherTest, Scenario34_RefusedEventsAreSentAgainInOrder) {
  FakeEvents events(dir_ / "sock");
  events.Refuse(8, Code::kUnknown);
  Publisher publisher(Options());
  PublishMany(publisher, 0, 5);
  EXPECT_TRUE(publisher.Flush(milliseconds(10000)));
  ExpectInOrder(events, 5);
}

TEST_F(PublisherTest, LateAnswerIsWaitedForAndTheEventArrivesOnce) {
  FakeEvents events(dir_ / "sock");
  events.Delay(milliseconds(700));
  PublisherOptions options = Options();
  options.slow_answer = milliseconds(100);
  Publisher publisher(options);
  PublishMany(publisher, 0, 1);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  events.Delay(milliseconds(0));
  PublishMany(publisher, 1, 2);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  ExpectInOrder(events, 2);
}

TEST_F(PublisherTest, AnswerThatNeverComesIsGivenUpAndTheEventSentAgain) {
  FakeEvents events(dir_ / "sock");
  events.Delay(std::chrono::minutes(10));
  PublisherOptions options = Options();
  options.answer_patience = milliseconds(200);
  Publisher publisher(options);
  PublishMany(publisher, 0, 1);
  EXPECT_TRUE(events.Await(1));
  events.Delay(milliseconds(0));
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  EXPECT_GE(events.Lines().size(), 2U);
}

TEST_F(PublisherTest, ConnectionThatEndsBeforeTheAnswerIsMadeAgain) {
  FakeEvents events(dir_ / "sock");
  events.Delay(std::chrono::minutes(10));
  Publisher publisher(Options());
  PublishMany(publisher, 0, 1);
  EXPECT_TRUE(events.Await(1));
  events.Stop();
  events.Delay(milliseconds(0));
  events.Start();
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
}

TEST_F(PublisherTest, EndDoesNotWaitForAnAnswer) {
  FakeEvents events(dir_ / "sock");
  events.Delay(std::chrono::minutes(10));
  const auto begin = std::chrono::steady_clock::now();
  {
    Publisher publisher(Options());
    PublishMany(publisher, 0, 1);
    EXPECT_TRUE(events.Await(1));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
}

TEST_F(PublisherTest, InvalidEventIsDroppedAndOthersGoOn) {
  FakeEvents events(dir_ / "sock");
  events.Refuse(1, Code::kInvalidArgument);
  Publisher publisher(Options());
  PublishMany(publisher, 0, 3);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  EXPECT_EQ(events.Lines(), (std::vector<std::string>{"start 1", "start 2"}));
}

TEST_F(PublisherTest, NobodyListensNobodyWaits) {
  Publisher publisher(PublisherOptions{.address = "", .ns = "x"});
  PublishMany(publisher, 0, 3);
  EXPECT_TRUE(publisher.Flush(milliseconds(0)));
  Publisher unreachable(Options());
  PublishMany(unreachable, 0, 3);
  EXPECT_FALSE(unreachable.Flush(milliseconds(50)));  // and the destructor does not hang
}

TEST_F(PublisherTest, FullQueueDropsOomsOnlyOldestFirst) {
  PublisherOptions options = Options();
  options.max_queued = 1000;
  Publisher publisher(options);
  PublishMany(publisher, 0, 1);  // the front is never dropped
  PublishOoms(publisher, 0, 10000);
  publisher.Publish("/tasks/exit", "containerd.events.TaskExit", ExitEvent("t"));
  publisher.Publish("/tasks/delete", "containerd.events.TaskDelete", StartEvent("t"));
  PublishOoms(publisher, 10000, 20000);
  FakeEvents events(dir_ / "sock");
  EXPECT_TRUE(publisher.Flush(milliseconds(20000)));
  const auto lines = events.Lines();
  ASSERT_EQ(lines.size(), 1000U);
  EXPECT_EQ(lines[0], "start 0");
  EXPECT_EQ(lines[1], "exit t 137");
  EXPECT_EQ(lines[2], "delete t 0");
  EXPECT_EQ(lines[3], "oom 19003");
  EXPECT_EQ(lines.back(), "oom 19999");
}

TEST_F(PublisherTest, QueueFullOfOtherEventsTakesNoOomAndKeepsAll) {
  PublisherOptions options = Options();
  options.max_queued = 10;
  Publisher publisher(options);
  PublishMany(publisher, 0, 30);
  PublishOoms(publisher, 0, 30);
  FakeEvents events(dir_ / "sock");
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  ExpectInOrder(events, 30);
}

TEST_F(PublisherTest, EventLongerThanAMessageIsDroppedAndOthersGoOn) {
  FakeEvents events(dir_ / "sock");
  Publisher publisher(Options());
  PublishMany(publisher, 0, 1);
  for (const size_t beside : {size_t{0}, size_t{100}, size_t{1100}}) {
    publisher.Publish("/tasks/oom", "containerd.events.TaskOOM",
                      StartEvent(std::string(ttrpc::kMaxData - beside, 'x')));
  }
  PublishMany(publisher, 1, 3);
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  ExpectInOrder(events, 3);
}

TEST_F(PublisherTest, LongestEventThatIsTakenArrives) {
  FakeEvents events(dir_ / "sock");
  Publisher publisher(Options());
  publisher.Publish("/tasks/oom", "containerd.events.TaskOOM",
                    StartEvent(std::string(ttrpc::kMaxData - 1200, 'x')));
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  EXPECT_EQ(events.Lines().size(), 1U);
}

}  // namespace
}  // namespace wyvern::shim
