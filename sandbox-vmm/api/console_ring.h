// api/console_ring.h — the guest's last console output in a memfd that the runtime owns: it
// outlives the VMM. Shape:   le64 total bytes ever written, then 65536 data bytes; byte n of the
// stream is at data[n mod 65536]. Threads: one writer (the VMM's console), one reader (the
// runtime); a reader may see a torn tail, never out of bounds. Trust:   the reader treats the count
// as a number modulo its ring only: a hostile writer can lie about text, nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "base/mapping.h"

namespace wyvern::api {

inline constexpr uint64_t kConsoleRingData = 65536;
inline constexpr uint64_t kConsoleRingFile = 8 + kConsoleRingData;

// A sealed memfd of kConsoleRingFile bytes.
Result<UniqueFd> MakeConsoleRing();

class ConsoleRingWriter {
 public:
  // INVALID_ARGUMENT when the file is smaller than a ring.
  static Result<std::unique_ptr<ConsoleRingWriter>> Create(FdRef ring);
  void Append(std::span<const std::byte> text);

 private:
  explicit ConsoleRingWriter(Mapping mapping) : mapping_(std::move(mapping)) {}

  Mapping mapping_;
  uint64_t total_ = 0;
};

struct ConsoleText {
  std::string text;      // at most kConsoleRingData bytes
  uint64_t dropped = 0;  // bytes that came before
};

Result<ConsoleText> ReadConsoleRing(FdRef ring);

}  // namespace wyvern::api
