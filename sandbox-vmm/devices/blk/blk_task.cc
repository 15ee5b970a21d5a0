#include "blk/blk_task.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/check.h"

namespace wyvern::devices {

namespace {

// EINTR and EAGAIN in a row before a request fails.
constexpr uint32_t kMaxRetries = 64;

// What a task keeps of its list between requests: 1 KiB. A guest must not make each slot hoard the
// longest that it could think of.
constexpr size_t kKeptParts = 64;

// Zeroes are written in steps of 1 MiB, so that other requests come between.
constexpr size_t kZeroStep = size_t{1} << 20;
alignas(4096) constexpr std::array<std::byte, 4096> kZeroPage{};

bool CannotDoThat(int32_t result) {
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL;
}

}  // namespace

void BlkTask::Begin(virtio::Chain chain, BlkRequest request, bool stable) {
  chain_ = std::move(chain);
  request_ = std::move(request);
  status_ = BlkStatus::kOk;
  error_ = 0;
  stable_ = stable;
  flushing_ = request_.type == BlkType::kFlush;
  retries_ = 0;
  range_ = 0;
  done_ = 0;
  if (!request_.ranges.empty()) {
    EnterRange();
  }
}

virtio::Chain BlkTask::Take() {
  WV_CHECK(chain_.has_value());  // an engine answers each request once
  virtio::Chain chain = *std::move(chain_);
  chain_.reset();
  if (parts_.capacity() > kKeptParts) {
    parts_ = std::vector<iovec>();
  }
  return chain;
}

std::optional<IoRequest> BlkTask::Next() {
  if (flushing_) {
    return IoRequest{.kind = IoKind::kFlush};
  }
  if (!request_.ranges.empty()) {
    return NextRange();
  }
  return NextData();
}

bool BlkTask::Advance(int32_t result) {
  if (result == -EINTR || result == -EAGAIN) {
    return ++retries_ <= kMaxRetries || Fail(result);
  }
  retries_ = 0;
  if (flushing_) {
    return result < 0 && Fail(result);
  }
  return request_.ranges.empty() ? AdvanceData(result) : AdvanceRange(result);
}

// The request has ended; false, for Advance.
bool BlkTask::Fail(int32_t result) {
  status_ = BlkStatus::kIoError;
  error_ = result < 0 ? -result : 0;
  return false;
}

// What is left of the data, at most IOV_MAX parts of it. The list is made anew each time, also after
// an error (FC #5485).
std::optional<IoRequest> BlkTask::NextData() {
  WV_CHECK(chain_.has_value());
  const bool reading = request_.type == BlkType::kIn;
  const auto done = static_cast<uint32_t>(done_);
  const uint32_t rest = request_.length - done;
  parts_.clear();
  // At once, as a list that grows is copied: a part for each buffer, more only across regions.
  parts_.reserve(reading ? chain_->writable().size() : chain_->readable().size());
  const auto mapped = reading ? chain_->WritableIovecs(done, rest, &parts_)
                              : chain_->ReadableIovecs(
                                    static_cast<uint32_t>(sizeof(BlkHeader)) + done, rest, &parts_);
  if (!mapped) {
    Fail(-EFAULT);
    return std::nullopt;
  }
  const IoKind writing = stable_ ? IoKind::kSyncWrite : IoKind::kWrite;
  return IoRequest{.kind = reading ? IoKind::kRead : writing,
                   .offset = request_.offset + done_,
                   .parts = std::span(parts_).first(std::min<size_t>(parts_.size(), IOV_MAX))};
}

bool BlkTask::AdvanceData(int32_t result) {
  if (result <= 0) {
    return Fail(result);  // 0: the file ends before the disk
  }
  done_ += static_cast<uint32_t>(result);
  return done_ < request_.length;
}

// Where the current range begins: how it is zeroed. Always true.
bool BlkTask::EnterRange() {
  const bool unmap = request_.ranges[range_].unmap;
  zeroing_ = unmap ? Zeroing::kPunchHole : Zeroing::kZeroRange;
  done_ = 0;
  return true;
}

IoRequest BlkTask::NextRange() {
  const BlkRange& range = request_.ranges[range_];
  const uint64_t offset = range.offset + done_;
  const uint64_t rest = range.length - done_;
  if (zeroing_ != Zeroing::kWrite) {
    const bool punch = zeroing_ == Zeroing::kPunchHole;
    return {
        .kind = punch ? IoKind::kPunchHole : IoKind::kZeroRange, .offset = offset, .length = rest};
  }
  parts_.clear();
  for (size_t left = std::min<uint64_t>(rest, kZeroStep); left > 0;) {
    const size_t piece = std::min(left, kZeroPage.size());
    // iovecs know no const; a write only reads.
    parts_.push_back({.iov_base = const_cast<std::byte*>(kZeroPage.data()), .iov_len = piece});
    left -= piece;
  }
  return {.kind = stable_ ? IoKind::kSyncWrite : IoKind::kWrite, .offset = offset, .parts = parts_};
}

bool BlkTask::AdvanceRange(int32_t result) {
  if (zeroing_ == Zeroing::kWrite) {
    if (result <= 0) {
      return Fail(result);
    }
    done_ += static_cast<uint32_t>(result);
  } else if (CannotDoThat(result)) {
    if (request_.type == BlkType::kDiscard) {
      // The driver need not ask again.
      status_ = BlkStatus::kUnsupported;
      return false;
    }
    zeroing_ = zeroing_ == Zeroing::kPunchHole ? Zeroing::kZeroRange : Zeroing::kWrite;
    return true;
  } else if (result < 0) {
    return Fail(result);
  } else {
    done_ = request_.ranges[range_].length;
  }
  if (done_ < request_.ranges[range_].length) {
    return true;
  }
  if (++range_ < request_.ranges.size()) {
    return EnterRange();
  }
  // A discard changes no data that anybody may rely on; zeroes must last.
  flushing_ = stable_ && request_.type == BlkType::kWriteZeroes;
  return flushing_;
}

}  // namespace wyvern::devices
