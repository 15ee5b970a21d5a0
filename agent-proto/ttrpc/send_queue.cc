#include "ttrpc/send_queue.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <utility>

namespace wyvern::ttrpc {

void SendQueue::Push(std::string frame) {
  bytes_ += frame.size();
  frames_.push_back(std::move(frame));
}

Result<bool> SendQueue::Flush(FdRef socket) {
  while (!frames_.empty()) {
    std::array<iovec, 64> parts{};
    size_t count = 0;
    for (auto it = frames_.begin(); it != frames_.end() && count < parts.size(); ++it, ++count) {
      const size_t skip = count == 0 ? head_sent_ : 0;
      parts[count] = {.iov_base = it->data() + skip, .iov_len = it->size() - skip};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return false;
      }
      return SysError("sendmsg on a ttrpc connection");
    }
    size_t left = static_cast<size_t>(sent);
    bytes_ -= left;
    while (!frames_.empty() && left >= frames_.front().size() - head_sent_) {
      left -= frames_.front().size() - head_sent_;
      head_sent_ = 0;
      frames_.pop_front();
    }
    head_sent_ += left;
  }
  return true;
}

void SendQueue::Clear() {
  frames_.clear();
  head_sent_ = 0;
  bytes_ = 0;
}

}  // namespace wyvern::ttrpc
