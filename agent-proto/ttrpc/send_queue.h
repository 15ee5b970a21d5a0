// ttrpc/send_queue.h — frames that wait until the socket takes them.
// Invariants: frames leave in the order of Push; bytes() counts what has not left yet.
// Threads: guarded by its owner's mutex; no call blocks.
#pragma once

#include <cstddef>
#include <deque>
#include <string>

#include "base/fd.h"

namespace wyvern::ttrpc {

class SendQueue {
 public:
  void Push(std::string frame);
  // Sends what the socket takes now. True: nothing is left.
  Result<bool> Flush(FdRef socket);
  void Clear();

  size_t bytes() const { return bytes_; }

  bool empty() const { return frames_.empty(); }

 private:
  std::deque<std::string> frames_;
  size_t head_sent_ = 0;  // bytes of the first frame that have left
  size_t bytes_ = 0;
};

}  // namespace wyvern::ttrpc
