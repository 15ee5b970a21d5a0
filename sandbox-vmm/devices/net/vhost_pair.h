// net/vhost_pair.h — one /dev/vhost-net: the two rings of a queue pair, served by the kernel.
// Spec:    Linux include/uapi/linux/vhost.h; VIRTIO 1.4 §2.7 for the rings.
// Errors:  what the kernel refuses. A ring that does not start is left as if nothing had happened.
// Threads: one at a time.   Trust: ring addresses are the guest's: they are tested against memory
//          here, and what the rings hold by the kernel.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "mem/guest_memory.h"
#include "net/vhost_memory.h"
#include "virtio/device.h"

namespace wyvern::devices {

// ioctl(2) on a vhost descriptor, as a table so that tests need no such kernel.
class VhostCalls {
 public:
  virtual ~VhostCalls() = default;
  // 0, or -errno.
  virtual int Call(FdRef fd, unsigned long request, void* argument) = 0;
};

std::unique_ptr<VhostCalls> KernelVhostCalls();

class VhostPair {
 public:
  // Takes possession of the descriptor for this process.
  static Result<std::unique_ptr<VhostPair>> Create(VhostCalls& calls, UniqueFd fd);
  ~VhostPair() = default;
  VhostPair(const VhostPair&) = delete;
  VhostPair& operator=(const VhostPair&) = delete;

  // What the kernel's side can do.
  uint64_t features() const { return features_; }

  // Prepares a ring (0 receive, 1 transmit): no packet moves before Attach. `call` and `error` are
  // eventfds that stay open until Stop.
  Result<> Start(unsigned ring, const virtio::QueueResources& resources, uint64_t features,
                 FdRef call, FdRef error, std::optional<virtio::QueueState> resume);
  // Packets move between ring and tap from now on.
  Result<> Attach(unsigned ring, FdRef tap);
  // When it returns, the kernel no longer touches the ring. Idempotent.
  void Detach(unsigned ring);
  // Detaches; nothing if the ring was not started.
  std::optional<virtio::QueueState> Stop(unsigned ring);

  bool started(unsigned ring) const { return rings_.at(ring).has_value(); }

 private:
  struct Ring {
    std::shared_ptr<const mem::GuestMemory> memory;
    virtio::QueueConfig config;
    FdRef kick{-1};
    uint16_t next_available = 0;
    bool attached = false;
  };

  VhostPair(VhostCalls& calls, UniqueFd fd) : calls_(calls), fd_(std::move(fd)) {}

  Result<> Call(unsigned long request, void* argument, const char* name);
  Result<> SetFile(unsigned long request, unsigned ring, int fd, const char* name);
  Result<> SetMemory(const std::shared_ptr<const mem::GuestMemory>& memory);
  Result<> SetRing(unsigned ring, const virtio::QueueResources& resources, uint16_t base,
                   FdRef call, FdRef error);
  void Release(unsigned ring);

  VhostCalls& calls_;
  const UniqueFd fd_;
  uint64_t features_ = 0;
  VhostMemory table_;
  std::shared_ptr<const mem::GuestMemory> memory_;  // that the kernel has been told
  std::array<std::optional<Ring>, 2> rings_;
};

}  // namespace wyvern::devices
