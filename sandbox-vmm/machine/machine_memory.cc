// Machine's memory: RAM, read-only images, memory that is plugged and unplugged.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "machine/machine.h"
#include "pmem/image_layout.h"
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

Result<std::vector<uint64_t>> SizesOf(std::span<const UniqueFd> files) {
  std::vector<uint64_t> sizes;
  for (const UniqueFd& file : files) {
    const auto which = [&] {
      return fmt::format("image {} of {}", sizes.size() + 1, files.size());
    };
    WV_TRY_CONTEXT(const auto st, Fstat(file), which());
    if (!S_ISREG(st.st_mode)) {
      return Fail(Code::kInvalidArgument, which() + " is not a regular file");
    }
    sizes.push_back(static_cast<uint64_t>(st.st_size));
  }
  return sizes;
}

// Of each image the pages of its file, then zeros.
std::vector<mem::RegionSpec> ImageRegions(uint64_t start, const devices::ImageLayout& layout,
                                          std::vector<UniqueFd> files) {
  std::vector<mem::RegionSpec> regions;
  for (size_t i = 0; i < files.size(); ++i) {
    const devices::ImagePlace& place = layout.images[i];
    const uint64_t from_file = AlignUp(place.size, kPage);
    mem::RegionSpec& image = regions.emplace_back();
    image.start = mem::Gpa{start + place.offset};
    image.size = from_file;
    image.fd = std::move(files[i]);
    image.read_only = true;
    if (const uint64_t rest = place.size + place.padding - from_file; rest != 0) {
      mem::RegionSpec& zeros = regions.emplace_back();
      zeros.start = mem::Gpa{start + place.offset + from_file};
      zeros.size = rest;
      zeros.read_only = true;
    }
  }
  return regions;
}

unsigned MemfdFlags(mem::RamPages pages) {
  switch (pages) {
    case mem::RamPages::kTransparent:
    case mem::RamPages::kSmall:
      break;
    case mem::RamPages::k2MiB:
      return MFD_HUGETLB | MFD_HUGE_2MB;
    case mem::RamPages::k1GiB:
      return MFD_HUGETLB | MFD_HUGE_1GB;
  }
  return 0;
}

bool IsFixed(mem::RamPages pages) {
  return MemfdFlags(pages) != 0;
}

// RAM that a back-end process maps too. Sealed: the back-end must not be able to shrink it under us.
Result<UniqueFd> MakeSharedRam(uint64_t size, mem::RamPages pages) {
  auto made = MakeMemfd("wyvern-ram", size, MFD_ALLOW_SEALING | MemfdFlags(pages));
  if (!made && IsFixed(pages)) {
    // memfd_create(2), hugetlbfs: ENODEV, or EINVAL before 4.14, for a size that there is no pool of.
    return Fail(
        Code::kFailedPrecondition,
        fmt::format(
            "this host has no huge pages of {} MiB, by its processor, its kernel or its kernel's "
            "command line (hugepagesz=): {}",
            mem::PageBytes(pages) >> 20U, made.error().message()));
  }
  WV_TRY(UniqueFd ram, std::move(made));
  if (::fcntl(ram.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
    return SysError("sealing guest memory");
  }
  return ram;
}

}  // namespace

// Chunks of the hot-plug window as memslots and regions, for the worker of a virtio-mem device.
class Machine::PluggedChunks final : public devices::MemorySlots {
 public:
  PluggedChunks(Machine& machine, uint64_t chunk) : machine_(machine), chunk_(chunk) {
    machine_.plugger_ = true;
  }

  ~PluggedChunks() override {
    if (mapped_ == 0) {
      machine_.plugger_ = false;
    }
  }

