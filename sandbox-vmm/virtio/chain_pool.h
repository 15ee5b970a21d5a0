// virtio/chain_pool.h — what a queue of either format keeps about its chains: storages to reuse,
// which ids are in flight, and the order of use with IN_ORDER; private to this component.
// Threads: the queue's.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "virtio/in_order_core.h"
#include "virtio/memory_feed.h"
#include "virtio/queue.h"

namespace wyvern::virtio {

// A set of 16-bit numbers below a bound.
class IdSet {
 public:
  explicit IdSet(size_t bound) : words_((bound + 63) / 64) {}

  bool Has(uint16_t id) const { return (words_[id / 64U] >> (id % 64U) & 1U) != 0; }

  // Adds or removes it.
  void Flip(uint16_t id) { words_[id / 64U] ^= uint64_t{1} << (id % 64U); }

 private:
  std::vector<uint64_t> words_;
};

class ChainPool {
 public:
  // `feed` may be null.
  ChainPool(std::shared_ptr<const mem::GuestMemory> memory, std::shared_ptr<const MemoryFeed> feed)
      : memory_(std::move(memory)),
        feed_(std::move(feed)),
        lives_(std::make_shared<std::atomic<bool>>(true)) {}

  ~ChainPool() { lives_->store(false, std::memory_order_relaxed); }

  ChainPool(const ChainPool&) = delete;
  ChainPool& operator=(const ChainPool&) = delete;

  // That of the storage taken last.
  const mem::GuestMemory& memory() const { return *memory_; }

  // An empty storage, over the memory of now.
  std::unique_ptr<ChainStorage> Take() {
    if (feed_ != nullptr && feed_->version() != seen_) {
      TakeMemory();
    }
    if (spare_.empty()) {
      return New();
    }
    std::unique_ptr<ChainStorage> storage = std::move(spare_.back());
    spare_.pop_back();
    storage->buffers.clear();
    storage->readable_count = 0;
    return storage;
  }

  void Recycle(std::unique_ptr<ChainStorage> storage) {
    if (storage->buffers.capacity() > kLargeChain && spare_.size() >= kLargeSpares) {
      return;
    }
    if (storage->memory != memory_) {
      return;  // popped before it changed
    }
    spare_.push_back(std::move(storage));
  }

  // Of a pool that has ended; one of ours from now on.
  std::unique_ptr<ChainStorage> Adopt(std::unique_ptr<ChainStorage> storage) const {
    WV_CHECK(storage != nullptr && !storage->queue_lives->load(std::memory_order_relaxed));
    storage->memory = memory_;
    storage->queue_lives = lives_;
    return storage;
  }

  // A chain that was given back is one of ours.
  void Check(const ChainStorage* storage) const {
    WV_CHECK(storage != nullptr && storage->queue_lives == lives_);
  }

 private:
  // A storage that grew beyond this is kept only while few are spare: a guest must not make us
  // hoard memory.
  static constexpr size_t kLargeChain = 128;
  static constexpr size_t kLargeSpares = 16;

  void TakeMemory() {
    seen_ = feed_->version();
    memory_ = feed_->memory();
    spare_.clear();
  }

  std::unique_ptr<ChainStorage> New() const {
    auto storage = std::make_unique<ChainStorage>();
    storage->memory = memory_;
    storage->queue_lives = lives_;
    return storage;
  }

  std::shared_ptr<const mem::GuestMemory> memory_;
  const std::shared_ptr<const MemoryFeed> feed_;
  // The feed's version that memory_ is of. From 0: a queue begins with its feed's memory, or (where a
  // maker has added to it) takes that with its first chain.
  uint32_t seen_ = 0;
  std::shared_ptr<std::atomic<bool>> lives_;
  std::vector<std::unique_ptr<ChainStorage>> spare_;
};

// wv_in_order with its memory: allocated once, where IN_ORDER was negotiated.
class UseOrder {
 public:
  UseOrder(uint16_t size, bool in_order) : entries_(in_order ? size : 0) {
    wv_in_order_init(&order_, entries_.data(), size);
  }

  ~UseOrder() = default;
  UseOrder(const UseOrder&) = delete;
  UseOrder& operator=(const UseOrder&) = delete;

  bool kept() const { return !entries_.empty(); }

  void Add(ChainStorage* storage) {
    if (kept()) {
      storage->place = wv_in_order_add(&order_, storage->head, storage->slots);
    }
  }

  void Undo(const ChainStorage& storage) {
    WV_CHECK(!kept() || wv_in_order_undo(&order_, storage.place));
  }

  void Finish(const ChainStorage& storage, uint32_t written) {
    wv_in_order_finish(&order_, storage.place, written, written == storage.writable_length);
  }

  // The next used element to write, if there is one; its chains are in flight no longer.
  bool Next(wv_used_batch* batch, IdSet* in_flight) {
    const wv_in_order before = order_;
    const bool any = wv_in_order_next(&order_, batch);
    for (uint16_t i = 0; i < before.count - order_.count; ++i) {
      in_flight->Flip(entries_[wv_in_order_place(&before, i)].id);
    }
    return any;
  }

 private:
  std::vector<wv_in_order_entry> entries_;
  wv_in_order order_{};
};

}  // namespace wyvern::virtio
