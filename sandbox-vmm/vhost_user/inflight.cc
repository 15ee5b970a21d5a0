#include "vhost_user/inflight.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "virtio/split_ring_core.h"

namespace wyvern::vhost_user {

namespace {

// QueueRegionSplit
constexpr uint64_t kVersionAt = 8;
constexpr uint64_t kDescNumAt = 10;
constexpr uint64_t kLastBatchHeadAt = 12;
constexpr uint64_t kUsedIdxAt = 14;
constexpr uint64_t kDescAt = 16;
// DescStateSplit
constexpr uint64_t kDescStateSize = 16;
constexpr uint64_t kInflightAt = 0;
constexpr uint64_t kNextAt = 6;
constexpr uint64_t kCounterAt = 8;

constexpr uint16_t kRegionVersion = 1;
constexpr uint64_t kRegionAlign = 64;
constexpr uint64_t kInflightPage = 4096;

uint64_t RegionSize(uint16_t queue_size) {
  const uint64_t bytes = kDescAt + kDescStateSize * queue_size;
  return (bytes + kRegionAlign - 1) / kRegionAlign * kRegionAlign;
}

uint64_t DescState(uint16_t head) {
  return kDescAt + kDescStateSize * head;
}

Result<> CheckShape(uint16_t queues, uint16_t queue_size, uint16_t max_queues) {
  if (queues == 0 || queues > max_queues || !wv_ring_size_valid(queue_size)) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("in-flight memory for {} queues of {} descriptors", queues, queue_size));
  }
  return {};
}

}  // namespace

template <typename T>
T InflightRing::Load(uint64_t at) const {
  WV_CHECK(mapping_->Contains(offset_ + at, sizeof(T)));
  return std::atomic_ref<T>(*reinterpret_cast<T*>(mapping_->data() + offset_ + at))
      .load(std::memory_order_acquire);
}

// Release: whoever reads after our end sees the stores in the order of the program.
template <typename T>
void InflightRing::Store(uint64_t at, T value) {
  WV_CHECK(mapping_->Contains(offset_ + at, sizeof(T)));
  std::atomic_ref<T>(*reinterpret_cast<T*>(mapping_->data() + offset_ + at))
      .store(value, std::memory_order_release);
}

Result<InflightRing::Recovered> InflightRing::Recover(uint16_t used, uint16_t ring_size) {
  if (ring_size > descriptors_) {
    return Fail(Code::kInvalidArgument,
                fmt::format("a ring of {} descriptors with in-flight memory for {}", ring_size,
                            descriptors_));
  }
  const auto version = Load<uint16_t>(kVersionAt);
  if (version == 0) {
    Store(kDescNumAt, descriptors_);
    Store(kUsedIdxAt, used);
    Store(kVersionAt, kRegionVersion);
    return Recovered();
  }
  if (version != kRegionVersion || Load<uint16_t>(kDescNumAt) != descriptors_) {
    return Fail(Code::kInvalidArgument, "in-flight memory of another version or size");
  }
  // Given back in the ring, but the end came before AfterUsed.
  const uint16_t batch = wv_ring_distance(used, Load<uint16_t>(kUsedIdxAt));
  if (batch > ring_size) {
    // The driver has made a new ring (a boot loader's, then the kernel's), and the front-end gives
    // the memory of the old one again. Its heads mean nothing in the new.
    Forget(used);
    return Recovered();
  }
  auto head = Load<uint16_t>(kLastBatchHeadAt);
  for (uint16_t i = 0; i < batch; ++i) {
    if (head >= ring_size) {
      return Fail(Code::kInvalidArgument, "in-flight memory with a head outside the ring");
    }
    Store(DescState(head) + kInflightAt, uint8_t{0});
    head = Load<uint16_t>(DescState(head) + kNextAt);
  }
  Store(kUsedIdxAt, used);
  std::vector<std::pair<uint64_t, uint16_t>> taken;
  for (uint32_t i = 0; i < ring_size; ++i) {
    const auto at = DescState(static_cast<uint16_t>(i));
    if (Load<uint8_t>(at + kInflightAt) != 0) {
      taken.emplace_back(Load<uint64_t>(at + kCounterAt), static_cast<uint16_t>(i));
    }
  }
  std::ranges::sort(taken);
  Recovered recovered;
  recovered.fresh = false;
  for (const auto& [counter, taken_head] : taken) {
    recovered.heads.push_back(taken_head);
    counter_ = counter + 1;
  }
  return recovered;
}

void InflightRing::Forget(uint16_t used) {
  for (uint32_t i = 0; i < descriptors_; ++i) {
    Store(DescState(static_cast<uint16_t>(i)) + kInflightAt, uint8_t{0});
  }
  Store(kUsedIdxAt, used);
}

void InflightRing::Taken(uint16_t head) {
  Store(DescState(head) + kCounterAt, counter_++);
  Store(DescState(head) + kInflightAt, uint8_t{1});
}

void InflightRing::Undone(uint16_t head) {
  Store(DescState(head) + kInflightAt, uint8_t{0});
}

// Batches of one: the list has one entry that matters.
void InflightRing::BeforeUsed(uint16_t head) {
  Store(DescState(head) + kNextAt, Load<uint16_t>(kLastBatchHeadAt));
  Store(kLastBatchHeadAt, head);
}

void InflightRing::AfterUsed(uint16_t head, uint16_t used) {
  Store(DescState(head) + kInflightAt, uint8_t{0});
  Store(kUsedIdxAt, used);
}

Result<InflightRegion::Created> InflightRegion::Create(uint16_t queues, uint16_t queue_size,
                                                       uint16_t max_queues) {
  WV_TRY_VOID(CheckShape(queues, queue_size, max_queues));
  const uint64_t size = queues * RegionSize(queue_size);
  Created created;
  created.area = {size, 0, queues, queue_size, 0};
  WV_TRY(created.fd, MakeMemfd("inflight", size, MFD_ALLOW_SEALING));
  if (::fcntl(created.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return SysError("fcntl(F_ADD_SEALS) of in-flight memory");
  }
  WV_TRY(UniqueFd own, created.fd.Duplicate());
  WV_TRY(created.region, Map(std::move(own), created.area, max_queues));
  return created;
}

Result<std::unique_ptr<InflightRegion>> InflightRegion::Map(UniqueFd fd, const InflightArea& area,
                                                            uint16_t max_queues) {
  WV_TRY_VOID(CheckShape(area.queues, area.queue_size, max_queues));
  WV_TRY(const auto st, Fstat(fd));
  const auto file = static_cast<uint64_t>(std::max<off_t>(st.st_size, 0));
  const uint64_t needed = area.queues * RegionSize(area.queue_size);
  if (area.mmap_size < needed || area.mmap_size > file ||
      area.mmap_offset > file - area.mmap_size || area.mmap_offset % kRegionAlign != 0) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("in-flight memory of {} bytes at {} in a file of {}, where {} are needed",
                    area.mmap_size, area.mmap_offset, file, needed));
  }
  const uint64_t skip = area.mmap_offset % kInflightPage;
  WV_TRY(Mapping mapping, Mapping::Create(needed + skip, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                          static_cast<off_t>(area.mmap_offset - skip)));
  return std::unique_ptr<InflightRegion>(
      new InflightRegion(std::move(mapping), skip, area.queues, area.queue_size));
}

std::unique_ptr<InflightRing> InflightRegion::ring(uint16_t index) const {
  if (index >= queues_) {
    return nullptr;
  }
  return std::make_unique<InflightRing>(mapping_, skip_ + index * RegionSize(queue_size_),
                                        queue_size_);
}

}  // namespace wyvern::vhost_user
