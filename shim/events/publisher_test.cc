#include "events/publisher.h"

#include <gtest/gtest.h>

#include "testing/fake_events.h"
#include "testing/temp_dir.h"

namespace wyvern::shim {
namespace {

using std::chrono::milliseconds;

std::string StartEvent(const std::string& id) {
  containerd::events::TaskStart event;
  event.set_container_id(id);
  return event.SerializeAsString();
}

class PublisherTest : public ::testing::Test {
 protected:
  PublisherOptions Options() {
    return {.address = dir_ / "sock", .ns = "k8s.io", .call_timeout = milliseconds(1000)};
  }

  void PublishMany(Publisher& publisher, int from, int to) {
    for (int i = from; i < to; ++i) {
      publisher.Publish("/tasks/start", "containerd.events.TaskStart",
                        StartEvent(std::to_string(i)));
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

TEST_F(PublisherTest, QueueIsBoundedOldestGoFirst) {
  PublisherOptions options = Options();
  options.max_queued = 10;
  Publisher publisher(options);
  PublishMany(publisher, 0, 50);
  FakeEvents events(dir_ / "sock");
  EXPECT_TRUE(publisher.Flush(milliseconds(5000)));
  const auto lines = events.Lines();
  ASSERT_EQ(lines.size(), 10U);
  EXPECT_EQ(lines.back(), "start 49");
}

}  // namespace
}  // namespace wyvern::shim
