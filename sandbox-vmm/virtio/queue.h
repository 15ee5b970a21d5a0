// virtio/queue.h — device side of a virtqueue, split and packed behind one interface.
// Spec:    VIRTIO 1.4 §2.7 (split virtqueues), §2.8 (packed virtqueues); IN_ORDER §2.7.9, §2.8.8.
// Units:   lengths in bytes; addresses are Gpa.
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

class MemoryFeed;
class QueueMaker;

// What a transport tells about a queue (split: descriptor, available, used areas).
struct QueueConfig {
  uint16_t size = 0;  // 1..32768; a power of two for split (Queue::SizeValid)
  mem::Gpa descriptor_area{};
  mem::Gpa driver_area{};
  mem::Gpa device_area{};
  std::shared_ptr<QueueMaker> maker{};       // who makes it; null: Queue::Create itself
  std::shared_ptr<const MemoryFeed> feed{};  // memory from the next chain on; null: that of Create
};

// What survives a stop: vhost-user's GET_VRING_BASE and snapshots need just that.
// Split: free-running indices. Packed: the slot in bits 0-14 and the wrap counter in bit 15, so a new
// packed queue stands at 0x8000; vhost-user's vring base is next_available | next_used << 16 there, and
// next_available alone for split, whose used index is in the ring.
struct QueueState {
  uint16_t next_available = 0;  // next to take
  uint16_t next_used = 0;       // next to write
};

enum class ChainFault : uint8_t {
  kRingAddress = 1,  // an area outside memory or misaligned
  kRingSize = 2,
  kAvailIndexJump = 3,   // more became available than the queue has
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
  kHeadInFlight = 14,   // the same head or buffer id again before its chain was given back
  kRingState = 15,      // a state to resume from that a queue of this size cannot have
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
  uint16_t head = 0;      // packed: the buffer id
  uint16_t slots = 0;     // packed: descriptors of the ring that it takes
  uint16_t position = 0;  // where in the ring it was taken from
  uint16_t place = 0;     // among the chains in flight (IN_ORDER)
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

  // What names the chain to the driver: the index of its head (split), its buffer id (packed).
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

// With IN_ORDER (bit 35) the driver relies on getting chains back in the order in which they were made
// available. A device may push in any order all the same: what was pushed too early is held back here,
// and published with what it waited for, as one used element where the spec allows it. The alternative,
// a WV_CHECK that order is kept, would put the rule into each device's completion path, where only a
// race would find it broken; here it is stated, and proved, once. What it costs is latency behind the
// slowest chain, so only a device that serves in order anyway should offer the bit.
class Queue {
 public:
  // `features`: negotiated (RING_INDIRECT_DESC 28, RING_EVENT_IDX 29, RING_PACKED 34, IN_ORDER 35).
  // Validates and maps the three areas.
  static tl::expected<std::unique_ptr<Queue>, ChainFault> Create(
      std::shared_ptr<const mem::GuestMemory> memory, const QueueConfig& config, uint64_t features,
      std::optional<QueueState> resume);
  // Where a new queue of that format stands.
  static QueueState StartState(uint64_t features);
  static bool SizeValid(uint32_t size, uint64_t features);
  // Split only: the index in the used area as it stands in memory: where a vhost-user back-end starts,
  // which is told the available index only.
  static tl::expected<uint16_t, ChainFault> UsedIndexInRing(const mem::GuestMemory& memory,
                                                            const QueueConfig& config);
  virtual ~Queue() = default;

  // The next available chain, nothing when there is none. A fault latches.
  virtual tl::expected<std::optional<Chain>, ChainFault> Pop() = 0;
  // Gives the chain back; `written`: bytes written into its device-writable part (from the
  // beginning). Published at once, with IN_ORDER when all before it are.
  virtual void Push(Chain chain, uint32_t written) = 0;

  // What is pushed in between, the driver sees all at once at the second (VIRTIO §5.1.9.4.1: the
  // buffers of one packet). Before NeedsInterrupt.
  virtual void HoldUsed() = 0;
  virtual void PublishUsed() = 0;

  // Undoes the last Pop (the chain will be popped and validated again): for back-pressure.
  virtual void UndoPop(Chain chain) = 0;
  // A chain that was in flight when its queue ended. This one has the same ring, format and size, and
  // resumes where that one stood: the chain is in flight here then, in this queue's memory. Nothing: Pop
  // will give it. Before the first Pop, and not with IN_ORDER. A buffer that the memory has no longer is
  // found when it is used.
  virtual std::optional<Chain> Adopt(Chain chain) = 0;
  // True if the driver wants an interrupt for what was published since the last call (§2.7.7.2,
  // §2.8.10).
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
