// agent/refusals.h — errors of work that goes on after one: the first, and how many.
// Threads: a value.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

#include "base/error.h"

namespace wyvern::agent {

class Refusals {
 public:
  void Add(Error error) {
    if (!first_) {
      first_ = std::move(error);
    } else {
      ++more_;
    }
  }

  // Of the guest's kernel, with what it refused: FAILED_PRECONDITION.
  void AddKernels(Error error, std::string what) {
    Add(std::move(error).WithContext(std::move(what)).WithCode(Code::kFailedPrecondition));
  }

  // The first error, if there was one.
  Result<> Take() && {
    if (!first_) {
      return {};
    }
    if (more_ == 0) {
      return tl::unexpected(*std::move(first_));
    }
    return Fail(first_->code(), fmt::format("{} (and {} more)", first_->message(), more_));
  }

 private:
  std::optional<Error> first_;
  int more_ = 0;
};

}  // namespace wyvern::agent
