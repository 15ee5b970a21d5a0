// net/testing/fake_vhost.h — the kernel's side of vhost-net as tests see it: what it was told, and calls
// of it that fail.
// Threads: the device's worker on one side, a test on the other.
#pragma once

// Its ring header is C only, but for this.
#define VIRTIO_RING_NO_LEGACY
#include <fcntl.h>
#include <linux/vhost.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "net/net_abi.h"
#include "net/vhost_pair.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices::testing {

inline constexpr uint64_t kVhostFeatures = virtio::kVersion1 | virtio::kRingFeatures |
                                           kNetMrgRxbuf | uint64_t{1} << 26U | uint64_t{1} << 27U;

// What the kernel has been told, per descriptor and ring.
class FakeVhost final : public VhostCalls {
 public:
  struct Ring {
    uint32_t size = 0;
    uint32_t base = 0;
    vhost_vring_addr address{};
    int kick = -1;
    int call = -1;
    int error = -1;
    int backend = -1;
  };

  int Call(FdRef fd, unsigned long request, void* argument) override {
    const std::lock_guard lock(mu_);
    requests_.push_back(request);
    if (request == failing_ && !LetsGo(request, argument)) {
      return -EIO;
    }
    switch (request) {
      case VHOST_GET_FEATURES:
        *static_cast<uint64_t*>(argument) = offered;
        return 0;
      case VHOST_SET_FEATURES:
        features_ = *static_cast<uint64_t*>(argument);
        return (features_ & ~offered) == 0 ? 0 : -EOPNOTSUPP;
      case VHOST_SET_MEM_TABLE:
        regions_.resize(static_cast<vhost_memory*>(argument)->nregions);
        std::memcpy(regions_.data(), static_cast<const std::byte*>(argument) + sizeof(vhost_memory),
                    regions_.size() * sizeof(vhost_memory_region));
        return 0;
      case VHOST_SET_OWNER:
        return 0;
      case VHOST_SET_VRING_ADDR: {
        const auto* address = static_cast<vhost_vring_addr*>(argument);
        rings_[{fd.get(), address->index}].address = *address;
        return 0;
      }
      case VHOST_SET_VRING_NUM:
      case VHOST_SET_VRING_BASE:
      case VHOST_GET_VRING_BASE:
        return State(fd, request, static_cast<vhost_vring_state*>(argument));
      default:
        return File(fd, request, *static_cast<vhost_vring_file*>(argument));
    }
  }

  void FailAt(unsigned long request) {
    const std::lock_guard lock(mu_);
    failing_ = request;
  }

  std::vector<unsigned long> TakeRequests() {
    const std::lock_guard lock(mu_);
    return std::exchange(requests_, {});
  }

  Ring ring(int fd, unsigned index) {
    const std::lock_guard lock(mu_);
    return rings_[{fd, index}];
  }

  void SetBase(int fd, unsigned index, uint32_t base) {
    const std::lock_guard lock(mu_);
    rings_[{fd, index}].base = base;
  }

  // As the kernel does it: used buffers, or a ring that it gave up.
  void Signal(int fd, unsigned index, bool error) {
    const std::lock_guard lock(mu_);
    const UniqueFd& file = signals_[{fd, index}][error ? 1 : 0];
    const uint64_t one = 1;
    if (file.valid()) {
      static_cast<void>(write(file.get(), &one, sizeof(one)));
    }
  }

  bool AnyAttached() {
    const std::lock_guard lock(mu_);
    return std::ranges::any_of(rings_, [](const auto& e) { return e.second.backend >= 0; });
  }

  uint64_t features() const { return features_; }

  const std::vector<vhost_memory_region>& regions() const { return regions_; }

  // What the kernel can read at a guest address, by the table that it has.
  std::optional<int64_t> Read(mem::Gpa at) const {
    for (const vhost_memory_region& region : regions_) {
      const uint64_t offset = mem::Raw(at) - region.guest_phys_addr;
      if (mem::Raw(at) >= region.guest_phys_addr && offset < region.memory_size) {
        // By a call, as the kernel does: what is not there is an error and no signal.
        const UniqueFd out = *MakeMemfd("read", 0);
        int64_t value = 0;
        const auto* from = reinterpret_cast<const void*>(region.userspace_addr + offset);
        if (write(out.get(), from, sizeof(value)) != sizeof(value) ||
            pread(out.get(), &value, sizeof(value), 0) != sizeof(value)) {
          return std::nullopt;
        }
        return value;
      }
    }
    return std::nullopt;
  }

  uint64_t offered = kVhostFeatures;

 private:
  // What only gives back does not fail.
  static bool LetsGo(unsigned long request, const void* argument) {
    const bool file = request == VHOST_SET_VRING_KICK || request == VHOST_SET_VRING_CALL ||
                      request == VHOST_SET_VRING_ERR || request == VHOST_NET_SET_BACKEND;
    return file && static_cast<const vhost_vring_file*>(argument)->fd == VHOST_FILE_UNBIND;
  }

  int State(FdRef fd, unsigned long request, vhost_vring_state* state) {
    Ring& ring = rings_[{fd.get(), state->index}];
    if (request == VHOST_GET_VRING_BASE) {
      state->num = ring.base;
      return 0;
    }
    if (ring.backend >= 0) {
      return -EBUSY;
    }
    (request == VHOST_SET_VRING_NUM ? ring.size : ring.base) = state->num;
    return 0;
  }

  int File(FdRef fd, unsigned long request, const vhost_vring_file& file) {
    Ring& ring = rings_[{fd.get(), file.index}];
    switch (request) {
      case VHOST_SET_VRING_KICK:
        ring.kick = file.fd;
        return 0;
      case VHOST_SET_VRING_CALL:
        ring.call = file.fd;
        Keep(fd, file, false);
        return 0;
      case VHOST_SET_VRING_ERR:
        ring.error = file.fd;
        Keep(fd, file, true);
        return 0;
      case VHOST_NET_SET_BACKEND:
        ring.backend = file.fd;
        return 0;
      default:
        return -ENOTTY;
    }
  }

  // The kernel keeps the file, whatever becomes of its number.
  void Keep(FdRef fd, const vhost_vring_file& file, bool error) {
    // None, of none: the descriptor is invalid then, too.
    signals_[{fd.get(), file.index}][error ? 1 : 0] = UniqueFd(fcntl(file.fd, F_DUPFD_CLOEXEC, 0));
  }

  std::mutex mu_;
  unsigned long failing_ = 0;
  std::vector<unsigned long> requests_;
  std::map<std::pair<int, unsigned>, Ring> rings_;
  std::map<std::pair<int, unsigned>, std::array<UniqueFd, 2>> signals_;
  uint64_t features_ = 0;
  std::vector<vhost_memory_region> regions_;
};

}  // namespace wyvern::devices::testing
