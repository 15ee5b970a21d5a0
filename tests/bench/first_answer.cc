// VMM exec → first API answer, jailed, and what it holds then. No guest, no KVM.
#include <fcntl.h>
#include <fmt/format.h>

#include "bench/measurements.h"
#include "bench/vmm_process.h"

namespace wyvern::bench {

namespace {

struct Run {
  int64_t spawned = 0, donated = 0, answered = 0;  // ns since just before posix_spawn
  std::string memory;                              // smaps_rollup
};

Result<Run> Measure(const std::string& binary, FdRef null) {
  Run run;
  const int64_t start = NowNs();
  WV_TRY(const auto vmm, VmmProcess::Spawn(binary));
  run.spawned = NowNs() - start;
  WV_TRY_VOID(vmm->Donate(api::DonationKind::kImage, null));
  run.donated = NowNs() - start;
  WV_TRY_VOID(vmm->Metrics());
  run.answered = NowNs() - start;
  WV_TRY(run.memory, ReadFile(fmt::format("/proc/{}/smaps_rollup", vmm->process().pid())));
  return run;
}

uint64_t Field(const std::string& rollup, const std::string& name) {
  const size_t at = rollup.find("\n" + name + ":");
  return at == std::string::npos ? 0 : std::stoull(rollup.substr(at + name.size() + 2));
}

}  // namespace

Result<> FirstAnswer(const std::string& binary, int runs) {
  WV_TRY(const UniqueFd null, Open("/dev/null", O_RDONLY));
  for (int i = 0; i < runs; ++i) {
    WV_TRY(const Run run, Measure(binary, null));
    fmt::print(
        "{{\"spawned_ms\": {:.3f}, \"serving_ms\": {:.3f}, \"answered_ms\": {:.3f}, "
        "\"anonymous_kib\": {}, \"pss_kib\": {}, \"private_kib\": {}}}\n",
        static_cast<double>(run.spawned) / 1e6, static_cast<double>(run.donated) / 1e6,
        static_cast<double>(run.answered) / 1e6, Field(run.memory, "Anonymous"),
        Field(run.memory, "Pss"),
        Field(run.memory, "Private_Dirty") + Field(run.memory, "Private_Clean"));
  }
  return {};
}

}  // namespace wyvern::bench
