#include "console/console_port.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/check.h"

namespace wyvern::devices {

namespace {

void CountConsole(std::atomic<uint64_t>& counter, uint64_t add = 1) {
  counter.fetch_add(add, std::memory_order_relaxed);
}

// readv or writev, EINTR retried.
template <typename Call>
ssize_t Transfer(Call call, FdRef fd, const std::vector<iovec>& parts) {
  ssize_t moved = 0;
  do {
    moved = call(fd.get(), parts.data(), static_cast<int>(std::min<size_t>(parts.size(), IOV_MAX)));
  } while (moved < 0 && errno == EINTR);
  return moved;
}

}  // namespace

ConsolePort::ConsolePort(EventLoop& loop, ConsoleOverflow overflow, ConsoleCounters& counters,
                         std::function<void()> on_host_closed)
    : loop_(loop),
      overflow_(overflow),
      counters_(counters),
      on_host_closed_(std::move(on_host_closed)) {}

ConsolePort::~ConsolePort() {
  WV_CHECK(to_guest_ == nullptr && to_host_ == nullptr);
  Drop();
}

// --- The host's end ---

Result<> ConsolePort::Attach(ConsoleEnds ends) {
  if (attached_) {
    return Fail(Code::kFailedPrecondition, "console: the port is attached already");
  }
  if (!ends.in.valid() && (ends.in_is_out || !ends.out.valid())) {
    return Fail(Code::kInvalidArgument, "console: a descriptor is needed");
  }
  for (const UniqueFd* fd : {&ends.in, &ends.out}) {
    if (fd->valid()) {
      WV_TRY_VOID_CONTEXT(SetNonBlocking(*fd, true), "console");
    }
  }
  ends_ = std::move(ends);
  if (ends_.in_is_out) {
    ends_.out.Reset();
  }
  attached_ = true;
  in_ended_ = !ends_.in.valid();
  out_ended_ = !out_fd().valid();
  readable_ = !in_ended_;
  writable_ = !out_ended_;
  CountConsole(counters_.ports_attached);
  if (auto watched = Watch(); !watched) {
    Drop();
    return watched;
  }
  return {};
}

Result<> ConsolePort::Watch() {
  const bool both = ends_.in_is_out;
  if (ends_.in.valid()) {
    auto token =
        loop_.Add(ends_.in, EPOLLIN | EPOLLRDHUP | EPOLLET | (both ? uint32_t{EPOLLOUT} : 0U),
                  [this, both](uint32_t events) { OnEvents(events, true, both); });
    if (!token) {
      return tl::unexpected(
          std::move(token).error().WithContext("console: input").WithCode(Code::kInvalidArgument));
    }
    in_token_ = *token;
  }
  if (ends_.out.valid()) {
    auto token = loop_.Add(ends_.out, EPOLLOUT | EPOLLET,
                           [this](uint32_t events) { OnEvents(events, false, true); });
    if (token) {
      out_token_ = *token;
    } else if (token.error().sys_errno() != EPERM) {  // a file: it always takes what it is given
      return tl::unexpected(std::move(token).error());
    }
  }
  return {};
}

void ConsolePort::Detach() {
  Drop();
  SendToHost();  // what is in hand has nowhere to go
}

void ConsolePort::Drop() {
  loop_.Remove(std::exchange(in_token_, EventLoop::Token::kNone));
  loop_.Remove(std::exchange(out_token_, EventLoop::Token::kNone));
  if (attached_) {
    counters_.ports_attached.fetch_sub(1, std::memory_order_relaxed);
  }
  attached_ = false;
  ends_ = {};
  readable_ = false;
  writable_ = false;
  in_ended_ = true;
  out_ended_ = true;
}

void ConsolePort::OnEvents(uint32_t events, bool input, bool output) {
  constexpr uint32_t kGone = EPOLLHUP | EPOLLERR;
  if (input && (events & (EPOLLIN | EPOLLRDHUP | kGone)) != 0) {
    readable_ = !in_ended_;
  }
  if (output && (events & (EPOLLOUT | kGone)) != 0) {
    writable_ = !out_ended_;
  }
  // Nobody will read any more: the reader of a pipe is gone, or a socket is shut in both directions.
  if (output && (events & kGone) != 0) {
    EndOutput();
  }
  SendToGuest();
  SendToHost();
}

void ConsolePort::EndInput() {
  in_ended_ = true;
  readable_ = false;
  CloseIfEnded();
}

void ConsolePort::EndOutput() {
  out_ended_ = true;
  writable_ = false;
  CloseIfEnded();
}

void ConsolePort::CloseIfEnded() {
  if (!attached_ || !in_ended_ || !out_ended_) {
    return;
  }
  Drop();
  if (to_host_ != nullptr) {
    to_host_->RunAgain();  // what is in hand has nowhere to go
  }
  on_host_closed_();
}

// --- To the guest ---

void ConsolePort::SetGuestOpen(bool open) {
  guest_open_ = open;
  SendToGuest();
}

void ConsolePort::SendToGuest() {
  if (to_guest_ == nullptr || !guest_open_ || !readable_) {
    return;
  }
  uint32_t budget = kTurnBytes;
  to_guest_->Drain([&](virtio::Chain chain) { return FillChain(std::move(chain), &budget); });
}

// False: the chain went back to the ring.
bool ConsolePort::FillChain(virtio::Chain chain, uint32_t* budget) {
  virtio::Queue& queue = to_guest_->queue();
  if (chain.readable_length() != 0 || chain.writable_length() == 0) {
    CountConsole(counters_.bad_chains);  // VIRTIO §5.3.6.1
  }
  const uint32_t room = std::min(chain.writable_length(), kPieceBytes);
  parts_.clear();
  if (room == 0 || !chain.WritableIovecs(0, room, &parts_)) {
    queue.Push(std::move(chain), 0);
    return true;
  }
  if (*budget == 0 || !readable_) {
    queue.UndoPop(std::move(chain));
    if (readable_) {
      to_guest_->RunAgain();
    }
    return false;
  }
  const ssize_t got = Transfer(::readv, ends_.in, parts_);
  CountConsole(counters_.reads);
  if (got > 0) {
    const auto bytes = static_cast<uint32_t>(got);
    CountConsole(counters_.bytes_to_guest, bytes);
    *budget -= std::min(*budget, bytes);
    queue.Push(std::move(chain), bytes);
    return true;
  }
  const bool later = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  queue.UndoPop(std::move(chain));
  if (later) {
    readable_ = false;
  } else {
    EndInput();
  }
  return false;
}

// --- To the host ---

virtio::Chain ConsolePort::TakeInHand() {
  WV_CHECK(in_hand_.has_value());
  virtio::Chain chain = *std::move(in_hand_);
  in_hand_.reset();
  return chain;
}

void ConsolePort::SetToHost(ActiveQueue* queue) {
  if (queue == nullptr && in_hand_) {
    to_host_->queue().UndoPop(TakeInHand());
    resume_at_ = std::exchange(written_, 0);
  }
  to_host_ = queue;
}

void ConsolePort::SendToHost() {
  if (to_host_ == nullptr) {
    return;
  }
  uint32_t budget = kTurnBytes;
  if (in_hand_ && !WriteChain(&budget)) {
    return;
  }
  to_host_->Drain([&](virtio::Chain chain) {
    if (chain.writable_length() != 0) {
      CountConsole(counters_.bad_chains);  // VIRTIO §5.3.6.1
    }
    written_ = std::min(std::exchange(resume_at_, 0), chain.readable_length());
    in_hand_.emplace(std::move(chain));
    return WriteChain(&budget);
  });
}

// Goes on with the chain in hand. True: it is done with and given back.
bool ConsolePort::WriteChain(uint32_t* budget) {
  WV_CHECK(in_hand_.has_value());
  const uint32_t total = in_hand_->readable_length();
  while (written_ < total) {
    if (out_ended_ || (!writable_ && overflow_ == ConsoleOverflow::kDrop)) {
      CountConsole(counters_.bytes_dropped, total - written_);
      break;
    }
    if (!writable_) {
      return false;  // the next event goes on
    }
    if (*budget == 0) {
      to_host_->RunAgain();
      return false;
    }
    WritePiece(budget);
  }
  written_ = 0;
  to_host_->queue().Push(TakeInHand(), 0);
  return true;
}

void ConsolePort::WritePiece(uint32_t* budget) {
  WV_CHECK(in_hand_.has_value());
  const uint32_t piece = std::min({in_hand_->readable_length() - written_, kPieceBytes, *budget});
  parts_.clear();
  if (!in_hand_->ReadableIovecs(written_, piece, &parts_)) {
    written_ = in_hand_->readable_length();
    return;
  }
  const ssize_t put = Transfer(::writev, out_fd(), parts_);
  CountConsole(counters_.writes);
  if (put > 0) {
    written_ += static_cast<uint32_t>(put);
    *budget -= static_cast<uint32_t>(put);
    CountConsole(counters_.bytes_from_guest, static_cast<uint64_t>(put));
  } else if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    writable_ = false;
  } else {
    EndOutput();
  }
}

}  // namespace wyvern::devices
