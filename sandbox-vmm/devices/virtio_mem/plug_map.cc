#include "virtio_mem/plug_map.h"

#include <bit>

#include "base/check.h"

namespace wyvern::devices {

std::optional<PlugMap> PlugMap::FromWords(uint64_t blocks, std::span<const uint64_t> words) {
  PlugMap map(blocks);
  if (words.size() != map.words_.size() ||
      (blocks % 64 != 0 && words.back() >> (blocks % 64) != 0)) {
    return std::nullopt;
  }
  map.words_.assign(words.begin(), words.end());
  for (const uint64_t word : words) {
    map.plugged_ += static_cast<uint64_t>(std::popcount(word));
  }
  return map;
}

uint64_t PlugMap::PluggedIn(BlockRun run) const {
  WV_CHECK(run.count <= blocks_ && run.first <= blocks_ - run.count);
  uint64_t plugged = 0;
  for (uint64_t block = run.first; block < run.first + run.count; ++block) {
    plugged += Plugged(block) ? 1 : 0;
  }
  return plugged;
}

void PlugMap::Set(BlockRun run, bool plugged) {
  WV_CHECK(run.count <= blocks_ && run.first <= blocks_ - run.count);
  for (uint64_t block = run.first; block < run.first + run.count; ++block) {
    if (Plugged(block) != plugged) {
      words_[block / 64] ^= uint64_t{1} << (block % 64);
      plugged_ = plugged ? plugged_ + 1 : plugged_ - 1;
    }
  }
}

std::optional<BlockRun> PlugMap::NextPlugged(uint64_t from) const {
  while (from < blocks_ && !Plugged(from)) {
    ++from;
  }
  if (from >= blocks_) {
    return std::nullopt;
  }
  BlockRun run{.first = from, .count = 0};
  while (run.first + run.count < blocks_ && Plugged(run.first + run.count)) {
    ++run.count;
  }
  return run;
}

}  // namespace wyvern::devices
