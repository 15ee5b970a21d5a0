// hypervisor/machine.h — a virtual machine with its file server, as the sandbox sees it: the seam between runtime and VMM.
// Life:    Start (processes exist) → Boot → ConnectVsock, exports → End. Whatever happens, End and the destructor leave no process.
// Threads: every method from any thread. The event callback runs on a thread of the machine; it must not call back into it.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/console_ring.h"
#include "base/event_fd.h"
#include "base/fd.h"
#include "base/log.h"
#include "hypervisor/published_port.h"
#include "observe/observation.h"

namespace wyvern::runtime {

// What backs guest memory (vmm.proto says more).
enum class RamPages : uint8_t {
  kTransparent,  // made huge where the host lets who asks for it
  kSmall,        // never
  k2MiB,         // the host's pool's, reserved at Boot: RESOURCE_EXHAUSTED, FAILED_PRECONDITION
  k1GiB,
};

// hypervisor/passt.h
struct UserNetwork {
  std::string passt;           // the program
  bool host_loopback = false;  // the guest reaches the host's 127.0.0.1 at its gateway's address
  std::vector<PublishedPort> published;
};

struct MachineOptions {
  std::string id;  // for log lines
  std::string vmm_binary, fs_binary;
  std::string kernel, initrd, image;  // paths; initrd may be empty
  std::string extra_cmdline;
  // Of the agent's policy (agent.proto), names with commas between them; none: no policy.
  std::optional<std::string> allow{};
  RamPages ram_pages = RamPages::kTransparent;
  bool page_reporting =
      true;            // what the guest frees goes back to the host; never with pages of the pool
  uint32_t vcpus = 1;  // at boot: 1 to 8
  uint32_t max_vcpus = 0;     // what ResizeVcpus can reach, `vcpus` to 32; 0: as many as `vcpus`
  uint64_t memory_bytes = 0;  // at boot: whole pages of ram_pages
  // What ResizeMemory can add, a multiple of kHotplugStep; 0: nothing, and no device for it.
  uint64_t hotplug_memory_bytes = 0;
  uint32_t guest_cid = 3;
  uint32_t share_queues = 1;
  std::string share_tag = "wyvern";
  // A network interface by sockets in the network namespace of who calls Start.
  std::optional<UserNetwork> user_network;
  LogLevel log_level = LogLevel::kInfo;  // of VMM, file server and agent
  std::chrono::milliseconds call_timeout{30000};
};

// Whole blocks of the memory device whatever its size (vmm.proto, ResizeMemory).
inline constexpr uint64_t kHotplugStep = 128ULL << 20U;

struct MachineProcess {
  std::string role;  // "vmm", "fs", "passt"
  pid_t pid = 0;
};

struct MachineEvent {
  enum class Kind : uint8_t {
    kGuestPanic,
    kGuestShutdown,
    kVmmFault,
    kBackendLost,
    kProcessDied,
    kResized,  // from here on: news, after which the machine goes on
    kHotplugFailed,
  };
  Kind kind = Kind::kProcessDied;
  std::string text;  // one sentence; of news, by the VMM's word

  bool IsNews() const { return kind >= Kind::kResized; }
};

struct ExportPolicy {
  std::chrono::milliseconds cache{0};
  bool read_only = false;
};

// What a guest's network interface is to be.
struct NetworkDevice {
  std::array<uint8_t, 6> mac{};
  uint32_t mtu = 0;
  // Bytes a second, of all queues together; 0: no limit.
  uint64_t receive_rate = 0;  // to the guest
  uint64_t transmit_rate = 0;
};

struct ResizedVcpus {
  uint32_t vcpus = 0;  // that run
  std::string why;     // why not as many as asked, in plain text; empty: as asked
};

struct ResizedMemory {
  uint64_t bytes = 0;  // in all; rounded up to the memory device's blocks
  std::string why;     // as above
};

struct VcpuThread {
  uint32_t vcpu = 0;
  pid_t thread = 0;  // of the VMM
};

struct MachineSize {
  uint64_t memory_bytes = 0;
  std::vector<VcpuThread> vcpus;  // that run, by number
};

class Machine {
 public:
  using EventCallback = std::function<void(const MachineEvent&)>;

