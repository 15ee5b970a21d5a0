#include "agent/guest_processes.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "agent/reaper.h"
#include "base/fd.h"
#include "base/subprocess.h"

namespace wyvern::agent {
namespace {

// The copy's end of the pipe: the error's code as one byte, then its text.
constexpr int kFailurePipe = 3;
constexpr size_t kMaxFailure = 8192;
// UID GID TERMINAL CWD stand before the program's own arguments.
constexpr size_t kFixedArguments = 4;

// As a shell tells them.
constexpr int kNotFoundStatus = 127;
constexpr int kCannotRunStatus = 126;
constexpr uint32_t kNoProcessStatus = 255;

std::vector<std::string> CommandLineOfCopy(const v1::GuestCommand& command, bool terminal) {
  std::vector<std::string> argv = {"/proc/self/exe",
                                   kGuestExecArgument,
                                   std::to_string(command.uid()),
                                   std::to_string(command.gid()),
                                   terminal ? "1" : "0",
                                   command.cwd().empty() ? "/" : command.cwd()};
  argv.insert(argv.end(), command.args().begin(), command.args().end());
  return argv;
}

Result<> BecomeUser(uid_t uid, gid_t gid) {
  if (uid == 0 && gid == 0) {
    return {};
  }
  if (setgroups(0, nullptr) != 0 || setresgid(gid, gid, gid) != 0 ||
      setresuid(uid, uid, uid) != 0) {
    return SysError("become user " + std::to_string(uid) + ":" + std::to_string(gid));
  }
  return {};
}

// Returns only when it failed.
Error BecomeProgram(const std::vector<std::string>& args) {
  const auto prepare = [&args]() -> Result<> {
    const auto uid = static_cast<uid_t>(std::strtoul(args[0].c_str(), nullptr, 10));
    const auto gid = static_cast<gid_t>(std::strtoul(args[1].c_str(), nullptr, 10));
    if (fcntl(kFailurePipe, F_SETFD, FD_CLOEXEC) != 0) {
      return SysError("mark the pipe");
    }
    if (args[2] == "1") {
      // We lead a session of our own already.
      if (ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) {
        return SysError("take the terminal");
      }
      if (fchown(STDIN_FILENO, uid, static_cast<gid_t>(-1)) != 0) {
        return SysError("own the terminal");
      }
    }
    WV_TRY_VOID(BecomeUser(uid, gid));
    if (chdir(args[3].c_str()) != 0) {
      return SysError("change to directory " + args[3]);
    }
    return {};
  };
  if (auto prepared = prepare(); !prepared) {
    return std::move(prepared).error();
  }
  std::vector<char*> argv;
  for (size_t i = kFixedArguments; i < args.size(); ++i) {
    argv.push_back(const_cast<char*>(args[i].c_str()));
  }
  argv.push_back(nullptr);
  (void)execvp(argv[0], argv.data());
  const int error = errno;
  const std::string program = "\"" + args[kFixedArguments] + "\"";
  if (error == ENOENT) {
    const bool searched = args[kFixedArguments].find('/') == std::string::npos;
    return {Code::kNotFound,
            "executable file " + program + " not found in the guest" + (searched ? "'s PATH" : "")};
  }
  return SysErrorFrom(error, "run " + program + " in the guest").value();
}

}  // namespace

int RunGuestProgram(const std::vector<std::string>& args) {
  if (args.size() <= kFixedArguments) {
    return kCannotRunStatus;
  }
  const Error error = BecomeProgram(args);
  std::string failure(1, static_cast<char>(error.code()));
  failure += error.message().substr(0, kMaxFailure / 2);
  (void)WriteAll(FdRef(kFailurePipe), failure);
  return error.code() == Code::kNotFound ? kNotFoundStatus : kCannotRunStatus;
}

Result<> GuestProcesses::AddProcess(const v1::AddProcessRequest& request) {
  WV_TRY_VOID(CheckNew(request.exec_id()));
  if (request.guest().args().empty() || request.guest().args(0).empty()) {
    return Fail(Code::kInvalidArgument, "no command was given");
  }
  auto process = std::make_shared<Process>();
  process->command = request.guest();
  // Without a directory for crun's socket the terminal is made here.
  WV_TRY(process->io,
         ProcessIo::Create(environment_.loop, environment_.stdio, request.stdio(), ""));
  execs().emplace(request.exec_id(), std::move(process));
  return {};
}

void GuestProcesses::StartProcess(const std::string& exec_id, PidDone done) {
  auto found = Find(exec_id);
  if (!found) {
    done(tl::unexpected(std::move(found).error()));
    return;
  }
  const std::shared_ptr<Process> process = *found;
  if (process->state != State::kCreated) {
    done(Fail(Code::kFailedPrecondition, "the process was started already"));
    return;
  }
  process->state = State::kStarting;
  auto spawned = Spawn(process, done);
  if (!spawned) {
    process->io.reset();
    if (process->pid == 0) {
      Exited(*process, kNoProcessStatus);
    } else {
      (void)kill(process->pid, SIGKILL);  // its end is an event
    }
    done(tl::unexpected(std::move(spawned).error()));
  }
}

Result<> GuestProcesses::Spawn(const std::shared_ptr<Process>& process, const PidDone& done) {
  WV_TRY(PipePair pipe, MakePipe());
  WV_TRY_VOID(SetNonBlocking(pipe.read, true));
  SpawnOptions options;
  options.argv = CommandLineOfCopy(process->command, process->io->terminal());
  options.env.assign(process->command.env().begin(), process->command.env().end());
  options.fds = process->io->ChildFds();
  options.fds.emplace_back(kFailurePipe, pipe.write);
  options.new_session = true;
  WV_TRY(const Subprocess child, Subprocess::Spawn(options));
  pipe.write.Reset();
  process->pid = child.pid();
  // The table keeps it until it has ended.
  environment_.reaper.Watch(process->pid,
                            [weak = std::weak_ptr<Process>(process)](ExitStatus status) {
                              if (const auto ended = weak.lock()) {
                                Exited(*ended, static_cast<uint32_t>(status.AsShell()));
                              }
                            });
  WV_TRY_VOID(process->io->ChildStarted());
  return AwaitLaunch(process, std::move(pipe.read), done);
}

Result<> GuestProcesses::AwaitLaunch(const std::shared_ptr<Process>& process, UniqueFd pipe,
                                     const PidDone& done) {
  struct Launch {
    UniqueFd pipe;
    std::string failure;
    EventLoop::Token token = EventLoop::Token::kNone;
  };

  auto launch = std::make_shared<Launch>();
  launch->pipe = std::move(pipe);
  EventLoop& loop = environment_.loop;
  WV_TRY(launch->token, loop.Add(launch->pipe, EPOLLIN, [launch, process, done, &loop](uint32_t) {
    std::array<std::byte, 1024> buffer{};
    const auto got = ReadSome(launch->pipe, buffer);
    if (!got && got.error().sys_errno() == EAGAIN) {
      return;
    }
    const size_t size = got.value_or(0);
    launch->failure.append(reinterpret_cast<const char*>(buffer.data()), size);
    if (size > 0 && launch->failure.size() < kMaxFailure) {
      return;
    }
    loop.Remove(launch->token);  // which leaves us alive until we return
    Launched(*process, launch->failure, done);
  }));
  return {};
}

void GuestProcesses::Launched(Process& process, const std::string& failure, const PidDone& done) {
  if (failure.empty()) {
    if (process.state == State::kStarting) {
      process.state = State::kRunning;
    }
    done(process.pid);
    return;
  }
  process.io.reset();
  done(Fail(static_cast<Code>(failure.front()), failure.substr(1)));
}

Result<> GuestProcesses::Signal(const std::string& exec_id, uint32_t signal, bool all) {
  WV_TRY(const auto process, FindToSignal(exec_id, signal));
  // We are its parent and have not waited for it: the number is still its own, and its group's.
  if (kill(all ? -process->pid : process->pid, static_cast<int>(signal)) != 0) {
    return SysError("kill the process");
  }
  return {};
}

void GuestProcesses::KillAll() {
  for (const auto& [exec_id, process] : execs()) {
    if (process->pid != 0 && process->state != State::kExited) {
      (void)kill(-process->pid, SIGKILL);
    }
  }
}

}  // namespace wyvern::agent
