// What a VMM and a guest may say, as text: every line is one of Prometheus' format, whatever the names and numbers are.
// Input:   for each fact a byte of what it is, a byte of length, that many bytes of a name, eight of a number; the name's first half is what the
//          fact is of.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/testing/fuzz_input.h"
#include "observe/host_process.h"
#include "observe/sandbox_families.h"

namespace {

using namespace wyvern::observe;  // NOLINT(google-build-using-namespace): a fuzzer

std::string TextOf(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void AddFact(uint8_t what, const std::string& name, uint64_t value, Observation& seen) {
  const std::string of = name.substr(0, name.size() / 2);
  const std::string rest = name.substr(name.size() / 2);
  if (!seen.vmm) {
    seen.vmm.emplace();
    seen.guest.emplace();
  }
  switch (what % 6) {
    case 0:
      seen.vmm->counters[name] = value;
      break;
    case 1:
      seen.vmm->counters["upcall." + name] = value;
      break;
    case 2:
      seen.vmm->devices.push_back({of, value % 2 == 0 ? "blk" : rest, {{rest, value}}});
      break;
    case 3:
      seen.vmm->vcpus.push_back({static_cast<uint32_t>(value), {{rest, value}}});
      break;
    case 4:
      seen.containers.push_back({.id = name, .cpu_usec = value, .memory_current = value});
      seen.guest->memory_total += value;
      seen.guest->cached ^= value;
      break;
    default:
      seen.processes.push_back({.role = of,
                                .container = rest,
                                .pss = KilobytesOf(name, "Pss"),
                                .cpu_usec = TicksOf(name)});
  }
}

bool IsLine(std::string_view line) {
  if (line.starts_with("# HELP wyvern_") || line.starts_with("# TYPE wyvern_")) {
    return true;
  }
  return line.starts_with("wyvern_") && line.find(' ') != std::string_view::npos &&
         std::ranges::all_of(line, [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::FuzzInput input(data, size);
  Observation seen;
  while (!input.empty()) {
    const uint8_t what = input.Byte();
    const std::string name = TextOf(input.Take(input.Byte()));
    AddFact(what, name, input.Word64(), seen);
  }
  const std::string text = FamiliesOf({"ns", "id"}, seen, {{EventKind::kOom, size}}).Text();
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    WV_CHECK(end != std::string::npos);
    WV_CHECK(IsLine(std::string_view(text).substr(at, end - at)));
    at = end + 1;
  }
  return 0;
}
