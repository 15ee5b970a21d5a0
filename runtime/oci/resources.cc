// linux.resources as limits, and what of them the guest's crun gets.
#include <fmt/format.h>

#include <array>
#include <limits>
#include <utility>

#include "oci/translate.h"

namespace wyvern::oci {
namespace {

using runtime::BlockDeviceNumber;
using runtime::IoLimit;
using runtime::Limits;

constexpr size_t kMaxIoDevices = 256;

constexpr std::array kThrottles = {
    std::pair("throttleReadBpsDevice", &IoLimit::read_bytes),
    std::pair("throttleWriteBpsDevice", &IoLimit::write_bytes),
    std::pair("throttleReadIOPSDevice", &IoLimit::read_operations),
    std::pair("throttleWriteIOPSDevice", &IoLimit::write_operations)};

// Prune has checked the range. 0 and "" are how clients write that they do not say.
template <typename T>
void Read(const Json& section, const char* key, std::optional<T>& out) {
  const auto it = section.find(key);
  if (it == section.end()) {
    return;
  }
  if constexpr (std::is_same_v<T, std::string>) {
    out = it->get<std::string>();
  } else {
    out = it->get<T>();
  }
  if (*out == T{}) {
    out.reset();
  }
}

void ReadCpu(const Json& cpu, Limits& limits) {
  Read(cpu, "shares", limits.cpu_shares);
  Read(cpu, "quota", limits.cpu_quota);
  Read(cpu, "period", limits.cpu_period);
  Read(cpu, "cpus", limits.cpus);
  Read(cpu, "mems", limits.memory_nodes);
  // These say something with 0, too.
  if (cpu.contains("burst")) {
    limits.cpu_burst = cpu["burst"].get<uint64_t>();
  }
  if (cpu.contains("idle")) {
    limits.cpu_idle = cpu["idle"].get<int64_t>();
  }
}

BlockDeviceNumber ReadNumber(const Json& device) {
  return {.major = GetInt(device, "major"), .minor = GetInt(device, "minor")};
}

Result<> ReadIo(const Json& io, Limits& limits) {
  Read(io, "weight", limits.io_weight);
  if (const Json* weights = Child(io, "weightDevice"); weights != nullptr) {
    for (const Json& each : *weights) {
      limits.io_weights[ReadNumber(each)] = static_cast<uint32_t>(GetInt(each, "weight"));
    }
  }
  for (const auto& [key, kind] : kThrottles) {
    const Json* throttles = Child(io, key);
    for (size_t i = 0; throttles != nullptr && i < throttles->size(); ++i) {
      const Json& each = (*throttles)[i];
      limits.io_limits[ReadNumber(each)].*kind =
          each.contains("rate") ? each["rate"].get<uint64_t>() : 0;
    }
  }
  if (limits.io_limits.size() > kMaxIoDevices || limits.io_weights.size() > kMaxIoDevices) {
    return Fail(Code::kInvalidArgument,
                fmt::format("linux.resources.blockIO: more than {} devices", kMaxIoDevices));
  }
  return {};
}

// INT64_MAX is the largest number that each reader of JSON in C takes for what it is.
int64_t Clamped(uint64_t value) {
  return static_cast<int64_t>(
      std::min(value, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
}

template <typename T>
void Write(Json& section, const char* key, const std::optional<T>& value) {
  if (value.has_value() && *value != T{}) {
    section[key] = *value;
  }
}

void Place(Json& resources, const char* key, Json section) {
  if (!section.empty()) {
    resources[key] = std::move(section);
  }
}

Json CpuForGuest(const Limits& limits) {
  Json cpu = Json::object();
  if (limits.cpu_quota.value_or(0) >= 0) {
    Write(cpu, "quota", limits.cpu_quota);
    Write(cpu, "period", limits.cpu_period);
  }
  if (limits.cpu_idle.has_value()) {
    cpu["idle"] = *limits.cpu_idle;
  }
  return cpu;
}

Json MemoryForGuest(const Limits& limits) {
  Json memory = Json::object();
  Write(memory, "limit", limits.memory_limit);
  Write(memory, "swap", limits.memory_swap);
  Write(memory, "reservation", limits.memory_reservation);
  return memory;
}

Json HugePagesForGuest(const Limits& limits, Notes& notes) {
  Json out = Json::array();
  for (const auto& [size, limit] : limits.huge_pages) {
    if (size == "2MB") {
      out.push_back({{"pageSize", size}, {"limit", limit}});
    } else if (limit != 0) {
      notes.Add("linux.resources.hugepageLimits: ignored for pages of " + size +
                ": the guest has 2MB ones only");
    }
  }
  return out;
}

// Throttles of what the guest has as a disk, by its numbers there.
Json IoForGuest(const Limits& limits, const std::map<DeviceNumber, DeviceNumber>& devices) {
  Json io = Json::object();
  for (const auto& [theirs, ours] : devices) {
    const auto it = limits.io_limits.find({theirs.major, theirs.minor});
    if (it == limits.io_limits.end()) {
      continue;
    }
    for (const auto& [key, kind] : kThrottles) {
      if (const std::optional<uint64_t>& rate = it->second.*kind; rate.has_value()) {
        io[key].push_back({{"major", ours.major}, {"minor", ours.minor}, {"rate", Clamped(*rate)}});
      }
    }
  }
  return io;
}

// What crun 1.8 has no word for, or writes otherwise, goes by the file's name. The container's own words count more.
Json UnifiedForGuest(const Limits& limits) {
  Json unified = Json::object();
  if (limits.cpu_shares.value_or(0) != 0 && limits.cpu_idle.value_or(0) == 0) {
    unified["cpu.weight"] = fmt::format("{}", runtime::CpuWeightFromShares(*limits.cpu_shares));
  }
  if (limits.cpu_quota.value_or(0) < 0) {  // crun leaves the quota that was there
    unified["cpu.max"] =
        fmt::format("max {}", limits.cpu_period.value_or(runtime::kDefaultCpuPeriod));
  }
  if (limits.cpu_burst.has_value()) {
    unified["cpu.max.burst"] = fmt::format("{}", *limits.cpu_burst);
  }
  for (const auto& [name, text] : limits.unified) {
    unified[name] = text;
  }
  return unified;
}

}  // namespace

Result<Limits> ReadLimits(const Json& resources) {
  Limits limits;
  if (const Json* cpu = Child(resources, "cpu"); cpu != nullptr) {
    ReadCpu(*cpu, limits);
  }
  if (const Json* memory = Child(resources, "memory"); memory != nullptr) {
    Read(*memory, "limit", limits.memory_limit);
    Read(*memory, "swap", limits.memory_swap);
    Read(*memory, "reservation", limits.memory_reservation);
  }
  if (const Json* pids = Child(resources, "pids"); pids != nullptr) {
    Read(*pids, "limit", limits.pids);
  }
  if (const Json* pages = Child(resources, "hugepageLimits"); pages != nullptr) {
    for (const Json& each : *pages) {
      limits.huge_pages[GetString(each, "pageSize")] =
          each.contains("limit") ? each["limit"].get<uint64_t>() : 0;
    }
  }
  if (const Json* io = Child(resources, "blockIO"); io != nullptr) {
    WV_TRY_VOID(ReadIo(*io, limits));
  }
  if (const Json* unified = Child(resources, "unified"); unified != nullptr) {
    for (const auto& [name, text] : unified->items()) {
      limits.unified[name] = text.get<std::string>();
    }
  }
  return limits;
}

void TranslateResourcesSection(Json& resources, const Limits& limits,
                               const std::map<DeviceNumber, DeviceNumber>& devices, Notes& notes) {
  TranslateDeviceRules(resources, devices, notes);
  for (const char* key : {"cpu", "memory", "pids", "hugepageLimits", "blockIO", "unified"}) {
    resources.erase(key);
  }
  Place(resources, "cpu", CpuForGuest(limits));
  Place(resources, "memory", MemoryForGuest(limits));
  if (limits.pids.value_or(0) != 0) {
    resources["pids"] = {{"limit", *limits.pids}};
  }
  Place(resources, "hugepageLimits", HugePagesForGuest(limits, notes));
  Place(resources, "blockIO", IoForGuest(limits, devices));
  Place(resources, "unified", UnifiedForGuest(limits));
}

}  // namespace wyvern::oci
