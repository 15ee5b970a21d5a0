// vsock/byte_queue.h — bytes waiting for a socket: a ring that grows to the next power of two and
// holds no memory when it is empty. The owner bounds what is put in; each byte is copied by growth
// once at most on average, by nothing else.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <memory>
#include <span>

namespace wyvern::devices {

class ByteQueue {
 public:
  static constexpr size_t kSmallest = 512;

  // A range of the ring: the second piece is what lies behind the wrap.
  template <typename T>
  using Pieces = std::array<std::span<T>, 2>;

  bool empty() const { return size_ == 0; }

  size_t size() const { return size_; }

  size_t capacity() const { return capacity_; }

  // The first `count` bytes, at most as many as there are.
  Pieces<const std::byte> Front(size_t count) const {
    const Pieces<std::byte> pieces = Range(0, std::min(count, size_));
    return {pieces[0], pieces[1]};
  }

  // Room for `count` more bytes at the end, to be written by the caller.
  Pieces<std::byte> Extend(size_t count) {
    if (size_ + count > capacity_) {
      Grow(std::bit_ceil(std::max(size_ + count, kSmallest)));
    }
    size_ += count;
    return Range(size_ - count, count);
  }

  // At most size() bytes.
  void Consume(size_t count) {
    size_ -= count;
    if (size_ == 0) {
      Clear();
      return;
    }
    start_ = (start_ + count) & (capacity_ - 1);
  }

  void Clear() {
    bytes_.reset();
    capacity_ = 0;
    start_ = 0;
    size_ = 0;
  }

 private:
  Pieces<std::byte> Range(size_t offset, size_t count) const {
    if (count == 0) {
      return {};
    }
    const size_t at = (start_ + offset) & (capacity_ - 1);
    const size_t first = std::min(count, capacity_ - at);
    return {std::span(bytes_.get() + at, first), std::span(bytes_.get(), count - first)};
  }

  void Grow(size_t capacity) {
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    std::byte* to = larger.get();
    for (const auto piece : Front(size_)) {
      to = std::ranges::copy(piece, to).out;
    }
    bytes_ = std::move(larger);
    capacity_ = capacity;
    start_ = 0;
  }

  std::unique_ptr<std::byte[]> bytes_;
  size_t capacity_ = 0;  // a power of two, or none
  size_t start_ = 0;
  size_t size_ = 0;
};

}  // namespace wyvern::devices
