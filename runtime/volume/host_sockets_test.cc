// Connections of a guest to sockets of the host: a guest that is the test's, servers that refuse, that are slow, and more clients than may come.
#include "volume/host_sockets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <filesystem>
#include <thread>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "ttrpc/blocking.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class HostSocketsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "wyvern-sockets-XXXXXX";
    dir_ = mkdtemp(pattern.data());
    path_ = dir_ + "/host.sock";
    server_ = Must(ListenUnix(path_, 0660));
    loop_ = Must(LoopThread::Start("sockets"));
    pool_ = std::make_unique<ttrpc::BlockingPool>("sockets-pool");
    HostSockets::Options options;
    options.id = "test";
    options.sources = {path_, dir_ + "/file", dir_ + "/missing", dir_ + "/second.sock"};
    options.add = [this](const agent_pb::AddSocketRequest& request) -> Result<> {
      added_.push_back(request);
      return refuse_ ? Fail(Code::kResourceExhausted, "the guest refuses") : Result<>();
    };
    options.accept = [this](const std::string& /*name*/) -> Result<UniqueFd> {
      ++asked_;
      const std::lock_guard lock(mu_);
      if (waiting_.empty()) {
        return Fail(Code::kUnavailable, "nobody waits");
      }
      UniqueFd taken = std::move(waiting_.front());
      waiting_.pop_front();
      // As the agent: told again.
      if (!waiting_.empty()) {
        sockets_->Pending("s0");
      }
      return taken;
    };
    options.loop = loop_.get();
    options.run = [this](auto work) { pool_->Run(std::move(work)); };
    sockets_ = std::make_unique<HostSockets>(std::move(options));
  }

  void TearDown() override {
    sockets_->Close();
    pool_.reset();
    loop_->Stop();
    std::filesystem::remove_all(dir_);
  }

  // A program of the guest connects.
  UniqueFd Client(bool told = true) {
    SocketPair pair = Must(MakeSocketPair(SOCK_STREAM));
    {
      const std::lock_guard lock(mu_);
      waiting_.push_back(std::move(pair.second));
    }
    if (told) {
      sockets_->Pending("s0");
    }
    return std::move(pair.first);
  }

  size_t Waiting() {
    const std::lock_guard lock(mu_);
    return waiting_.size();
  }

  template <typename F>
  static bool Soon(F&& done) {
    for (int i = 0; i < 1000 && !done(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return done();
  }

  std::string dir_, path_;
  UniqueFd server_;
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::mutex mu_;
  std::deque<UniqueFd> waiting_;  // guarded by mu_
  std::vector<agent_pb::AddSocketRequest> added_;
  std::atomic<int> asked_{0};
  bool refuse_ = false;
  std::unique_ptr<HostSockets> sockets_;
};

TEST_F(HostSocketsTest, ThoseThatAreNamedAreInTheGuestOnceWithTheirMode) {
  EXPECT_FALSE(Must(sockets_->Take(dir_ + "/other.sock")).has_value());
  EXPECT_FALSE(Must(sockets_->Take(dir_ + "/./host.sock")).has_value()) << "by the very path";
  EXPECT_EQ(Must(sockets_->Take(path_))->path, "/run/wyvern/sockets/s0");
  EXPECT_EQ(Must(sockets_->Take(path_))->path, "/run/wyvern/sockets/s0");
  ASSERT_EQ(added_.size(), 1U);
  EXPECT_EQ(added_[0].mode(), 0660U);
  ASSERT_TRUE(WriteFile(dir_ + "/file", "x").has_value());
  const auto file = sockets_->Take(dir_ + "/file");
  EXPECT_EQ(file.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(file.error().message(), HasSubstr("is no unix socket"));
  EXPECT_EQ(sockets_->Take(dir_ + "/missing").error().code(), Code::kNotFound);
  const UniqueFd second = Must(ListenUnix(dir_ + "/second.sock", 0600));
  refuse_ = true;
  EXPECT_EQ(sockets_->Take(dir_ + "/second.sock").error().code(), Code::kResourceExhausted);
  refuse_ = false;
  EXPECT_EQ(Must(sockets_->Take(dir_ + "/second.sock"))->path, "/run/wyvern/sockets/s2");
}

TEST_F(HostSocketsTest, BytesGoBothWaysAndEachWayEndsByItself) {
  ASSERT_TRUE(Must(sockets_->Take(path_)).has_value());
  const UniqueFd client = Client();
  UniqueFd served = Must(Accept(server_));
  const std::string large(
      3U << 20U, 'q');  // more than sockets and relay hold: who does not read makes the other wait
  std::thread writer([&] {
    EXPECT_TRUE(WriteAll(client, std::string_view(large)).has_value());
    shutdown(client.get(), SHUT_WR);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(Must(ReadToEnd(served, large.size() + 1)), large);
  writer.join();
  ASSERT_TRUE(WriteAll(served, std::string_view("answer")).has_value());
  served.Reset();
  EXPECT_EQ(Must(ReadToEnd(client, 100)), "answer");
}

TEST_F(HostSocketsTest, ServerThatIsGoneEndsTheConnection) {
  ASSERT_TRUE(Must(sockets_->Take(path_)).has_value());
  server_.Reset();
  EXPECT_EQ(Must(ReadToEnd(Client(), 100)), "");
  std::filesystem::remove(path_);
  EXPECT_EQ(Must(ReadToEnd(Client(), 100)), "");
  server_ = Must(ListenUnix(path_, 0660));  // and is there again
  const UniqueFd client = Client();
  EXPECT_TRUE(Accept(server_).has_value());
}

TEST_F(HostSocketsTest, MoreThanTheBoundWaitUntilOneEnds) {
  ASSERT_TRUE(Must(sockets_->Take(path_)).has_value());
  std::vector<UniqueFd> clients;
  std::vector<UniqueFd> served;
  for (size_t i = 0; i < kMaxProxied; ++i) {
    clients.push_back(Client());
    served.push_back(Must(Accept(server_)));
  }
  clients.push_back(Client());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(Waiting(), 1U);
  served.erase(served.begin());
  clients.erase(clients.begin());
  served.push_back(Must(Accept(server_)));
  EXPECT_EQ(Waiting(), 0U);
}

TEST_F(HostSocketsTest, GuestThatTellsOfWhatIsNotIsAskedOneAtATimeAndOtherNamesNotAtAll) {
  ASSERT_TRUE(Must(sockets_->Take(path_)).has_value());
  for (int i = 0; i < 1000; ++i) {
    sockets_->Pending("s9");
    sockets_->Pending("../s0");
  }
  EXPECT_EQ(asked_, 0);
  for (int i = 0; i < 1000; ++i) {
    sockets_->Pending("s0");
  }
  const UniqueFd client = Client();
  EXPECT_TRUE(Accept(server_).has_value());
}

TEST_F(HostSocketsTest, NoneIsLeftAfterClose) {
  ASSERT_TRUE(Must(sockets_->Take(path_)).has_value());
  const UniqueFd client = Client();
  UniqueFd served = Must(Accept(server_));
  ASSERT_TRUE(WriteAll(client, std::string_view("x")).has_value());
  char byte = 0;
  ASSERT_EQ(recv(served.get(), &byte, 1, 0), 1);  // joined
  sockets_->Close();
  EXPECT_EQ(Must(ReadToEnd(client, 1)), "");
  EXPECT_EQ(Must(ReadToEnd(served, 1)), "");
  const UniqueFd late = Client();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(Waiting(), 1U) << "nobody is taken any more";
}

}  // namespace
}  // namespace wyvern::runtime
