#include "vhost_user/tracked_queue.h"

#include <atomic>

#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "virtio/feature_bits.h"
#include "virtio/split_ring_core.h"

namespace wyvern::vhost_user {

namespace {

using virtio::Chain;
using virtio::ChainFault;
using virtio::Queue;
using virtio::QueueConfig;
using virtio::QueueState;
using MadeQueue = tl::expected<std::unique_ptr<Queue>, ChainFault>;

constexpr uint64_t kAreaFlags = 0;  // VIRTIO §2.7.6, §2.7.8: both areas
constexpr uint64_t kAreaIndex = 2;
constexpr uint64_t kAreaHead = 4;  // flags and index; all of a packed ring's event area
constexpr uint64_t kUsedElement = 8;
constexpr uint64_t kPackedDescriptor = 16;    // VIRTIO §2.8.13
constexpr unsigned kPackedSlotMask = 0x7fff;  // bit 15 is the wrap counter
constexpr uint64_t kAreaPage = 4096;

// A driver area of ours: what is to be taken again, then a copy of the driver's.
class DriverAreaMirror {
 public:
  DriverAreaMirror(mem::MappedArea driver, mem::MappedArea mine, uint16_t size)
      : driver_(std::move(driver)), mine_(std::move(mine)), size_(size) {}

  // `end`: the index behind the last head.
  void Begin(std::span<const uint16_t> heads, uint16_t end) {
    auto index = static_cast<uint16_t>(end - heads.size());
    replay_end_ = end;
    copied_ = end;
    for (const uint16_t head : heads) {
      mine_.Store16(Slot(index++), Wire16(head));
    }
    mine_.StoreRelease16(kAreaIndex, Wire16(end));
  }

  // True while heads are left; then the driver's own follow.
  bool Replaying(uint16_t next_available) const {
    return !replayed_ && next_available != replay_end_;
  }

  uint16_t replay_end() const { return replay_end_; }

  // What the driver has made available since the last call. True if there was something. Not
  // before the heads were taken: it may stand in their place.
  bool Copy() {
    replayed_ = true;
    const uint16_t theirs = Wire16(driver_.LoadAcquire16(kAreaIndex));
    const uint16_t entries = wv_ring_distance(theirs, copied_);
    if (entries == 0) {
      return false;
    }
    // More than fit is no ring: the queue finds that by the index.
    for (uint16_t i = 0; i < entries && entries <= size_; ++i) {
      const uint64_t slot = Slot(static_cast<uint16_t>(copied_ + i));
      mine_.Store16(slot, driver_.Load16(slot));
    }
    copied_ = theirs;
    mine_.StoreRelease16(kAreaIndex, Wire16(theirs));
    return true;
  }

  // The driver's wish for interrupts. The used index is visible before it is read (VIRTIO
  // §2.7.7.2).
  void CopyWish() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    mine_.Store16(kAreaFlags, driver_.Load16(kAreaFlags));
    const uint64_t event = wv_ring_used_event(size_);
    mine_.Store16(event, driver_.Load16(event));
  }

 private:
  static uint16_t Wire16(uint16_t value) {
    return std::endian::native == std::endian::little ? value : ByteSwap(value);
  }

  uint64_t Slot(uint16_t index) const { return wv_ring_driver_slot(wv_ring_slot(index, size_)); }

  mem::MappedArea driver_;
  mem::MappedArea mine_;
  const uint16_t size_;
  uint16_t copied_ = 0;
  uint16_t replay_end_ = 0;
  bool replayed_ = false;
};

class TrackedQueue final : public Queue {
 public:
  TrackedQueue(Tracking tracking, const QueueConfig& config, bool packed,
               std::unique_ptr<Queue> inner, std::optional<DriverAreaMirror> mirror)
      : tracking_(std::move(tracking)),
        config_(config),
        packed_(packed),
        mirror_(std::move(mirror)),
        inner_(std::move(inner)) {}

