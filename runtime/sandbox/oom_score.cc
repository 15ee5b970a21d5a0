// What VMM and file server count for when the host is short of memory: as much as the containers they are there for.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {

// kubelet protects a pause (-998): with it would be protected all that its pod uses.
std::optional<int> OomScoreOf(const oci::Facts& facts) {
  return facts.stands_for_pod ? std::nullopt : facts.oom_score_adj;
}

// Else they would inherit the shim's own, which the host's memory pressure shall spare.
Result<> SetOomScore(pid_t pid, int score) {
  WV_TRY_VOID_CONTEXT(WriteFile(fmt::format("/proc/{}/oom_score_adj", pid), std::to_string(score)),
                      "setting oom_score_adj");
  return {};
}

void SandboxImpl::AdjustOomScore() {
  std::optional<int> lowest;
  {
    const std::lock_guard lock(mu_);
    if (death_.has_value() || stopping_) {
      return;
    }
    for (const auto& [id, container] : containers_) {
      if (!container->created || container->stands_for_pod) {
        continue;
      }
      const int score = container->host->facts().oom_score_adj.value_or(0);
      lowest = std::min(lowest.value_or(score), score);
    }
  }
  if (!lowest.has_value()) {
    return;
  }
  for (const ProcessRecord& process : state_->Snapshot().processes) {
    if (!IsAlive(process)) {
      continue;
    }
    if (auto set = SetOomScore(process.pid, *lowest); !set.has_value()) {
      WV_WARN("sandbox {}: {}", options_.id, set.error().message());
    }
  }
}

}  // namespace wyvern::runtime
