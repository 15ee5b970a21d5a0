#include "cli/pump.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <csignal>
#include <thread>

#include "base/unix_socket.h"

namespace wyvern::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class PumpTest : public testing::Test {
 protected:
  PumpTest() {
    signal(SIGPIPE, SIG_IGN);
    auto from = MakeSocketPair(SOCK_STREAM);
    auto to = MakeSocketPair(SOCK_STREAM);
    process_ = std::move(from->first);
    reader_ = std::move(to->second);
    pump_ = *Pump::Start("pump", std::move(from->second), std::move(to->first), {});
  }

  std::string Read(size_t count) {
    std::string text(count, '\0');
    return ReadExact(reader_, std::as_writable_bytes(std::span(text))).has_value() ? text : "";
  }

  UniqueFd process_, reader_;
  std::unique_ptr<Pump> pump_;
};

TEST_F(PumpTest, FinishWaitsForTheEnd) {
  ASSERT_TRUE(WriteAll(process_, std::string_view("abc")).has_value());
  process_.Reset();
  const auto begin = steady_clock::now();
  pump_->Finish(std::chrono::minutes(1));
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(Read(3), "abc");
}

TEST_F(PumpTest, OutputThatDoesNotEndIsGivenUp) {
  ASSERT_TRUE(WriteAll(process_, std::string_view("abc")).has_value());
  pump_->Finish(milliseconds(200));
  EXPECT_EQ(Read(3), "abc");
  EXPECT_EQ(Read(1), "");  // closed
}

TEST_F(PumpTest, OutputThatStillComesIsNotGivenUp) {
  std::thread slow([this] {
    for (int i = 0; i < 8; ++i) {
      std::this_thread::sleep_for(milliseconds(200));
      EXPECT_TRUE(WriteAll(process_, std::string_view("x")).has_value());
    }
    process_.Reset();
  });
  pump_->Finish(milliseconds(1000));
  slow.join();
  EXPECT_EQ(Read(8), "xxxxxxxx");
}

TEST_F(PumpTest, SlowReaderHasAllTheTimeItWants) {
  const std::string text(4U << 20U, 'y');
  std::thread writer([&] {
    EXPECT_TRUE(WriteAll(process_, std::string_view(text)).has_value());
    process_.Reset();
  });
  std::thread reader([&] {
    std::this_thread::sleep_for(milliseconds(800));
    EXPECT_EQ(Read(text.size()), text);
  });
  pump_->Finish(milliseconds(200));
  writer.join();
  reader.join();
}

}  // namespace
}  // namespace wyvern::cli