  virtual ~Machine() = default;

  // Each process right after it was started; an error ends the start.
  using SpawnHook = std::function<Result<>(const MachineProcess&)>;
  virtual Result<> Start(const SpawnHook& spawned) = 0;
  // Memory, kernel, devices, then vCPUs run. NOT_FOUND names a missing kernel, image or /dev/kvm. `events` from here on.
  virtual Result<> Boot(EventCallback events) = 0;
  // A stream to a port of the guest. UNAVAILABLE: nobody listens (yet).
  virtual Result<UniqueFd> ConnectVsock(uint32_t port) = 0;
  // Makes `tree` (storage/exports.h) visible to the guest as <share>/<name>.
  virtual Result<> AttachExport(const std::string& name, FdRef tree,
                                const ExportPolicy& policy) = 0;
  // Forgets it and unmounts it: its device is free afterwards. Idempotent.
  virtual Result<> DetachExport(const std::string& name) = 0;
  // Hot-plugs a disk, whose serial is its id (storage/block_source.h; at most 20 of [a-z0-9-]): the guest drives it when it returns. The
  // machine has a descriptor of its own. RESOURCE_EXHAUSTED: no slot is free. After an error it may be there still: DetachDevice.
  virtual Result<> AttachDisk(const std::string& id, FdRef file, bool read_only) = 0;
  // Hot-plugs a network interface over `taps`, the queues of one tap with IFF_VNET_HDR and IFF_NO_PI, 1 to 8: the guest drives it when it
  // returns, as an interface with that MAC. The machine has descriptors of its own. Errors as AttachDisk's.
  virtual Result<> AttachNetwork(const std::string& id, const std::vector<UniqueFd>& taps,
                                 const NetworkDevice& device) = 0;
  // Of a disk or an interface. Its descriptors are closed when it returns. Unknown: success. FAILED_PRECONDITION: the guest uses it still; `force` asks no guest, which
  // gets I/O errors then.
  virtual Result<> DetachDevice(const std::string& id, bool force) = 0;
  // The disk `id`, whose device or file has another size now, has that for the guest, too. NOT_FOUND: there is none.
  virtual Result<> ResizeDisk(const std::string& id) = 0;
  // How many vCPUs run, and how much memory there is: changed together with the guest, which is waited for `patience` long. How far it came is no
  // error. FAILED_PRECONDITION: the machine does not run. INVALID_ARGUMENT: beyond what it was made with. INTERNAL: an answer that no VMM of ours
  // gives. After an error Size tells what is.
  virtual Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) = 0;
  virtual Result<ResizedMemory> ResizeMemory(uint64_t bytes,
                                             std::chrono::milliseconds patience) = 0;
  virtual Result<MachineSize> Size() = 0;
  // What the VMM counts, within `limit`. Its words: names may be any.
  virtual Result<observe::VmmUsage> Usage(std::chrono::milliseconds limit) = 0;
  // The last 64 KiB of the guest's console; also after End.
  virtual api::ConsoleText Console() = 0;
  // No process of the machine is left when it returns. Idempotent. Bounded by EndLimit for each process.
  virtual void End() = 0;
};

// How long a process of the machine is waited for after SIGKILL: a second, and one more for each 4 GiB of guest memory, which the kernel
// frees page by page before the process has ended.
constexpr std::chrono::milliseconds EndLimit(uint64_t memory_bytes) {
  constexpr uint64_t kBytesPerSecond = 4ULL << 30U;
  return std::chrono::seconds(1) +
         std::chrono::milliseconds(memory_bytes / (kBytesPerSecond / 1000));
}

// wyvern-vmm and wyvern-fs.
std::unique_ptr<Machine> MakeMicroVm(MachineOptions options);

}  // namespace wyvern::runtime
