#include "cli/observe_verbs.h"

#include <memory>

#include "cli/commands.h"

namespace wyvern::cli {

namespace {

constexpr char kIdHelp[] = "sandbox or container, as `wyvern ps` prints it";
constexpr char kNamespaceHelp[] = "of the sandbox, as `wyvern ps` prints it";

void AddMetrics(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "metrics", "Prints the figures of a sandbox, or of all of them, as Prometheus has them");
  auto options = std::make_shared<MetricsOptions>();
  auto* id = verb->add_option("id", options->sandbox.id, kIdHelp);
  verb->add_option("-n,--namespace", options->sandbox.ns, kNamespaceHelp)->needs(id);
  auto* node = verb->add_flag("--node", options->node, "of all living sandboxes of this host");
  node->excludes(id);
  verb->add_option("--listen", options->listen,
                   "with --node: serve them on this unix socket until interrupted (HTTP, "
                   "GET /metrics)")
      ->needs(node);
  verb->footer(
      "Each sandbox serves its own on a socket that `wyvern ps --json` names.\n"
      "Examples:\n  wyvern metrics web\n  wyvern metrics --node\n"
      "  wyvern metrics --node --listen /run/wyvern-metrics.sock\n"
      "  curl --unix-socket /run/wyvern-metrics.sock http://localhost/metrics");
  verb->callback([options, &action] {
    if (options->sandbox.id.empty() && !options->node) {
      throw CLI::RequiredError("id, or --node,");
    }
    action = [options] { return Metrics(*options); };
  });
}

void AddTop(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "top",
      "Shows what living sandboxes use, again and again; of one, its exits and devices, too");
  auto options = std::make_shared<TopOptions>();
  verb->add_option("id", options->sandbox.id, kIdHelp);
  verb->add_option("-n,--namespace", options->sandbox.ns, kNamespaceHelp);
  verb->add_option("-i,--interval", options->interval, "seconds between two looks; 2")
      ->check(CLI::Range(0.1, 3600.0));
  verb->add_option("--count", options->count, "end after so many; 0: never");
  verb->footer(
      "Memory of the host: VMM, FS and SHIM (with keeper and anchors) by their PSS. Memory of the\n"
      "guest, by its own word: USED, CACHE, FREE. BALLOON: taken from it; PLUGGED: added to it.\n"
      "Examples:\n  wyvern top\n  wyvern top --count 1 | sort -k 4 -h\n  wyvern top -i 0.5 web");
  verb->callback([options, &action] { action = [options] { return Top(*options); }; });
}

void AddEvents(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "events",
      "Prints what happens to living sandboxes: started, exited, oom, died, resized, "
      "hotplug-failed, ended");
  auto options = std::make_shared<EventsOptions>();
  verb->add_option("id", options->sandbox.id, std::string(kIdHelp) + "; then it ends with that");
  verb->add_option("-n,--namespace", options->sandbox.ns, kNamespaceHelp);
  verb->add_flag("--json", options->json, "an object for each line");
  verb->add_flag("--only-new", options->only_new, "without what happened before");
  verb->footer("Examples:\n  wyvern events\n  wyvern events --json -n k8s.io\n  wyvern events web");
  verb->callback([options, &action] { action = [options] { return Events(*options); }; });
}

}  // namespace

void AddObservation(CLI::App& app, std::function<Result<int>()>& action) {
  AddMetrics(app, action);
  AddTop(app, action);
  AddEvents(app, action);
}

}  // namespace wyvern::cli
