#include "cgroup/sum.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include <fmt/format.h>

namespace wyvern::runtime {
namespace {

constexpr uint64_t kDefaultShares = 1024;

// Stays at the largest number instead of wrapping.
int64_t Plus(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

// Adds up to -1 as soon as one is not limited.
class Total {
 public:
  explicit Total(int64_t start) : sum_(start) {}

  void Add(int64_t value) { sum_ = sum_ < 0 || value <= 0 ? -1 : Plus(sum_, value); }

  // Takes no limit as nothing.
  void AddSwap(int64_t value) { sum_ = sum_ < 0 || value < 0 ? -1 : Plus(sum_, value); }

  int64_t value() const { return sum_; }

 private:
  int64_t sum_;
};

// µs in kDefaultCpuPeriod, rounded up; -1: none.
int64_t QuotaOf(const Limits& limits) {
  const int64_t quota = limits.cpu_quota.value_or(0);
  const uint64_t given = limits.cpu_period.value_or(0);
  const auto period = static_cast<int64_t>(given == 0 ? kDefaultCpuPeriod : given);
  constexpr auto kPeriod = static_cast<int64_t>(kDefaultCpuPeriod);
  if (quota <= 0 || quota > std::numeric_limits<int64_t>::max() / kPeriod - period) {
    return -1;
  }
  return (quota * kPeriod + period - 1) / period;
}

// µs in kDefaultCpuPeriod. Not more than its quota, which CheckLimits saw to.
int64_t BurstOf(const Limits& limits) {
  const int64_t quota = limits.cpu_quota.value_or(0);
  const uint64_t burst = limits.cpu_burst.value_or(0);
  const int64_t scaled = QuotaOf(limits);
  if (quota <= 0 || scaled <= 0 || burst == 0) {
    return 0;
  }
  return static_cast<int64_t>(static_cast<double>(scaled) *
                              (static_cast<double>(burst) / static_cast<double>(quota)));
}

// Of memory alone; -1: none.
int64_t SwapOf(const Limits& limits) {
  const int64_t together = limits.memory_swap.value_or(0), memory = limits.memory_limit.value_or(0);
  return together > 0 && memory > 0 ? together - memory : -1;
}

std::string ListOf(const std::set<uint32_t>& numbers) {
  std::string text;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const uint32_t first = *it;
    uint32_t last = first;
    while (++it != numbers.end() && *it == last + 1) {
      last = *it;
    }
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    text += last == first ? "" : fmt::format("-{}", last);
  }
  return text;
}

// Empty: one of them may use all.
std::string Together(const std::map<std::string, Limits>& containers,
                     std::optional<std::string> Limits::*list) {
  std::set<uint32_t> all;
  for (const auto& [id, limits] : containers) {
    const auto& text = limits.*list;
    if (!text.has_value() || text->empty()) {
      return {};
    }
    const auto numbers = *ParseCpuList(*text);
    all.insert(numbers.begin(), numbers.end());
  }
  return ListOf(all);
}

std::optional<uint64_t> IoTogether(const std::map<std::string, Limits>& containers,
                                   const BlockDeviceNumber& device,
                                   std::optional<uint64_t> IoLimit::*kind) {
  uint64_t sum = 0;
  for (const auto& [id, limits] : containers) {
    const auto it = limits.io_limits.find(device);
    const uint64_t value = it == limits.io_limits.end() ? 0 : (it->second.*kind).value_or(0);
    if (value == 0 || __builtin_add_overflow(sum, value, &sum)) {
      return 0;
    }
  }
  return sum;
}

template <typename T>
void Replace(std::optional<T>& old, const std::optional<T>& with) {
  if (with.has_value()) {
    old = with;
  }
}

}  // namespace

Limits Merged(Limits before, const Limits& with) {
  for (const auto member : {&Limits::cpu_shares, &Limits::cpu_period, &Limits::cpu_burst}) {
    Replace(before.*member, with.*member);
  }
  for (const auto member : {&Limits::cpu_quota, &Limits::cpu_idle, &Limits::memory_limit,
                            &Limits::memory_swap, &Limits::memory_reservation, &Limits::pids}) {
    Replace(before.*member, with.*member);
  }
  Replace(before.cpus, with.cpus);
  Replace(before.memory_nodes, with.memory_nodes);
  Replace(before.io_weight, with.io_weight);
  for (const auto& [size, limit] : with.huge_pages) {
    before.huge_pages[size] = limit;
  }
  for (const auto& [device, weight] : with.io_weights) {
    before.io_weights[device] = weight;
  }
  for (const auto& [device, limit] : with.io_limits) {
    IoLimit& io = before.io_limits[device];
    for (const auto kind : {&IoLimit::read_bytes, &IoLimit::write_bytes, &IoLimit::read_operations,
                            &IoLimit::write_operations}) {
      Replace(io.*kind, limit.*kind);
    }
  }
  for (const auto& [name, text] : with.unified) {
    before.unified[name] = text;
  }
  return before;
}

void SandboxLimits::Set(const std::string& container, Limits limits) {
  containers_[container] = std::move(limits);
}

void SandboxLimits::Remove(const std::string& container) {
  containers_.erase(container);
}

Limits SandboxLimits::Sum() const {
  Total memory(overhead_.memory), quota(overhead_.cpu_quota), swap(0);
  int64_t reservation = 0;
  int64_t burst = 0;
  bool idle = !containers_.empty();
  uint64_t shares = 0;
  uint32_t weight = 0;
  std::set<BlockDeviceNumber> devices;
  std::map<BlockDeviceNumber, uint32_t> weights;
  for (const auto& [id, limits] : containers_) {
    memory.Add(limits.memory_limit.value_or(0));
    swap.AddSwap(SwapOf(limits));
    quota.Add(QuotaOf(limits));
    reservation = Plus(reservation, std::max(limits.memory_reservation.value_or(0), int64_t{0}));
    burst = Plus(burst, BurstOf(limits));
    idle = idle && limits.cpu_idle == 1;
    const uint64_t own = limits.cpu_shares.value_or(0);
    // Bounded first: a sum must not wrap.
    shares += std::min(own == 0 ? kDefaultShares : own, uint64_t{262144});
    weight = std::max(weight, limits.io_weight.value_or(0));
    for (const auto& [device, limit] : limits.io_limits) {
      devices.insert(device);
    }
    for (const auto& [device, own_weight] : limits.io_weights) {
      uint32_t& greatest = weights[device];
      greatest = std::max(greatest, own_weight);
    }
  }
  Limits sum;
  sum.cpu_shares = shares == 0 ? kDefaultShares : shares;
  sum.cpu_quota = quota.value() == 0 ? -1 : quota.value();
  sum.cpu_period = kDefaultCpuPeriod;
  sum.cpu_burst =
      static_cast<uint64_t>(std::clamp(burst, int64_t{0}, std::max(*sum.cpu_quota, int64_t{0})));
  sum.cpu_idle = idle ? 1 : 0;
  sum.memory_limit = memory.value() == 0 ? -1 : memory.value();
  const int64_t together =
      sum.memory_limit > 0 && swap.value() >= 0 ? Plus(*sum.memory_limit, swap.value()) : -1;
  sum.memory_swap = together;
  sum.memory_reservation = reservation;
  sum.io_weight = weight;
  sum.io_weights = std::move(weights);
  sum.cpus = Together(containers_, &Limits::cpus);
  sum.memory_nodes = Together(containers_, &Limits::memory_nodes);
  for (const BlockDeviceNumber& device : devices) {
    IoLimit& limit = sum.io_limits[device];
    for (const auto kind : {&IoLimit::read_bytes, &IoLimit::write_bytes, &IoLimit::read_operations,
                            &IoLimit::write_operations}) {
      limit.*kind = IoTogether(containers_, device, kind);
    }
  }
  return sum;
}

}  // namespace wyvern::runtime
