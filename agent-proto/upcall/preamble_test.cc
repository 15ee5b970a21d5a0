#include "upcall/preamble.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace wyvern::upcall {
namespace {

using Bytes = std::vector<std::byte>;

Nonce NonceOf(uint8_t first) {
  Nonce nonce{};
  for (size_t i = 0; i < nonce.size(); ++i) {
    nonce[i] = std::byte(static_cast<uint8_t>(first + i));
  }
  return nonce;
}

void Append(Bytes& bytes, std::span<const std::byte> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

// Where preambles end, and their nonces, when the stream comes in parts of `step` bytes.
std::vector<std::pair<size_t, Nonce>> Scan(const Bytes& stream, size_t step) {
  std::vector<std::pair<size_t, Nonce>> found;
  PreambleScanner scanner;
  for (size_t at = 0; at < stream.size();) {
    const auto part = std::span(stream).subspan(at, std::min(step, stream.size() - at));
    const auto end = scanner.Feed(part);
    at += end.value_or(part.size());
    if (end) {
      found.emplace_back(at, scanner.nonce());
    }
  }
  return found;
}

TEST(PreambleTest, BytesWithoutOneGiveNone) {
  Bytes stream(4096, std::byte{0xff});
  Append(stream, std::as_bytes(std::span(kMagic)).first(15));
  EXPECT_TRUE(Scan(stream, 7).empty());
}

TEST(PreambleTest, FoundBehindGarbageInPartsOfAnyLength) {
  Bytes stream(5, std::byte{0xff});
  Append(stream, std::as_bytes(std::span(kMagic)).first(9));
  Append(stream, MakePreamble(NonceOf(1)));
  const size_t end = stream.size();
  Append(stream, Bytes(3, std::byte{0}));
  for (size_t step = 1; step <= stream.size(); ++step) {
    const auto found = Scan(stream, step);
    ASSERT_EQ(found.size(), 1U) << step;
    EXPECT_EQ(found[0].first, end);
    EXPECT_EQ(found[0].second, NonceOf(1));
  }
}

// The VMM was cut off within its nonce and begins again: the second nonce is the one that comes last.
TEST(PreambleTest, OneThatIsCutOffByTheNextDoesNotHideIt) {
  for (size_t cut = 1; cut < sizeof(Preamble); ++cut) {
    Bytes stream;
    const Preamble first = MakePreamble(NonceOf(1));
    Append(stream, std::span(first).first(cut));
    Append(stream, MakePreamble(NonceOf(50)));
    const auto found = Scan(stream, 3);
    ASSERT_FALSE(found.empty()) << cut;
    EXPECT_EQ(found.back().first, stream.size());
    EXPECT_EQ(found.back().second, NonceOf(50));
  }
}

TEST(PreambleTest, TwoInOnePartAreTwo) {
  Bytes stream;
  Append(stream, MakePreamble(NonceOf(1)));
  Append(stream, MakePreamble(NonceOf(2)));
  const auto found = Scan(stream, stream.size());
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].second, NonceOf(1));
  EXPECT_EQ(found[1].second, NonceOf(2));
}

}  // namespace
}  // namespace wyvern::upcall
