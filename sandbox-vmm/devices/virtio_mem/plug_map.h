// virtio_mem/plug_map.h — which blocks of a device-managed region are plugged: a bitmap.
// Units:   blocks, counted from the region's start.
// Threads: one.   Trust: none of the guest's numbers gets here unchecked; ranges outside abort.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace wyvern::devices {

struct BlockRun {
  uint64_t first = 0;
  uint64_t count = 0;
};

class PlugMap {
 public:
  explicit PlugMap(uint64_t blocks) : blocks_(blocks), words_((blocks + 63) / 64) {}

  // From words(); nothing when they are not the words of a map of that size.
  static std::optional<PlugMap> FromWords(uint64_t blocks, std::span<const uint64_t> words);

  uint64_t blocks() const { return blocks_; }

  uint64_t plugged() const { return plugged_; }

  std::span<const uint64_t> words() const { return words_; }

  bool Plugged(uint64_t block) const { return (words_[block / 64] >> (block % 64) & 1U) != 0; }

  // How many blocks of the run are plugged.
  uint64_t PluggedIn(BlockRun run) const;
  void Set(BlockRun run, bool plugged);
  // The next run of plugged blocks that begins at or behind `from`.
  std::optional<BlockRun> NextPlugged(uint64_t from) const;

 private:
  uint64_t blocks_;
  uint64_t plugged_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace wyvern::devices
