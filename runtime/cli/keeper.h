// cli/keeper.h — a small process beside `wyvern run` that undoes what the run made when it is killed. (A container of containerd needs none:
// containerd calls `delete`.)
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/subprocess.h"
#include "sandbox/cleanup.h"

namespace wyvern::cli {

struct KeptRun {
  runtime::Places places;
  std::string ns, name;
  std::string scratch;  // the run's own directory, its bundle at <scratch>/bundle; removed
};

class Keeper {
 public:
  // Before the first side effect. The process is this program with the verb "keep-run".
  // It has duplicates of `held`, so that the layers of its mounts stay until they are unmounted.
  static Result<Keeper> Start(const KeptRun& run, const std::vector<UniqueFd>& held);

  Keeper(Keeper&&) = default;
  Keeper& operator=(Keeper&&) = delete;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper();  // everything was undone: the process ends

  pid_t pid() const { return process_.pid(); }

 private:
  Keeper(Subprocess process, UniqueFd line)
      : process_(std::move(process)), line_(std::move(line)) {}

  Subprocess process_;
  UniqueFd line_;
};

// The other side: waits until fd 0 ends, then undoes unless a byte came before. An error leaves the scratch directory: INVALID_ARGUMENT when it
// is not the run's, FAILED_PRECONDITION while anything is mounted below it.
Result<int> KeepRun(const KeptRun& run);

}  // namespace wyvern::cli
