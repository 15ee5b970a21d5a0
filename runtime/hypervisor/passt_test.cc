#include "hypervisor/passt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

namespace wyvern::runtime {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

// A program with the given text for a shell, in place of passt.
class PasstTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "wyvern-passt-XXXXXX";
    dir_ = mkdtemp(pattern.data());
    network_.passt = dir_ + "/passt";
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Make(const std::string& script) const {
    ASSERT_TRUE(WriteFile(network_.passt, "#!/bin/sh\n" + script + "\n").has_value());
    ASSERT_EQ(chmod(network_.passt.c_str(), 0755), 0);
  }

  std::string dir_;
  UserNetwork network_;
};

std::vector<std::string> Last(const std::vector<std::string>& words, size_t count) {
  return {words.end() - static_cast<std::ptrdiff_t>(count), words.end()};
}

TEST_F(PasstTest, NothingLeadsInUnlessItIsPublished) {
  EXPECT_THAT(Last(PasstArguments(network_, 3), 5),
              ElementsAreArray({"--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none"}));
  network_.host_loopback = true;
  network_.published = {{"", 8080, 80, false}, {"127.0.0.1", 53, 5353, true}, {"", 1, 1, false}};
  EXPECT_THAT(Last(PasstArguments(network_, 3), 8),
              ElementsAreArray({"--map-host-loopback", "10.0.2.2", "--tcp-ports", "8080:80",
                                "--tcp-ports", "1:1", "--udp-ports", "127.0.0.1/53:5353"}));
}

TEST_F(PasstTest, ItHasTheSocketAndEndsWithIt) {
  Make(
      "[ \"$1\" = --help ] && { echo --vhost-user; exit; }\nhead -c 4 <&3 >&3; cat <&3 >/dev/null; "
      "exit 7");
  auto started = SpawnPasst(network_);
  ASSERT_TRUE(started.has_value()) << started.error().message();
  auto& [process, socket] = *started;
  ASSERT_EQ(send(socket.get(), "ping", 4, 0), 4);
  std::array<char, 4> answer{};
  ASSERT_EQ(recv(socket.get(), answer.data(), answer.size(), MSG_WAITALL), 4);
  EXPECT_EQ(std::string(answer.data(), 4), "ping");
  socket.Reset();
  const auto ended = process.Wait();
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->code, 7);
}

TEST_F(PasstTest, OneThatIsMissingOrTooOldIsSaid) {
  const auto refused = [this] {
    auto started = SpawnPasst(network_);
    EXPECT_FALSE(started.has_value());
    return started.has_value() ? Error(Code::kOk, "") : std::move(started).error();
  };
  Error missing = refused();
  EXPECT_EQ(missing.code(), Code::kFailedPrecondition);
  EXPECT_THAT(missing.message(), HasSubstr("install Debian's package passt"));
  Make("echo '  -s, --socket PATH'; echo 'passt: unrecognized option' >&2; exit 1");
  Error old = refused();
  EXPECT_EQ(old.code(), Code::kFailedPrecondition);
  EXPECT_THAT(old.message(), HasSubstr("has no option --vhost-user, as Debian 12's"));
}

TEST_F(PasstTest, PortsAreBoundedAndOnce) {
  Make("exit 1");
  network_.published = {{"", 80, 80, false}, {"", 80, 81, false}};
  EXPECT_EQ(SpawnPasst(network_).error().code(), Code::kInvalidArgument);
  network_.published.clear();
  for (uint16_t i = 1; i <= kMaxPublished + 1; ++i) {
    network_.published.push_back({"", i, i, false});
  }
  EXPECT_EQ(SpawnPasst(network_).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::runtime
