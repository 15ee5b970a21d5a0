// virtio_mem/chunked_backing.h — blocks over memslots: a chunk of blocks is mapped while one of its
// blocks is plugged.
// Shape:   a region is split into chunks of a power of two times the block size; KVM has a memslot
//          and GuestMemory a region for each mapped one. With chunks of one block, an unplugged
//          block is out of reach for guest and devices; with larger ones, those beside a plugged
//          block stay mapped, empty, and are charged to the sandbox if the guest touches them.
// Errors:  what cannot be mapped or unmapped is rolled back. Memory that the host does not take
//          back is counted: it is unplugged all the same, and stays charged.
// Threads: those of MemoryBacking; free_failures(): any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "virtio_mem/memory_backing.h"

namespace wyvern::devices {

// The machine's half. Each call is about neighbouring chunks, so that the list of regions is
// published once for all of them.
class MemorySlots {
 public:
  virtual ~MemorySlots() = default;
  // From now on guest and devices reach the chunks. After an error none of them is mapped.
  virtual Result<> Map(MemoryRange chunks) = 0;
  // From now on nobody does. After an error all of them still are.
  virtual Result<> Unmap(MemoryRange chunks) = 0;
  // The memory of `range` goes back to the host, with one call; it may be mapped or not.
  virtual Result<> Free(MemoryRange range) = 0;
};

struct ChunkLayout {
  MemoryRange region;
  uint64_t block_size = 0;
  uint64_t chunk_size = 0;
};

class ChunkedBacking final : public MemoryBacking {
 public:
  // Preconditions: sizes are powers of two, a chunk is whole blocks, the region begins at a multiple
  // of the chunk and is whole blocks.
  ChunkedBacking(const ChunkLayout& layout, std::unique_ptr<MemorySlots> slots);

  Result<> Plug(MemoryRange range) override;
  Result<> Unplug(MemoryRange range) override;
  Result<> UnplugAll() override;

  uint64_t free_failures() const { return free_failures_.load(std::memory_order_relaxed); }

 private:
  struct ChunkRun {
    uint64_t first = 0;
    uint64_t end = 0;
  };

  ChunkRun ChunksOf(MemoryRange range) const;
  MemoryRange RangeOf(ChunkRun run) const;
  // How many bytes of `range` lie in `chunk`.
  uint64_t BytesIn(MemoryRange range, uint64_t chunk) const;
  // Calls `act` for each longest run of chunks in `within` that `wanted` says yes to; undoes what
  // has been done with `undo` when one fails.
  Result<> ForEachRun(ChunkRun within, const std::function<bool(uint64_t chunk)>& wanted,
                      const std::function<Result<>(MemoryRange)>& act,
                      const std::function<Result<>(MemoryRange)>& undo);
  void Free(MemoryRange range);

  const ChunkLayout layout_;
  std::unique_ptr<MemorySlots> slots_;
  std::vector<uint64_t> plugged_;  // bytes, by chunk
  std::atomic<uint64_t> free_failures_{0};
};

}  // namespace wyvern::devices
