#include "observe/text_server.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern::observe {
namespace {

using std::chrono::steady_clock;
using testing::EndsWith;
using testing::StartsWith;

class TextServerTest : public testing::Test {
 protected:
  void Start(std::function<std::string()> make) {
    server_ = Must(TextServer::Start(path_, std::move(make)));
  }

  UniqueFd Connect() const { return Must(ConnectUnix(path_)); }

  std::string Ask(const std::string& request) const {
    const UniqueFd client = Connect();
    EXPECT_TRUE(WriteAll(client, std::string_view(request)));
    return ReadToEnd(client, 64U << 20U).value_or("cut");
  }

  const std::string path_ = testing::TempDir() + "text-" + std::to_string(getpid()) + ".sock";
  std::unique_ptr<TextServer> server_;
};

TEST_F(TextServerTest, MakesTheTextForEachRequest) {
  int made = 0;
  Start([&made] { return "made " + std::to_string(++made) + "\n"; });

  struct stat info {};

  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  for (const char* end : {"made 1\n", "made 2\n"}) {
    const std::string answer = Ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
    EXPECT_THAT(answer, EndsWith(end));
  }
  EXPECT_THAT(Ask("HEAD /metrics HTTP/1.1\r\n\r\n"), EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask("GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("\x16\x03\x01\n\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask(std::string(1U << 16U, 'x')), testing::AnyOf(StartsWith("HTTP/1.1 431"), "cut"));
  EXPECT_EQ(made, 3);
}

TEST_F(TextServerTest, ClientThatStallsHoldsOthersUpForItsPatienceOnly) {
  Start([] { return "text\n"; });
  const UniqueFd silent = Connect();
  const UniqueFd half = Connect();
  ASSERT_TRUE(WriteAll(half, std::string_view("GET /metr")));
  const auto begin = steady_clock::now();
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), EndsWith("text\n"));
  EXPECT_LT(steady_clock::now() - begin, 3 * TextServer::kClientPatience);
  EXPECT_THAT(Must(ReadToEnd(half, 1000)), StartsWith("HTTP/1.1 408"));
}

TEST_F(TextServerTest, ClientThatDoesNotReadIsCutOff) {
  Start([] { return std::string(32U << 20U, 'x'); });
  const UniqueFd silent = Connect();
  ASSERT_TRUE(WriteAll(silent, std::string_view("GET /metrics HTTP/1.1\r\n\r\n")));
  EXPECT_GT(Ask("GET /metrics HTTP/1.1\r\n\r\n").size(), 32U << 20U);
  EXPECT_LT(Must(ReadToEnd(silent, 64U << 20U)).size(), 32U << 20U);
}

TEST_F(TextServerTest, ManyClientsThatGoAtOnce) {
  Start([] { return "text\n"; });
  for (int i = 0; i < 200; ++i) {
    const UniqueFd client = Connect();
    if (i % 2 == 0) {
      ASSERT_TRUE(WriteAll(client, std::string_view("GET /metrics HTTP/1.1\r\n\r\n")));
    }
  }
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), EndsWith("text\n"));
}

TEST_F(TextServerTest, CloseDoesNotWaitForATextThatIsBeingMade) {
  std::promise<void> begun;
  std::promise<void> go;
  auto going = go.get_future();
  Start([&] {
    begun.set_value();
    going.wait();
    return std::string();
  });
  const UniqueFd client = Connect();
  ASSERT_TRUE(WriteAll(client, std::string_view("GET /metrics HTTP/1.1\r\n\r\n")));
  begun.get_future().wait();
  server_->Close();
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
  // Another server may have the path by now.
  const auto next = Must(TextServer::Start(path_, [] { return std::string("next"); }));
  server_->Close();
  EXPECT_EQ(access(path_.c_str(), F_OK), 0);
  go.set_value();
  server_.reset();
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), EndsWith("next"));
}

TEST_F(TextServerTest, StaleFileIsReplaced) {
  ASSERT_TRUE(WriteFile(path_, "stale"));
  Start([] { return "text\n"; });
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), EndsWith("text\n"));
}

}  // namespace
}  // namespace wyvern::observe
