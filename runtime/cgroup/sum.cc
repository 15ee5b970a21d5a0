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

void SandboxLimits::Set(const std::string& container, Limits limits) {
  containers_[container] = std::move(limits);
}

void SandboxLimits::Remove(const std::string& container) {
  containers_.erase(container);
}

void SandboxLimits::Update(const std::string& container, const Limits& limits) {
  Limits& old = containers_[container];
  for (const auto member : {&Limits::cpu_shares, &Limits::cpu_period, &Limits::cpu_burst}) {
    Replace(old.*member, limits.*member);
  }
  for (const auto member : {&Limits::cpu_quota, &Limits::cpu_idle, &Limits::memory_limit,
                            &Limits::memory_swap, &Limits::memory_reservation, &Limits::pids}) {
    Replace(old.*member, limits.*member);
  }
  Replace(old.cpus, limits.cpus);
  Replace(old.memory_nodes, limits.memory_nodes);
  Replace(old.io_weight, limits.io_weight);
  for (const auto& [size, limit] : limits.huge_pages) {
    old.huge_pages[size] = limit;
  }
  for (const auto& [device, weight] : limits.io_weights) {
    old.io_weights[device] = weight;
  }
  for (const auto& [device, limit] : limits.io_limits) {
    IoLimit& io = old.io_limits[device];
    for (const auto kind : {&IoLimit::read_bytes, &IoLimit::write_bytes, &IoLimit::read_operations,
                            &IoLimit::write_operations}) {
      Replace(io.*kind, limit.*kind);
    }
  }
  for (const auto& [name, text] : limits.unified) {
    old.unified[name] = text;
  }
}

Limits SandboxLimits::Sum() const {
  Total memory(overhead_.memory), quota(overhead_.cpu_quota), swap(0);
  int64_t reservation = 0;
  uint64_t shares = 0;
  uint32_t weight = 0;
  std::set<BlockDeviceNumber> devices;
  for (const auto& [id, limits] : containers_) {
    memory.Add(limits.memory_limit.value_or(0));
    swap.AddSwap(SwapOf(limits));
    quota.Add(QuotaOf(limits));
    reservation = Plus(reservation, std::max(limits.memory_reservation.value_or(0), int64_t{0}));
    const uint64_t own = limits.cpu_shares.value_or(0);
    // Bounded first: a sum must not wrap.
    shares += std::min(own == 0 ? kDefaultShares : own, uint64_t{262144});
    weight = std::max(weight, limits.io_weight.value_or(0));
    for (const auto& [device, limit] : limits.io_limits) {
      devices.insert(device);
    }
  }
  Limits sum;
  sum.cpu_shares = shares == 0 ? kDefaultShares : shares;
  sum.cpu_quota = quota.value() == 0 ? -1 : quota.value();
  sum.cpu_period = kDefaultCpuPeriod;
  sum.memory_limit = memory.value() == 0 ? -1 : memory.value();
  const int64_t together =
      sum.memory_limit > 0 && swap.value() >= 0 ? Plus(*sum.memory_limit, swap.value()) : -1;
  sum.memory_swap = together;
  if (reservation > 0) {
    sum.memory_reservation = reservation;
  }
  if (weight > 0) {
    sum.io_weight = weight;
  }
  if (std::string cpus = Together(containers_, &Limits::cpus); !cpus.empty()) {
    sum.cpus = std::move(cpus);
  }
  if (std::string nodes = Together(containers_, &Limits::memory_nodes); !nodes.empty()) {
    sum.memory_nodes = std::move(nodes);
  }
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
