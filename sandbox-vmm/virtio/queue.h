// virtio/queue.h — device side of a virtqueue, split now, packed behind the same interface later.
// Spec:    VIRTIO 1.3 §2.7 (split virtqueues), §2.7.5.3 (indirect), §2.7.7/§2.7.8 (suppression,
//          EVENT_IDX).
// Units:   lengths in bytes; addresses are Gpa; ring indices are free-running uint16_t.
// Errors:  ChainFault for what the driver wrote; the queue is broken from then on (Pop keeps
//          failing) until it is stopped.
// Threads: one consumer thread owns a Queue.
// Trust:   ring memory is guest-controlled and changes at any time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "mem/guest_memory.h"

namespace wyvern::virtio {

// What a transport tells about a queue (split: descriptor, available, used areas).
struct QueueConfig {
  uint16_t size = 0;  // 1..32768, a power of two for split
  mem::Gpa descriptor_area{};
  mem::Gpa driver_area{};
  mem::Gpa device_area{};
};

// What survives a stop: vhost-user's GET_VRING_BASE and snapshots need just that.
struct QueueState {
  uint16_t next_available = 0;  // next index to take from the available ring
  uint16_t next_used = 0;       // next index to write in the used ring
};

enum class ChainFault : uint8_t {
  kRingAddress = 1,  // an area outside memory or misaligned
  kRingSize = 2,
  kAvailIndexJump = 3,   // more entries than the queue's size became available
  kDescriptorIndex = 4,  // head or next ≥ size
  kLoop = 5,             // more descriptors than the queue's size
  kIndirectNested = 6,
  kIndirectLength = 7,  // zero, or no multiple of 16, or too long
  kIndirectAddress = 8,
  kWritableBeforeReadable = 9,
  kBufferAddress = 10,  // a buffer outside memory
  kTotalLength = 11,    // more than 2^32 - 1 bytes
  kTooShort = 12,       // a device expected more bytes than the chain has
  kIndirectFlags = 13,  // INDIRECT together with NEXT, or not negotiated
  kHeadInFlight = 14,   // the same head again before its chain was given back
  kUnsupported = 15,    // a ring format that this build does not have
};

const char* ChainFaultName(ChainFault fault);

struct Buffer {
  mem::Gpa address{};
  uint32_t length = 0;
};

class Queue;

// What a chain refers to. Queues recycle these, so that popping does not allocate once warm:
// neither the list nor the references.
struct ChainStorage {
  std::shared_ptr<const mem::GuestMemory> memory;
  std::shared_ptr<const std::atomic<bool>> queue_lives;
  std::vector<Buffer> buffers;  // readable first
  size_t readable_count = 0;
  uint32_t readable_length = 0;
  uint32_t writable_length = 0;
  uint16_t head = 0;
  uint16_t available_index = 0;  // where in the available ring it was taken from
};

// One buffer chain: validated once when popped (indices, bounds, order, total length). Move-only;
// must be given back with Queue::Push (aborts when dropped while its queue lives). Readers and
// writers copy; `buffers` are for iovecs of zero-copy I/O.
class Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&& other) noexcept;
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain();

  uint16_t head() const { return storage_->head; }

  std::span<const Buffer> readable() const {
    return std::span(storage_->buffers).first(storage_->readable_count);
  }

  std::span<const Buffer> writable() const {
    return std::span(storage_->buffers).subspan(storage_->readable_count);
  }

  uint32_t readable_length() const { return storage_->readable_length; }

  uint32_t writable_length() const { return storage_->writable_length; }

  // Copies out.size() bytes from `offset` of the device-readable part; kTooShort past its end.
  tl::expected<void, ChainFault> Read(uint32_t offset, std::span<std::byte> out) const;
  // Copies into the device-writable part.
  tl::expected<void, ChainFault> Write(uint32_t offset, std::span<const std::byte> in);

  template <typename T>
  tl::expected<T, ChainFault> ReadAs(uint32_t offset) const {
    T value;
    auto done = Read(offset, std::as_writable_bytes(std::span(&value, 1)));
    if (!done) {
      return tl::unexpected(done.error());
    }
    return value;
  }

  // iovecs of [offset, offset + length) of the readable or writable part, appended to `out`. They
  // stay valid while the chain or its memory lives. After a fault `out` is as it was.
  tl::expected<void, ChainFault> ReadableIovecs(uint32_t offset, uint32_t length,
                                                std::vector<iovec>* out) const;
  tl::expected<void, ChainFault> WritableIovecs(uint32_t offset, uint32_t length,
                                                std::vector<iovec>* out) const;

 private:
  friend class Queue;
  explicit Chain(std::unique_ptr<ChainStorage> storage);
  tl::expected<void, ChainFault> Iovecs(std::span<const Buffer> buffers, uint32_t total,
                                        uint32_t offset, uint32_t length, bool writable,
                                        std::vector<iovec>* out) const;
  void Drop();

  std::unique_ptr<ChainStorage> storage_;  // null: moved from or given back
};

class Queue {
 public:
  // `features`: negotiated (RING_INDIRECT_DESC 28, RING_EVENT_IDX 29, RING_PACKED 34). Validates
  // and maps the three areas.
  static tl::expected<std::unique_ptr<Queue>, ChainFault> Create(
      std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
      std::optional<QueueState> resume);
  // The index in the used area as it stands in memory: where a vhost-user back-end starts, which is
  // told the available index only.
  static tl::expected<uint16_t, ChainFault> UsedIndexInRing(const mem::GuestMemory& memory,
                                                            const QueueConfig& config);
  virtual ~Queue() = default;

  // The next available chain, nothing when there is none. A fault latches.
  virtual tl::expected<std::optional<Chain>, ChainFault> Pop() = 0;
  // Gives the chain back; `written`: bytes written into its device-writable part (from the
  // beginning).
  virtual void Push(Chain chain, uint32_t written) = 0;
  // Undoes the last Pop (the chain will be popped and validated again): for back-pressure.
  virtual void UndoPop(Chain chain) = 0;
  // True if the driver wants an interrupt for what was pushed since the last call (§2.7.7.2,
  // EVENT_IDX or NO_INTERRUPT).
  virtual bool NeedsInterrupt() = 0;
  // Asks the driver not to / to notify. Enable returns true if chains became available meanwhile:
  // the caller must Pop again. A broken queue says false: nothing will come of it.
  virtual void DisableNotification() = 0;
  virtual bool EnableNotification() = 0;
  virtual QueueState state() const = 0;
  virtual uint16_t size() const = 0;

 protected:
  // For implementations: a chain over `storage`, and the way to take the storage back (the chain
  // is then spent).
  static Chain MakeChain(std::unique_ptr<ChainStorage> storage);
  static std::unique_ptr<ChainStorage> Reclaim(Chain chain);
};

}  // namespace wyvern::virtio
