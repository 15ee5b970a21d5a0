// jail/call_arguments.h — the six arguments of a trapped system call from a signal's context (x86_64).
// Spec:    System V AMD64 ABI, A.2.1: rdi, rsi, rdx, r10, r8, r9.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstdint>

namespace wyvern::jail {

inline std::array<uint64_t, 6> CallArguments(const ucontext_t& context) {
  const auto& r = context.uc_mcontext.gregs;
  return {static_cast<uint64_t>(r[REG_RDI]), static_cast<uint64_t>(r[REG_RSI]),
          static_cast<uint64_t>(r[REG_RDX]), static_cast<uint64_t>(r[REG_R10]),
          static_cast<uint64_t>(r[REG_R8]),  static_cast<uint64_t>(r[REG_R9])};
}

}  // namespace wyvern::jail
