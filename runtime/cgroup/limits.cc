#include "cgroup/limits.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace wyvern::runtime {
namespace {

constexpr uint64_t kMinShares = 2,
                   kMaxShares = 262144;  // kernel/sched/sched.h, MIN_SHARES and MAX_SHARES
constexpr uint64_t kMaxWeight = 10000;   // cgroup-v2.rst, weights
constexpr uint64_t kDefaultWeight = 100;
constexpr uint32_t kMinBlkioWeight = 10, kMaxBlkioWeight = 1000;  // config-linux.md, blockIO
constexpr uint32_t kMaxCpu = 8191;                                // CONFIG_NR_CPUS, at most
constexpr uint64_t kSecond = 1000000;                             // µs
constexpr uint64_t kMinPeriod = 1000;                             // µs, kernel/sched/core.c
constexpr size_t kMaxUnified = 64;
constexpr size_t kMaxUnifiedText = 4096;
constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();  // systemd's CGROUP_LIMIT_MAX

tl::unexpected<Error> Bad(std::string_view field, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("linux.resources.{}: {}", field, why));
}

template <typename T>
bool Given(const std::optional<T>& value) {
  return value.has_value() && *value != T{};
}

std::string OrMax(int64_t value) {
  return value < 0 ? "max" : fmt::format("{}", value);
}

std::string OrMax(uint64_t value) {
  return value == 0 ? "max" : fmt::format("{}", value);
}

Result<> CheckCpu(const Limits& limits) {
  // Shares out of the kernel's range were clamped by it in version 1.
  if (Given(limits.cpu_period) &&
      (*limits.cpu_period < kMinPeriod || *limits.cpu_period > kSecond)) {
    return Bad("cpu.period",
               fmt::format("{} µs: must be {} to {}", *limits.cpu_period, kMinPeriod, kSecond));
  }
  if (limits.cpu_quota.value_or(0) > 0 && *limits.cpu_quota < static_cast<int64_t>(kMinPeriod)) {
    return Bad("cpu.quota",
               fmt::format("{} µs: must be at least {}", *limits.cpu_quota, kMinPeriod));
  }
  if (limits.cpu_burst.value_or(0) > 0 &&
      (limits.cpu_quota.value_or(0) <= 0 ||
       *limits.cpu_burst > static_cast<uint64_t>(*limits.cpu_quota))) {
    return Bad("cpu.burst", "must not be more than cpu.quota, which must be given with it");
  }
  if (limits.cpu_idle.has_value() && *limits.cpu_idle != 0 && *limits.cpu_idle != 1) {
    return Bad("cpu.idle", "must be 0 or 1");
  }
  for (const auto& [list, field] :
       {std::pair(&limits.cpus, "cpu.cpus"), std::pair(&limits.memory_nodes, "cpu.mems")}) {
    if (list->has_value() && !(*list)->empty()) {
      if (auto parsed = ParseCpuList(**list); !parsed.has_value()) {
        return Bad(field, parsed.error().message());
      }
    }
  }
  return {};
}

Result<> CheckMemory(const Limits& limits) {
  for (const auto& [value, field] : {std::pair(limits.memory_limit, "memory.limit"),
                                     std::pair(limits.memory_swap, "memory.swap"),
                                     std::pair(limits.memory_reservation, "memory.reservation")}) {
    if (value.value_or(0) < -1) {
      return Bad(field, fmt::format("{}: must be a number of bytes, or -1 for none", *value));
    }
  }
  if (limits.memory_swap.value_or(0) > 0) {
    if (limits.memory_limit.value_or(0) <= 0) {
      return Bad("memory.swap",
                 "memory and swap together are limited only together with memory.limit");
    }
    if (*limits.memory_swap < *limits.memory_limit) {
      return Bad(
          "memory.swap",
          fmt::format("{} is memory and swap together: must not be less than memory.limit {}",
                      *limits.memory_swap, *limits.memory_limit));
    }
  }
  return {};
}

Result<> CheckIo(const Limits& limits) {
  const auto check = [](uint32_t weight, std::string_view field) -> Result<> {
    if (weight != 0 && (weight < kMinBlkioWeight || weight > kMaxBlkioWeight)) {
      return Bad(field,
                 fmt::format("{}: must be {} to {}", weight, kMinBlkioWeight, kMaxBlkioWeight));
    }
    return {};
  };
  WV_TRY_VOID(check(limits.io_weight.value_or(0), "blockIO.weight"));
  for (const auto& [device, weight] : limits.io_weights) {
    WV_TRY_VOID(check(weight, "blockIO.weightDevice"));
    if (device.major < 0 || device.minor < 0) {
      return Bad("blockIO.weightDevice",
                 fmt::format("{}:{} is no device", device.major, device.minor));
    }
  }
  for (const auto& [device, limit] : limits.io_limits) {
    if (device.major < 0 || device.minor < 0) {
      return Bad("blockIO", fmt::format("a throttle of {}:{}, which is no device", device.major,
                                        device.minor));
    }
  }
  return {};
}

