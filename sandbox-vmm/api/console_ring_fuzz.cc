// A console ring that a hostile VMM wrote: text of at most a ring's size, or a refusal; a smaller file is no ring.
// Input:   8 B count, then data.
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string_view>

#include "api/console_ring.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  const UniqueFd ring = *api::MakeConsoleRing();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  WV_CHECK(pwrite(ring.get(), data, size, 0) == static_cast<ssize_t>(size));
  const auto text = api::ReadConsoleRing(ring);
  WV_CHECK(text.has_value() && text->text.size() <= api::kConsoleRingData);
  uint64_t total = 0;
  std::memcpy(&total, data, std::min<size_t>(size, sizeof(total)));
  WV_CHECK(text->text.size() + text->dropped == total);
  // A writer goes on from nothing, whatever the file holds.
  const auto writer = api::ConsoleRingWriter::Create(ring);
  WV_CHECK(writer.has_value());
  (*writer)->Append(std::as_bytes(std::span(bytes)));
  const auto again = api::ReadConsoleRing(ring);
  WV_CHECK(again.has_value() && again->text == bytes.substr(bytes.size() - again->text.size()));
  // A file that is too small to be a ring.
  const UniqueFd small = *MakeMemfd("small", size % api::kConsoleRingFile, 0);
  WV_CHECK(!api::ConsoleRingWriter::Create(small));
  return 0;
}
