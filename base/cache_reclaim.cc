#include "base/cache_reclaim.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/fd.h"
#include "base/kernel_text.h"

namespace wyvern {
namespace {

constexpr uint64_t kPage = 4096;                // of the guests and hosts that there are
constexpr size_t kMaxFile = size_t{64} << 10U;  // memory.stat has some 3 KiB
constexpr uint64_t kLeast = 16ULL << 20U;       // smaller amounts are not worth a round each
constexpr uint64_t kShare = 2;
constexpr uint32_t kForget = 4;  // calm rounds, for half of the pauses

// Grown, by how much; a counter that went back belongs to another group.
uint64_t Since(uint64_t before, uint64_t now) {
  return now > before ? now - before : 0;
}

}  // namespace

CacheFigures ParseCacheFigures(const std::string& stat, const std::string& pressure) {
  CacheFigures figures;
  ForEachLine(stat, [&figures](std::string_view line) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) {
      return;
    }
    const std::string_view key = line.substr(0, space);
    const uint64_t value = Number(line.substr(space + 1));
    if (key == "inactive_file" || key == "active_file") {
      figures.file += value;
    } else if (key == "file_dirty" || key == "file_writeback") {
      figures.unwritten += value;
    } else if (key == "workingset_refault_file") {
      figures.refaulted = value * kPage;
    }
  });
  ForEachLine(pressure, [&figures](std::string_view line) {
    constexpr std::string_view kTotal = " total=";
    const size_t at = line.find(kTotal);
    if (line.starts_with("some ") && at != std::string_view::npos) {
      figures.stalled_us = Number(line.substr(at + kTotal.size()));
    }
  });
  return figures;
}

bool CachePace::Missed(const CacheFigures& now, Time at) const {
  const auto passed = std::chrono::duration_cast<std::chrono::microseconds>(at - last_at_).count();
  const uint64_t stalled = Since(last_->stalled_us.value_or(0), now.stalled_us.value_or(0));
  // A hundredth of the time: what PSI's own users call noticeable.
  if (last_->stalled_us && now.stalled_us && stalled * 100 > static_cast<uint64_t>(passed)) {
    return true;
  }
  return Since(last_->refaulted, now.refaulted) > std::max(taken_ / 8, uint64_t{1} << 20U);
}

uint64_t CachePace::Next(const CacheFigures& now, Time at) {
  if (!last_) {
    last_ = now;
    last_at_ = at;
    return 0;
  }
  const bool missed = Missed(now, at);
  // Files are being read now: what they bring is not idle.
  const bool growing = Since(last_->file, now.file) > std::max(last_->file / 8, kLeast);
  last_ = now;
  last_at_ = at;
  taken_ = 0;
  if (missed) {
    pauses_ = std::clamp(pauses_ * 2, uint32_t{1}, kMostPauses);
    left_ = pauses_;
    calm_ = 0;
  }
  if (left_ > 0) {
    --left_;
    return 0;
  }
  const uint64_t kept = now.unwritten + kKept;
  if (growing || now.file <= kept) {
    return 0;
  }
  if (++calm_ % kForget == 0) {
    pauses_ /= 2;
  }
  const uint64_t idle = now.file - kept;
  taken_ = std::max(idle / kShare, std::min(idle, kLeast));
  return taken_;
}

// Asked each time: swap may be added later.
Result<> CacheReclaim::CheckNoSwap() const {
  auto swaps = ReadFile(swaps_, kMaxFile);
  if (!swaps) {
    if (swaps.error().code() == Code::kNotFound) {
      return {};  // a kernel that cannot swap
    }
    return tl::unexpected(std::move(swaps).error());
  }
  // One line of headings, then one for each swap.
  if (std::ranges::count(*swaps, '\n') > 1) {
    return Fail(Code::kUnimplemented,
                "this kernel (before 6.9) would swap out memory of programs when asked for page "
                "cache: without swap it does not");
  }
  return {};
}

Result<bool> CacheReclaim::Take(uint64_t bytes) {
  if (plain_) {
    WV_TRY_VOID(CheckNoSwap());
  }
  WV_TRY(const UniqueFd file, Open(directory_ + "/memory.reclaim", O_WRONLY));
  auto written =
      WriteAll(file, plain_ ? fmt::format("{}", bytes) : fmt::format("{} swappiness=0", bytes));
  if (written.has_value()) {
    return true;
  }
  const int error = written.error().sys_errno();
  if (error == EAGAIN) {
    return false;
  }
  if (error != EINVAL || plain_) {
    return tl::unexpected(std::move(written).error());
  }
  plain_ = true;
  return Take(bytes);
}

Result<uint64_t> CacheReclaim::Round(CachePace::Time at, const std::function<bool()>& stop) {
  WV_TRY(const std::string stat, ReadFile(directory_ + "/memory.stat", kMaxFile));
  const uint64_t wanted = pace_.Next(
      ParseCacheFigures(stat, ReadFile(directory_ + "/memory.pressure", kMaxFile).value_or("")),
      at);
  uint64_t asked = 0;
  while (asked < wanted && !stop()) {
    const uint64_t piece = std::min(wanted - asked, kPiece);
    auto taken = Take(piece);
    // A kernel before 5.19 has no such file, while the group is there.
    if (!taken.has_value() && taken.error().code() == Code::kNotFound &&
        ReadFile(directory_ + "/memory.stat", kMaxFile).has_value()) {
      return Fail(Code::kUnimplemented, "this kernel (before 5.19) has no memory.reclaim");
    }
    WV_TRY(const bool all, std::move(taken));
    asked += piece;
    if (!all) {
      break;
    }
  }
  return asked;
}

}  // namespace wyvern