// Page sizes are parts of a file's name.
bool IsPageSize(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string_view unit = text.substr(digits);
  return digits >= 1 && digits <= 4 && text.front() != '0' &&
         (unit == "KB" || unit == "MB" || unit == "GB");
}

bool IsControlName(std::string_view name) {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";
  return name.size() < 64 && name.find_first_not_of(kLetters) == std::string_view::npos &&
         name.find("..") == std::string_view::npos;
}

// "cgroup.*" freezes, kills or moves processes and makes the group something else; "…events" and the like cannot be written anyway.
Result<> CheckUnified(const std::map<std::string, std::string>& unified) {
  static constexpr std::array<std::string_view, 6> kControllers = {"cpu.", "cpuset.", "hugetlb.",
                                                                   "io.",  "memory.", "pids."};
  if (unified.size() > kMaxUnified) {
    return Bad("unified", fmt::format("more than {} files", kMaxUnified));
  }
  for (const auto& [name, text] : unified) {
    if (!IsControlName(name)) {
      return Bad("unified", "a key is not the name of a control file");
    }
    if (std::ranges::none_of(kControllers, [&name = name](std::string_view c) {
          return name.starts_with(c) && name.size() > c.size();
        })) {
      return Bad(
          "unified",
          fmt::format("{}: not a file of the controllers cpu, cpuset, hugetlb, io, memory and pids",
                      name));
    }
    if (name == "memory.reclaim" || name.ends_with(".partition")) {
      return Bad("unified", fmt::format("{}: is an action, not a limit", name));
    }
    if (text.empty() || text.size() > kMaxUnifiedText ||
        std::ranges::any_of(text, [](char c) { return (c < ' ' && c != '\n') || c == '\x7f'; })) {
      return Bad("unified",
                 fmt::format("{}: must be 1 to {} printable characters", name, kMaxUnifiedText));
    }
  }
  return {};
}

class Writes {
 public:
  void Add(std::string file, std::string text, bool optional = false) {
    all_.push_back({std::move(file), std::move(text), optional});
  }

  std::vector<ControlWrite> Take() && { return std::move(all_); }

 private:
  std::vector<ControlWrite> all_;
};

void AddCpu(const Limits& limits, Writes& writes) {
  if (limits.cpu_idle.has_value()) {
    writes.Add("cpu.idle", fmt::format("{}", *limits.cpu_idle), *limits.cpu_idle == 0);
  }
  // A group that is idle has no weight.
  if (Given(limits.cpu_shares) && limits.cpu_idle.value_or(0) == 0) {
    writes.Add("cpu.weight", fmt::format("{}", CpuWeightFromShares(*limits.cpu_shares)));
  }
  // The burst must not exceed the quota at any moment: first none, then the new quota, then the new burst.
  if (limits.cpu_burst.has_value()) {
    writes.Add("cpu.max.burst", "0", true);
  }
  if (Given(limits.cpu_quota) || Given(limits.cpu_period)) {
    writes.Add(
        "cpu.max",
        fmt::format("{} {}",
                    limits.cpu_quota.value_or(0) > 0 ? fmt::format("{}", *limits.cpu_quota) : "max",
                    Given(limits.cpu_period) ? *limits.cpu_period : kDefaultCpuPeriod),
        limits.cpu_quota.value_or(0) <= 0);
  }
  if (limits.cpu_burst.value_or(0) > 0) {
    writes.Add("cpu.max.burst", fmt::format("{}", *limits.cpu_burst));
  }
  // A write of nothing would be none.
  if (limits.cpus.has_value()) {
    writes.Add("cpuset.cpus", limits.cpus->empty() ? "\n" : *limits.cpus, limits.cpus->empty());
  }
  if (limits.memory_nodes.has_value()) {
    writes.Add("cpuset.mems", limits.memory_nodes->empty() ? "\n" : *limits.memory_nodes,
               limits.memory_nodes->empty());
  }
}

