#include "fs/differential/comparison.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "fs/differential/host_target.h"
#include "fs/differential/tree.h"

namespace wyvern::fs::differential {

namespace {

UniqueFd OpenHere(const std::string& path) {
  return *Open(path, O_RDONLY | O_DIRECTORY);
}

// The first line in which two descriptions of trees differ.
std::string FirstDifference(const std::string& is, const std::string& should) {
  std::istringstream a(is);
  std::istringstream b(should);
  std::string line_a;
  std::string line_b;
  for (;;) {
    const bool more_a = static_cast<bool>(std::getline(a, line_a));
    const bool more_b = static_cast<bool>(std::getline(b, line_b));
    if (!more_a && !more_b) {
      return "";
    }
    if (line_a != line_b || more_a != more_b) {
      return "  is     " + (more_a ? line_a : "-") + "\n  should " + (more_b ? line_b : "-");
    }
  }
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read only
  return value == nullptr ? "" : value;
}

}  // namespace

bool Comparison::Prepare() {
  ::umask(0);
  return ::syscall(SYS_setgroups, 0, nullptr) == 0;
}

std::optional<Difference> Comparison::Compare(uint64_t seed, const Script& script) {
  const std::string shared = base_ + "/share";
  const std::string beside = base_ + "/beside";
  for (const std::string& directory : {shared, beside}) {
    WV_CHECK(::mkdir(directory.c_str(), 0777) == 0);
  }
  auto result = CompareIn(seed, script, shared, beside);
  for (const std::string& directory : {shared, beside}) {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  return result;
}

std::optional<Difference> Comparison::CompareIn(uint64_t seed, const Script& script,
                                                const std::string& shared,
                                                const std::string& beside) {
  const Subject subject = make_(shared);
  HostTarget host(OpenHere(beside));
  RunnerOptions options = subject.options;
  Runner under_test(*subject.target, options);
  options.beside = true;
  Runner reference(host, options);
  for (size_t i = 0; i < script.size(); ++i) {
    const Step step = MakeStep(seed, script[i]);
    const std::string is = under_test.Run(step);
    const std::string should = reference.Run(step);
    if (is != should) {
      return Difference{i, fmt::format("  is     {}\n  should {}", is, should)};
    }
  }
  under_test.CloseAll();
  reference.CloseAll();
  // What the host sees, and then what the guest sees.
  HostTarget look(OpenHere(shared));
  const std::string should = DescribeTree(host, options);
  std::string text = FirstDifference(DescribeTree(look, options), should);
  if (text.empty()) {
    text = FirstDifference(DescribeTree(*subject.target, options), DescribeTree(host, options));
  }
  return text.empty() ? std::nullopt : std::optional(Difference{script.size(), std::move(text)});
}

Script Comparison::Shrink(uint64_t seed, Script script, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (size_t chunk = script.size() / 2; chunk > 0; chunk /= 2) {
    for (size_t at = 0; at < script.size() && std::chrono::steady_clock::now() < end;) {
      Script shorter = script;
      const auto first = shorter.begin() + static_cast<std::ptrdiff_t>(at);
      shorter.erase(first,
                    first + static_cast<std::ptrdiff_t>(std::min(chunk, shorter.size() - at)));
      if (const auto difference = Compare(seed, shorter); difference) {
        shorter.resize(std::min(shorter.size(), difference->position + 1));
        script = std::move(shorter);
      } else {
        at += chunk;
      }
    }
  }
  return script;
}

std::string Comparison::Explain(uint64_t seed, Script script, const Difference& difference) {
  script.resize(std::min(script.size(), difference.position + 1));
  std::string out =
      fmt::format("seed {} differs within its first {} steps:\n{}\nThe steps it needs:\n", seed,
                  script.size(), difference.text);
  for (const uint64_t number :
       Shrink(seed, std::move(script), std::chrono::seconds(IsLong() ? 120 : 30))) {
    out += fmt::format("  {} {}\n", number, Describe(MakeStep(seed, number)));
  }
  return out;
}

std::string Comparison::Run(uint64_t seed, uint64_t steps) {
  Script script(steps);
  std::iota(script.begin(), script.end(), 0);
  const auto began = std::chrono::steady_clock::now();
  const auto difference = Compare(seed, script);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  fmt::print("seed {}: {} steps in {}: {}, {:.1f} s\n", seed, steps, base_,
             difference ? "a difference" : "alike", took.count());
  (void)std::fflush(stdout);
  return difference ? Explain(seed, std::move(script), *difference) : "";
}

uint64_t FirstSeed() {
  const std::string value = Variable("WYVERN_FSDIFF_SEED");
  if (value != "today") {
    return value.empty() ? 1 : std::strtoull(value.c_str(), nullptr, 0);
  }
  const std::time_t now = std::time(nullptr);
  std::tm day{};
  ::gmtime_r(&now, &day);
  const auto part = [](int number) { return static_cast<uint64_t>(number); };
  return part(day.tm_year + 1900) * 10'000 + part(day.tm_mon + 1) * 100 + part(day.tm_mday);
}

bool IsLong() {
  return Variable("WYVERN_LONG") == "1";
}

uint64_t StepsOr(uint64_t quick, uint64_t thorough) {
  const std::string value = Variable("WYVERN_FSDIFF_STEPS");
  if (!value.empty()) {
    return std::strtoull(value.c_str(), nullptr, 0);
  }
  return IsLong() ? thorough : quick;
}

}  // namespace wyvern::fs::differential
