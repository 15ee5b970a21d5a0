#include "agent/pump.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr size_t kChunk = 64U << 10;
// Reads of one pump before others get their turn.
constexpr int kTurns = 8;
constexpr std::chrono::milliseconds kEndTimeout(10'000);
constexpr std::chrono::milliseconds kCloseIdle(10'000);

enum class Io { kData, kEnd, kAgain };

// One buffer for all: a pump moves its data on or copies the rest away before it returns.
std::array<char, kChunk>& Scratch() {
  static std::array<char, kChunk> scratch;
  return scratch;
}

Io ReadChunk(FdRef fd, size_t* size) {
  while (true) {
    const ssize_t count = read(fd.get(), Scratch().data(), kChunk);
    if (count > 0) {
      *size = static_cast<size_t>(count);
      return Io::kData;
    }
    if (count < 0 && errno == EINTR) {
      continue;
    }
    // EIO: a terminal whose last user is gone. Everything else but "later" is an end, too.
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? Io::kAgain : Io::kEnd;
  }
}

}  // namespace

void IoWatch::Set(FdRef fd, uint32_t events) {
  if (events == events_) {
    return;
  }
  if (events == kOff) {
    loop_.Remove(std::exchange(token_, EventLoop::Token::kNone));
  } else if (events_ == kOff) {
    auto token = loop_.Add(fd, events, callback_);
    if (!token) {
      WV_WARN_LIMITED("stdio: {}", token.error().message());
      return;
    }
    token_ = *token;
  } else if (auto modified = loop_.Modify(token_, events); !modified) {
    WV_WARN_LIMITED("stdio: {}", modified.error().message());
    return;
  }
  events_ = events;
}

std::shared_ptr<OutputPump> OutputPump::Start(EventLoop& loop, UniqueFd source) {
  auto pump = std::make_shared<OutputPump>(loop, std::move(source));
  pump->self_ = pump;
  return pump;
}

OutputPump::OutputPump(EventLoop& loop, UniqueFd source)
    : loop_(loop),
      source_(std::move(source)),
      source_watch_(loop, [this](uint32_t) { OnSource(); }),
      stream_watch_(loop, [this](uint32_t events) { OnStream(events); }) {}

void OutputPump::Attach(UniqueFd stream) {
  if (!self_ || stream_.valid() || discard_) {
    return;
  }
  stream_ = std::move(stream);
  Update();
}

void OutputPump::EndSoon() {
  if (!self_ || ending_) {
    return;
  }
  ending_ = true;
  if (!stream_.valid()) {
    Close();
    return;
  }
  if (timer_ == EventLoop::Token::kNone) {
    timer_ = loop_.After(kEndTimeout, [this] { Close(); });
  }
  ContinueSoon();
}

void OutputPump::Update() {
  const bool may_read = source_.valid() && (discard_ || (stream_.valid() && pending_.empty()));
  source_watch_.Set(source_, may_read ? uint32_t{EPOLLIN} : IoWatch::kOff);
  if (!stream_.valid()) {
    return;
  }
  if (!pending_.empty()) {
    stream_watch_.Set(stream_, EPOLLOUT);
  } else if (!source_.valid()) {
    stream_watch_.Set(stream_, EPOLLIN);  // its end, after ours
  } else {
    stream_watch_.Set(stream_, IoWatch::kOff);
  }
}

void OutputPump::OnSource() {
  const auto keep = shared_from_this();
  for (int turn = 0; turn < kTurns && pending_.empty(); ++turn) {
    size_t size = 0;
    const Io io = ReadChunk(source_, &size);
    if (io == Io::kEnd || (io == Io::kAgain && ending_)) {
      SourceEnded();
      return;
    }
    if (io == Io::kAgain) {
      break;
    }
    if (discard_) {
      continue;
    }
    pending_.assign(Scratch().data(), size);
    (void)WritePending();
    if (!self_) {
      return;
    }
  }
  Update();
  if (ending_ && pending_.empty()) {
    // More may be there, but once it is empty no event would say so.
    ContinueSoon();
  }
}

void OutputPump::ContinueSoon() {
  loop_.Post([self = shared_from_this()] {
    if (self->self_ && self->source_.valid() && self->pending_.empty()) {
      self->OnSource();
    }
  });
}

bool OutputPump::WritePending() {
  while (pending_sent_ < pending_.size()) {
    const ssize_t sent = send(stream_.get(), pending_.data() + pending_sent_,
                              pending_.size() - pending_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      pending_sent_ += static_cast<size_t>(sent);
      continue;
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return false;
    }
    StreamGone();
    return true;
  }
  pending_.clear();
  pending_sent_ = 0;
  return true;
}

void OutputPump::OnStream(uint32_t events) {
  const auto keep = shared_from_this();
  if (!pending_.empty()) {
    if (WritePending() && self_ && stream_.valid() && ending_ && source_.valid()) {
      OnSource();
      return;
    }
    if (self_ && pending_.empty() && !source_.valid()) {
      SourceEnded();
      return;
    }
    Update();
    return;
  }
  if (!source_.valid() && (events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) {
    // The host has seen our end and ends, too; what it may send here is nothing to us.
    size_t size = 0;
    if (ReadChunk(stream_, &size) == Io::kEnd) {
      Close();
    }
  }
}

void OutputPump::SourceEnded() {
  source_watch_.Set(source_, IoWatch::kOff);
  source_.Reset();
  if (discard_ || !self_) {
    Close();
    return;
  }
  if (pending_.empty() && stream_.valid()) {
    (void)shutdown(stream_.get(), SHUT_WR);
    if (timer_ == EventLoop::Token::kNone) {
      timer_ = loop_.After(kEndTimeout, [this] { Close(); });
    }
  }
  Update();
}

void OutputPump::StreamGone() {
  stream_watch_.Set(stream_, IoWatch::kOff);
  stream_.Reset();
  pending_.clear();
  pending_sent_ = 0;
  discard_ = true;
  if (!source_.valid() || ending_) {
    Close();
  }
}

void OutputPump::Close() {
  source_watch_.Set(source_, IoWatch::kOff);
  stream_watch_.Set(stream_, IoWatch::kOff);
  source_.Reset();
  stream_.Reset();
  if (timer_ != EventLoop::Token::kNone) {
    loop_.Remove(std::exchange(timer_, EventLoop::Token::kNone));
  }
  // Callers within the pump hold a reference of their own.
  loop_.Post([self = std::move(self_)] {});
}

std::shared_ptr<InputPump> InputPump::Start(EventLoop& loop, UniqueFd sink) {
  auto pump = std::make_shared<InputPump>(loop, std::move(sink));
  pump->self_ = pump;
  pump->Update();
  return pump;
}

InputPump::InputPump(EventLoop& loop, UniqueFd sink)
    : loop_(loop),
      sink_(std::move(sink)),
      sink_watch_(loop, [this](uint32_t events) { OnSink(events); }),
      stream_watch_(loop, [this](uint32_t) { OnStream(); }) {}

void InputPump::Attach(UniqueFd stream) {
  if (!self_ || stream_.valid() || closing_) {
    return;
  }
  stream_ = std::move(stream);
  Update();
}

void InputPump::CloseInput() {
  if (!self_) {
    return;
  }
  closing_ = true;
  if (!stream_.valid()) {
    Close();
    return;
  }
  ArmIdleTimer();
}

void InputPump::ArmIdleTimer() {
  if (timer_ != EventLoop::Token::kNone) {
    loop_.Remove(timer_);
  }
  timer_ = loop_.After(kCloseIdle, [this] {
    timer_ = EventLoop::Token::kNone;
    if (pending_.empty()) {
      Close();
    } else {
      ArmIdleTimer();  // the process does not read: the host's data may still be behind
    }
  });
}

void InputPump::Update() {
  if (!self_) {
    return;
  }
  sink_watch_.Set(sink_, pending_.empty() ? 0U : uint32_t{EPOLLOUT});
  const bool may_read = stream_.valid() && pending_.empty() && !stream_ended_;
  stream_watch_.Set(stream_, may_read ? uint32_t{EPOLLIN} : IoWatch::kOff);
}

void InputPump::OnStream() {
  const auto keep = shared_from_this();
  for (int turn = 0; turn < kTurns && pending_.empty(); ++turn) {
    size_t size = 0;
    const Io io = ReadChunk(stream_, &size);
    if (io == Io::kEnd) {
      Close();
      return;
    }
    if (io == Io::kAgain) {
      break;
    }
    if (closing_) {
      ArmIdleTimer();
    }
    pending_.assign(Scratch().data(), size);
    (void)WritePending();
    if (!self_) {
      return;
    }
  }
  Update();
}

bool InputPump::WritePending() {
  while (pending_written_ < pending_.size()) {
    const ssize_t count =
        write(sink_.get(), pending_.data() + pending_written_, pending_.size() - pending_written_);
    if (count >= 0) {
      pending_written_ += static_cast<size_t>(count);
      continue;
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return false;
    }
    Close();  // nobody reads any more
    return true;
  }
  pending_.clear();
  pending_written_ = 0;
  return true;
}

void InputPump::OnSink(uint32_t events) {
  const auto keep = shared_from_this();
  if (pending_.empty() && (events & (EPOLLERR | EPOLLHUP)) != 0) {
    Close();
    return;
  }
  (void)WritePending();
  Update();
}

void InputPump::Close() {
  sink_watch_.Set(sink_, IoWatch::kOff);
  stream_watch_.Set(stream_, IoWatch::kOff);
  sink_.Reset();
  stream_.Reset();
  if (timer_ != EventLoop::Token::kNone) {
    loop_.Remove(std::exchange(timer_, EventLoop::Token::kNone));
  }
  loop_.Post([self = std::move(self_)] {});
}

}  // namespace wyvern::agent
