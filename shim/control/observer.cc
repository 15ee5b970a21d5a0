#include "control/observer.h"

#include <array>
#include <utility>

#include "base/log.h"
#include "base/log_journal.h"
#include "control/metrics_wire.h"
#include "observe/host_process.h"

namespace wyvern::shim {

namespace pb = wyvern::control::v1;

observe::FamilySet Observer::Measure() {
  observe::Observation seen = sandbox_.Observe();
  for (const auto& [role, pid] : processes_) {
    if (auto usage = observe::ReadProcessUsage(pid); usage) {
      usage->role = role;
      seen.processes.push_back(*std::move(usage));
    }
  }
  observe::FamilySet set = observe::FamiliesOf(name_, seen, sandbox_.Events().Totals());
  const std::array<std::pair<const char*, uint64_t>, 2> sinks = {
      {{"log", DroppedLogLines()}, {"journal", LinesDroppedByJournal()}}};
  for (const auto& [sink, dropped] : sinks) {
    set.Add({"wyvern_log_lines_dropped_total", observe::MetricType::kCounter,
             "lines of the owner that its log or systemd's journal did not take"},
            {{"namespace", name_.ns}, {"sandbox", name_.id}, {"sink", sink}},
            static_cast<double>(dropped));
  }
  return set;
}

void Observer::Listen(const std::string& path) {
  auto metrics = observe::TextServer::Start(path, [this] { return Measure().Text(); });
  if (!metrics) {
    WV_WARN("metrics socket: {}", metrics.error().message());
    return;
  }
  metrics_ = *std::move(metrics);
}

void Observer::CloseSocket() {
  if (metrics_ != nullptr) {
    metrics_->Close();
  }
}

void Observer::Watch(const pb::WatchEventsRequest& request,
                     ttrpc::ServerStream<pb::SandboxEvent> stream) {
  EndWatchers(/*all=*/false);
  if (watchers_.size() >= kMaxWatchers) {
    stream.Fail(Error(Code::kResourceExhausted, "too many watch this sandbox's events"));
    return;
  }
  auto shared = std::make_shared<ttrpc::ServerStream<pb::SandboxEvent>>(std::move(stream));
  // Who does not read is cut off by the server, and forgotten with the next disconnect.
  const uint64_t subscription = sandbox_.Events().Subscribe(
      !request.only_new(),
      [shared](const observe::Event& event) { (void)shared->Send(ToMessage(event)); });
  watchers_.push_back({subscription, std::move(shared)});
}

void Observer::EndWatchers(bool all) {
  std::erase_if(watchers_, [&](const Watcher& watcher) {
    const bool ends = all || !watcher.stream->alive();
    if (ends) {
      sandbox_.Events().Unsubscribe(watcher.subscription);
    }
    return ends;
  });
}

}  // namespace wyvern::shim
