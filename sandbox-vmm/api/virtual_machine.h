// api/virtual_machine.h — what the gRPC service drives: one machine, from descriptors to events.
// Ownership: specs carry the descriptors; they are taken by the call, also when it fails.
// Threads:   any; the implementation serialises. Events come from its own threads.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::api {

// As RamPages of vmm.proto.
enum class RamPages : uint8_t { kTransparent, kSmall, k2MiB, k1GiB };

struct MachineSpec {
  uint32_t vcpus = 1;
  uint64_t memory_bytes = 0;
  bool shared_memory = false;
  UniqueFd kvm;
  UniqueFd kernel;
  UniqueFd initrd;  // invalid: none
  std::string cmdline;
  UniqueFd console;  // a console ring; invalid: output is dropped
  RamPages ram_pages = RamPages::kTransparent;
  uint64_t hotplug_memory_bytes = 0;
  uint32_t max_vcpus = 0;  // 0: as many as `vcpus`
};

inline constexpr size_t kMaxImages = 16;  // of a pmem device

struct PmemSpec {
  std::vector<UniqueFd> images;  // in their order in the guest
};

struct RngSpec {};

struct VsockSpec {
  uint64_t guest_cid = 0;
};

struct BlkSpec {
  UniqueFd file;
  bool read_only = false;
  std::string serial;
};

struct VhostUserFsSpec {
  UniqueFd socket;
  std::string tag;
  uint32_t request_queues = 1;
  uint32_t queue_size = 0;
  uint64_t dax_window = 0;  // bytes of the back-end's DAX window; 0: none
};

struct NetSpec {
  std::vector<UniqueFd> taps;  // one for each pair of queues
  std::array<uint8_t, 6> mac{};
  uint16_t mtu = 0;
  uint16_t queue_size = 0;
  uint64_t receive_rate = 0;  // bytes a second; 0: no limit
  uint64_t transmit_rate = 0;
};

struct BalloonSpec {
  bool deflate_on_oom = false;
  bool page_reporting = false;
};

struct MemSpec {};

struct ConsolePortSpec {
  std::string name;
  UniqueFd socket;  // invalid: the VMM's own port
};

struct ConsoleSpec {
  std::vector<ConsolePortSpec> ports;
};

struct VhostUserNetSpec {
  UniqueFd socket;
  std::array<uint8_t, 6> mac{};
  uint16_t mtu = 0;
  uint16_t queue_size = 0;
};

// In the order of the request's fields.
using DeviceSpec = std::variant<PmemSpec, RngSpec, VsockSpec, BlkSpec, VhostUserFsSpec, NetSpec,
                                BalloonSpec, MemSpec, ConsoleSpec, VhostUserNetSpec>;

// Numbers of vmm.v1.Event.Kind.
enum class EventKind : uint8_t {
  kGuestPanic = 1,
  kGuestShutdown = 2,
  kVmmFault = 3,
  kBackendLost = 4,
  kResized = 50,  // from here on: news, after which the machine goes on
  kHotplugFailed = 51,
};

constexpr bool IsNews(EventKind kind) {
  return kind >= EventKind::kResized;
}

struct MachineEvent {
  EventKind kind = EventKind::kVmmFault;
  std::string text;
};

struct AttachedDevice {
  std::string pci_address;
  // As the guest names it; empty before Boot.
  std::string node;
  uint32_t major = 0;
  uint32_t minor = 0;
};

struct DetachOptions {
  std::string id;
  bool force = false;  // without the guest's consent
  std::chrono::milliseconds patience{};
};

struct ResizedVcpus {
  uint32_t vcpus = 0;  // that run
  std::string why;     // not as asked; empty: as asked
};

struct ResizedMemory {
  uint64_t memory_bytes = 0;  // in all
  uint64_t online_bytes = 0;  // of what is plugged, as the guest says
  std::string why;            // not as asked; empty: as asked
};

struct VcpuThread {
  uint32_t vcpu = 0;
  pid_t thread = 0;
};

struct MachineSize {
  uint64_t memory_bytes = 0;      // booted with and plugged
  std::vector<VcpuThread> vcpus;  // that run, by number
};

struct DeviceMetrics {
  std::string id;
  std::string kind;  // its virtio device's name: "blk"
  std::map<std::string, uint64_t> counters;
};

struct VcpuMetrics {
  uint32_t id = 0;
  std::map<std::string, uint64_t> exits;  // by reason, since Boot
};

struct MachineMetrics {
  std::map<std::string, uint64_t> counters;  // of the whole; see vmm.v1.MetricsResponse
  std::vector<DeviceMetrics> devices;
  std::vector<VcpuMetrics> vcpus;
};

class VirtualMachine {
 public:
  virtual ~VirtualMachine() = default;
  // Once, before everything else.
  virtual Result<> Create(MachineSpec spec) = 0;
  // ALREADY_EXISTS: the id is in use. FAILED_PRECONDITION: before Create. After Boot it waits for the guest, `patience` long, and on an error
  // nothing has changed.
  virtual Result<AttachedDevice> Attach(const std::string& id, DeviceSpec spec,
                                        std::chrono::milliseconds patience) = 0;
  // NOT_FOUND: no such device. On an error nothing has changed.
  virtual Result<> Detach(const DetachOptions& options) = 0;
  // The disk `id` takes the size that its file has now. NOT_FOUND: there is none.
  virtual Result<> ResizeDisk(const std::string& id) = 0;
  virtual Result<> Boot() = 0;
  // Blocks until the guest accepts (OK) or refuses (UNAVAILABLE); at most 10 s. PERMISSION_DENIED: the VMM's own port.
  virtual Result<> ConnectVsock(uint32_t port, UniqueFd socket) = 0;
  // Both wait for the guest, `patience` long. How far it came is no error.
  virtual Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) = 0;
  virtual Result<ResizedMemory> ResizeMemory(uint64_t bytes,
                                             std::chrono::milliseconds patience) = 0;
  // What runs now; waits for no guest. FAILED_PRECONDITION: before Create.
  virtual Result<MachineSize> Size() = 0;
  // Before the end: calls that wait for the guest fail with UNAVAILABLE, these and later ones.
  virtual void EndWaits() = 0;
  virtual Result<> Pause() = 0;
  virtual Result<> Resume() = 0;
  virtual MachineMetrics Metrics() = 0;
  // Replaces the listener; called from the machine's threads, must not block.
  virtual void SetEventListener(std::function<void(MachineEvent)> listener) = 0;
};

}  // namespace wyvern::api
