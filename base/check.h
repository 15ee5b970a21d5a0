// base/check.h — assertions for our own bugs, on in every build.
// Errors:  WV_CHECK prints file, line and condition to stderr and aborts. Never on anything that a
//          guest, client or file wrote.
#pragma once

#include <utility>

namespace wyvern {

// Prints "CHECK failed: <what> at <file>:<line>" and aborts.
[[noreturn]] void CheckFailed(const char* what, const char* file, int line);

}  // namespace wyvern

#define WV_CHECK(condition)                                  \
  do {                                                       \
    if (!(condition)) [[unlikely]] {                         \
      ::wyvern::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                        \
  } while (false)
