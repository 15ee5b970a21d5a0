#include "agent/guest_usage.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "agent/machine.h"
#include "base/kernel_text.h"

namespace wyvern::agent {
namespace {

// "MemTotal:        1024 kB"
void ReadMemory(std::string_view text, v1::GuestUsageResponse& usage) {
  ForEachLine(text, [&usage](std::string_view line) {
    const std::string_view name = NextWord(line);
    const uint64_t bytes = Number(NextWord(line)) << 10U;
    if (name == "MemTotal:") {
      usage.set_memory_total(bytes);
    } else if (name == "MemFree:") {
      usage.set_memory_free(bytes);
    } else if (name == "MemAvailable:") {
      usage.set_memory_available(bytes);
    } else if (name == "Buffers:") {
      usage.set_buffers(bytes);
    } else if (name == "Cached:") {
      usage.set_cached(bytes);
    } else if (name == "Shmem:") {
      usage.set_shmem(bytes);
    } else if (name == "SReclaimable:") {
      usage.set_slab_reclaimable(bytes);
    } else if (name == "Dirty:") {
      usage.set_dirty(bytes);
    } else if (name == "SwapTotal:") {
      usage.set_swap_total(bytes);
    } else if (name == "SwapFree:") {
      usage.set_swap_free(bytes);
    }
  });
}

// "cpu  user nice system idle iowait irq softirq steal …", in clock ticks
void ReadProcessors(std::string_view text, v1::GuestUsageResponse& usage) {
  const auto per_second = static_cast<uint64_t>(std::max(1L, sysconf(_SC_CLK_TCK)));
  ForEachLine(text, [&usage, per_second](std::string_view line) {
    if (NextWord(line) != "cpu") {
      return;
    }
    const auto micros = [&line, per_second] {
      return Number(NextWord(line)) * (1'000'000 / per_second);
    };
    const uint64_t user = micros();
    const uint64_t nice = micros();
    const uint64_t system = micros();
    const uint64_t idle = micros();
    const uint64_t waiting = micros();
    const uint64_t interrupts = micros();
    const uint64_t soft_interrupts = micros();
    usage.set_cpu_user_usec(user + nice);
    usage.set_cpu_system_usec(system + interrupts + soft_interrupts);
    usage.set_cpu_idle_usec(idle + waiting);
    usage.set_cpu_steal_usec(micros());
  });
}

struct Stalls {
  uint64_t some = 0;
  uint64_t full = 0;
};

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=123"
Stalls ReadStalls(std::string_view text) {
  Stalls stalls;
  ForEachLine(text, [&stalls](std::string_view line) {
    constexpr std::string_view kTotal = "total=";
    const std::string_view share = NextWord(line);
    for (std::string_view word = NextWord(line); !word.empty(); word = NextWord(line)) {
      if (word.starts_with(kTotal)) {
        const uint64_t micros = Number(word.substr(kTotal.size()));
        (share == "full" ? stalls.full : stalls.some) = micros;
      }
    }
  });
  return stalls;
}

}  // namespace

v1::GuestUsageResponse ReadGuestUsage(const KernelFiles& kernel) {
  v1::GuestUsageResponse usage;
  const auto read = [&kernel](const char* path) { return kernel.Read(path).value_or(""); };
  ReadMemory(read("/proc/meminfo"), usage);
  ReadProcessors(read("/proc/stat"), usage);
  usage.set_cpus_online(CpusOnline());
  ForEachLine(read("/proc/vmstat"), [&usage](std::string_view line) {
    if (NextWord(line) == "oom_kill") {
      usage.set_oom_kills(Number(NextWord(line)));
    }
  });
  usage.set_cpu_some_usec(ReadStalls(read("/proc/pressure/cpu")).some);
  const Stalls memory = ReadStalls(read("/proc/pressure/memory"));
  usage.set_memory_some_usec(memory.some);
  usage.set_memory_full_usec(memory.full);
  const Stalls io = ReadStalls(read("/proc/pressure/io"));
  usage.set_io_some_usec(io.some);
  usage.set_io_full_usec(io.full);
  return usage;
}

}  // namespace wyvern::agent
