// observe/family.h — metrics in families, and their text.
// Spec:    Prometheus text exposition format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
// Bounds:  a set has at most kMaxFamilies families of kMaxSamples samples each; a label's value is cut to kMaxLabelValue bytes. What is too many is
//          left out and counted: the text ends with wyvern_metrics_dropped_samples if there is any.
//          So is a sample whose labels another one of its family has: a scraper may refuse the whole text for it.
// Trust:   label values may be anybody's bytes: they leave as printable ASCII, escaped. Names that are no names of Prometheus' are dropped.
// Threads: none of its own; one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace wyvern::observe {

inline constexpr size_t kMaxFamilies = 256;
inline constexpr size_t kMaxSamples = 65536;
inline constexpr size_t kMaxName = 100;
inline constexpr size_t kMaxHelp = 200;
inline constexpr size_t kMaxLabels = 12;
inline constexpr size_t kMaxLabelValue = 128;

// Numbers of control.v1.MetricFamily.Type.
enum class MetricType : uint8_t { kUntyped = 0, kCounter = 1, kGauge = 2, kSummary = 3 };

using Labels = std::vector<std::pair<std::string, std::string>>;

struct Sample {
  std::string suffix;  // of a summary: "_sum", "_count"
  Labels labels;
  double value = 0;
};

struct Family {
  std::string name;
  std::string help;
  MetricType type = MetricType::kUntyped;
  std::vector<Sample> samples;
};

class FamilySet {
 public:
  // What of a family is the same for all its samples.
  struct Kind {
    std::string_view name;
    MetricType type;
    std::string_view help;
  };

  // Appends to the family of that name, which the first call makes. A summary's sample has a suffix.
  void Add(const Kind& kind, Labels labels, double value, std::string_view suffix = {});

  // Families by name; of one name the samples of `other` come behind ours.
  void Merge(FamilySet other);

  // In the order of the names. All with samples.
  std::vector<Family> Families() const;

  // By name, or nothing.
  const Family* Find(std::string_view name) const;

  uint64_t dropped() const { return dropped_; }

  // Elsewhere, before these came here.
  void CountDropped(uint64_t samples) { dropped_ += samples; }

  // "# HELP …\n# TYPE …\nname{label="value"} 1\n…"
  std::string Text() const;

 private:
  struct Entry {
    Family family;
    std::unordered_set<size_t> seen{};  // hashes of the samples' suffixes and labels
  };

  std::map<std::string, Entry, std::less<>> families_;
  uint64_t dropped_ = 0;
};

// The first label of that name; empty: none.
std::string_view LabelOf(const Sample& sample, std::string_view name);

// "1", "0.25", "1.5e+20", "NaN", "+Inf": as short as it can be and be the same number again.
std::string FormatValue(double value);

}  // namespace wyvern::observe