void AddMemory(const Limits& limits, Writes& writes) {
  if (Given(limits.memory_limit)) {
    writes.Add("memory.max", OrMax(*limits.memory_limit));
  }
  // Version 2 limits swap by itself. Without a limit of memory there is none of both either.
  if (limits.swap_alone.has_value()) {
    writes.Add("memory.swap.max", OrMax(*limits.swap_alone), true);
  } else if (Given(limits.memory_swap)) {
    writes.Add("memory.swap.max",
               *limits.memory_swap < 0
                   ? "max"
                   : fmt::format("{}", *limits.memory_swap - *limits.memory_limit),
               // A kernel without swap accounting: nothing can be swapped beyond nothing.
               *limits.memory_swap < 0 || *limits.memory_swap == *limits.memory_limit);
  } else if (limits.memory_limit.value_or(0) == -1) {
    writes.Add("memory.swap.max", "max", true);
  }
  if (limits.memory_reservation.has_value()) {
    writes.Add("memory.low", OrMax(*limits.memory_reservation), *limits.memory_reservation == 0);
  }
}

void AddIo(const Limits& limits, bool has_bfq, Writes& writes) {
  const std::string file = has_bfq ? "io.bfq.weight" : "io.weight";
  const auto weight = [has_bfq](uint32_t value) {
    return has_bfq ? uint64_t{value} : IoWeightFromBlkio(value);
  };
  if (limits.io_weight == 0U) {
    writes.Add(file, fmt::format("default {}", kDefaultWeight), true);
  } else if (limits.io_weight.has_value()) {
    writes.Add(file, has_bfq ? fmt::format("{}", *limits.io_weight)
                             : fmt::format("default {}", weight(*limits.io_weight)));
  }
  for (const auto& [device, value] : limits.io_weights) {
    writes.Add(file, value == 0
                         ? fmt::format("{}:{} default", device.major, device.minor)
                         : fmt::format("{}:{} {}", device.major, device.minor, weight(value)));
  }
  for (const auto& [device, limit] : limits.io_limits) {
    std::string text = fmt::format("{}:{}", device.major, device.minor);
    for (const auto& [value, key] :
         {std::pair(limit.read_bytes, "rbps"), std::pair(limit.write_bytes, "wbps"),
          std::pair(limit.read_operations, "riops"), std::pair(limit.write_operations, "wiops")}) {
      if (value.has_value()) {
        text += fmt::format(" {}={}", key, OrMax(*value));
      }
    }
    writes.Add("io.max", std::move(text));
  }
}

// A bit for each CPU, the lowest first (systemd's dbus-cgroup.c).
std::vector<uint8_t> CpuMask(std::string_view list) {
  std::vector<uint8_t> mask;
  const auto cpus = list.empty() ? std::vector<uint32_t>() : *ParseCpuList(list);
  for (const uint32_t cpu : cpus) {
    if (mask.size() <= cpu / 8) {
      mask.resize(cpu / 8 + 1);
    }
    mask[cpu / 8] = static_cast<uint8_t>(mask[cpu / 8] | 1U << cpu % 8);
  }
  return mask;
}

}  // namespace

uint64_t CpuWeightFromShares(uint64_t shares) {
  // The quadratic curve through (2, 1), (1024, 100) and (262144, 10000) in logarithms: runc since 1.3.2, crun since 1.23. The straight line
  // of before made a container of 1024 shares, which is the default, 39 against 100 of everything else on the host.
  const double bits = std::log2(static_cast<double>(std::clamp(shares, kMinShares, kMaxShares)));
  const double weight = std::pow(10.0, (bits * bits + 125 * bits) / 612 - 7.0 / 34);
  constexpr double kRoundingError = 1e-6;
  return std::clamp(static_cast<uint64_t>(std::ceil(weight - kRoundingError)), uint64_t{1},
                    kMaxWeight);
}

uint64_t IoWeightFromBlkio(uint32_t weight) {
  const uint64_t bounded = std::clamp(weight, kMinBlkioWeight, kMaxBlkioWeight);
  return 1 + (bounded - kMinBlkioWeight) * (kMaxWeight - 1) / (kMaxBlkioWeight - kMinBlkioWeight);
}

Result<std::vector<uint32_t>> ParseCpuList(std::string_view text) {
  const auto bad = [&] {
    return Fail(Code::kInvalidArgument,
                "must be a list of numbers and ranges up to 8191, like 0-3,7");
  };
  const auto number = [&text]() -> std::optional<uint32_t> {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    return error == std::errc() && value <= kMaxCpu ? std::optional(value) : std::nullopt;
  };
  const auto take = [&text](char c) {
    const bool there = text.starts_with(c);
    text.remove_prefix(there ? 1 : 0);
    return there;
  };
  std::vector<uint32_t> cpus;
  do {
    const auto first = number();
    const auto last = first && take('-') ? number() : first;
    if (!first || !last || *last < *first) {
      return bad();
    }
    for (uint32_t cpu = *first; cpu <= *last; ++cpu) {
      cpus.push_back(cpu);
    }
    if (cpus.size() > 4 * kMaxCpu) {
      return bad();
    }
  } while (take(','));
  if (!text.empty()) {
    return bad();
  }
  std::ranges::sort(cpus);
  cpus.erase(std::ranges::unique(cpus).begin(), cpus.end());
  return cpus;
}

