// api/virtual_machine.h — what the gRPC service drives: one machine, from descriptors to events.
// Ownership: specs carry the descriptors; they are taken by the call, also when it fails.
// Threads:   any; the implementation serialises. Events come from its own threads.
#pragma once

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

struct MachineSpec {
  uint32_t vcpus = 1;
  uint64_t memory_bytes = 0;
  bool shared_memory = false;
  UniqueFd kvm;
  UniqueFd kernel;
  UniqueFd initrd;  // invalid: none
  std::string cmdline;
  UniqueFd console;  // a console ring; invalid: output is dropped
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

using DeviceSpec = std::variant<PmemSpec, RngSpec, VsockSpec, BlkSpec, VhostUserFsSpec>;

enum class EventKind : uint8_t {
  kGuestPanic = 1,
  kGuestShutdown = 2,
  kVmmFault = 3,
  kBackendLost = 4,
};

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
  virtual Result<> Boot() = 0;
  // Blocks until the guest accepts (OK) or refuses (UNAVAILABLE); at most 10 s. PERMISSION_DENIED: the VMM's own port.
  virtual Result<> ConnectVsock(uint32_t port, UniqueFd socket) = 0;
  // Before the end: calls that wait for the guest fail with UNAVAILABLE, these and later ones.
  virtual void EndWaits() = 0;
  virtual Result<> Pause() = 0;
  virtual Result<> Resume() = 0;
  virtual std::map<std::string, uint64_t> Metrics() = 0;
  // Replaces the listener; called from the machine's threads, must not block.
  virtual void SetEventListener(std::function<void(MachineEvent)> listener) = 0;
};

}  // namespace wyvern::api
