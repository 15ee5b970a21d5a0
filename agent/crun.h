// agent/crun.h — runs crun (and ourselves, for calls that may block long) without stopping the event loop.
// Errors:  crun's own text is the error's message, unchanged: clients look for "executable file … not found" in it. Code UNKNOWN.
//          AskSelf: the code and the text that the program said.
// Threads: the loop's thread; callbacks come from the loop, once each, never from within the call.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/reaper.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::agent {

inline constexpr int kAnswerFd = 3;

struct CrunOptions {
  std::string binary = "/usr/bin/crun";
  std::string state_dir;    // crun --root
  std::string scratch_dir;  // for its log files
};

// A process that crun has left to us.
struct Spawned {
  pid_t pid = 0;
  // Keeps its exit status until Reaper::Watch was called.
  std::shared_ptr<Reaper::Expectation> expectation;
};

class Crun {
 public:
  using Fds = std::vector<std::pair<int, FdRef>>;
  using Done = std::function<void(Result<>)>;
  using SpawnDone = std::function<void(Result<Spawned>)>;

  Crun(EventLoop& loop, Reaper& reaper, CrunOptions options);

  // `fds` become the new process's stdio; `console_socket`: empty without a terminal.
  void Create(const std::string& id, const std::string& bundle, const std::string& console_socket,
              const Fds& fds, SpawnDone done);
  void Start(const std::string& id, Done done);
  void Exec(const std::string& id, const std::string& process_file,
            const std::string& console_socket, const Fds& fds, SpawnDone done);
  void Update(const std::string& id, const std::string& resources_file, Done done);
  void Delete(const std::string& id, Done done);

  using Answer = std::function<void(Result<std::string>)>;

  // Runs this program again with an argument of its own (see main.cc): system calls that block on a file server or a disk.
  void RunSelf(std::vector<std::string> args, Done done);
  // The same with an answer: what the program writes to kAnswerFd; one that exits with another code than 0 writes the number of a Code, a space
  // and a text.
  void AskSelf(std::vector<std::string> args, Answer done);

 private:
  void Run(std::vector<std::string> args, const Fds& fds, Done done);
  void RunForPid(std::vector<std::string> args, const Fds& fds, SpawnDone done);
  std::string ScratchName(const char* suffix);

  EventLoop& loop_;
  Reaper& reaper_;
  const CrunOptions options_;
  uint64_t counter_ = 0;
};

}  // namespace wyvern::agent
