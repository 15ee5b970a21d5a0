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
  EXPECT_EQ(Answer(*server, "ping"), "ok");
  EXPECT_EQ(Answer(*server, "attach v 0 rw"), "ok");
  EXPECT_EQ(Answer(*server, "attach v 0 rw"), "error export v is attached");
  EXPECT_EQ(Answer(*server, "attach .. 0 rw").substr(0, 5), "error");
  EXPECT_EQ(Answer(*server, "detach v"), "ok");
  EXPECT_EQ(Answer(*server, "detach v"), "ok");
  EXPECT_EQ(Answer(*server, "stats").substr(0, 11), "ok inodes=1");
}

}  // namespace
}  // namespace wyvern::fs_process
