#include "fs/control.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace wyvern::fs_process {
namespace {

TEST(ControlTest, WhatIsNoCommandIsRefused) {
  for (const char* packet :
       {"", " ", "attach", "attach x", "attach x 1", "attach x 1 rx", "attach x 1 rw more",
        "attach x -1 rw", "attach x 1e3 rw", "attach x 99999999999999999999 rw", "attach  1 rw ",
        "detach", "detach x y", "Attach x 1 rw", "ping ", "stats all", "stop"}) {
    EXPECT_FALSE(ParseCommand(packet).has_value()) << packet;
  }
}

TEST(ControlTest, CommandsAreUnderstood) {
  const auto attach = ParseCommand("attach root-1 3600000 ro");
  ASSERT_TRUE(attach.has_value());
  EXPECT_EQ(attach->name, "root-1");
  EXPECT_EQ(attach->policy.cache, std::chrono::hours(1));
  EXPECT_TRUE(attach->policy.read_only);
  EXPECT_FALSE(ParseCommand("attach v 0 rw")->policy.read_only);
  EXPECT_EQ(ParseCommand("detach v")->name, "v");
  EXPECT_EQ(ParseCommand("ping")->verb, Verb::kPing);
}

TEST(ControlTest, AnswersSayWhatHappened) {
  fs::FileServerOptions options;
  options.root = *Open("/", O_RDONLY | O_DIRECTORY);
  options.exports = true;
  const auto server = *fs::FileServer::Create(std::move(options));
  EXPECT_EQ(Answer(*server, "1 ping"), "1 ok");
  EXPECT_EQ(Answer(*server, "2 attach v 0 rw"), "2 ok");
  EXPECT_EQ(Answer(*server, "3 attach v 0 rw"), "3 error export v is attached");
  EXPECT_EQ(Answer(*server, "4 attach .. 0 rw").substr(0, 7), "4 error");
  EXPECT_EQ(Answer(*server, "5 detach v"), "5 ok");
  EXPECT_EQ(Answer(*server, "6 detach v"), "6 ok");
  EXPECT_EQ(Answer(*server, "7 stats").substr(0, 13), "7 ok inodes=1");
}

TEST(ControlTest, AnswersRepeatTheNumber) {
  fs::FileServerOptions options;
  options.root = *Open("/", O_RDONLY | O_DIRECTORY);
  options.exports = true;
  const auto server = *fs::FileServer::Create(std::move(options));
  EXPECT_EQ(Answer(*server, "18446744073709551615 ping"), "18446744073709551615 ok");
  EXPECT_EQ(Answer(*server, "7"), "7 error unknown command");
  EXPECT_EQ(Answer(*server, "7 " + std::string(kMaxCommand, 'x')),
            "7 error the packet is too long");
  for (const char* packet :
       {"", " ", " ping", "ping", "-1 ping", "1x ping", "18446744073709551616 ping"}) {
    EXPECT_EQ(Answer(*server, packet), "0 error a packet begins with its number") << packet;
  }
}

}  // namespace
}  // namespace wyvern::fs_process