  tl::expected<std::optional<Chain>, ChainFault> Pop() override {
    if (mirror_ && !mirror_->Replaying(inner_->state().next_available)) {
      mirror_->Copy();
    }
    auto popped = inner_->Pop();
    if (!popped) {
      broken_ = true;
      return popped;
    }
    if (const std::optional<Chain>& chain = *popped; chain && tracking_.inflight != nullptr) {
      tracking_.inflight->Taken(chain->head());
    }
    return popped;
  }

  void Push(Chain chain, uint32_t written) override {
    const uint16_t head = chain.head();
    const uint16_t before = inner_->state().next_used;
    if (tracking_.log != nullptr) {
      // All that the device may write: an error's status byte lies behind data that it does not
      // count as written.
      for (const virtio::Buffer& buffer : chain.writable()) {
        tracking_.log->Mark(mem::Raw(buffer.address), buffer.length);
      }
    }
    if (tracking_.inflight != nullptr) {
      tracking_.inflight->BeforeUsed(head);
    }
    inner_->Push(std::move(chain), written);
    if (tracking_.inflight != nullptr) {
      tracking_.inflight->AfterUsed(head, inner_->state().next_used);
    }
    LogUsed(before, inner_->state().next_used);
    if (tracking_.log != nullptr && tracking_.logged != nullptr) {
      tracking_.logged->Signal();
    }
  }

  // A record of what is in flight goes with the index in the ring, chain by chain: nothing is held then.
  void HoldUsed() override {
    if (tracking_.inflight == nullptr) {
      held_from_ = inner_->state().next_used;
      inner_->HoldUsed();
    }
  }

  void PublishUsed() override {
    if (tracking_.inflight == nullptr) {
      inner_->PublishUsed();
      LogUsed(held_from_, inner_->state().next_used);
    }
  }

  void UndoPop(Chain chain) override {
    if (tracking_.inflight != nullptr) {
      tracking_.inflight->Undone(chain.head());
    }
    inner_->UndoPop(std::move(chain));
  }

  // What the record says is in flight is popped again.
  std::optional<Chain> Adopt(Chain chain) override {
    if (tracking_.inflight != nullptr) {
      return std::nullopt;
    }
    return inner_->Adopt(std::move(chain));
  }

  bool NeedsInterrupt() override {
    if (mirror_) {
      mirror_->CopyWish();
    }
    return inner_->NeedsInterrupt();
  }

  void DisableNotification() override {
    inner_->DisableNotification();
    LogWish();
  }

  bool EnableNotification() override {
    const bool more = inner_->EnableNotification();
    LogWish();
    // The queue looked at our copy; the driver may have gone on since, and has not been told.
    const bool replaying = mirror_ && mirror_->Replaying(inner_->state().next_available);
    const bool copied = mirror_ && !replaying && mirror_->Copy();
    return more || (copied && !broken_);
  }

  QueueState state() const override {
    QueueState state = inner_->state();
    // What is still to be taken again is in the record, not in the ring.
    if (mirror_ && mirror_->Replaying(state.next_available)) {
      state.next_available = mirror_->replay_end();
    }
    return state;
  }

  uint16_t size() const override { return inner_->size(); }

 private:
  // Entries of the ring from one index to the other: none where the queue holds a chain back
  // (IN_ORDER), several where it publishes what it has held.
  void LogUsed(uint16_t before, uint16_t after) {
    if (tracking_.log == nullptr || !tracking_.used_log || before == after) {
      return;
    }
    const uint16_t size = config_.size;
    if (packed_) {
      // Used descriptors are written where the available ones were.
      LogEntries(mem::Raw(config_.descriptor_area), kPackedDescriptor, before & kPackedSlotMask,
                 after & kPackedSlotMask);
      return;
    }
    tracking_.log->Mark(*tracking_.used_log, kAreaHead);
    LogEntries(*tracking_.used_log + kAreaHead, kUsedElement, wv_ring_slot(before, size),
               wv_ring_slot(after, size));
  }

