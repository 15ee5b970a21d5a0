// wyvern-boot-test: boots a kernel in a Machine, console on stdout, events and exit counts on stderr. For the lab, not installed.
// Exit code: 0 power-off or reset, 2 usage or set-up, 3 fault, 124 time-out.
#include <fcntl.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/fd.h"
#include "kvm/probe.h"
#include "machine/machine.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"

namespace wyvern::machine {
namespace {

struct Options {
  std::string kernel;
  std::string initrd;
  std::string image;
  std::string command_line = "console=ttyS0 panic=-1";
  uint64_t memory_mib = 256;
  uint32_t cpus = 1;
  uint32_t seconds = 60;
  uint32_t pauses = 0;  // Pause/Resume this many times, 20 ms apart
  bool shared = false;
};

std::optional<Options> Parse(int argc, char** argv) {
  Options options;
  const std::map<std::string_view, std::string*> texts = {{"--kernel", &options.kernel},
                                                          {"--initrd", &options.initrd},
                                                          {"--image", &options.image},
                                                          {"--cmdline", &options.command_line}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--shared") {
      options.shared = true;
      continue;
    }
    if (i + 1 >= argc) {
      return std::nullopt;
    }
    const std::string_view value = argv[++i];
    if (auto it = texts.find(name); it != texts.end()) {
      *it->second = value;
      continue;
    }
    uint32_t number = 0;
    if (std::from_chars(value.data(), value.data() + value.size(), number).ec != std::errc()) {
      return std::nullopt;
    }
    if (name == "--memory") {
      options.memory_mib = number;
    } else if (name == "--cpus") {
      options.cpus = number;
    } else if (name == "--seconds") {
      options.seconds = number;
    } else if (name == "--pauses") {
      options.pauses = number;
    } else {
      return std::nullopt;
    }
  }
  return options.kernel.empty() ? std::nullopt : std::optional(options);
}

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

Result<> AttachDevices(Machine* machine, const Options& options) {
  WV_TRY(auto rng, devices::RngDevice::Create(devices::WorkerOptions{}));
  WV_TRY_VOID(machine->AttachDevice(std::move(rng)));
  if (options.image.empty()) {
    return {};
  }
  WV_TRY(UniqueFd image, Open(options.image, O_RDONLY));
  WV_TRY(const auto st, Fstat(image));
  WV_TRY(const arch::AddressRange range,
         machine->MapReadOnlySlot(std::move(image), static_cast<uint64_t>(st.st_size)));
  const devices::PmemRange pmem{.start = mem::Gpa{range.start}, .size = range.size};
  WV_TRY(auto device, devices::PmemDevice::Create(devices::WorkerOptions{}, pmem));
  WV_TRY_VOID(machine->AttachDevice(std::move(device)));
  return {};
}

Result<int> Run(const Options& options) {
  MachineConfig config;
  WV_TRY(config.kvm, Open("/dev/kvm", O_RDWR));
  WV_TRY(config.kernel, Open(options.kernel, O_RDONLY));
  if (!options.initrd.empty()) {
    WV_TRY(config.initrd, Open(options.initrd, O_RDONLY));
  }
  config.vcpus = options.cpus;
  config.memory = options.memory_mib << 20U;
  config.shared_memory = options.shared;
  config.command_line = options.command_line;
  config.console = [](std::span<const std::byte> bytes) { (void)WriteAll(FdRef(1), bytes); };
  Ending ending;
  config.on_event = [&](const Event& event) { ending.Set(event); };
  const auto started = std::chrono::steady_clock::now();
  WV_TRY(auto machine, Machine::Create(std::move(config)));
  const auto created = std::chrono::steady_clock::now();
  WV_TRY_VOID(AttachDevices(machine.get(), options));
  WV_TRY_VOID(machine->Boot());
  for (uint32_t i = 0; i < options.pauses && !ending.Wait(std::chrono::milliseconds(20)); ++i) {
    machine->Pause();
    const ExitCounts before = machine->counters().exits;
    ending.Wait(std::chrono::milliseconds(20));
    if (before != machine->counters().exits) {
      return Fail(Code::kInternal, "a vCPU ran while the machine was paused");
    }
    machine->Resume();
  }
  const auto kind = ending.Wait(std::chrono::seconds(options.seconds));
  machine->Stop();
  const auto ended = std::chrono::steady_clock::now();
  const auto ms = [](auto from, auto to) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(to - from).count();
  };
  const MachineCounters counters = machine->counters();
  fmt::print(stderr, "create {} ms, run {} ms; exits:", ms(started, created), ms(created, ended));
  for (size_t i = 0; i < counters.exits.size(); ++i) {
    fmt::print(stderr, " {}={}", kvm::ExitReasonName(static_cast<kvm::ExitReason>(i)),
               counters.exits[i]);
  }
  fmt::print(stderr, "; unclaimed mmio {}/{} ports {}/{}; read-only writes {}\n",
             counters.mmio.unclaimed_reads, counters.mmio.unclaimed_writes,
             counters.ports.unclaimed_reads, counters.ports.unclaimed_writes,
             counters.read_only_writes);
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
  const auto options = wyvern::machine::Parse(argc, argv);
  if (!options) {
    fmt::print(stderr,
               "usage: wyvern-boot-test --kernel VMLINUX [--initrd FILE] [--image EROFS] "
               "[--cmdline TEXT] [--memory MiB] [--cpus N] [--seconds N] [--pauses N] [--shared]\n"
               "       wyvern-boot-test --probe\n");
    return 2;
  }
  auto code = wyvern::machine::Run(*options);
  if (!code) {
    fmt::print(stderr, "wyvern-boot-test: {}\n", code.error().message());
    return 2;
  }
  return *code;
}
