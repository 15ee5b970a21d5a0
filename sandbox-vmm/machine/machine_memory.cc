// Machine's memory: RAM, read-only slots, memory that is plugged and unplugged.
#include <fcntl.h>
#include <sys/mman.h>

#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "machine/machine.h"
#include "virtio/feature_bits.h"

namespace wyvern::machine {

namespace {

constexpr uint64_t kHugePage = 2ULL << 20U;
constexpr uint64_t kPage = 4096;
// Memslots below are those of the start; a chunk's is this and its number.
constexpr uint32_t kFirstChunkSlot = 256;

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// RAM that a back-end process maps too. Sealed: the back-end must not be able to shrink it under us.
Result<UniqueFd> MakeSharedRam(uint64_t size) {
  WV_TRY(UniqueFd ram, MakeMemfd("wyvern-ram", size, MFD_ALLOW_SEALING));
  if (::fcntl(ram.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
    return SysError("sealing guest memory");
  }
  return ram;
}

}  // namespace

// Chunks of the hot-plug window as memslots and regions, for the worker of a virtio-mem device.
class Machine::PluggedChunks final : public devices::MemorySlots {
 public:
  PluggedChunks(Machine& machine, uint64_t chunk) : machine_(machine), chunk_(chunk) {}

  Result<> Map(devices::MemoryRange chunks) override {
    const std::lock_guard lock(machine_.memory_mu_);
    auto memory = machine_.memory_;
    for (uint64_t at = Begin(chunks); at < End(chunks); at += chunk_) {
      mem::RegionSpec region;
      region.start = mem::Gpa{at};
      region.size = chunk_;
      WV_TRY(region.fd, machine_.hotplug_file_.Duplicate());
      region.fd_offset = at - machine_.plan_.hotplug.start;
      region.guest_ram = true;
      WV_TRY(auto longer, memory->WithRegion(std::move(region)));
      memory = std::move(longer);
    }
    if (auto set = SetSlots(*memory, chunks); !set) {
      return set;
    }
    return machine_.UseMemory(std::move(memory));
  }

  Result<> Unmap(devices::MemoryRange chunks) override {
    const std::lock_guard lock(machine_.memory_mu_);
    auto memory = machine_.memory_;
    for (uint64_t at = Begin(chunks); at < End(chunks); at += chunk_) {
      WV_TRY(auto shorter, memory->WithoutRegion(mem::Gpa{at}));
      memory = std::move(shorter);
    }
    // The mappings must outlive their memslots.
    const auto before = machine_.memory_;
    WV_TRY_VOID(machine_.UseMemory(std::move(memory)));
    for (uint64_t at = Begin(chunks); at < End(chunks); at += chunk_) {
      if (auto removed = machine_.vm_.RemoveMemslot(Slot(at)); !removed) {
        WV_CHECK(SetSlots(*before, {chunks.start, at - Begin(chunks)}).has_value());
        WV_TRY_VOID(machine_.UseMemory(before));
        return removed;
      }
    }
    return {};
  }

  Result<> Free(devices::MemoryRange range) override {
    const auto offset = static_cast<off_t>(Begin(range) - machine_.plan_.hotplug.start);
    if (::fallocate(machine_.hotplug_file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    offset, static_cast<off_t>(range.size)) != 0) {
      return SysError("fallocate(PUNCH_HOLE) of unplugged memory");
    }
    return {};
  }

 private:
  static uint64_t Begin(devices::MemoryRange range) { return mem::Raw(range.start); }

  static uint64_t End(devices::MemoryRange range) { return Begin(range) + range.size; }

  uint32_t Slot(uint64_t address) const {
    return kFirstChunkSlot +
           static_cast<uint32_t>((address - machine_.plan_.hotplug.start) / chunk_);
  }

  // All of them or none.
  Result<> SetSlots(const mem::GuestMemory& memory, devices::MemoryRange chunks) {
    for (const mem::RegionInfo& region : memory.regions()) {
      const uint64_t at = mem::Raw(region.start);
      if (at < Begin(chunks) || at >= End(chunks)) {
        continue;
      }
      if (auto set = machine_.vm_.SetMemslot(Slot(at), region); !set) {
        for (uint64_t made = Begin(chunks); made < at; made += chunk_) {
          WV_CHECK(machine_.vm_.RemoveMemslot(Slot(made)).has_value());
        }
        return set;
      }
    }
    return {};
  }

