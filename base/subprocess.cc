#include "base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "base/check.h"
#include "base/cleanup.h"

namespace wyvern {

namespace {

std::vector<char*> PointersOf(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) {
    pointers.push_back(const_cast<char*>(text.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

// Duplicates of the fds above every target number, so that no dup2 in the child overwrites a source
// that is still needed.
Result<std::vector<std::pair<int, UniqueFd>>> LiftFds(const SpawnOptions& options) {
  int floor = 3;
  for (const auto& [target, fd] : options.fds) {
    floor = std::max(floor, target + 1);
  }
  std::vector<std::pair<int, UniqueFd>> lifted;
  for (const auto& [target, fd] : options.fds) {
    UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, floor));
    if (!copy.valid()) {
      return SysError("duplicate a descriptor for " + options.argv.at(0));
    }
    lifted.emplace_back(target, std::move(copy));
  }
  for (const int standard : {0, 1, 2}) {
    const bool named =
        std::any_of(options.fds.begin(), options.fds.end(),
                    [standard](const auto& entry) { return entry.first == standard; });
    if (!named) {
      WV_TRY(const UniqueFd null, Open("/dev/null", O_RDWR));
      UniqueFd copy(fcntl(null.get(), F_DUPFD_CLOEXEC, floor));
      if (!copy.valid()) {
        return SysError("duplicate /dev/null");
      }
      lifted.emplace_back(standard, std::move(copy));
    }
  }
  return lifted;
}

}  // namespace

Result<Subprocess> Subprocess::Spawn(const SpawnOptions& options) {
  WV_TRY(const auto lifted, LiftFds(options));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const Cleanup destroy_actions([&actions] { posix_spawn_file_actions_destroy(&actions); });
  for (const auto& [target, fd] : lifted) {
    posix_spawn_file_actions_adddup2(&actions, fd.get(), target);
  }
  // Descriptors that others opened without close-on-exec do not pass either.
  int highest = 2;
  for (const auto& [target, fd] : lifted) {
    highest = std::max(highest, target);
  }
  for (int number = 3; number < highest; ++number) {
    const bool named = std::any_of(lifted.begin(), lifted.end(),
                                   [number](const auto& entry) { return entry.first == number; });
    if (!named) {
      posix_spawn_file_actions_addclose(&actions, number);
    }
  }
  posix_spawn_file_actions_addclosefrom_np(&actions, highest + 1);
  if (!options.cwd.empty()) {
    posix_spawn_file_actions_addchdir_np(&actions, options.cwd.c_str());
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  const Cleanup destroy_attributes([&attributes] { posix_spawnattr_destroy(&attributes); });
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  int flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  flags |= options.new_process_group ? POSIX_SPAWN_SETPGROUP : 0;
  flags |= options.new_session ? POSIX_SPAWN_SETSID : 0;
  posix_spawnattr_setflags(&attributes, static_cast<short>(flags));

  const std::vector<char*> argv = PointersOf(options.argv);
  const std::vector<char*> env = PointersOf(options.env);
  pid_t pid = -1;
  const std::string& path = options.path.empty() ? options.argv.at(0) : options.path;
  const int error = posix_spawn(&pid, path.c_str(), &actions, &attributes, argv.data(), env.data());
  if (error != 0) {
    return SysErrorFrom(error, "start " + path);
  }
  // Nobody else reaps our children by number, so the pid is still ours.
  auto pid_fd = PidFd::OpenPid(pid);
  if (!pid_fd) {
    kill(pid, SIGKILL);
    return tl::unexpected(std::move(pid_fd).error());
  }
  return Subprocess(*std::move(pid_fd));
}

Result<ExitStatus> Subprocess::Wait() const {
  WV_TRY(const std::optional<ExitStatus> status, pid_fd_.Wait(true));
  WV_CHECK(status.has_value());
  return *status;
}

namespace {

struct Capture {
  UniqueFd fd;
  std::string* text;
};

// Reads both pipes until they end; false at the deadline.
Result<bool> Drain(std::array<Capture, 2>& captures, std::chrono::steady_clock::time_point deadline,
                   size_t limit) {
  while (captures[0].fd.valid() || captures[1].fd.valid()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return false;
    }
    std::array<pollfd, 2> polled{};
    for (size_t i = 0; i < 2; ++i) {
      polled[i] = pollfd{.fd = captures[i].fd.get(), .events = POLLIN, .revents = 0};
    }
    if (poll(polled.data(), polled.size(), static_cast<int>(left.count())) < 0 && errno != EINTR) {
      return SysError("poll");
    }
    for (size_t i = 0; i < 2; ++i) {
      if (polled[i].revents == 0) {
        continue;
      }
      std::array<std::byte, 8192> buffer;
      WV_TRY(const size_t got, ReadSome(captures[i].fd, buffer));
      if (got == 0) {
        captures[i].fd.Reset();
        continue;
      }
      const size_t room = limit - captures[i].text->size();
      captures[i].text->append(reinterpret_cast<const char*>(buffer.data()), std::min(got, room));
    }
  }
  return true;
}

}  // namespace

Result<CommandOutput> RunCommand(const SpawnOptions& options, int timeout_ms, size_t output_limit) {
  WV_TRY(PipePair out, MakePipe());
  WV_TRY(PipePair err, MakePipe());
  SpawnOptions with_pipes = options;
  with_pipes.fds.emplace_back(1, out.write);
  with_pipes.fds.emplace_back(2, err.write);
  WV_TRY(const Subprocess process, Subprocess::Spawn(with_pipes));
  out.write.Reset();
  err.write.Reset();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  CommandOutput output;
  std::array<Capture, 2> captures = {Capture{std::move(out.read), &output.out},
                                     Capture{std::move(err.read), &output.err}};
  auto drained = Drain(captures, deadline, output_limit);
  bool ended = drained.has_value() && *drained;
  if (ended) {
    // Its output has ended; the process itself may still take a moment, or for ever.
    pollfd polled{.fd = process.pid_fd().fd().get(), .events = POLLIN, .revents = 0};
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    ended = poll(&polled, 1, static_cast<int>(std::max<int64_t>(left.count(), 0))) == 1;
  }
  if (!ended) {
    // It may have exited between the poll and here.
    (void)process.Kill(SIGKILL);
  }
  WV_TRY(output.status, process.Wait());
  if (!drained) {
    return tl::unexpected(std::move(drained).error());
  }
  if (!ended) {
    return Fail(Code::kDeadlineExceeded,
                options.argv.at(0) + " did not end within " + std::to_string(timeout_ms) + " ms");
  }
  return output;
}

}  // namespace wyvern