  PluggedChunks(const PluggedChunks&) = delete;
  PluggedChunks& operator=(const PluggedChunks&) = delete;

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
      region.pages = machine_.hotplug_pages_;
      WV_TRY(auto longer, memory->WithRegion(std::move(region)));
      memory = std::move(longer);
    }
    WV_TRY_VOID(machine_.CheckMemory(*memory));
    if (auto set = SetSlots(*memory, chunks); !set) {
      return set;
    }
    machine_.UseMemory(std::move(memory), MemoryChange::kGrew);
    mapped_ += chunks.size;
    return {};
  }

  Result<> Unmap(devices::MemoryRange chunks) override {
    const std::lock_guard lock(machine_.memory_mu_);
    auto memory = machine_.memory_;
    for (uint64_t at = Begin(chunks); at < End(chunks); at += chunk_) {
      WV_TRY(auto shorter, memory->WithoutRegion(mem::Gpa{at}));
      memory = std::move(shorter);
    }
    WV_TRY_VOID(machine_.CheckMemory(*memory));  // a hole makes two regions of one
    // The mappings must outlive their memslots.
    const auto before = machine_.memory_;
    machine_.UseMemory(std::move(memory), MemoryChange::kOther);
    for (uint64_t at = Begin(chunks); at < End(chunks); at += chunk_) {
      if (auto removed = machine_.vm_.RemoveMemslot(Slot(at)); !removed) {
        WV_CHECK(SetSlots(*before, {chunks.start, at - Begin(chunks)}).has_value());
        machine_.UseMemory(before, MemoryChange::kGrew);
        return removed;
      }
    }
    mapped_ -= chunks.size;
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
  uint64_t mapped_ = 0;  // bytes
};

Result<std::unique_ptr<devices::MemorySlots>> Machine::MakeMemorySlots(uint64_t chunk) {
  const std::lock_guard lock(memory_mu_);
  const uint64_t size = plan_.hotplug.size;
  if (size == 0 || chunk == 0 || chunk % kHugePage != 0 || size % chunk != 0) {
    return Fail(Code::kInvalidArgument, fmt::format("{} MiB in chunks of {} MiB cannot be plugged",
                                                    size >> 20U, chunk >> 20U));
  }
  if (plugger_) {
    return Fail(Code::kFailedPrecondition,
                "the machine has one device that plugs memory, or has memory that one has plugged");
  }
  const auto memslots = static_cast<uint64_t>(vm_.memslots());
  if (size / chunk + kFirstChunkSlot > memslots) {
    return Fail(Code::kResourceExhausted,
                fmt::format("{} chunks of memory to plug: KVM has {} memslots here", size / chunk,
                            memslots));
  }
  // A chunk that is a part of a page could not be freed alone.
  const bool whole = chunk % mem::PageBytes(config_.ram_pages) == 0;
  hotplug_pages_ = whole ? config_.ram_pages : mem::RamPages::kTransparent;
  WV_TRY(hotplug_file_, MakeSharedRam(size, hotplug_pages_));
  return std::make_unique<PluggedChunks>(*this, chunk);
}

Result<> Machine::MakeMemory() {
  const uint64_t page = mem::PageBytes(config_.ram_pages);
  if (config_.memory % page != 0) {
    return Fail(Code::kInvalidArgument,
                fmt::format("memory size {} MiB: must be whole huge pages of {} MiB",
                            config_.memory >> 20U, page >> 20U));
  }
  UniqueFd shared;
  if (config_.shared_memory || IsFixed(config_.ram_pages)) {
    WV_TRY(shared, MakeSharedRam(config_.memory, config_.ram_pages));
  }
  std::vector<mem::RegionSpec> regions;
  uint64_t offset = 0;
  for (const arch::AddressRange& range : plan_.ram) {
    mem::RegionSpec region;
    region.start = mem::Gpa{range.start};
    region.size = range.size;
    region.guest_ram = true;
    region.pages = config_.ram_pages;
    if (shared.valid()) {
      WV_TRY(region.fd, shared.Duplicate());
      region.fd_offset = offset;
    }
    offset += range.size;
    regions.push_back(std::move(region));
  }
  WV_TRY_CONTEXT(memory_, mem::GuestMemory::Create(std::move(regions)), "guest memory");
  for (const mem::RegionInfo& region : memory_->regions()) {
    WV_TRY_VOID(AddMemslot(region));
  }
  return {};
}

// Numbers from kFirstChunkSlot on are those of memory that can be plugged, wherever that is.
Result<uint32_t> Machine::TakeMemslot() {
  const uint32_t all = static_cast<uint32_t>(vm_.memslots());
  const uint32_t limit = plan_.hotplug.size > 0 ? std::min(all, kFirstChunkSlot) : all;
  if (free_memslots_.empty() && next_memslot_ >= limit) {
    return Fail(Code::kResourceExhausted,
                fmt::format("all {} memslots are in use by images and windows of devices", limit));
  }
  memslots_.fetch_add(1, std::memory_order_relaxed);
  if (free_memslots_.empty()) {
    return next_memslot_++;
  }
  const uint32_t number = free_memslots_.back();
  free_memslots_.pop_back();
  return number;
}

