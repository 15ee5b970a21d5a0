#include "testing/fake_process.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/cleanup.h"
#include "base/unix_socket.h"

namespace wyvern::shim {

namespace {

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) {
    pointers.push_back(const_cast<char*>(text.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

struct ChildPlan {
  std::array<int, 3> fds{-1, -1, -1};
  int barrier = -1;
  bool terminal = false;
  const char* root = nullptr;
  const char* cwd = nullptr;
  const char* program = nullptr;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
};

// Between fork and exec in a program with threads: system calls only.
[[noreturn]] void RunChild(const ChildPlan& plan) {
  setsid();
  sigset_t none;
  sigemptyset(&none);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the child has one thread
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  // Only its own descriptors: while it waits to be started it must not keep other processes' streams open.
  constexpr int kBarrier = 3;
  const std::array<int, 4> wanted{plan.fds[0], plan.fds[1], plan.fds[2], plan.barrier};
  std::array<int, 4> high{};
  for (size_t i = 0; i < wanted.size(); ++i) {
    high[i] = fcntl(wanted[i], F_DUPFD, 100);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    dup2(high[i], static_cast<int>(i));
  }
  close_range(kBarrier + 1, ~0U, 0);
  char byte = 0;
  ssize_t got = 0;
  do {
    got = read(kBarrier, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) {
    _exit(1);  // deleted without having been started
  }
  close(kBarrier);
  if (plan.terminal) {
    ioctl(0, TIOCSCTTY, 0);
  }
  if (plan.root != nullptr && chroot(plan.root) != 0) {
    _exit(126);
  }
  if (chdir(plan.cwd) != 0) {
    _exit(126);
  }
  execve(plan.program, plan.argv, plan.envp);
  _exit(127);
}

// A pair of which the first end is given to the client of the sandbox.
Result<> MakeStream(bool wanted, int null, UniqueFd* client, UniqueFd* child, int* child_fd) {
  *child_fd = null;
  if (wanted) {
    WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
    *client = std::move(pair.first);
    *child = std::move(pair.second);
    *child_fd = child->get();
  }
  return {};
}

}  // namespace

std::string FindProgram(const std::string& name, const std::vector<std::string>& env,
                        const std::string& root) {
  const auto executable = [&root](const std::string& path) {
    struct stat info {};
    return stat((root + path).c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
           (info.st_mode & 0111U) != 0;
  };
  if (name.find('/') != std::string::npos) {
    return executable(name) ? name : std::string();
  }
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const std::string& entry : env) {
    if (entry.starts_with("PATH=")) {
      path = entry.substr(5);
    }
  }
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find(':', at), path.size());
    std::string candidate = path.substr(at, end - at) + "/" + name;
    if (executable(candidate)) {
      return candidate;
    }
    at = end + 1;
  }
  return {};
}

Result<std::unique_ptr<FakeProcess>> FakeProcess::Create(const FakeProcessOptions& options,
                                                         runtime::ProcessIo* io) {
  if (options.args.empty()) {
    return Fail(Code::kInvalidArgument, "process.args is empty");
  }
  const std::string program = FindProgram(options.args[0], options.env, options.root);
  if (program.empty()) {
    return Fail(Code::kNotFound,
                "exec: \"" + options.args[0] + "\": executable file not found in $PATH");
  }
  std::unique_ptr<FakeProcess> self(new FakeProcess());
  self->terminal_ = options.io.terminal;
  WV_TRY(PipePair barrier, MakePipe());
  self->barrier_ = std::move(barrier.write);
  WV_TRY(const UniqueFd null, Open("/dev/null", O_RDWR));
  ChildPlan plan;
  UniqueFd in;
  UniqueFd out;
  UniqueFd err;
  if (options.io.terminal) {
    int theirs = -1;
    WV_TRY_VOID(self->OpenTerminal(io, &theirs));
    in.Reset(theirs);
    plan.fds = {theirs, theirs, theirs};
    WV_TRY_VOID(self->Resize(options.io.rows, options.io.columns));
  } else {
    const int fd = null.get();
    WV_TRY_VOID(MakeStream(options.io.stdin_stream, fd, &io->stdin_stream, &in, &plan.fds[0]));
    WV_TRY_VOID(MakeStream(options.io.stdout_stream, fd, &io->stdout_stream, &out, &plan.fds[1]));
    WV_TRY_VOID(MakeStream(options.io.stderr_stream, fd, &io->stderr_stream, &err, &plan.fds[2]));
  }
  const std::vector<char*> argv = Pointers(options.args);
  const std::vector<char*> envp = Pointers(options.env);
  plan.barrier = barrier.read.get();
  plan.terminal = options.io.terminal;
  plan.root = options.root.empty() ? nullptr : options.root.c_str();
  plan.cwd = options.cwd.c_str();
  plan.program = program.c_str();
  plan.argv = argv.data();
  plan.envp = envp.data();
  const int barrier_write = self->barrier_.get();
  const pid_t pid = fork();
  if (pid < 0) {
    return SysError("fork");
  }
  if (pid == 0) {
    close(barrier_write);
    RunChild(plan);
  }
  self->pid_ = pid;
  self->reaper_ = std::thread([raw = self.get()] { raw->Reap(); });
  return self;
}

Result<> FakeProcess::OpenTerminal(runtime::ProcessIo* io, int* theirs) {
  int ours = -1;
  if (openpty(&ours, theirs, nullptr, nullptr, nullptr) != 0) {
    return SysError("openpty");
  }
  pty_.Reset(ours);
  fcntl(ours, F_SETFD, FD_CLOEXEC);
  fcntl(*theirs, F_SETFD, FD_CLOEXEC);
  WV_TRY(SocketPair in, MakeSocketPair(SOCK_STREAM));
  WV_TRY(SocketPair out, MakeSocketPair(SOCK_STREAM));
  io->stdin_stream = std::move(in.first);
  io->stdout_stream = std::move(out.first);
  WV_TRY(input_, in.second.Duplicate());
  PumpTerminal(std::move(in.second), std::move(out.second));
  return {};
}

void FakeProcess::PumpTerminal(UniqueFd from_client, UniqueFd to_client) {
  const auto copy = [](int from, int to) {
    std::array<std::byte, 4096> buffer{};
    while (true) {
      const ssize_t got = read(from, buffer.data(), buffer.size());
      if (got <= 0 || !WriteAll(FdRef(to), std::span(buffer).first(static_cast<size_t>(got)))) {
        return;
      }
    }
  };
  const int terminal = pty_.get();
  to_terminal_ =
      std::thread([copy, terminal, fd = std::move(from_client)] { copy(fd.get(), terminal); });
  from_terminal_ =
      std::thread([copy, terminal, fd = std::move(to_client)] { copy(terminal, fd.get()); });
}

FakeProcess::~FakeProcess() {
  barrier_.Reset();
  if (pid_ > 0) {
    kill(-pid_, SIGKILL);
    (void)Signal(SIGKILL, false);
  }
  if (reaper_.joinable()) {
    reaper_.join();
  }
  if (input_.valid()) {
    shutdown(input_.get(), SHUT_RDWR);
  }
  for (std::thread* const thread : {&to_terminal_, &from_terminal_}) {
    if (thread->joinable()) {
      thread->join();
    }
  }
}

void FakeProcess::Reap() {
  int status = 0;
  // The number stays ours until exit_ is set: signals are sent under the mutex only while it is not.
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  const std::lock_guard lock(mu_);
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  runtime::ExitInfo exit;
  exit.status =
      static_cast<uint32_t>(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  exit.at = std::chrono::system_clock::now();
  exit_ = exit;
  status_ = runtime::ProcessStatus::kStopped;
  changed_.notify_all();
}

Result<> FakeProcess::Start() {
  const std::lock_guard lock(mu_);
  if (status_ != runtime::ProcessStatus::kCreated) {
    return Fail(Code::kFailedPrecondition, "process was started already");
  }
  status_ = runtime::ProcessStatus::kRunning;
  const std::array<std::byte, 1> go{std::byte{1}};
  return WriteAll(barrier_, go);
}

Result<> FakeProcess::Signal(int signal, bool group) {
  const std::lock_guard lock(mu_);
  if (exit_) {
    return Fail(Code::kNotFound, "process already finished");
  }
  if (kill(group ? -pid_ : pid_, signal) != 0 && kill(pid_, signal) != 0) {
    return SysError("kill");
  }
  return {};
}

Result<> FakeProcess::Resize(uint32_t rows, uint32_t columns) {
  winsize size{};
  size.ws_row = static_cast<unsigned short>(rows);
  size.ws_col = static_cast<unsigned short>(columns);
  if (rows > 0 && ioctl(pty_.get(), TIOCSWINSZ, &size) != 0) {
    return SysError("TIOCSWINSZ");
  }
  return {};
}

runtime::ExitInfo FakeProcess::Wait() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return exit_.has_value(); });
  return exit_.value_or(runtime::ExitInfo());  // there is one: see above
}

runtime::ProcessState FakeProcess::State() {
  const std::lock_guard lock(mu_);
  return {status_, pid_, terminal_, exit_};
}

}  // namespace wyvern::shim
