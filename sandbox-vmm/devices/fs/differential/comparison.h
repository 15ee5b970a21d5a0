// fs/differential/comparison.h — one script on a target under test and on a directory beside it: every
// result, error number, attribute and byte must be the same.
// Threads: one; the process' umask is 0 and its thread has no groups (Prepare).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fs/differential/runner.h"

namespace wyvern::fs::differential {

// The numbers of the steps that a script is made of.
using Script = std::vector<uint64_t>;

struct Difference {
  size_t position = 0;  // in the script; its size: the trees differ
  std::string text;
};

// The target under test over a directory, and what it needs to live.
struct Subject {
  std::shared_ptr<void> behind;
  std::unique_ptr<Target> target;
  RunnerOptions options;  // of both
};

using MakeSubject = std::function<Subject(const std::string& directory)>;

class Comparison {
 public:
  // `base`: an empty directory.
  Comparison(std::string base, MakeSubject make) : base_(std::move(base)), make_(std::move(make)) {}

  // A user of a script has one group, and its own umask.
  static bool Prepare();

  std::optional<Difference> Compare(uint64_t seed, const Script& script);
  // Takes away what the difference does not need, as far as that is done in time.
  Script Shrink(uint64_t seed, Script script, std::chrono::seconds limit);
  std::string Explain(uint64_t seed, Script script, const Difference& difference);
  // Empty if there is no difference in the first `steps` of the seed.
  std::string Run(uint64_t seed, uint64_t steps);

 private:
  std::optional<Difference> CompareIn(uint64_t seed, const Script& script,
                                      const std::string& shared, const std::string& beside);

  const std::string base_;
  const MakeSubject make_;
};

// What a run is told by the environment.
// WYVERN_FSDIFF_SEED: of the first script (1); "today": the day's, as 20261123.
uint64_t FirstSeed();
// WYVERN_FSDIFF_STEPS, else one of the two: WYVERN_LONG=1 asks for the second.
uint64_t StepsOr(uint64_t quick, uint64_t thorough);
bool IsLong();

}  // namespace wyvern::fs::differential
