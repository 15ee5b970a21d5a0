#include "cli/digest.h"

#include <fmt/format.h>
#include <nettle/sha2.h>

#include <algorithm>
#include <array>
#include <vector>

namespace wyvern::cli {

namespace {

constexpr std::string_view kPrefix = "sha256:";

std::string Finish(sha256_ctx& context) {
  std::array<uint8_t, SHA256_DIGEST_SIZE> digest{};
  sha256_digest(&context, digest.size(), digest.data());
  std::string text(kPrefix);
  for (const uint8_t byte : digest) {
    text += fmt::format("{:02x}", byte);
  }
  return text;
}

}  // namespace

std::string Sha256(std::string_view data) {
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, data.size(), reinterpret_cast<const uint8_t*>(data.data()));
  return Finish(context);
}

Result<std::string> Sha256OfFile(FdRef file) {
  sha256_ctx context;
  sha256_init(&context);
  std::vector<std::byte> buffer(256U << 10U);
  for (;;) {
    WV_TRY(const size_t got, ReadSome(file, buffer));
    if (got == 0) {
      return Finish(context);
    }
    sha256_update(&context, got, reinterpret_cast<const uint8_t*>(buffer.data()));
  }
}

bool IsSha256(std::string_view digest) {
  return digest.size() == kPrefix.size() + 64 && digest.substr(0, kPrefix.size()) == kPrefix &&
         std::all_of(digest.begin() + kPrefix.size(), digest.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace wyvern::cli
