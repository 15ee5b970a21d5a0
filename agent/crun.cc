#include "agent/crun.h"

#include <unistd.h>

#include <charconv>

#include "base/log.h"
#include "base/subprocess.h"

namespace wyvern::agent {
namespace {

constexpr size_t kMaxErrorText = 16U << 10;

std::vector<std::string> CrunEnvironment() {
  std::vector<std::string> env = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  // Set only where tests run crun on a machine that needs it.
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the agent has one thread.
  if (const char* preload = getenv("WYVERN_TEST_CRUN_PRELOAD"); preload != nullptr) {
    env.push_back(std::string("LD_PRELOAD=") + preload);
  }
  return env;
}

std::string ReadLog(const std::string& path) {
  auto text = ReadFile(path, kMaxErrorText);
  (void)unlink(path.c_str());
  if (!text) {
    return {};
  }
  while (!text->empty() && text->back() == '\n') {
    text->pop_back();
  }
  return *std::move(text);
}

Result<pid_t> ReadPidFile(const std::string& path) {
  WV_TRY(const std::string text, ReadFile(path, 64));
  (void)unlink(path.c_str());
  pid_t pid = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (parsed.ec != std::errc() || pid <= 1) {
    return Fail(Code::kInternal, "crun wrote no pid to " + path);
  }
  return pid;
}

std::string ReadAnswer(FdRef file) {
  if (lseek(file.get(), 0, SEEK_SET) != 0) {
    return {};
  }
  return ReadToEnd(file, kMaxErrorText).value_or("");
}

Error ToError(std::string_view text, const std::string& what) {
  int code = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), code);
  if (error != std::errc() || code < 1 || code > static_cast<int>(Code::kUnauthenticated)) {
    return Error(Code::kInternal, what + " failed; the guest's console says why");
  }
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return Error(static_cast<Code>(code), std::string(text.substr(text.empty() ? 0 : 1)));
}

}  // namespace

Crun::Crun(EventLoop& loop, Reaper& reaper, CrunOptions options)
    : loop_(loop), reaper_(reaper), options_(std::move(options)) {}

std::string Crun::ScratchName(const char* suffix) {
  return options_.scratch_dir + "/crun-" + std::to_string(++counter_) + suffix;
}

void Crun::Create(const std::string& id, const std::string& bundle,
                  const std::string& console_socket, const Fds& fds, SpawnDone done) {
  std::vector<std::string> args = {"create", "--bundle", bundle};
  if (!console_socket.empty()) {
    args.insert(args.end(), {"--console-socket", console_socket});
  }
  args.push_back(id);
  RunForPid(std::move(args), fds, std::move(done));
}

void Crun::Start(const std::string& id, Done done) {
  Run({"start", id}, {}, std::move(done));
}

void Crun::Exec(const std::string& id, const std::string& process_file,
                const std::string& console_socket, const Fds& fds, SpawnDone done) {
  std::vector<std::string> args = {"exec", "--detach", "--process", process_file};
  if (!console_socket.empty()) {
    args.insert(args.end(), {"--console-socket", console_socket});
  }
  args.push_back(id);
  RunForPid(std::move(args), fds, std::move(done));
}

void Crun::Update(const std::string& id, const std::string& resources_file, Done done) {
  Run({"update", "--resources", resources_file, id}, {}, std::move(done));
}

void Crun::Delete(const std::string& id, Done done) {
  Run({"delete", "--force", id}, {}, std::move(done));
}

void Crun::RunForPid(std::vector<std::string> args, const Fds& fds, SpawnDone done) {
  const std::string pid_file = ScratchName(".pid");
  args.insert(args.begin() + 1, {"--pid-file", pid_file});
  auto expectation = reaper_.Expect();
  Run(std::move(args), fds,
      [pid_file, expectation = std::move(expectation), done = std::move(done)](Result<> result) {
        if (!result) {
          (void)unlink(pid_file.c_str());
          done(tl::unexpected(std::move(result).error()));
          return;
        }
        auto pid = ReadPidFile(pid_file);
        if (!pid) {
          done(tl::unexpected(std::move(pid).error()));
          return;
        }
        done(Spawned{.pid = *pid, .expectation = expectation});
      });
}

void Crun::Run(std::vector<std::string> args, const Fds& fds, Done done) {
  const std::string log = ScratchName(".log");
  SpawnOptions spawn;
  spawn.argv = {
      options_.binary, "--cgroup-manager=cgroupfs", "--root", options_.state_dir, "--log", log};
  const std::string verb = args.front();
  spawn.argv.insert(spawn.argv.end(), std::make_move_iterator(args.begin()),
                    std::make_move_iterator(args.end()));
  spawn.env = CrunEnvironment();
  spawn.fds = fds;
  auto child = Subprocess::Spawn(spawn);
  if (!child) {
    auto error = std::make_shared<Error>(std::move(child).error());
    loop_.Post([error, done = std::move(done)] { done(tl::unexpected(std::move(*error))); });
    return;
  }
  reaper_.Watch(child->pid(), [log, verb, done = std::move(done)](ExitStatus status) {
    std::string text = ReadLog(log);
    if (status.AsShell() == 0) {
      done({});
      return;
    }
    if (text.empty()) {
      text = fmt::format("crun {} ended with status {}", verb, status.AsShell());
    }
    done(Fail(Code::kUnknown, std::move(text)));
  });
}

void Crun::RunSelf(std::vector<std::string> args, Done done) {
  AskSelf(std::move(args), [done = std::move(done)](Result<std::string> answer) {
    done(answer ? Result<>() : tl::unexpected(std::move(answer).error()));
  });
}

void Crun::AskSelf(std::vector<std::string> args, Answer done) {
  auto child = [&args]() -> Result<std::pair<pid_t, std::shared_ptr<UniqueFd>>> {
    WV_TRY(UniqueFd answer, MakeMemfd("answer", 0));
    SpawnOptions spawn;
    spawn.argv = {"/proc/self/exe"};
    spawn.argv.insert(spawn.argv.end(), args.begin(), args.end());
    spawn.fds = {{2, FdRef(2)}, {kAnswerFd, answer}};
    WV_TRY(const Subprocess started, Subprocess::Spawn(spawn));
    return std::pair(started.pid(), std::make_shared<UniqueFd>(std::move(answer)));
  }();
  if (!child) {
    auto error = std::make_shared<Error>(std::move(child).error());
    loop_.Post([error, done = std::move(done)] { done(tl::unexpected(std::move(*error))); });
    return;
  }
  reaper_.Watch(child->first, [what = args.front(), answer = child->second,
                               done = std::move(done)](ExitStatus status) {
    std::string text = ReadAnswer(*answer);
    if (status.AsShell() == 0) {
      done(std::move(text));
    } else {
      done(tl::unexpected(ToError(text, what)));
    }
  });
}

}  // namespace wyvern::agent
