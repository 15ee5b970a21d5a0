#include "base/stream_relay.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern {
namespace {

class StreamRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = Must(LoopThread::Start("relay"));
    SocketPair one = Must(MakeSocketPair(SOCK_STREAM));
    SocketPair other = Must(MakeSocketPair(SOCK_STREAM));
    one_ = std::move(one.first);
    other_ = std::move(other.first);
    loop_->Call([&] {
      relay_ = Must(StreamRelay::Start(loop_->loop(), std::move(one.second),
                                       std::move(other.second), [this, held = held_] {
                                         done_ = true;
                                         held->reset();
                                       }));
      *held_ = relay_.lock();
    });
  }

  void TearDown() override { loop_->Stop(); }

  bool Done() {
    bool done = false;
    for (int i = 0; i < 500 && !done; ++i) {
      loop_->Call([&] { done = done_; });
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return done;
  }

  std::unique_ptr<LoopThread> loop_;
  UniqueFd one_, other_;
  std::weak_ptr<StreamRelay> relay_;
  bool done_ = false;  // the loop's thread
  // Of `done`, as those have it that look for their relay when it ends.
  std::shared_ptr<std::shared_ptr<StreamRelay>> held_ =
      std::make_shared<std::shared_ptr<StreamRelay>>();
};

TEST_F(StreamRelayTest, EndOfOneWayLeavesTheOther) {
  ASSERT_TRUE(WriteAll(one_, std::string_view("question")).has_value());
  ASSERT_EQ(shutdown(one_.get(), SHUT_WR), 0);
  EXPECT_EQ(Must(ReadToEnd(other_, 100)), "question");
  ASSERT_TRUE(WriteAll(other_, std::string_view("answer")).has_value());
  other_.Reset();
  EXPECT_EQ(Must(ReadToEnd(one_, 100)), "answer");
  EXPECT_TRUE(Done());
  EXPECT_TRUE(relay_.expired());
}

TEST_F(StreamRelayTest, MuchBothWaysAtOnceWithAReaderThatWaits) {
  const std::string data(8 << 20, 'x');
  std::thread there([&] {
    static_cast<void>(WriteAll(one_, data));
    shutdown(one_.get(), SHUT_WR);
  });
  std::thread back([&] {
    static_cast<void>(WriteAll(other_, data));
    shutdown(other_.get(), SHUT_WR);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  size_t heard = 0;
  std::thread reader([&] { heard = Must(ReadToEnd(one_, data.size())).size(); });
  EXPECT_EQ(Must(ReadToEnd(other_, data.size())).size(), data.size());
  reader.join();
  there.join();
  back.join();
  EXPECT_EQ(heard, data.size());
  EXPECT_TRUE(Done());
}

TEST_F(StreamRelayTest, SideThatIsGoneEndsBoth) {
  other_.Reset();
  // What is said to nobody is an error; the other side sees the end.
  static_cast<void>(WriteAll(one_, std::string_view("x")));
  EXPECT_EQ(Must(ReadToEnd(one_, 100)), "");
  one_.Reset();
  EXPECT_TRUE(Done());
}

TEST_F(StreamRelayTest, StopClosesBothWithoutAWord) {
  held_.reset();
  loop_->Call([&] { relay_.lock()->Stop(); });
  EXPECT_EQ(Must(ReadToEnd(one_, 100)), "");
  EXPECT_EQ(Must(ReadToEnd(other_, 100)), "");
  loop_->Call([&] { EXPECT_FALSE(done_); });
  EXPECT_TRUE(relay_.expired());
}

}  // namespace
}  // namespace wyvern
