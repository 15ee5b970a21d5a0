// cgroup/limits.h — what linux.resources of OCI asks for, as files of a cgroup of version 2 and as properties of a systemd unit.
// Spec:    OCI runtime specification 1.2, config-linux.md; kernel Documentation/admin-guide/cgroup-v2.rst; systemd.resource-control(5). Where the
//          specification speaks of version 1, the conversions are those of runc and crun (cgroup-v2.md of crun).
// Shape:   values in, values out: nothing is read or written here.
// Errors:  INVALID_ARGUMENT begins with the field ("linux.resources.unified: …").
// Trust:   the values are those of whoever asks for a container. `unified` names files: only those of controllers that Wyvern hands out pass.
// Threads: any.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "systemd/unit.h"

namespace wyvern::runtime {

inline constexpr uint64_t kDefaultCpuPeriod = 100000;  // µs: the kernel's

struct BlockDeviceNumber {
  int64_t major = 0;
  int64_t minor = 0;

  auto operator<=>(const BlockDeviceNumber&) const = default;
};

// Of one device, in bytes or operations per second; 0 takes a limit away.
struct IoLimit {
  std::optional<uint64_t> read_bytes = {}, write_bytes = {}, read_operations = {},
                          write_operations = {};
};

// What is not given stays as it is.
struct Limits {
  std::optional<uint64_t> cpu_shares = {};  // 2 to 262144; 0: as if it were not given
  std::optional<int64_t> cpu_quota = {};  // µs in a period; 0: as if it were not given; below: none
  std::optional<uint64_t> cpu_period = {};  // µs; 0: as if it were not given
  std::optional<uint64_t> cpu_burst = {};   // µs
  std::optional<int64_t> cpu_idle = {};
  std::optional<std::string> cpus = {}, memory_nodes = {};  // lists as "0-3,7"; empty: all
  std::optional<int64_t> memory_limit = {};  // bytes; 0: as if it were not given; -1: none
  std::optional<int64_t> memory_swap = {};   // bytes of memory and swap together; 0 and -1 likewise
  std::optional<int64_t> swap_alone =
      {};  // bytes of swap without memory, in place of memory_swap; -1: none
  std::optional<int64_t> memory_reservation = {};         // bytes; 0: none; -1: all that it has
  std::optional<int64_t> pids = {};                       // 0: as if it were not given; below: none
  std::map<std::string, uint64_t> huge_pages = {};        // bytes by page size ("2MB")
  std::optional<uint32_t> io_weight = {};                 // 10 to 1000; 0: the kernel's own
  std::map<BlockDeviceNumber, uint32_t> io_weights = {};  // 0: as io_weight
  std::map<BlockDeviceNumber, IoLimit> io_limits = {};
  std::map<std::string, std::string> unified = {};  // written last, as it is
};

// One write. `optional`: where the file is not there, there is no such controller and nothing is missing.
struct ControlWrite {
  std::string file;  // "memory.max"
  std::string text;
  bool optional = false;

  bool operator==(const ControlWrite&) const = default;
};

// Ranges, lists and the names in `unified`.
Result<> CheckLimits(const Limits& limits);

// In the order in which they are to be written. Precondition: CheckLimits passed.
// `has_bfq`: io.bfq.weight is there; without, weights go to io.weight, which has another range.
std::vector<ControlWrite> ControlWrites(const Limits& limits, bool has_bfq);

// What systemd would write itself otherwise, with its defaults, when it next touches the unit. The rest is for ControlWrites alone: the unit is
// delegated. Precondition: CheckLimits passed.
std::vector<UnitProperty> UnitProperties(const Limits& limits);

// Conversions, for tests and for who reads a guest's figures.
uint64_t CpuWeightFromShares(uint64_t shares);  // 2..262144 → 1..10000
uint64_t IoWeightFromBlkio(uint32_t weight);    // 10..1000 → 1..10000
// "0-3,7" → {0, 1, 2, 3, 7}. INVALID_ARGUMENT: not such a list, or a number above 8191.
Result<std::vector<uint32_t>> ParseCpuList(std::string_view text);

}  // namespace wyvern::runtime
