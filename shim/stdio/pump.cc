#include "stdio/pump.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace wyvern::shim {

namespace {

constexpr int kStuckLimit = 3;
constexpr size_t kSpliceChunk = 256 << 10;

bool Polls(FdRef fd, short events) {
  pollfd polled{.fd = fd.get(), .events = events, .revents = 0};
  return poll(&polled, 1, 0) > 0 && polled.revents != 0;
}

}  // namespace

std::shared_ptr<Pump> Pump::Start(EventLoop& loop, FdRef source, FdRef sink,
                                  OnBrokenSink on_broken_sink, std::function<void()> done) {
  std::shared_ptr<Pump> pump(new Pump(loop, source, sink, on_broken_sink, std::move(done)));
  (void)SetNonBlocking(source, true);
  (void)SetNonBlocking(sink, true);
  pump->Register();
  // Not from here: the caller has not got its pointer yet.
  loop.Post([pump] { pump->Run(); });
  return pump;
}

Pump::Pump(EventLoop& loop, FdRef source, FdRef sink, OnBrokenSink on_broken_sink,
           std::function<void()> done)
    : loop_(loop),
      source_(source),
      sink_(sink),
      on_broken_sink_(on_broken_sink),
      done_(std::move(done)) {}

Pump::~Pump() = default;

void Pump::Register() {
  // Regular files cannot be polled (EPERM): they count as ready always.
  auto source_token =
      loop_.Add(source_, EPOLLIN | EPOLLRDHUP | EPOLLET, [self = shared_from_this()](uint32_t) {
        self->source_ready_ = true;
        self->Run();
      });
  if (source_token) {
    source_token_ = *source_token;
  }
  auto sink_token = loop_.Add(sink_, EPOLLOUT | EPOLLET, [self = shared_from_this()](uint32_t) {
    self->sink_ready_ = true;
    self->Run();
  });
  if (sink_token) {
    sink_token_ = *sink_token;
  }
}

void Pump::Run() {
  size_t moved = 0;
  while (!finished_ && source_ready_ && (sink_ready_ || discard_)) {
    if (moved >= kTurn) {
      if (!turn_posted_) {
        turn_posted_ = true;
        loop_.Post([self = shared_from_this()] {
          self->turn_posted_ = false;
          self->Run();
        });
      }
      return;
    }
    const size_t step = splice_ && !discard_ ? MoveBySplice() : MoveByBuffer();
    moved += step;
    if (progress_ != nullptr && step > 0) {
      progress_->fetch_add(step, std::memory_order_relaxed);
    }
  }
}

size_t Pump::MoveBySplice() {
  const ssize_t moved = splice(source_.get(), nullptr, sink_.get(), nullptr, kSpliceChunk,
                               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (moved > 0) {
    stuck_ = 0;
    return static_cast<size_t>(moved);
  }
  if (moved == 0) {
    Finish();
    return 0;
  }
  switch (errno) {
    case EINTR:
      return 0;
    case EAGAIN:
      // It does not say which end. Either may have changed since: edges that come later are not lost.
      source_ready_ = source_token_ == EventLoop::Token::kNone || Polls(source_, POLLIN);
      sink_ready_ = sink_token_ == EventLoop::Token::kNone || Polls(sink_, POLLOUT);
      if (source_ready_ && sink_ready_ && ++stuck_ >= kStuckLimit) {
        splice_ = false;
      }
      return 0;
    case EPIPE:
      SinkFailed(EPIPE);
      return 0;
    default:
      // EINVAL: these two cannot be spliced. Anything else shows again in read and write, which know whose error it is.
      splice_ = false;
      return 0;
  }
}

bool Pump::FillBuffer() {
  buffer_.resize(kBuffer);
  const ssize_t got = read(source_.get(), buffer_.data(), buffer_.size());
  if (got > 0) {
    begin_ = 0;
    end_ = static_cast<size_t>(got);
    return true;
  }
  if (got < 0 && errno == EINTR) {
    return false;
  }
  if (got < 0 && errno == EAGAIN) {
    source_ready_ = source_token_ == EventLoop::Token::kNone;
    return false;
  }
  // The end, or a reset by a sandbox that died: nothing more will come.
  Finish();
  return false;
}

size_t Pump::MoveByBuffer() {
  if (begin_ == end_ && !FillBuffer()) {
    return 0;
  }
  if (discard_) {
    const size_t dropped = end_ - begin_;
    begin_ = end_;
    return dropped;
  }
  const ssize_t put = write(sink_.get(), buffer_.data() + begin_, end_ - begin_);
  if (put >= 0) {
    begin_ += static_cast<size_t>(put);
    return static_cast<size_t>(put);
  }
  if (errno == EAGAIN) {
    sink_ready_ = sink_token_ == EventLoop::Token::kNone;
  } else if (errno != EINTR) {
    SinkFailed(errno);
  }
  return 0;
}

void Pump::SinkFailed(int error) {
  if (on_broken_sink_ == OnBrokenSink::kEnd) {
    Finish();
    return;
  }
  if (error == EPIPE) {
    WV_WARN_LIMITED("stdio: the reader of a task's output is gone; further output is dropped");
    discard_ = true;
    return;
  }
  // A full disk may have room again later: only what cannot be written now is lost.
  WV_WARN_LIMITED("stdio: writing a task's output: {}; {} bytes dropped", strerrordesc_np(error),
                  end_ - begin_);
  begin_ = end_;
}

void Pump::Finish() {
  if (finished_) {
    return;
  }
  const auto done = std::exchange(done_, nullptr);
  Stop();
  if (done) {
    done();
  }
}

void Pump::Stop() {
  const auto self = shared_from_this();  // the registrations may hold the last reference
  finished_ = true;
  done_ = nullptr;
  loop_.Remove(std::exchange(source_token_, EventLoop::Token::kNone));
  loop_.Remove(std::exchange(sink_token_, EventLoop::Token::kNone));
  buffer_ = {};
  begin_ = end_ = 0;
}

}  // namespace wyvern::shim
