#include "upcall/preamble.h"

#include <algorithm>

namespace wyvern::upcall {

Preamble MakePreamble(const Nonce& nonce) {
  Preamble preamble{};
  const auto magic = std::as_bytes(std::span(kMagic));
  std::ranges::copy(nonce, std::ranges::copy(magic, preamble.begin()).out);
  return preamble;
}

std::optional<size_t> PreambleScanner::Feed(std::span<const std::byte> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const auto byte = std::to_integer<uint8_t>(data[i]);
    // A nonce may be the beginning of the next preamble, when the session before ended within its own: both are looked for.
    if (captured_) {
      nonce_[(*captured_)++] = data[i];
    }
    const bool complete = captured_ == nonce_.size();
    if (complete) {
      captured_.reset();
    }
    // The magic's first byte is nowhere else in it, so a mismatch begins anew with this byte at the latest.
    matched_ = byte == kMagic[matched_] ? matched_ + 1 : (byte == kMagic[0] ? 1 : 0);
    if (matched_ == kMagic.size()) {
      matched_ = 0;
      captured_ = 0;
    }
    if (complete) {
      return i + 1;
    }
  }
  return std::nullopt;
}

}  // namespace wyvern::upcall
