#include "sandbox/host_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/fd.h"

namespace wyvern::runtime {
namespace {

constexpr uint64_t kMapShare = 64;

uint64_t PageBytes(RamPages pages) {
  switch (pages) {
    case RamPages::kTransparent:
    case RamPages::kSmall:
      break;
    case RamPages::k2MiB:
      return 2ULL << 20U;
    case RamPages::k1GiB:
      return 1ULL << 30U;
  }
  return 4096;
}

// Documentation/admin-guide/mm/hugetlbpage.rst: one number in each file.
uint64_t ReadCount(const std::string& pool, const char* name) {
  const std::string text = ReadFile(pool + "/" + name, 64).value_or("");
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

uint64_t Less(uint64_t a, uint64_t b) {
  return a > b ? a - b : 0;
}

}  // namespace

uint64_t HostMemoryLimit(uint64_t guest_memory, uint64_t overhead) {
  return guest_memory + guest_memory / kMapShare + overhead;
}

RamPages RamPagesOf(Config::Memory::HugePages pages) {
  switch (pages) {
    case Config::Memory::HugePages::kTransparent:
      break;
    case Config::Memory::HugePages::kNone:
      return RamPages::kSmall;
    case Config::Memory::HugePages::k2MiB:
      return RamPages::k2MiB;
    case Config::Memory::HugePages::k1GiB:
      return RamPages::k1GiB;
  }
  return RamPages::kTransparent;
}

uint64_t RoundToPages(uint64_t memory, RamPages pages) {
  const uint64_t page = PageBytes(pages);
  return (memory + page - 1) / page * page;
}

Result<> CheckHugePages(RamPages pages, uint64_t memory, const std::string& sys) {
  const uint64_t page = PageBytes(pages);
  if (pages == RamPages::kTransparent || pages == RamPages::kSmall) {
    return {};
  }
  const char* name = pages == RamPages::k2MiB ? "2MiB" : "1GiB";
  const std::string pool = fmt::format("{}/kernel/mm/hugepages/hugepages-{}kB", sys, page >> 10U);
  if (!ReadFile(pool + "/nr_hugepages", 64).has_value()) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("memory.huge_pages: {}: this host has no pages of that size: its kernel "
                    "or its processor lacks them ({} is not there)",
                    name, pool));
  }
  const uint64_t needed = (memory + page - 1) / page;
  // Pages that others have reserved are free until they touch them; those over the pool's size are made when they are asked for.
  const uint64_t free =
      Less(ReadCount(pool, "free_hugepages"), ReadCount(pool, "resv_hugepages")) +
      Less(ReadCount(pool, "nr_overcommit_hugepages"), ReadCount(pool, "surplus_hugepages"));
  if (free < needed) {
    return Fail(
        Code::kResourceExhausted,
        fmt::format("memory.huge_pages: {}: {} MiB of guest memory need {} free pages of "
                    "that size, and the host has {}: write a larger number to {}/nr_hugepages "
                    "(it stays smaller where memory is in pieces: then give it on the "
                    "kernel's command line), or set memory.huge_pages: transparent",
                    name, memory >> 20U, needed, free, pool));
  }
  return {};
}

// linux/mm/oom_kill.c: the two ways in which want of memory ends a kernel.
bool EndedForWantOfMemory(std::string_view console) {
  constexpr std::string_view kPanic = "Kernel panic - not syncing: ";
  const size_t panic = console.rfind(kPanic);
  if (panic == std::string_view::npos) {
    return false;
  }
  console.remove_prefix(panic + kPanic.size());
  return console.starts_with("System is deadlocked on memory") ||
         console.starts_with("Out of memory");
}

}  // namespace wyvern::runtime
