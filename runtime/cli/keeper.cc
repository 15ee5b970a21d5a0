#include "cli/keeper.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/log.h"
#include "oci/spec.h"
#include "sandbox/sandbox.h"
#include "storage/remove_tree.h"

namespace wyvern::cli {

Result<Keeper> Keeper::Start(const KeptRun& run, const std::vector<UniqueFd>& held) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return SysError("pipe2");
  }
  const UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  SpawnOptions options;
  options.argv = {"/proc/self/exe", "keep-run", run.places.state_dir, run.places.cgroup_root,
                  run.ns,           run.name,   run.scratch};
  options.fds = {{STDIN_FILENO, theirs}, {STDERR_FILENO, FdRef(STDERR_FILENO)}};
  for (const UniqueFd& fd : held) {
    options.fds.emplace_back(STDERR_FILENO + 1 + static_cast<int>(&fd - held.data()), fd);
  }
  // Not of the terminal's session: Ctrl-C is for the container.
  options.new_session = true;
  WV_TRY_CONTEXT(Subprocess process, Subprocess::Spawn(options), "start the run's keeper");
  return Keeper(std::move(process), std::move(ours));
}

Keeper::~Keeper() {
  if (!line_.valid()) {
    return;
  }
  const char done = 0;
  if (write(line_.get(), &done, 1) != 1) {
    WV_WARN("the run's keeper is gone");
  }
  line_.Reset();
  (void)process_.Wait();
}

Result<int> KeepRun(const KeptRun& run) {
  WV_TRY_VOID(oci::CheckId(run.name));
  if (!run.scratch.starts_with('/') || !run.scratch.ends_with("/" + run.name)) {
    return Fail(Code::kInvalidArgument, run.scratch + " is not the directory of run " + run.name);
  }
  // What ends a run often means its keeper, too: the terminal hangs up, its group is interrupted, who
  // reads its standard error has gone. It ends when the run has.
  for (const int number : {SIGPIPE, SIGHUP, SIGINT, SIGQUIT, SIGTERM}) {
    (void)::signal(number, SIG_IGN);
  }
  char byte = 0;
  ssize_t count = 0;
  do {
    count = read(STDIN_FILENO, &byte, 1);
  } while (count < 0 && errno == EINTR);
  if (count == 1) {
    return 0;
  }
  WV_WARN("run {} was killed; removing what it left", run.name);
  WV_TRY_VOID(runtime::CleanUpIn(run.places, run.ns, run.name, run.scratch + "/bundle"));
  WV_TRY_VOID(runtime::RemoveTree(run.scratch));
  return 0;
}

}  // namespace wyvern::cli
