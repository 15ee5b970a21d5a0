#include "base/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

namespace wyvern {
namespace {

SpawnOptions Shell(const std::string& script) {
  return SpawnOptions{
      .argv = {"/bin/sh", "-c", script}, .env = {"PATH=/usr/bin:/bin"}, .fds = {}, .cwd = ""};
}

TEST(SubprocessTest, OutputAndExitCode) {
  const CommandOutput output = *RunCommand(Shell("echo out; echo err >&2; exit 7"), 10000);
  EXPECT_EQ(output.out, "out\n");
  EXPECT_EQ(output.err, "err\n");
  EXPECT_EQ(output.status.AsShell(), 7);
}

TEST(SubprocessTest, SignalDeathIs128PlusN) {
  EXPECT_EQ(RunCommand(Shell("kill -9 $$"), 10000)->status.AsShell(), 137);
}

TEST(SubprocessTest, DeadlineKills) {
  const auto result = RunCommand(Shell("exec sleep 1000"), 100);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
}

TEST(SubprocessTest, MissingProgramIsAnError) {
  const auto result =
      Subprocess::Spawn(SpawnOptions{.argv = {"/nonexistent"}, .env = {}, .fds = {}, .cwd = ""});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kNotFound);
}

TEST(SubprocessTest, ProgramMayBeAnotherThanItsName) {
  SpawnOptions options = Shell("echo $0");
  options.argv = {"name", "-c", "cat /proc/$$/cmdline"};
  options.path = "/bin/sh";
  EXPECT_EQ(RunCommand(options, 10000)->out.substr(0, 5), std::string("name\0", 5));
}

TEST(SubprocessTest, ChildHasOnlyTheDescriptorsNamed) {
  const UniqueFd secret = *Open("/dev/null", O_RDONLY);
  // Sources and targets overlap: 3 ← a, 4 ← b where a or b may be 3 or 4 here.
  PipePair a = *MakePipe();
  PipePair b = *MakePipe();
  SpawnOptions options = Shell("echo A >&3; echo B >&4; ls /proc/self/fd | tr '\\n' ' '");
  options.fds = {{3, a.write}, {4, b.write}};
  const CommandOutput output = *RunCommand(options, 10000);
  a.write.Reset();
  b.write.Reset();
  EXPECT_EQ(*ReadToEnd(a.read, 100), "A\n");
  EXPECT_EQ(*ReadToEnd(b.read, 100), "B\n");
  // 5 is ls's own handle on the directory.
  EXPECT_EQ(output.out, "0 1 2 3 4 5 ");
}

}  // namespace
}  // namespace wyvern