void Machine::GiveMemslot(uint32_t number) {
  memslots_.fetch_sub(1, std::memory_order_relaxed);
  free_memslots_.push_back(number);
}

Result<uint32_t> Machine::AddMemslot(const mem::RegionInfo& region) {
  WV_TRY(const uint32_t number, TakeMemslot());
  if (auto set = vm_.SetMemslot(number, region); !set) {
    GiveMemslot(number);
    return tl::unexpected(std::move(set).error());
  }
  return number;
}

// Rather no more memory than a device that is lost.
Result<> Machine::CheckMemory(const mem::GuestMemory& memory) {
  for (const auto& [slot, transport] : devices_) {
    transport::TransportCore& core = transport->core();
    if (core.traits().device_id != virtio::kDeviceMem && !core.TakesMemory(memory)) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("{} takes no more regions of memory", core.traits().name));
    }
  }
  return {};
}

void Machine::UseMemory(std::shared_ptr<const mem::GuestMemory> memory, MemoryChange change) {
  memory_ = std::move(memory);
  for (const auto& [slot, transport] : devices_) {
    transport::TransportCore& core = transport->core();
    if (core.traits().device_id == virtio::kDeviceMem) {
      core.SetMemory(memory_);  // it asks for this, from the thread that a stop of it waits for
      continue;
    }
    if (change == MemoryChange::kGrew && core.GrowMemory(memory_)) {
      continue;
    }
    if (auto changed = core.ChangeMemory(memory_); !changed) {
      // The device has said NEEDS_RESET: the driver starts it anew.
      WV_WARN("{}: {}", core.traits().name, changed.error().DebugString());
    }
  }
}

// The first gap between images that has room.
Result<uint64_t> Machine::FreeImageRange(uint64_t size) const {
  uint64_t at = plan_.pmem.start;
  for (const auto& [start, images] : images_) {
    if (start - at >= size) {
      return at;
    }
    at = start + images.size;
  }
  if (plan_.pmem.end() - at < size) {
    return Fail(Code::kResourceExhausted,
                fmt::format("no {} MiB in a row are left of the guest's persistent memory window",
                            size >> 20U));
  }
  return at;
}

Result<arch::AddressRange> Machine::MapReadOnlyImages(std::vector<UniqueFd> files) {
  const std::lock_guard lock(memory_mu_);
  WV_TRY(const std::vector<uint64_t> sizes, SizesOf(files));
  uint64_t left = plan_.pmem.size;
  for (const auto& [start, images] : images_) {
    left -= images.size;
  }
  WV_TRY(const devices::ImageLayout layout, devices::LayOutImages(sizes, left));
  WV_TRY(const uint64_t start, FreeImageRange(layout.size));
  const arch::AddressRange range{.start = start, .size = layout.size};
  WV_TRY_CONTEXT(auto memory,
                 memory_->WithAdjacentRegions(ImageRegions(range.start, layout, std::move(files))),
                 "images");
  WV_TRY_VOID_CONTEXT(CheckMemory(*memory), "images");
  // One memslot for all of them.
  for (mem::RegionInfo info : memory->regions()) {
    if (mem::Raw(info.start) == range.start) {
      info.size = range.size;
      WV_TRY_CONTEXT(const uint32_t memslot, AddMemslot(info), "images");
      images_.emplace(range.start, Images{.size = range.size, .memslot = memslot});
    }
  }
  UseMemory(std::move(memory), MemoryChange::kGrew);
  return range;
}

Result<> Machine::UnmapReadOnlyImages(arch::AddressRange range) {
  const std::lock_guard lock(memory_mu_);
  const auto images = images_.find(range.start);
  if (images == images_.end() || images->second.size != range.size) {
    return Fail(Code::kNotFound, "no images are mapped there");
  }
  auto memory = memory_;
  for (const mem::RegionInfo& region : memory_->regions()) {
    if (mem::Raw(region.start) >= range.start && mem::Raw(region.start) < range.end()) {
      WV_TRY(memory, memory->WithoutRegion(region.start));
    }
  }
  const auto before = memory_;  // the mappings must outlive their memslot
  UseMemory(std::move(memory), MemoryChange::kOther);
  if (auto removed = vm_.RemoveMemslot(images->second.memslot); !removed) {
    UseMemory(before, MemoryChange::kGrew);
    return removed;
  }
  GiveMemslot(images->second.memslot);
  images_.erase(images);
  return {};
}

}  // namespace wyvern::machine
