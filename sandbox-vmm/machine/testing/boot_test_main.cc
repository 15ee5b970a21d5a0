// wyvern-boot-test: boots a kernel in a Machine with devices of every kind, console on stdout; events, exit counts and the devices' counters
// on stderr. For the lab, not installed.
// Exit code: 0 power-off or reset, 2 usage or set-up, 3 fault, 124 time-out.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/fd.h"
#include "jail/violation.h"
#include "kvm/probe.h"
#include "machine/machine.h"
#include "machine/testing/boot_devices.h"
#include "machine/testing/boot_options.h"

namespace wyvern::machine {
namespace {

class Ending {
 public:
  void Set(const Event& event) {
    const std::lock_guard lock(mu_);
    fmt::print(stderr, "event: {} {}\n", EventName(event.kind), event.text);
    if (event.kind != EventKind::kPanicked) {
      kind_ = event.kind;
      ended_.notify_all();
    }
  }

  std::optional<EventKind> Wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mu_);
    ended_.wait_for(lock, time, [&] { return kind_.has_value(); });
    return kind_;
  }

 private:
  std::mutex mu_;
  std::condition_variable ended_;
  std::optional<EventKind> kind_;
};

void PrintCounters(const MachineCounters& counters) {
  fmt::print(stderr, "exits:");
  for (size_t i = 0; i < kvm::kExitReasons; ++i) {
    const auto reason = static_cast<kvm::ExitReason>(i);
    fmt::print(stderr, " {}={}", kvm::ExitReasonName(reason), counters.exits_by(reason));
  }
  fmt::print(stderr, "; unclaimed mmio {}/{} ports {}/{}; read-only writes {}; memslots {}\n",
             counters.mmio.unclaimed_reads, counters.mmio.unclaimed_writes,
             counters.ports.unclaimed_reads, counters.ports.unclaimed_writes,
             counters.read_only_writes, counters.memslots);
}

// Lines of standard input are commands, until it ends; then the guest is waited for.
std::optional<EventKind> Serve(BootDevices& devices, Ending& ending,
                               std::chrono::seconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  std::string line;
  for (bool open = true; std::chrono::steady_clock::now() < end;) {
    if (const auto kind = ending.Wait(std::chrono::milliseconds(open ? 0 : 100))) {
      return kind;
    }
    pollfd input{.fd = open ? 0 : -1, .events = POLLIN, .revents = 0};
    if (!open || ::poll(&input, 1, 50) <= 0) {
      continue;
    }
    char byte = 0;
    open = ::read(0, &byte, 1) == 1;
    if (byte != '\n') {
      line.push_back(byte);
      continue;
    }
    fmt::print(stderr, "{}\n", devices.Command(line));
    line.clear();
  }
  return std::nullopt;
}

Result<int> Run(const BootOptions& options) {
  MachineConfig config;
  WV_TRY(config.kvm, Open("/dev/kvm", O_RDWR));
  WV_TRY(config.kernel, Open(options.kernel, O_RDONLY));
  if (!options.initrd.empty()) {
    WV_TRY(config.initrd, Open(options.initrd, O_RDONLY));
  }
  config.vcpus = options.cpus;
  config.max_vcpus = options.max_cpus;
  config.memory = options.memory_mib << 20U;
  config.shared_memory = options.shared;
  config.hotplug_memory = options.hotplug_mib << 20U;
  config.command_line = options.command_line;
  config.console = [](std::span<const std::byte> bytes) { (void)WriteAll(FdRef(1), bytes); };
  Ending ending;
  config.on_event = [&](const Event& event) { ending.Set(event); };
  const auto started = std::chrono::steady_clock::now();
  WV_TRY(auto machine, Machine::Create(std::move(config)));
  const auto created = std::chrono::steady_clock::now();
  BootDevices devices(*machine);
  WV_TRY_VOID(devices.AttachAll(options));
  WV_TRY_VOID(machine->Boot());
  for (uint32_t i = 0; i < options.pauses && !ending.Wait(std::chrono::milliseconds(20)); ++i) {
    WV_TRY_VOID(PauseFor(*machine, std::chrono::milliseconds(20)));
  }
  const auto kind = Serve(devices, ending, std::chrono::seconds(options.seconds));
  machine->Stop();
  const auto ended = std::chrono::steady_clock::now();
  const auto ms = [](auto from, auto to) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(to - from).count();
  };
  fmt::print(stderr, "create {} ms, run {} ms; ", ms(started, created), ms(created, ended));
  PrintCounters(machine->counters());
  fmt::print(stderr, "{}\n", devices.Counters());
  if (!kind) {
    return 124;
  }
  return *kind == EventKind::kFault ? 3 : 0;
}

}  // namespace
}  // namespace wyvern::machine

// NOLINTNEXTLINE(bugprone-exception-escape): fmt throws when stdout is gone, which may end a test program
int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--probe") {
    const wyvern::kvm::KvmProbe probe = wyvern::kvm::ProbeKvm();
    fmt::print("{}: {}\n", wyvern::kvm::KvmVerdictName(probe.verdict), probe.detail);
    return probe.verdict == wyvern::kvm::KvmVerdict::kWorks ? 0 : 3;
  }
  const auto options = wyvern::machine::ParseBootOptions(argc, argv);
  if (!options) {
    fmt::print(stderr, "{}", wyvern::machine::BootUsage());
    return 2;
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !wyvern::jail::ReportViolations()) {
    fmt::print(stderr, "wyvern-boot-test: no filters here\n");
    return 2;
  }
  auto code = wyvern::machine::Run(*options);
  if (!code) {
    fmt::print(stderr, "wyvern-boot-test: {}\n", code.error().message());
    return 2;
  }
  return *code;
}
