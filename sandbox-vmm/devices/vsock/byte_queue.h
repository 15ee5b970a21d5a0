// vsock/byte_queue.h — bytes waiting for a socket. Empty ones hold no memory; the owner bounds what
// is put in.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace wyvern::devices {

class ByteQueue {
 public:
  bool empty() const { return start_ == bytes_.size(); }

  size_t size() const { return bytes_.size() - start_; }

  std::span<const std::byte> front() const { return std::span(bytes_).subspan(start_); }

  // Room for `count` more bytes at the end, to be written by the caller.
  std::span<std::byte> Extend(size_t count) {
    if (start_ > 0) {
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
      start_ = 0;
    }
    bytes_.resize(bytes_.size() + count);
    return std::span(bytes_).last(count);
  }

  void Consume(size_t count) {
    start_ += count;
    if (start_ >= bytes_.size()) {
      Clear();
    }
  }

  void Clear() {
    bytes_ = {};
    start_ = 0;
  }

 private:
  std::vector<std::byte> bytes_;
  size_t start_ = 0;
};

}  // namespace wyvern::devices
