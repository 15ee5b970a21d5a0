// base/testing/fuzz_directory.h — a directory for a fuzz target's files that outlives no run.
// Shape:   libFuzzer ends its process by _exit, a sanitizer by abort, a suite by a signal: nothing in
//          the process could remove the directory then. So a shell outside of its session does, when
//          the pipe's other end is gone.
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/check.h"

namespace wyvern {

// Makes a directory of that process's own; `name` tells whose it is. Before the process enters a
// mount namespace of its own: what is mounted on the directory there does not keep it here.
inline std::string MakeFuzzDirectory(const std::string& name) {
  std::string path = "/tmp/wyvern-" + name + "-fuzz-XXXXXX";
  WV_CHECK(::mkdtemp(path.data()) != nullptr);
  std::array<int, 2> ends{};
  WV_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  WV_CHECK(::posix_spawn_file_actions_init(&files) == 0 &&
           ::posix_spawn_file_actions_adddup2(&files, ends[0], STDIN_FILENO) == 0 &&
           ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0) ==
               0 &&
           ::posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO) == 0);
  WV_CHECK(::posix_spawnattr_init(&attributes) == 0 &&
           ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID) == 0);
  std::string shell = "sh";
  std::string option = "-c";
  std::string script = "read -r gone; exec rm -rf -- \"$0\"";
  const std::array<char*, 5> arguments = {shell.data(), option.data(), script.data(), path.data(),
                                          nullptr};
  pid_t process = -1;
  WV_CHECK(::posix_spawn(&process, "/bin/sh", &files, &attributes, arguments.data(), environ) == 0);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  ::close(ends[0]);
  return path;  // ends[1] is closed by the end of this process, whichever
}

}  // namespace wyvern
