// cli/measure.h — the metrics of living sandboxes, each asked of its owner.
// Errors:  a sandbox that does not answer within kMeasureTimeout is there without figures.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/control_client.h"
#include "observe/family.h"

namespace wyvern::cli {

// Longer than Sandbox::Observe takes at most.
inline constexpr std::chrono::milliseconds kMeasureTimeout(5000);

struct Measured {
  std::string ns;
  std::string id;
  std::optional<observe::FamilySet> families;  // none: no answer
  std::string why{};                           // there is none
};

// All at once: one that hangs costs the others nothing.
std::vector<Measured> MeasureAll(const std::vector<LivingSandbox>& sandboxes);

// Those of all sandboxes together, with wyvern_sandbox_up for each, and of the node: how many there are, and how many state directories have
// nobody who answers for them.
observe::FamilySet NodeFamilies(std::vector<Measured> sandboxes, size_t silent);

// Of all in a state directory.
Result<observe::FamilySet> MeasureNode(const std::string& state_dir);

}  // namespace wyvern::cli
