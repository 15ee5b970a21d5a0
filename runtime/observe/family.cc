#include "observe/family.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/plain_text.h"

namespace wyvern::observe {

namespace {

bool IsAlpha(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

// [a-zA-Z_][a-zA-Z0-9_]*: colons are for recording rules.
bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && IsAlpha(name[0]) &&
         std::ranges::all_of(name, [](char c) { return IsAlpha(c) || IsDigit(c); });
}

bool IsSuffix(MetricType type, std::string_view suffix) {
  return type == MetricType::kSummary ? suffix == "_sum" || suffix == "_count" : suffix.empty();
}

std::string Escaped(std::string_view text, bool quotes) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '\\' || (quotes && c == '"')) {
      out += '\\';
    }
    out += c;
  }
  return out;
}

const char* TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kSummary:
      return "summary";
    case MetricType::kUntyped:
      break;
  }
  return "untyped";
}

void AppendSample(std::string& out, const Family& family, const Sample& sample) {
  out += family.name;
  out += sample.suffix;
  const char* before = "{";
  for (const auto& [name, value] : sample.labels) {
    out += fmt::format("{}{}=\"{}\"", before, name, Escaped(value, true));
    before = ",";
  }
  out += sample.labels.empty() ? " " : "} ";
  out += FormatValue(sample.value);
  out += '\n';
}

}  // namespace

void FamilySet::Add(const Kind& kind, Labels labels, double value, std::string_view suffix) {
  const bool labels_fit =
      labels.size() <= kMaxLabels &&
      std::ranges::all_of(labels, [](const auto& label) { return IsName(label.first); });
  if (!IsName(kind.name) || !IsSuffix(kind.type, suffix) || !labels_fit) {
    ++dropped_;
    return;
  }
  auto it = families_.find(kind.name);
  if (it == families_.end()) {
    if (families_.size() >= kMaxFamilies) {
      ++dropped_;
      return;
    }
    Family family{std::string(kind.name), PlainText(kind.help, kMaxHelp), kind.type, {}};
    it = families_.emplace(std::string(kind.name), Entry{std::move(family)}).first;
  }
  Family& family = it->second.family;
  if (family.type != kind.type || family.samples.size() >= kMaxSamples) {
    ++dropped_;
    return;
  }
  std::string identity(suffix);
  for (auto& [name, text] : labels) {
    text = PlainText(text, kMaxLabelValue);
    identity += '\n' + name + '=' + text;
  }
  if (!it->second.seen.insert(std::hash<std::string>()(identity)).second) {
    ++dropped_;
    return;
  }
  family.samples.push_back({std::string(suffix), std::move(labels), value});
}

void FamilySet::Merge(FamilySet other) {
  dropped_ += other.dropped_;
  for (auto& [name, entry] : other.families_) {
    Family& family = entry.family;
    for (Sample& sample : family.samples) {
      Add({family.name, family.type, family.help}, std::move(sample.labels), sample.value,
          sample.suffix);
    }
  }
}

std::vector<Family> FamilySet::Families() const {
  std::vector<Family> all;
  all.reserve(families_.size());
  for (const auto& [name, entry] : families_) {
    if (!entry.family.samples.empty()) {
      all.push_back(entry.family);
    }
  }
  return all;
}

const Family* FamilySet::Find(std::string_view name) const {
  const auto it = families_.find(name);
  return it == families_.end() ? nullptr : &it->second.family;
}

std::string FamilySet::Text() const {
  std::string out;
  const auto head = [&out](const Family& family) {
    out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", family.name, Escaped(family.help, false),
                       family.name, TypeName(family.type));
  };
  for (const auto& [name, entry] : families_) {
    const Family& family = entry.family;
    if (family.samples.empty()) {
      continue;
    }
    head(family);
    for (const Sample& sample : family.samples) {
      AppendSample(out, family, sample);
    }
  }
  if (dropped_ > 0) {
    Family family{"wyvern_metrics_dropped_samples",
                  "Samples that did not fit in this answer",
                  MetricType::kGauge,
                  {}};
    head(family);
    AppendSample(out, family, {.suffix = {}, .labels = {}, .value = static_cast<double>(dropped_)});
  }
  return out;
}

std::string_view LabelOf(const Sample& sample, std::string_view name) {
  for (const auto& [key, value] : sample.labels) {
    if (key == name) {
      return value;
    }
  }
  return {};
}

std::string FormatValue(double value) {
  constexpr double kExact = 9007199254740992;  // 2^53: whole numbers up to it are themselves
  if (std::isnan(value)) {
    return "NaN";
  }
  if (std::isinf(value)) {
    return value > 0 ? "+Inf" : "-Inf";
  }
  if (std::abs(value) <= kExact && value == std::trunc(value)) {
    return fmt::format("{}", static_cast<int64_t>(value));
  }
  return fmt::format("{}", value);
}

}  // namespace wyvern::observe
