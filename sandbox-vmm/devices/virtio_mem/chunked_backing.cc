#include "virtio_mem/chunked_backing.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::devices {

ChunkedBacking::ChunkedBacking(const ChunkLayout& layout, std::unique_ptr<MemorySlots> slots)
    : layout_(layout), slots_(std::move(slots)) {
  WV_CHECK(std::has_single_bit(layout.block_size) && std::has_single_bit(layout.chunk_size) &&
           layout.chunk_size >= layout.block_size &&
           mem::Raw(layout.region.start) % layout.chunk_size == 0 &&
           layout.region.size % layout.block_size == 0);
  plugged_.resize((layout.region.size + layout.chunk_size - 1) / layout.chunk_size);
}

ChunkedBacking::ChunkRun ChunkedBacking::ChunksOf(MemoryRange range) const {
  const uint64_t offset = mem::Raw(range.start) - mem::Raw(layout_.region.start);
  WV_CHECK(range.size > 0 && range.size <= layout_.region.size &&
           offset <= layout_.region.size - range.size);
  return {.first = offset / layout_.chunk_size,
          .end = (offset + range.size - 1) / layout_.chunk_size + 1};
}

MemoryRange ChunkedBacking::RangeOf(ChunkRun run) const {
  const uint64_t start = run.first * layout_.chunk_size;
  // The last chunk may be a part of one.
  const uint64_t end = std::min(run.end * layout_.chunk_size, layout_.region.size);
  return {.start = mem::Gpa{mem::Raw(layout_.region.start) + start}, .size = end - start};
}

uint64_t ChunkedBacking::BytesIn(MemoryRange range, uint64_t chunk) const {
  const MemoryRange whole = RangeOf({.first = chunk, .end = chunk + 1});
  const uint64_t from = std::max(mem::Raw(range.start), mem::Raw(whole.start));
  const uint64_t to =
      std::min(mem::Raw(range.start) + range.size, mem::Raw(whole.start) + whole.size);
  return to - from;
}

Result<> ChunkedBacking::ForEachRun(ChunkRun within,
                                    const std::function<bool(uint64_t chunk)>& wanted,
                                    const std::function<Result<>(MemoryRange)>& act,
                                    const std::function<Result<>(MemoryRange)>& undo) {
  std::vector<ChunkRun> done;
  for (uint64_t chunk = within.first; chunk < within.end; ++chunk) {
    if (!wanted(chunk)) {
      continue;
    }
    ChunkRun run{.first = chunk, .end = chunk + 1};
    while (run.end < within.end && wanted(run.end)) {
      ++run.end;
    }
    chunk = run.end;  // which is not wanted
    if (auto acted = act(RangeOf(run)); !acted) {
      for (const ChunkRun& back : done) {
        if (auto undone = undo(RangeOf(back)); !undone) {
          WV_ERROR("virtio-mem: roll-back of {:#x}+{:#x}: {}", mem::Raw(RangeOf(back).start),
                   RangeOf(back).size, undone.error().message());
        }
      }
      return acted;
    }
    done.push_back(run);
  }
  return {};
}

Result<> ChunkedBacking::Plug(MemoryRange range) {
  const ChunkRun chunks = ChunksOf(range);
  WV_TRY_VOID(ForEachRun(
      chunks, [this](uint64_t chunk) { return plugged_[chunk] == 0; },
      [this](MemoryRange run) { return slots_->Map(run); },
      [this](MemoryRange run) { return slots_->Unmap(run); }));
  for (uint64_t chunk = chunks.first; chunk < chunks.end; ++chunk) {
    plugged_[chunk] += BytesIn(range, chunk);
  }
  return {};
}

// Out of reach first, then freed: whoever still runs cannot touch it in between.
Result<> ChunkedBacking::Unplug(MemoryRange range) {
  const ChunkRun chunks = ChunksOf(range);
  WV_TRY_VOID(ForEachRun(
      chunks, [&](uint64_t chunk) { return plugged_[chunk] == BytesIn(range, chunk); },
      [this](MemoryRange run) { return slots_->Unmap(run); },
      [this](MemoryRange run) { return slots_->Map(run); }));
  for (uint64_t chunk = chunks.first; chunk < chunks.end; ++chunk) {
    const uint64_t bytes = BytesIn(range, chunk);
    WV_CHECK(plugged_[chunk] >= bytes);
    plugged_[chunk] -= bytes;
  }
  Free(range);
  return {};
}

Result<> ChunkedBacking::UnplugAll() {
  WV_TRY_VOID(ForEachRun(
      {.first = 0, .end = plugged_.size()}, [this](uint64_t chunk) { return plugged_[chunk] != 0; },
      [this](MemoryRange run) { return slots_->Unmap(run); },
      [this](MemoryRange run) { return slots_->Map(run); }));
  std::ranges::fill(plugged_, uint64_t{0});
  Free(layout_.region);
  return {};
}

void ChunkedBacking::Free(MemoryRange range) {
  if (auto freed = slots_->Free(range); !freed) {
    free_failures_.fetch_add(1, std::memory_order_relaxed);
    WV_WARN_LIMITED("virtio-mem: the host does not take {:#x}+{:#x} back: {}",
                    mem::Raw(range.start), range.size, freed.error().message());
  }
}

}  // namespace wyvern::devices
