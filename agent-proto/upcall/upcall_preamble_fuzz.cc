// Any bytes in any parts (the first byte is the parts' length): what is found is what a plain search of the whole finds.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "upcall/preamble.h"

namespace {

using wyvern::upcall::kMagic;
using wyvern::upcall::Preamble;
using wyvern::upcall::PreambleScanner;

// The ends of all places with the magic and 16 bytes behind it.
std::vector<size_t> Expected(std::span<const std::byte> stream) {
  const auto magic = std::as_bytes(std::span(kMagic));
  std::vector<size_t> ends;
  for (size_t at = 0; at + sizeof(Preamble) <= stream.size(); ++at) {
    if (std::ranges::equal(stream.subspan(at, magic.size()), magic)) {
      ends.push_back(at + sizeof(Preamble));
    }
  }
  return ends;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const size_t step = size_t{data[0]} + 1;
  const auto stream = std::as_bytes(std::span(data + 1, size - 1));
  PreambleScanner scanner;
  std::vector<size_t> ends;
  for (size_t at = 0; at < stream.size();) {
    const auto part = stream.subspan(at, std::min(step, stream.size() - at));
    const auto end = scanner.Feed(part);
    if (end && (*end == 0 || *end > part.size())) {
      abort();
    }
    at += end.value_or(part.size());
    if (end) {
      ends.push_back(at);
      if (!std::ranges::equal(scanner.nonce(), stream.subspan(at - 16, 16))) {
        abort();
      }
    }
  }
  if (ends != Expected(stream)) {
    abort();
  }
  return 0;
}
