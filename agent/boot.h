// agent/boot.h — pid 1's part: turns a bare kernel with a read-only root into a machine that crun can work in.
// Errors:  what a container needs and the kernel cannot give is an Error; the caller ends, and so does the guest (panic). What is
//          only nice to have is skipped silently.
// Threads: before there are any.
#pragma once

#include <map>
#include <string>

#include "base/fd.h"
#include "base/log.h"

namespace wyvern::agent {

// "a=b c \"d=e f\"": the kernel's command line; a word without '=' has an empty value.
std::map<std::string, std::string> ParseKernelCommandLine(const std::string& text);

// Of the word wyvern.log=debug|info|warn|error; info without it, and with what is no level.
LogLevel LogLevelFrom(const std::map<std::string, std::string>& words);

// A listening vsock socket; ports below 1024 belong to root.
Result<UniqueFd> ListenVsock(uint32_t port);

// Mounts, console, loopback, limits, cgroup controllers, read-only root device; in this order, once.
Result<> SetUpMachine();

// Makes the directories below /run/wyvern (or a test's directory).
Result<> MakeRuntimeDirs(const std::string& root);

}  // namespace wyvern::agent
