// stdio/logger.h — a client's logging program (binary://): fd 3 is the task's stdout, 4 its stderr, 5 tells us that it is ready.
// Life:    Start → (output) → InputEnded, when our ends of its pipes are closed: it ends by itself, or gets SIGTERM after kGrace and SIGKILL
//          kTermGrace later. A logger that dies early is noticed by the pump (broken pipe).
// Threads: Start blocks its caller up to kReadyPatience; everything else on the loop's thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/subprocess.h"
#include "stdio/target.h"

namespace wyvern::shim {

class Logger : public std::enable_shared_from_this<Logger> {
 public:
  static constexpr std::chrono::milliseconds kReadyPatience{10000};
  static constexpr std::chrono::milliseconds kGrace{3000};
  static constexpr std::chrono::milliseconds kTermGrace{12000};

  struct Started {
    std::shared_ptr<Logger> logger;
    UniqueFd stdout_writer;
    UniqueFd stderr_writer;
  };

  // `id`: the container's, or the exec's.
  static Result<Started> Start(EventLoop& loop, const Target& target, const std::string& ns,
                               const std::string& id);
  // Kills what still runs.
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  // Calls `exited` once, on the loop, when the program has ended (also if it has already).
  void Watch(std::function<void()> exited);
  void InputEnded();
  // Does not wait for the program to end by itself.
  void Terminate();

  bool exited() const { return exited_; }

 private:
  Logger(EventLoop& loop, Subprocess process);
  void OnExit();

  EventLoop& loop_;
  Subprocess process_;
  std::function<void()> on_exit_;
  EventLoop::Token watch_ = EventLoop::Token::kNone;
  EventLoop::Token timer_ = EventLoop::Token::kNone;
  bool exited_ = false;
};

}  // namespace wyvern::shim
