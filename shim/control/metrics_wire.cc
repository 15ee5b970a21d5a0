#include "control/metrics_wire.h"

#include <utility>

#include "base/plain_text.h"

namespace wyvern::shim {

namespace pb = wyvern::control::v1;

namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;
using std::chrono::system_clock;

constexpr size_t kMaxId = 128;

pb::MetricFamily ToMessage(const observe::Family& family) {
  pb::MetricFamily out;
  out.set_name(family.name);
  out.set_help(family.help);
  out.set_type(static_cast<pb::MetricFamily::Type>(family.type));
  for (const observe::Sample& sample : family.samples) {
    auto& to = *out.add_samples();
    to.set_suffix(sample.suffix);
    to.set_value(sample.value);
    for (const auto& [name, value] : sample.labels) {
      auto& label = *to.add_labels();
      label.set_name(name);
      label.set_value(value);
    }
  }
  return out;
}

observe::MetricType TypeOf(pb::MetricFamily::Type type) {
  switch (type) {
    case pb::MetricFamily::COUNTER:
      return observe::MetricType::kCounter;
    case pb::MetricFamily::GAUGE:
      return observe::MetricType::kGauge;
    case pb::MetricFamily::SUMMARY:
      return observe::MetricType::kSummary;
    default:
      return observe::MetricType::kUntyped;
  }
}

}  // namespace

pb::MetricsResponse ToMessage(const observe::FamilySet& families) {
  pb::MetricsResponse out;
  uint64_t dropped = families.dropped();
  size_t bytes = 0;
  for (const observe::Family& family : families.Families()) {
    pb::MetricFamily message = ToMessage(family);
    const size_t size = message.ByteSizeLong();
    if (size > kMaxMetricsBytes - bytes) {
      dropped += family.samples.size();
      continue;
    }
    bytes += size;
    *out.add_families() = std::move(message);
  }
  out.set_dropped(dropped);
  return out;
}

observe::FamilySet FromMessage(const pb::MetricsResponse& message) {
  observe::FamilySet out;
  out.CountDropped(message.dropped());
  for (const pb::MetricFamily& family : message.families()) {
    for (const pb::MetricSample& sample : family.samples()) {
      observe::Labels labels;
      for (const pb::MetricLabel& label : sample.labels()) {
        labels.emplace_back(label.name(), label.value());
      }
      out.Add({family.name(), TypeOf(family.type()), family.help()}, std::move(labels),
              sample.value(), sample.suffix());
    }
  }
  return out;
}

pb::SandboxEvent ToMessage(const observe::Event& event) {
  pb::SandboxEvent out;
  out.set_number(event.number);
  out.set_at_ns(duration_cast<nanoseconds>(event.at.time_since_epoch()).count());
  out.set_kind(static_cast<pb::SandboxEvent::Kind>(event.kind));
  out.set_container(event.container);
  out.set_text(event.text);
  return out;
}

observe::Event FromMessage(const pb::SandboxEvent& message) {
  observe::Event out;
  out.number = message.number();
  out.at =
      system_clock::time_point(duration_cast<system_clock::duration>(nanoseconds(message.at_ns())));
  const bool known = message.kind() > pb::SandboxEvent::UNSPECIFIED &&
                     message.kind() <= pb::SandboxEvent::HOTPLUG_FAILED;
  out.kind = known ? static_cast<observe::EventKind>(message.kind()) : observe::EventKind{0};
  out.container = PlainText(message.container(), kMaxId);
  out.text = PlainText(message.text(), observe::kMaxEventText);
  return out;
}

}  // namespace wyvern::shim
