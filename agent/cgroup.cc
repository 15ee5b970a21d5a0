#include "agent/cgroup.h"

#include <dirent.h>

#include <charconv>
#include <memory>
#include <string_view>
#include <utility>

#include "base/fd.h"

namespace wyvern::agent {
namespace {

constexpr uint64_t kUnlimited = UINT64_MAX;
constexpr int kMaxDepth = 32;

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    if (end != 0) {
      parts.push_back(text.substr(0, end));
    }
    if (end == std::string_view::npos) {
      break;
    }
    text.remove_prefix(end + 1);
  }
  return parts;
}

uint64_t Number(std::string_view text) {
  if (text.starts_with("max")) {
    return kUnlimited;
  }
  uint64_t value = 0;
  (void)std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string ReadOrEmpty(const std::string& path) {
  return ReadFile(path).value_or(std::string());
}

uint64_t ReadNumber(const std::string& path) {
  return Number(ReadOrEmpty(path));
}

// "key value" lines.
template <typename F>
void ForEachPair(const std::string& text, F&& each) {
  for (const std::string_view line : Split(text, '\n')) {
    const size_t space = line.find(' ');
    if (space != std::string_view::npos) {
      each(line.substr(0, space), Number(line.substr(space + 1)));
    }
  }
}

void CollectProcesses(const std::string& directory, int depth, std::vector<pid_t>& pids) {
  const std::string text = ReadOrEmpty(directory + "/cgroup.procs");
  for (const std::string_view line : Split(text, '\n')) {
    if (const uint64_t pid = Number(line); pid > 0) {
      pids.push_back(static_cast<pid_t>(pid));
    }
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), closedir);
  if (!dir || depth >= kMaxDepth) {
    return;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is ours alone
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
      CollectProcesses(directory + "/" + entry->d_name, depth + 1, pids);
    }
  }
}

void ReadCpu(const std::string& text, v1::ContainerStatsResponse& stats) {
  ForEachPair(text, [&stats](std::string_view key, uint64_t value) {
    if (key == "usage_usec") {
      stats.set_cpu_usage_usec(value);
    } else if (key == "user_usec") {
      stats.set_cpu_user_usec(value);
    } else if (key == "system_usec") {
      stats.set_cpu_system_usec(value);
    } else if (key == "nr_periods") {
      stats.set_cpu_nr_periods(value);
    } else if (key == "nr_throttled") {
      stats.set_cpu_nr_throttled(value);
    } else if (key == "throttled_usec") {
      stats.set_cpu_throttled_usec(value);
    }
  });
}

// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …"
void ReadIo(const std::string& text, v1::ContainerStatsResponse& stats) {
  for (const std::string_view line : Split(text, '\n')) {
    const auto words = Split(line, ' ');
    const size_t colon = words.empty() ? std::string_view::npos : words[0].find(':');
    if (colon == std::string_view::npos) {
      continue;
    }
    v1::IoStat* io = stats.add_io();
    io->set_major(Number(words[0].substr(0, colon)));
    io->set_minor(Number(words[0].substr(colon + 1)));
    for (const std::string_view word : words) {
      const uint64_t value = Number(word.substr(std::min(word.size(), word.find('=') + 1)));
      if (word.starts_with("rbytes=")) {
        io->set_rbytes(value);
      } else if (word.starts_with("wbytes=")) {
        io->set_wbytes(value);
      } else if (word.starts_with("rios=")) {
        io->set_rios(value);
      } else if (word.starts_with("wios=")) {
        io->set_wios(value);
      }
    }
  }
}

}  // namespace

Result<Cgroup> Cgroup::OfProcess(pid_t pid, const std::string& mount) {
  WV_TRY(const std::string text, ReadFile("/proc/" + std::to_string(pid) + "/cgroup"));
  for (const std::string_view line : Split(text, '\n')) {
    if (line.starts_with("0::/") && line.size() > 4) {
      return Cgroup(mount + std::string(line.substr(3)));
    }
  }
  return Fail(Code::kFailedPrecondition, "the container has no cgroup v2 of its own");
}

Result<> Cgroup::Kill() const {
  return WriteFile(directory_ + "/cgroup.kill", "1");
}

Result<std::vector<pid_t>> Cgroup::Processes() const {
  // Tells a group that is gone from an empty one.
  WV_TRY_VOID(ReadFile(directory_ + "/cgroup.procs"));
  std::vector<pid_t> pids;
  CollectProcesses(directory_, 0, pids);
  return pids;
}

Result<> Cgroup::RequestFreeze(bool freeze) const {
  return WriteFile(directory_ + "/cgroup.freeze", freeze ? "1" : "0");
}

Result<bool> Cgroup::IsFrozen() const {
  WV_TRY(const std::string text, ReadFile(directory_ + "/cgroup.events"));
  bool frozen = false;
  ForEachPair(text, [&frozen](std::string_view key, uint64_t value) {
    frozen = frozen || (key == "frozen" && value == 1);
  });
  return frozen;
}

Result<v1::ContainerStatsResponse> Cgroup::Stats() const {
  WV_TRY(const std::string cpu, ReadFile(directory_ + "/cpu.stat"));
  v1::ContainerStatsResponse stats;
  ReadCpu(cpu, stats);
  stats.set_memory_current(ReadNumber(directory_ + "/memory.current"));
  stats.set_memory_limit(ReadNumber(directory_ + "/memory.max"));
  stats.set_swap_current(ReadNumber(directory_ + "/memory.swap.current"));
  stats.set_swap_limit(ReadNumber(directory_ + "/memory.swap.max"));
  stats.set_pids_current(ReadNumber(directory_ + "/pids.current"));
  stats.set_pids_limit(ReadNumber(directory_ + "/pids.max"));
  ForEachPair(ReadOrEmpty(directory_ + "/memory.stat"),
              [&stats](std::string_view key, uint64_t value) {
                (*stats.mutable_memory_stat())[std::string(key)] = value;
              });
  ForEachPair(ReadOrEmpty(directory_ + "/memory.events"),
              [&stats](std::string_view key, uint64_t value) {
                (*stats.mutable_memory_events())[std::string(key)] = value;
              });
  ReadIo(ReadOrEmpty(directory_ + "/io.stat"), stats);
  return stats;
}

OomCounts Cgroup::OomEvents() const {
  OomCounts counts;
  ForEachPair(ReadOrEmpty(directory_ + "/memory.events"),
              [&counts](std::string_view key, uint64_t value) {
                if (key == "oom_kill") {
                  counts.kills = value;
                } else if (key == "oom") {
                  counts.limits = value;
                }
              });
  return counts;
}

}  // namespace wyvern::agent
