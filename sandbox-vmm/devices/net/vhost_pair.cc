#include "net/vhost_pair.h"

// Its ring header is C only, but for this.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "base/log.h"
#include "virtio/feature_bits.h"
#include "virtio/split_ring_core.h"

namespace wyvern::devices {

namespace {

class KernelCalls final : public VhostCalls {
 public:
  int Call(FdRef fd, unsigned long request, void* argument) override {
    return ioctl(fd.get(), request, argument) < 0 ? -errno : 0;
  }
};

// struct vhost_memory with room for its regions.
struct MemoryTable {
  uint32_t count = 0;
  uint32_t padding = 0;
  std::array<vhost_memory_region, VhostMemory::kMaxRegions> regions{};
};

static_assert(offsetof(MemoryTable, regions) == sizeof(vhost_memory));

// The host's address of [at, at + length), which must lie in one region.
Result<uint64_t> HostAddress(const mem::GuestMemory& memory, mem::Gpa at, uint64_t length) {
  for (const mem::RegionInfo& region : memory.regions()) {
    const uint64_t start = mem::Raw(region.start);
    if (mem::Raw(at) < start || mem::Raw(at) - start >= region.size) {
      continue;
    }
    const uint64_t offset = mem::Raw(at) - start;
    if (length <= region.size - offset) {
      return region.host_address + offset;
    }
  }
  return Fail(Code::kInvalidArgument, "a ring outside of memory");
}

}  // namespace

std::unique_ptr<VhostCalls> KernelVhostCalls() {
  return std::make_unique<KernelCalls>();
}

Result<std::unique_ptr<VhostPair>> VhostPair::Create(VhostCalls& calls, UniqueFd fd) {
  std::unique_ptr<VhostPair> pair(new VhostPair(calls, std::move(fd)));
  WV_TRY_VOID(pair->Call(VHOST_SET_OWNER, nullptr, "ioctl(VHOST_SET_OWNER)"));
  WV_TRY_VOID(pair->Call(VHOST_GET_FEATURES, &pair->features_, "ioctl(VHOST_GET_FEATURES)"));
  return pair;
}

Result<> VhostPair::Call(unsigned long request, void* argument, const char* name) {
  const int result = calls_.Call(fd_, request, argument);
  if (result < 0) {
    return SysErrorFrom(-result, name);
  }
  return {};
}

Result<> VhostPair::SetFile(unsigned long request, unsigned ring, int fd, const char* name) {
  vhost_vring_file file{.index = ring, .fd = fd};
  return Call(request, &file, name);
}

Result<> VhostPair::SetMemory(const std::shared_ptr<const mem::GuestMemory>& memory) {
  if (memory == memory_) {
    return {};
  }
  WV_TRY(const std::vector<VhostRegion> regions, table_.Update(*memory));
  MemoryTable table;
  table.count = static_cast<uint32_t>(regions.size());
  for (size_t i = 0; i < regions.size(); ++i) {
    table.regions[i].guest_phys_addr = regions[i].guest_address;
    table.regions[i].memory_size = regions[i].size;
    table.regions[i].userspace_addr = regions[i].host_address;
  }
  WV_TRY_VOID(Call(VHOST_SET_MEM_TABLE, &table, "ioctl(VHOST_SET_MEM_TABLE)"));
  memory_ = memory;
  return {};
}

Result<> VhostPair::SetRing(unsigned ring, const virtio::QueueResources& resources, uint16_t base,
                            FdRef call, FdRef error) {
  const virtio::QueueConfig& config = resources.config;
  if (!wv_ring_size_valid(config.size)) {
    return Fail(Code::kInvalidArgument, "bad queue size");
  }
  const mem::GuestMemory& memory = *resources.memory;
  vhost_vring_addr address{};
  address.index = ring;
  WV_TRY(address.desc_user_addr,
         HostAddress(memory, config.descriptor_area, wv_ring_descriptor_bytes(config.size)));
  WV_TRY(address.avail_user_addr,
         HostAddress(memory, config.driver_area, wv_ring_driver_bytes(config.size)));
  WV_TRY(address.used_user_addr,
         HostAddress(memory, config.device_area, wv_ring_device_bytes(config.size)));
  vhost_vring_state state{.index = ring, .num = config.size};
  WV_TRY_VOID(Call(VHOST_SET_VRING_NUM, &state, "ioctl(VHOST_SET_VRING_NUM)"));
  state.num = base;
  WV_TRY_VOID(Call(VHOST_SET_VRING_BASE, &state, "ioctl(VHOST_SET_VRING_BASE)"));
  WV_TRY_VOID(Call(VHOST_SET_VRING_ADDR, &address, "ioctl(VHOST_SET_VRING_ADDR)"));
  WV_TRY_VOID(SetFile(VHOST_SET_VRING_CALL, ring, call.get(), "ioctl(VHOST_SET_VRING_CALL)"));
  WV_TRY_VOID(SetFile(VHOST_SET_VRING_ERR, ring, error.get(), "ioctl(VHOST_SET_VRING_ERR)"));
  return SetFile(VHOST_SET_VRING_KICK, ring, resources.kick.get(), "ioctl(VHOST_SET_VRING_KICK)");
}

Result<> VhostPair::Start(unsigned ring, const virtio::QueueResources& resources, uint64_t features,
                          FdRef call, FdRef error, std::optional<virtio::QueueState> resume) {
  uint64_t wanted = features & features_;
  WV_TRY_VOID(Call(VHOST_SET_FEATURES, &wanted, "ioctl(VHOST_SET_FEATURES)"));
  WV_TRY_VOID(SetMemory(resources.memory));
  const uint16_t base = resume ? resume->next_available : uint16_t{0};
  if (auto set = SetRing(ring, resources, base, call, error); !set) {
    Release(ring);
    return set;
  }
  rings_.at(ring) = Ring{.memory = resources.memory,
                         .config = resources.config,
                         .kick = resources.kick,
                         .next_available = base,
                         .attached = false};
  return {};
}

Result<> VhostPair::Attach(unsigned ring, FdRef tap) {
  std::optional<Ring>& state = rings_.at(ring);
  if (!state || state->attached) {
    return {};
  }
  WV_TRY_VOID(SetFile(VHOST_NET_SET_BACKEND, ring, tap.get(), "ioctl(VHOST_NET_SET_BACKEND)"));
  state->attached = true;
  // A notification that came while there was no backend is lost: the kernel must look once more.
  const uint64_t one = 1;
  (void)!write(state->kick.get(), &one, sizeof(one));
  return {};
}

void VhostPair::Detach(unsigned ring) {
  std::optional<Ring>& state = rings_.at(ring);
  if (!state || !state->attached) {
    return;
  }
  state->attached = false;
  if (auto done =
          SetFile(VHOST_NET_SET_BACKEND, ring, VHOST_FILE_UNBIND, "ioctl(VHOST_NET_SET_BACKEND)");
      !done) {
    WV_WARN_LIMITED("vhost-net: {}", done.error().message());
  }
}

std::optional<virtio::QueueState> VhostPair::Stop(unsigned ring) {
  Detach(ring);
  std::optional<Ring>& slot = rings_.at(ring);
  if (!slot.has_value()) {
    return std::nullopt;
  }
  const Ring state = *slot;
  slot.reset();
  vhost_vring_state base{.index = ring, .num = state.next_available};
  if (auto got = Call(VHOST_GET_VRING_BASE, &base, "ioctl(VHOST_GET_VRING_BASE)"); !got) {
    WV_WARN_LIMITED("vhost-net: {}", got.error().message());
  }
  Release(ring);
  const auto used = virtio::Queue::UsedIndexInRing(*state.memory, state.config);
  return virtio::QueueState{.next_available = static_cast<uint16_t>(base.num),
                            .next_used = used ? *used : static_cast<uint16_t>(base.num)};
}

// The eventfds are the transport's, and may be closed after this.
void VhostPair::Release(unsigned ring) {
  (void)SetFile(VHOST_SET_VRING_KICK, ring, VHOST_FILE_UNBIND, "ioctl(VHOST_SET_VRING_KICK)");
  (void)SetFile(VHOST_SET_VRING_CALL, ring, VHOST_FILE_UNBIND, "ioctl(VHOST_SET_VRING_CALL)");
  (void)SetFile(VHOST_SET_VRING_ERR, ring, VHOST_FILE_UNBIND, "ioctl(VHOST_SET_VRING_ERR)");
}

}  // namespace wyvern::devices