Result<> CheckLimits(const Limits& limits) {
  WV_TRY_VOID(CheckCpu(limits));
  WV_TRY_VOID(CheckMemory(limits));
  WV_TRY_VOID(CheckIo(limits));
  for (const auto& [size, limit] : limits.huge_pages) {
    if (!IsPageSize(size)) {
      return Bad("hugepageLimits", "a page size is not like 2MB or 1GB");
    }
  }
  return CheckUnified(limits.unified);
}

std::vector<ControlWrite> ControlWrites(const Limits& limits, bool has_bfq) {
  Writes writes;
  AddCpu(limits, writes);
  AddMemory(limits, writes);
  if (Given(limits.pids)) {
    writes.Add("pids.max", OrMax(*limits.pids));
  }
  for (const auto& [size, limit] : limits.huge_pages) {
    writes.Add(fmt::format("hugetlb.{}.max", size), fmt::format("{}", limit));
    writes.Add(fmt::format("hugetlb.{}.rsvd.max", size), fmt::format("{}", limit),
               true);  // Linux 5.7
  }
  AddIo(limits, has_bfq, writes);
  for (const auto& [name, text] : limits.unified) {
    // A file may take one line in one write only: io.max of several devices.
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      if (end > at) {
        writes.Add(name, text.substr(at, end - at));
      }
      at = end + 1;
    }
  }
  return std::move(writes).Take();
}

std::vector<UnitProperty> UnitProperties(const Limits& limits) {
  std::vector<UnitProperty> out;
  const auto number = [&out](const char* name, uint64_t value) {
    out.push_back(
        {.name = name, .kind = UnitProperty::Kind::kNumber, .number = value, .bytes = {}});
  };
  const auto bytes = [&out](const char* name, std::vector<uint8_t> value) {
    out.push_back(
        {.name = name, .kind = UnitProperty::Kind::kBytes, .number = 0, .bytes = std::move(value)});
  };
  const auto or_none = [](int64_t value) {
    return value < 0 ? kNone : static_cast<uint64_t>(value);
  };
  if (Given(limits.cpu_shares)) {
    number("CPUWeight", CpuWeightFromShares(*limits.cpu_shares));
  }
  if (Given(limits.cpu_quota) || Given(limits.cpu_period)) {
    const uint64_t period = Given(limits.cpu_period) ? *limits.cpu_period : kDefaultCpuPeriod;
    if (period != kDefaultCpuPeriod) {
      number("CPUQuotaPeriodUSec", period);
    }
    uint64_t a_second = kNone;
    if (limits.cpu_quota.value_or(0) > 0) {
      // Up to the next 10 ms, to which systemd rounds down.
      const auto quota = static_cast<uint64_t>(*limits.cpu_quota);
      constexpr uint64_t kStep = 10000;
      a_second =
          quota > kNone / kSecond ? kNone : (quota * kSecond / period + kStep - 1) / kStep * kStep;
    }
    number("CPUQuotaPerSecUSec", a_second);
  }
  if (limits.cpus.has_value()) {
    bytes("AllowedCPUs", CpuMask(*limits.cpus));
  }
  if (limits.memory_nodes.has_value()) {
    bytes("AllowedMemoryNodes", CpuMask(*limits.memory_nodes));
  }
  if (Given(limits.memory_limit)) {
    number("MemoryMax", or_none(*limits.memory_limit));
  }
  if (limits.swap_alone.has_value()) {
    number("MemorySwapMax", or_none(*limits.swap_alone));
  } else if (Given(limits.memory_swap)) {
    number("MemorySwapMax", *limits.memory_swap < 0 ? kNone
                                                    : static_cast<uint64_t>(*limits.memory_swap -
                                                                            *limits.memory_limit));
  }
  if (limits.memory_reservation.has_value()) {
    number("MemoryLow", or_none(*limits.memory_reservation));
  }
  if (Given(limits.pids)) {
    number("TasksMax", or_none(*limits.pids));
  }
  if (limits.io_weight.has_value()) {
    number("IOWeight",
           *limits.io_weight == 0 ? kDefaultWeight : IoWeightFromBlkio(*limits.io_weight));
  }
  return out;
}

}  // namespace wyvern::runtime
