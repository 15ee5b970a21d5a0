#include "hotplug/memory_size.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>

namespace wyvern::hotplug {

namespace {

using std::chrono::milliseconds;
using upcall::Clock;
using upcall::Time;

constexpr milliseconds kFirstLook(1);
constexpr milliseconds kLongestLook(50);
// A driver that has unplugged nothing for so long gets help from the agent.
constexpr milliseconds kStuck(1000);

// Looks until `plugged` is as wanted, the deadline, or (with `patience`) until nothing has moved for so long. What it is then.
Result<uint64_t> AwaitPlugged(const PluggableMemory& memory, uint64_t wanted, Time deadline,
                              milliseconds patience) {
  WV_TRY(uint64_t plugged, memory.plugged());
  Time moved = Clock::now();
  milliseconds look = kFirstLook;
  while (plugged != wanted && Clock::now() < deadline && Clock::now() - moved < patience) {
    std::this_thread::sleep_for(look);
    look = std::min(look * 2, kLongestLook);
    WV_TRY(const uint64_t now, memory.plugged());
    if (now != plugged) {
      plugged = now;
      moved = Clock::now();
      look = kFirstLook;
    }
  }
  return plugged;
}

milliseconds Until(Time deadline) {
  return std::max(std::chrono::ceil<milliseconds>(deadline - Clock::now()), milliseconds(0));
}

}  // namespace

Result<MemoryReached> ResizeMemory(PluggableMemory& memory, upcall::Session& upcall, uint64_t bytes,
                                   Time deadline) {
  WV_TRY(const uint64_t before, memory.plugged());
  WV_TRY_VOID(memory.Request(bytes));
  const upcall::MemoryTarget target{memory.start(), memory.size(), bytes};
  MemoryReached reached;
  if (bytes > before) {
    auto online = upcall.MemoryOnline(target, deadline);
    if (online) {
      reached.online = online->online_bytes();
    } else {
      reached.why = online.error().message();
    }
    WV_TRY(reached.plugged, AwaitPlugged(memory, bytes, deadline, Until(deadline)));
  } else {
    WV_TRY(reached.plugged, AwaitPlugged(memory, bytes, deadline, kStuck));
    if (reached.plugged > bytes) {
      auto offline = upcall.MemoryOffline(target, deadline);
      if (offline) {
        reached.online = offline->online_bytes();
      } else {
        reached.why = offline.error().message();
      }
      WV_TRY(reached.plugged, AwaitPlugged(memory, bytes, deadline, Until(deadline)));
    }
  }
  if (reached.plugged != bytes) {
    // The guest follows, or has not moved; from now on it is asked for nothing else.
    WV_TRY_VOID(memory.Request(reached.plugged));
    reached.why = fmt::format("the guest has plugged {} of {} MiB{}{}", reached.plugged >> 20U,
                              bytes >> 20U, reached.why.empty() ? "" : ": ", reached.why);
  } else if (bytes > before && reached.why.empty() && reached.online < bytes) {
    reached.why =
        fmt::format("the guest has {} of {} MiB online", reached.online >> 20U, bytes >> 20U);
  }
  return reached;
}

}  // namespace wyvern::hotplug
