#include "cli/top.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <thread>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

using observe::FamilySet;
using observe::LabelOf;
using observe::Sample;
using Clock = std::chrono::steady_clock;

struct Want {
  std::string_view label, value;  // empty: any
  std::string_view suffix = {};   // of a summary
};

double Sum(const FamilySet& set, std::string_view name, const Want& want = {}) {
  const observe::Family* family = set.Find(name);
  double sum = 0;
  if (family != nullptr) {
    for (const Sample& sample : family->samples) {
      const bool counts = want.label.empty() || LabelOf(sample, want.label) == want.value;
      sum += counts && sample.suffix == want.suffix ? sample.value : 0;
    }
  }
  return sum;
}

std::optional<double> Guest(const FamilySet& set, std::string_view name) {
  return set.Find(name) == nullptr ? std::nullopt : std::optional(Sum(set, name));
}

// By one of the labels.
std::map<std::string, double> SumsBy(const FamilySet& set, std::string_view name,
                                     std::string_view label) {
  std::map<std::string, double> sums;
  if (const observe::Family* family = set.Find(name); family != nullptr) {
    for (const Sample& sample : family->samples) {
      sums[std::string(LabelOf(sample, label))] += sample.value;
    }
  }
  return sums;
}

double Rate(double now, double before, double seconds) {
  return seconds > 0 ? std::max(0.0, (now - before) / seconds) : 0;
}

double ReadBytes(const FamilySet& set) {
  return Sum(set, "wyvern_block_read_bytes_total") +
         Sum(set, "wyvern_host_process_read_bytes_total", {"process", "fs"});
}

double WrittenBytes(const FamilySet& set) {
  return Sum(set, "wyvern_block_written_bytes_total") +
         Sum(set, "wyvern_host_process_written_bytes_total", {"process", "fs"});
}

std::string Or(const std::optional<double>& value, std::string (*format)(double)) {
  return value ? format(*value) : "-";
}

std::string Percent(double processors) {
  return fmt::format("{:.1f}", processors * 100);
}

std::string Count(double value) {
  return fmt::format("{:.0f}", value);
}

std::string Millis(double seconds) {
  return fmt::format("{:.1f}", seconds * 1000);
}

// A beginning of an id will do for all verbs.
constexpr size_t kIdShown = 20;

using Cells = std::array<std::string, 15>;

std::string Line(const Cells& c) {
  return fmt::format(
      "{:<20} {:<12} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>8} {:>7} {:>7} "
      "{:>8}\n",
      c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13],
      c[14]);
}

Cells CellsOf(const TopRow& row) {
  if (!row.answers) {
    Cells cells;
    cells.fill("-");
    cells[0] = row.id.substr(0, kIdShown);
    cells[1] = row.ns;
    return cells;
  }
  return {row.id.substr(0, kIdShown), row.ns,
          Or(row.cpu, Percent),       ShortBytes(row.pss_vmm),
          ShortBytes(row.pss_fs),     ShortBytes(row.pss_rest),
          Or(row.used, ShortBytes),   Or(row.cache, ShortBytes),
          Or(row.free, ShortBytes),   ShortBytes(row.balloon),
          ShortBytes(row.plugged),    Or(row.exits, Count),
          Or(row.read, ShortBytes),   Or(row.written, ShortBytes),
          Or(row.upcall, Millis)};
}

struct Look {
  Clock::time_point at;
  std::vector<Measured> sandboxes;
};

Result<Look> TakeLook(const std::string& state_dir, const SandboxRef& only) {
  std::vector<LivingSandbox> living;
  if (only.id.empty()) {
    WV_TRY(living, ListSandboxes(state_dir));
    std::erase_if(living, [&](const LivingSandbox& sandbox) {
      return !only.ns.empty() && sandbox.hello.ns() != only.ns;
    });
  } else {
    living.resize(1);
    WV_TRY(living[0], FindSandbox(state_dir, only));
  }
  Look look;
  look.sandboxes = MeasureAll(living);
  look.at = Clock::now();
  return look;
}

const Measured* Same(const Look& look, const Measured& sandbox) {
  const auto it = std::ranges::find_if(look.sandboxes, [&](const Measured& other) {
    return other.ns == sandbox.ns && other.id == sandbox.id;
  });
  return it == look.sandboxes.end() ? nullptr : &*it;
}

std::string Picture(const Look& before, const Look& now, bool details) {
  const double seconds = std::chrono::duration<double>(now.at - before.at).count();
  std::vector<TopRow> rows;
  for (const Measured& sandbox : now.sandboxes) {
    rows.push_back(RowOf(sandbox, Same(before, sandbox), seconds));
  }
  std::string text = TopTable(std::move(rows));
  if (details && !now.sandboxes.empty()) {
    if (const Measured* earlier = Same(before, now.sandboxes[0]); earlier != nullptr) {
      text += "\n" + TopDetails(now.sandboxes[0], *earlier, seconds);
    }
  }
  return text;
}

}  // namespace

