#include "cli/exec_options.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace wyvern::cli {
namespace {

class ExecOptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    // NOLINTBEGIN(concurrency-mt-unsafe): there are no other threads.
    setenv("TERM", "vt100", 1);
    setenv("WV_OURS", "a b", 1);
    unsetenv("WV_NOT_SET");
    // NOLINTEND(concurrency-mt-unsafe)
  }
};

TEST_F(ExecOptionsTest, GuestWithoutACommandIsAShellWithATerminalWhereWeHaveOne) {
  ExecOptions options;
  options.guest = true;
  const ExecOptions on_terminal = CompleteExecOptions(options, true);
  EXPECT_EQ(on_terminal.command, std::vector<std::string>{"/bin/sh"});
  EXPECT_TRUE(on_terminal.tty);
  EXPECT_TRUE(on_terminal.interactive);
  EXPECT_EQ(on_terminal.env, std::vector<std::string>{"TERM=vt100"});
  const ExecOptions in_a_pipe = CompleteExecOptions(options, false);
  EXPECT_FALSE(in_a_pipe.tty);
  EXPECT_TRUE(in_a_pipe.interactive) << "the script comes by standard input";
  EXPECT_TRUE(in_a_pipe.env.empty());
}

TEST_F(ExecOptionsTest, CommandGetsWhatWasAskedFor) {
  ExecOptions options;
  options.guest = true;
  options.command = {"ps"};
  EXPECT_FALSE(CompleteExecOptions(options, true).tty);
  EXPECT_FALSE(CompleteExecOptions(options, true).interactive);
  options.tty = true;
  EXPECT_TRUE(CompleteExecOptions(options, false).interactive);
}

TEST_F(ExecOptionsTest, Environment) {
  ExecOptions options;
  options.command = {"env"};
  options.tty = true;
  options.env = {"A=1", "WV_OURS", "WV_NOT_SET", "TERM=dumb"};
  EXPECT_EQ(CompleteExecOptions(options, false).env,
            (std::vector<std::string>{"A=1", "WV_OURS=a b", "TERM=dumb"}));
}

}  // namespace
}  // namespace wyvern::cli