  Machine& machine_;
  const uint64_t chunk_;
};

Result<std::unique_ptr<devices::MemorySlots>> Machine::MakeMemorySlots(uint64_t chunk) {
  const std::lock_guard lock(memory_mu_);
  const uint64_t size = plan_.hotplug.size;
  if (size == 0 || chunk == 0 || chunk % kHugePage != 0 || size % chunk != 0) {
    return Fail(Code::kInvalidArgument, fmt::format("{} MiB in chunks of {} MiB cannot be plugged",
                                                    size >> 20U, chunk >> 20U));
  }
  if (hotplug_file_.valid()) {
    return Fail(Code::kFailedPrecondition, "the machine has one device that plugs memory");
  }
  const auto memslots = static_cast<uint64_t>(vm_.memslots());
  if (size / chunk + kFirstChunkSlot > memslots) {
    return Fail(Code::kResourceExhausted,
                fmt::format("{} chunks of memory to plug: KVM has {} memslots here", size / chunk,
                            memslots));
  }
  WV_TRY(hotplug_file_, MakeSharedRam(size));
  return std::make_unique<PluggedChunks>(*this, chunk);
}

Result<> Machine::MakeMemory() {
  UniqueFd shared;
  if (config_.shared_memory) {
    WV_TRY(shared, MakeSharedRam(config_.memory));
  }
  std::vector<mem::RegionSpec> regions;
  uint64_t offset = 0;
  for (const arch::AddressRange& range : plan_.ram) {
    mem::RegionSpec region;
    region.start = mem::Gpa{range.start};
    region.size = range.size;
    region.guest_ram = true;
    if (shared.valid()) {
      WV_TRY(region.fd, shared.Duplicate());
      region.fd_offset = offset;
    }
    offset += range.size;
    regions.push_back(std::move(region));
  }
  WV_TRY_CONTEXT(memory_, mem::GuestMemory::Create(std::move(regions)), "guest memory");
  return AddMemslots(memory_->regions());
}

Result<> Machine::AddMemslots(std::span<const mem::RegionInfo> regions) {
  for (const mem::RegionInfo& region : regions) {
    WV_TRY_VOID(vm_.SetMemslot(next_slot_, region));
    ++next_slot_;
  }
  return {};
}

Result<> Machine::PublishMemory(mem::RegionSpec region) {
  const mem::Gpa start = region.start;
  WV_TRY(auto memory, memory_->WithRegion(std::move(region)));
  for (const mem::RegionInfo& info : memory->regions()) {
    if (info.start == start) {
      WV_TRY_VOID(AddMemslots(std::span(&info, 1)));
    }
  }
  return UseMemory(std::move(memory));
}

Result<> Machine::UseMemory(std::shared_ptr<const mem::GuestMemory> memory) {
  memory_ = std::move(memory);
  for (const auto& [slot, transport] : devices_) {
    transport::TransportCore& core = transport->core();
    if (core.traits().device_id == virtio::kDeviceMem) {
      continue;  // it asks for this; its rings are not in what is plugged
    }
    core.Pause();
    core.SetMemory(memory_);
    if (auto resumed = core.Resume(); !resumed) {
      // The device has said NEEDS_RESET: the driver starts it anew.
      WV_WARN("{}: {}", core.traits().name, resumed.error().DebugString());
    }
  }
  return {};
}

Result<arch::AddressRange> Machine::MapReadOnlySlot(UniqueFd file, uint64_t size) {
  const std::lock_guard lock(memory_mu_);
  WV_TRY_CONTEXT(const auto st, Fstat(file), "image");
  if (size == 0 || st.st_size < 0 || size > static_cast<uint64_t>(st.st_size)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("image: {} bytes asked for, the file has {}", size, st.st_size));
  }
  const uint64_t window_left = plan_.pmem.end() - next_pmem_;
  if (size > window_left || AlignUp(size, kHugePage) > window_left) {
    return Fail(Code::kResourceExhausted,
                fmt::format("image: {} bytes do not fit in the {} MiB left of the guest's "
                            "persistent memory window",
                            size, window_left >> 20U));
  }
  const arch::AddressRange range{.start = next_pmem_, .size = AlignUp(size, kHugePage)};
  const uint64_t from_file = AlignUp(size, kPage);
  mem::RegionSpec image;
  image.start = mem::Gpa{range.start};
  image.size = from_file;
  image.fd = std::move(file);
  image.read_only = true;
  WV_TRY_VOID_CONTEXT(PublishMemory(std::move(image)), "image");
  if (from_file < range.size) {
    mem::RegionSpec padding;
    padding.start = mem::Gpa{range.start + from_file};
    padding.size = range.size - from_file;
    padding.read_only = true;
    WV_TRY_VOID_CONTEXT(PublishMemory(std::move(padding)), "image");
  }
  next_pmem_ = range.end();
  return range;
}

}  // namespace wyvern::machine