std::string ShortBytes(double bytes) {
  constexpr std::array<const char*, 6> kUnits = {"", "K", "M", "G", "T", "P"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return bytes < 9.95 && unit > 0 ? fmt::format("{:.1f}{}", bytes, kUnits.at(unit))
                                  : fmt::format("{:.0f}{}", bytes, kUnits.at(unit));
}

TopRow RowOf(const Measured& now, const Measured* before, double seconds) {
  TopRow row;
  row.ns = now.ns;
  row.id = now.id;
  if (!now.families) {
    return row;
  }
  const FamilySet& set = *now.families;
  row.answers = true;
  constexpr std::string_view kPss = "wyvern_host_process_pss_bytes";
  row.pss_vmm = Sum(set, kPss, {"process", "vmm"});
  row.pss_fs = Sum(set, kPss, {"process", "fs"});
  row.pss_rest = Sum(set, kPss) - row.pss_vmm - row.pss_fs;
  row.used = Guest(set, "wyvern_guest_memory_used_bytes");
  row.free = Guest(set, "wyvern_guest_memory_free_bytes");
  if (const auto cached = Guest(set, "wyvern_guest_memory_cached_bytes"); cached) {
    row.cache = *cached + Sum(set, "wyvern_guest_memory_buffers_bytes") +
                Sum(set, "wyvern_guest_memory_slab_reclaimable_bytes");
  }
  row.balloon = Sum(set, "wyvern_balloon_bytes");
  row.plugged = Sum(set, "wyvern_memory_hotplugged_bytes");
  constexpr std::string_view kUpcalls = "wyvern_upcall_duration_seconds";
  const Want count{.label = {}, .value = {}, .suffix = "_count"};
  const Want sum{.label = {}, .value = {}, .suffix = "_sum"};
  double calls = Sum(set, kUpcalls, count);
  double time = Sum(set, kUpcalls, sum);
  if (before != nullptr && before->families) {
    const FamilySet& old = *before->families;
    const auto rate = [&](std::string_view name) {
      return Rate(Sum(set, name), Sum(old, name), seconds);
    };
    row.cpu = rate("wyvern_host_process_cpu_seconds_total");
    row.exits = rate("wyvern_vcpu_exits_total");
    row.read = Rate(ReadBytes(set), ReadBytes(old), seconds);
    row.written = Rate(WrittenBytes(set), WrittenBytes(old), seconds);
    calls -= Sum(old, kUpcalls, count);
    time -= Sum(old, kUpcalls, sum);
  }
  if (calls > 0) {
    row.upcall = std::max(0.0, time) / calls;
  }
  return row;
}

std::string TopTable(std::vector<TopRow> rows) {
  std::ranges::sort(rows, [](const TopRow& a, const TopRow& b) {
    const double busy_a = a.cpu.value_or(0);
    const double busy_b = b.cpu.value_or(0);
    return busy_a != busy_b ? busy_a > busy_b : std::pair(a.ns, a.id) < std::pair(b.ns, b.id);
  });
  std::string text =
      Line({"SANDBOX", "NAMESPACE", "CPU%", "VMM", "FS", "SHIM", "USED", "CACHE", "FREE", "BALLOON",
            "PLUGGED", "EXITS/s", "READ/s", "WRITE/s", "UPCALLms"});
  for (const TopRow& row : rows) {
    text += Line(CellsOf(row));
  }
  return text;
}

std::string TopDetails(const Measured& now, const Measured& before, double seconds) {
  if (!now.families || !before.families) {
    return "";
  }
  const auto rates = [&](std::string_view name, std::string_view label) {
    std::map<std::string, double> old = SumsBy(*before.families, name, label);
    std::vector<std::pair<std::string, double>> out;
    for (const auto& [key, value] : SumsBy(*now.families, name, label)) {
      out.emplace_back(key, Rate(value, old[key], seconds));
    }
    std::ranges::stable_sort(out, [](const auto& a, const auto& b) { return a.second > b.second; });
    return out;
  };
  std::string text = "EXITS/s ";
  for (const auto& [reason, rate] : rates("wyvern_vcpu_exits_total", "reason")) {
    if (rate > 0) {
      text += fmt::format(" {} {:.0f}", reason, rate);
    }
  }
  text += "\n";

  struct Moved {
    const char* name;
    const char* what;
  };

  constexpr std::array<Moved, 6> kMoved = {
      {{"wyvern_block_read_bytes_total", "read"},
       {"wyvern_block_written_bytes_total", "written"},
       {"wyvern_network_receive_bytes_total", "received"},
       {"wyvern_network_transmit_bytes_total", "sent"},
       {"wyvern_channel_to_guest_bytes_total", "to guest"},
       {"wyvern_channel_from_guest_bytes_total", "from guest"}}};
  std::map<std::string, std::string> devices;
  for (const Moved& moved : kMoved) {
    for (const auto& [device, rate] : rates(moved.name, "device")) {
      devices[device] += fmt::format(" {} {}/s", moved.what, ShortBytes(rate));
    }
  }
  for (const auto& [device, line] : devices) {
    text += fmt::format("{:<20}{}\n", device, line);
  }
  return text;
}

Result<int> Top(const TopOptions& options) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  const bool terminal = IsTerminal(FdRef(STDOUT_FILENO));
  WV_TRY(Look before, TakeLook(config->state_dir, options.sandbox));
  for (uint32_t shown = 0; options.count == 0 || shown < options.count; ++shown) {
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval));
    WV_TRY(Look now, TakeLook(config->state_dir, options.sandbox));
    // Home, then clear to the end: no flicker.
    fmt::print("{}{}", terminal ? "\x1b[H\x1b[J" : (shown > 0 ? "\n" : ""),
               Picture(before, now, !options.sandbox.id.empty()));
    if (fflush(stdout) != 0) {
      return SysError("writing to standard output");
    }
    before = std::move(now);
  }
  return 0;
}

}  // namespace wyvern::cli
