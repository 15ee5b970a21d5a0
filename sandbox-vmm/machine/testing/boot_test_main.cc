// wyvern-boot-test: boots a kernel in a Machine, console on stdout, events, exit counts and the disks' counters on stderr. Its devices'
// threads have the filters that they have in wyvern-vmm. For the lab, not installed.
// Exit code: 0 power-off or reset, 2 usage or set-up, 3 fault, 124 time-out.
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "base/fd.h"
#include "blk/blk_device.h"
#include "jail/filter.h"
#include "jail/violation.h"
#include "kvm/probe.h"
#include "machine/machine.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "virtio/device.h"

namespace wyvern::machine {
namespace {

struct Disk {
  std::string path;
  bool read_only = false;
};

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
  std::vector<Disk> disks;  // /dev/vda, /dev/vdb, … with serial numbers disk0, disk1, …
  bool pool = false;        // they do without io_uring
};

std::optional<Options> Parse(int argc, char** argv) {
  Options options;
  const std::map<std::string_view, std::string*> texts = {{"--kernel", &options.kernel},
                                                          {"--initrd", &options.initrd},
                                                          {"--image", &options.image},
                                                          {"--cmdline", &options.command_line}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--shared" || name == "--pool") {
      (name == "--pool" ? options.pool : options.shared) = true;
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
    if (name == "--disk" || name == "--read-only-disk") {
      options.disks.push_back({std::string(value), name != "--disk"});
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

// As wyvern-vmm does: the filter of its control thread, which its other threads inherit, then that of devices.
devices::WorkerOptions Confined(std::string name) {
  return {.name = std::move(name), .on_thread_start = [](const char* /*kind*/) {
            for (const auto kind : {jail::ThreadKind::kControl, jail::ThreadKind::kDevice}) {
              if (const auto installed = jail::InstallFilter(kind); !installed) {
                fmt::print(stderr, "filter: {}\n", installed.error().message());
                _exit(2);
              }
            }
          }};
}

using Disks = std::vector<const virtio::VirtioDevice*>;

Result<> AttachDisks(Machine* machine, const Options& options, Disks* disks) {
  for (const Disk& disk : options.disks) {
    const std::string serial = fmt::format("disk{}", disks->size());
    WV_TRY(UniqueFd file, Open(disk.path, disk.read_only ? O_RDONLY : O_RDWR));
    std::unique_ptr<devices::IoRing> ring;
    if (!options.pool) {
      WV_TRY(ring, devices::IoRing::Create());
    }
    WV_TRY(auto device, devices::BlkDevice::Create({.worker = Confined(serial),
                                                    .file = std::move(file),
                                                    .read_only = disk.read_only,
                                                    .serial = serial,
                                                    .ring = std::move(ring)}));
    disks->push_back(device.get());
    WV_TRY_VOID(machine->AttachDevice(std::move(device)));
  }
  return {};
}

Result<> AttachDevices(Machine* machine, const Options& options, Disks* disks) {
  WV_TRY(auto rng, devices::RngDevice::Create(Confined("rng")));
  WV_TRY_VOID(machine->AttachDevice(std::move(rng)));
  WV_TRY_VOID(AttachDisks(machine, options, disks));
  if (options.image.empty()) {
    return {};
  }
  WV_TRY(UniqueFd image, Open(options.image, O_RDONLY));
  WV_TRY(const auto st, Fstat(image));
  WV_TRY(const arch::AddressRange range,
         machine->MapReadOnlySlot(std::move(image), static_cast<uint64_t>(st.st_size)));
  const devices::PmemRange pmem{.start = mem::Gpa{range.start}, .size = range.size};
  WV_TRY(auto device, devices::PmemDevice::Create(Confined("pmem"), pmem));
  WV_TRY_VOID(machine->AttachDevice(std::move(device)));
  return {};
}

void PrintCounters(const MachineCounters& counters, const Disks& disks) {
  fmt::print(stderr, "exits:");
  for (size_t i = 0; i < counters.exits.size(); ++i) {
    fmt::print(stderr, " {}={}", kvm::ExitReasonName(static_cast<kvm::ExitReason>(i)),
               counters.exits[i]);
  }
  fmt::print(stderr, "; unclaimed mmio {}/{} ports {}/{}; read-only writes {}\n",
             counters.mmio.unclaimed_reads, counters.mmio.unclaimed_writes,
             counters.ports.unclaimed_reads, counters.ports.unclaimed_writes,
             counters.read_only_writes);
  for (size_t i = 0; i < disks.size(); ++i) {
    fmt::print(stderr, "disk{}:", i);
    for (const virtio::CounterValue& counter : disks[i]->counters()) {
      fmt::print(stderr, " {}={}", counter.name, counter.value);
    }
    fmt::print(stderr, "\n");
  }
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
  Disks disks;
  WV_TRY_VOID(AttachDevices(machine.get(), options, &disks));
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
  fmt::print(stderr, "create {} ms, run {} ms; ", ms(started, created), ms(created, ended));
  PrintCounters(machine->counters(), disks);
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
               "[--cmdline TEXT] [--memory MiB] [--cpus N] [--seconds N] [--pauses N] [--shared] "
               "[--disk FILE]... [--read-only-disk FILE]... [--pool]\n"
               "       wyvern-boot-test --probe\n");
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
