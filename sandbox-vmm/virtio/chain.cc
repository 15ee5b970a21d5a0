#include "base/check.h"
#include "virtio/queue.h"

namespace wyvern::virtio {

namespace {

// A chain has at most 32768 buffers and a buffer may touch several regions; memory has few.
constexpr size_t kMaxParts = size_t{1} << 20;

tl::unexpected<ChainFault> Fault(ChainFault fault) {
  return tl::unexpected(fault);
}

// Calls fn(address, length) for each piece of [offset, offset + length) of `buffers`, which is
// known to lie inside.
template <typename F>
tl::expected<void, ChainFault> ForEachPiece(std::span<const Buffer> buffers, uint32_t offset,
                                            uint64_t length, F fn) {
  for (const Buffer& buffer : buffers) {
    if (length == 0) {
      break;
    }
    if (offset >= buffer.length) {
      offset -= buffer.length;
      continue;
    }
    const uint64_t rest = buffer.length - offset;
    const uint64_t piece = rest < length ? rest : length;
    if (!fn(mem::Gpa{mem::Raw(buffer.address) + offset}, piece)) {
      return Fault(ChainFault::kBufferAddress);
    }
    length -= piece;
    offset = 0;
  }
  return {};
}

bool Inside(uint32_t offset, uint64_t length, uint32_t total) {
  return length <= total && offset <= total - length;
}

}  // namespace

const char* ChainFaultName(ChainFault fault) {
  switch (fault) {
    case ChainFault::kRingAddress:
      return "ring address";
    case ChainFault::kRingSize:
      return "ring size";
    case ChainFault::kAvailIndexJump:
      return "available index jump";
    case ChainFault::kDescriptorIndex:
      return "descriptor index";
    case ChainFault::kLoop:
      return "loop";
    case ChainFault::kIndirectNested:
      return "nested indirect table";
    case ChainFault::kIndirectLength:
      return "indirect table length";
    case ChainFault::kIndirectAddress:
      return "indirect table address";
    case ChainFault::kWritableBeforeReadable:
      return "writable before readable";
    case ChainFault::kBufferAddress:
      return "buffer address";
    case ChainFault::kTotalLength:
      return "total length";
    case ChainFault::kTooShort:
      return "chain too short";
    case ChainFault::kIndirectFlags:
      return "indirect flags";
    case ChainFault::kHeadInFlight:
      return "head already in flight";
    case ChainFault::kRingState:
      return "ring state";
  }
  return "unknown fault";
}

Chain::Chain(std::unique_ptr<ChainStorage> storage) : storage_(std::move(storage)) {}

Chain::Chain(Chain&& other) noexcept = default;

Chain& Chain::operator=(Chain&& other) noexcept {
  if (this != &other) {
    Drop();
    storage_ = std::move(other.storage_);
  }
  return *this;
}

Chain::~Chain() {
  Drop();
}

void Chain::Drop() {
  if (storage_ != nullptr) {
    // A chain that is lost is a request that the driver waits for in vain.
    WV_CHECK(!storage_->queue_lives->load(std::memory_order_relaxed));
    storage_.reset();
  }
}

tl::expected<void, ChainFault> Chain::Read(uint32_t offset, std::span<std::byte> out) const {
  if (!Inside(offset, out.size(), readable_length())) {
    return Fault(ChainFault::kTooShort);
  }
  return ForEachPiece(readable(), offset, out.size(), [&](mem::Gpa from, uint64_t length) {
    const bool copied = storage_->memory->ReadBytes(from, out.first(length)).has_value();
    out = out.subspan(length);
    return copied;
  });
}

tl::expected<void, ChainFault> Chain::Write(uint32_t offset, std::span<const std::byte> in) {
  if (!Inside(offset, in.size(), writable_length())) {
    return Fault(ChainFault::kTooShort);
  }
  return ForEachPiece(writable(), offset, in.size(), [&](mem::Gpa to, uint64_t length) {
    const bool copied = storage_->memory->WriteBytes(to, in.first(length)).has_value();
    in = in.subspan(length);
    return copied;
  });
}

tl::expected<void, ChainFault> Chain::Iovecs(std::span<const Buffer> buffers, uint32_t total,
                                             uint32_t offset, uint32_t length, bool writable,
                                             std::vector<iovec>* out) const {
  if (!Inside(offset, length, total)) {
    return Fault(ChainFault::kTooShort);
  }
  const size_t before = out->size();
  auto done = ForEachPiece(buffers, offset, length, [&](mem::Gpa start, uint64_t piece) {
    return storage_->memory->ToIovecs(start, piece, writable, kMaxParts, out).has_value();
  });
  if (!done) {
    out->resize(before);
  }
  return done;
}

tl::expected<void, ChainFault> Chain::ReadableIovecs(uint32_t offset, uint32_t length,
                                                     std::vector<iovec>* out) const {
  return Iovecs(readable(), readable_length(), offset, length, false, out);
}

tl::expected<void, ChainFault> Chain::WritableIovecs(uint32_t offset, uint32_t length,
                                                     std::vector<iovec>* out) const {
  return Iovecs(writable(), writable_length(), offset, length, true, out);
}

}  // namespace wyvern::virtio
