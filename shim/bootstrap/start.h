// bootstrap/start.h — `start`: makes sure that a server listens for this container's group, and says where.
// Life:    read stdin → group → bind → spawn ourselves as server (own session; fds 0, 1 /dev/null; 2 the log FIFO; 3 the listening socket;
//          4 a pipe on which it says that it is ready) → address file → answer on stdout.
// Errors:  everything made so far is undone, the server too; the message goes to stderr, which containerd shows to the user.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "bootstrap/args.h"

namespace wyvern::shim {

inline constexpr int kServeListenerFd = 3;
inline constexpr int kServeReadyFd = 4;

struct StartEnvironment {
  std::string bundle;  // containerd starts us in it
  std::string stdin_bytes;
  std::string self;              // the program to run as server
  std::vector<std::string> env;  // ours, "K=V"
  std::string socket_dir;        // when stdin names none
  std::chrono::steady_clock::time_point asked_at = std::chrono::steady_clock::now();
};

// What to print.
Result<std::string> RunStart(const Args& args, const StartEnvironment& environment);

// The server's: when containerd ran the `start` that made us; none without it.
std::optional<std::chrono::steady_clock::time_point> AskedAt();

// The server's side of the ready pipe: an empty text means ready, anything else is why it is not.
void ReportReady(const std::string& failure);

}  // namespace wyvern::shim
