// base/testing/must.h — the value of a Result that a test cannot go on without.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/error.h"

namespace wyvern {

template <typename T>
T Must(Result<T> result) {
  if (!result) {
    fprintf(stderr, "Must: %s\n", result.error().DebugString().c_str());
    abort();
  }
  return *std::move(result);
}

}  // namespace wyvern
