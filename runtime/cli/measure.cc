#include "cli/measure.h"

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <utility>

#include "control/metrics_wire.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

using observe::MetricType;

// State directories that belong to a sandbox: starting, living, ending, or left behind.
size_t CountStates(const std::string& state_dir) {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    std::error_code ignored;
    count += std::filesystem::exists(entry.path() / "state.json", ignored) ? 1 : 0;
  }
  return count;
}

}  // namespace

std::vector<Measured> MeasureAll(const std::vector<LivingSandbox>& sandboxes) {
  std::vector<Measured> all(sandboxes.size());
  std::mutex mu;
  std::condition_variable changed;
  size_t left = sandboxes.size();
  for (size_t i = 0; i < sandboxes.size(); ++i) {
    all[i].ns = sandboxes[i].hello.ns();
    all[i].id = sandboxes[i].hello.sandbox_id();
    sandboxes[i].client->CallAsync<pb::Empty, pb::MetricsResponse>(
        kControlService, "Metrics", {}, {.timeout = kMeasureTimeout},
        [&, i](Result<pb::MetricsResponse> response) {
          const std::lock_guard lock(mu);
          if (response) {
            all[i].families = shim::FromMessage(*response);
          } else {
            all[i].why = response.error().message();
          }
          --left;
          changed.notify_all();
        });
  }
  std::unique_lock lock(mu);
  changed.wait(lock, [&] { return left == 0; });  // each is called back, at its timeout at last
  return all;
}

observe::FamilySet NodeFamilies(std::vector<Measured> sandboxes, size_t silent) {
  observe::FamilySet node;
  node.Add({"wyvern_node_sandboxes", MetricType::kGauge, "Living sandboxes of this host"}, {},
           static_cast<double>(sandboxes.size()));
  node.Add({"wyvern_node_silent_sandboxes", MetricType::kGauge,
            "State directories for which nobody answers: starting, ending, hung or left behind"},
           {}, static_cast<double>(silent));
  for (Measured& sandbox : sandboxes) {
    node.Add({"wyvern_sandbox_up", MetricType::kGauge, "1: the sandbox told its figures in time"},
             {{"namespace", sandbox.ns}, {"sandbox", sandbox.id}},
             sandbox.families.has_value() ? 1 : 0);
    if (sandbox.families) {
      node.Merge(*std::move(sandbox.families));
    }
  }
  return node;
}

Result<observe::FamilySet> MeasureNode(const std::string& state_dir) {
  const size_t states = CountStates(state_dir);
  WV_TRY(const auto sandboxes, ListSandboxes(state_dir));
  const size_t living = sandboxes.size();
  return NodeFamilies(MeasureAll(sandboxes), states > living ? states - living : 0);
}

}  // namespace wyvern::cli
