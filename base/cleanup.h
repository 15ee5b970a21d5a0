// base/cleanup.h — runs a function at scope exit unless cancelled: the roll-back of a half-done
// change.
#pragma once

#include <utility>

namespace wyvern {

template <typename F>
class [[nodiscard]] Cleanup {
 public:
  explicit Cleanup(F function) : function_(std::move(function)) {}

  ~Cleanup() {
    if (armed_) {
      function_();
    }
  }

  Cleanup(const Cleanup&) = delete;
  Cleanup& operator=(const Cleanup&) = delete;

  void Cancel() { armed_ = false; }

 private:
  F function_;
  bool armed_ = true;
};

}  // namespace wyvern