  // [first, end), around the ring's end where `end` is not behind `first`.
  void LogEntries(uint64_t ring, uint64_t entry, uint64_t first, uint64_t end) {
    const uint64_t until = end > first ? end : config_.size;
    tracking_.log->Mark(ring + first * entry, (until - first) * entry);
    if (end <= first) {
      tracking_.log->Mark(ring, end * entry);
    }
  }

  // Flags or event field of the device area.
  void LogWish() {
    if (tracking_.log == nullptr || !tracking_.used_log) {
      return;
    }
    tracking_.log->Mark(*tracking_.used_log, kAreaHead);
    if (!packed_) {
      tracking_.log->Mark(*tracking_.used_log + wv_ring_avail_event(config_.size),
                          sizeof(uint16_t));
    }
  }

  Tracking tracking_;
  const QueueConfig config_;
  const bool packed_;
  bool broken_ = false;
  uint16_t held_from_ = 0;  // next_used at HoldUsed
  std::optional<DriverAreaMirror> mirror_;
  std::unique_ptr<Queue> inner_;
};

class TrackedQueueMaker final : public virtio::QueueMaker {
 public:
  explicit TrackedQueueMaker(Tracking tracking) : tracking_(std::move(tracking)) {}

  MadeQueue Make(std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config,
                 uint64_t features, std::optional<QueueState> resume) override {
    WV_CHECK(!made_);
    made_ = true;
    const bool packed = (features & virtio::kRingPacked) != 0;
    WV_CHECK(!packed || tracking_.inflight == nullptr);
    QueueConfig plain = config;
    plain.maker = nullptr;
    std::optional<DriverAreaMirror> mirror;
    if (!tracking_.resubmit.empty()) {
      WV_CHECK(resume.has_value());
      auto made = MakeMirror(*resume, &memory, &plain);
      if (!made) {
        return tl::unexpected(made.error());
      }
      mirror.emplace(*std::move(made));
      resume->next_available =
          static_cast<uint16_t>(resume->next_available - tracking_.resubmit.size());
    }
    auto inner = Queue::Create(std::move(memory), plain, features, resume);
    if (!inner) {
      return inner;
    }
    return std::make_unique<TrackedQueue>(std::move(tracking_), plain, packed, *std::move(inner),
                                          std::move(mirror));
  }

 private:
  // `memory` gets our driver area, and `config` its address.
  tl::expected<DriverAreaMirror, ChainFault> MakeMirror(
      const QueueState& resume, std::shared_ptr<const mem::GuestMemory>* memory,
      QueueConfig* config) const {
    if (!wv_ring_size_valid(config->size)) {
      return tl::unexpected(ChainFault::kRingSize);
    }
    const uint64_t bytes = wv_ring_driver_bytes(config->size);
    auto driver = (*memory)->Map(config->driver_area, bytes, 2, false);
    if (!driver) {
      return tl::unexpected(ChainFault::kRingAddress);
    }
    const mem::RegionInfo& last = (*memory)->regions().back();
    mem::RegionSpec spec;
    spec.start = mem::Gpa{mem::Raw(last.start) + last.size};
    spec.size = (bytes + kAreaPage - 1) / kAreaPage * kAreaPage;
    const mem::Gpa start = spec.start;
    auto extended = (*memory)->WithRegion(std::move(spec));
    if (!extended) {
      WV_WARN("no place for a ring's in-flight heads: {}", extended.error().message());
      return tl::unexpected(ChainFault::kRingAddress);
    }
    auto mine = (*extended)->Map(start, bytes, 2, true);
    WV_CHECK(mine.has_value());
    *memory = *std::move(extended);
    config->driver_area = start;
    DriverAreaMirror mirror(*std::move(driver), *std::move(mine), config->size);
    mirror.Begin(tracking_.resubmit, resume.next_available);
    return mirror;
  }

  Tracking tracking_;
  bool made_ = false;
};

}  // namespace

std::shared_ptr<virtio::QueueMaker> MakeTracked(Tracking tracking) {
  return std::make_shared<TrackedQueueMaker>(std::move(tracking));
}

}  // namespace wyvern::vhost_user
