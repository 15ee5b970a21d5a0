#include "stdio/logger.h"

#include <poll.h>
#include <signal.h>

#include <array>

#include "base/log.h"

namespace wyvern::shim {

namespace {

Result<> AwaitReady(FdRef ready, const Target& target) {
  pollfd polled{.fd = ready.get(), .events = POLLIN, .revents = 0};
  if (poll(&polled, 1, static_cast<int>(Logger::kReadyPatience.count())) <= 0) {
    return Fail(Code::kDeadlineExceeded,
                "the logging program " + target.path + " did not say that it is ready (fd 5)");
  }
  std::array<std::byte, 1> byte{};
  WV_TRY(const size_t got, ReadSome(ready, byte));
  if (got == 0 && target.must_say_ready) {
    return Fail(Code::kUnknown,
                "the logging program " + target.path + " ended before it was ready");
  }
  return {};
}

}  // namespace

Result<Logger::Started> Logger::Start(EventLoop& loop, const Target& target, const std::string& ns,
                                      const std::string& id) {
  WV_TRY(PipePair out, MakePipe());
  WV_TRY(PipePair err, MakePipe());
  WV_TRY(PipePair ready, MakePipe());
  SpawnOptions spawn;
  spawn.argv = {target.path};
  spawn.argv.insert(spawn.argv.end(), target.arguments.begin(), target.arguments.end());
  spawn.env = {"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + ns};
  spawn.fds = {{3, out.read}, {4, err.read}, {5, ready.write}};
  WV_TRY_CONTEXT(Subprocess process, Subprocess::Spawn(spawn), "starting the logging program");
  Started started;
  // From here on an error kills the program.
  started.logger.reset(new Logger(loop, std::move(process)));
  ready.write.Reset();
  out.read.Reset();
  err.read.Reset();
  WV_TRY_VOID(AwaitReady(ready.read, target));
  started.stdout_writer = std::move(out.write);
  started.stderr_writer = std::move(err.write);
  return started;
}

Logger::Logger(EventLoop& loop, Subprocess process) : loop_(loop), process_(std::move(process)) {}

Logger::~Logger() {
  if (!exited_) {
    (void)process_.Kill(SIGKILL);
    (void)process_.Wait();
  }
}

void Logger::Watch(std::function<void()> exited) {
  on_exit_ = std::move(exited);
  auto token = loop_.Add(process_.pid_fd().fd(), EPOLLIN,
                         [self = shared_from_this()](uint32_t) { self->OnExit(); });
  if (token) {
    watch_ = *token;
  } else {
    WV_WARN("watching a logging program: {}", token.error().message());
    OnExit();
  }
}

void Logger::OnExit() {
  const auto self = shared_from_this();
  loop_.Remove(std::exchange(watch_, EventLoop::Token::kNone));
  loop_.Remove(std::exchange(timer_, EventLoop::Token::kNone));
  if (const auto status = process_.pid_fd().Wait(false); status && *status) {
    exited_ = true;
    if ((*status)->AsShell() != 0) {
      WV_WARN("a logging program ended with {}", (*status)->AsShell());
    }
  }
  if (const auto call = std::exchange(on_exit_, nullptr)) {
    call();
  }
}

void Logger::InputEnded() {
  if (exited_ || timer_ != EventLoop::Token::kNone) {
    return;
  }
  timer_ = loop_.After(kGrace, [self = shared_from_this()] {
    self->timer_ = EventLoop::Token::kNone;
    self->Terminate();
  });
}

void Logger::Terminate() {
  if (exited_) {
    return;
  }
  (void)process_.Kill(SIGTERM);
  loop_.Remove(timer_);
  timer_ = loop_.After(kTermGrace, [self = shared_from_this()] {
    self->timer_ = EventLoop::Token::kNone;
    (void)self->process_.Kill(SIGKILL);
  });
}

}  // namespace wyvern::shim
