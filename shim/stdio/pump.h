// stdio/pump.h — moves bytes from one descriptor to another on an event loop.
// Shape:   splice where one end is a pipe, else a 64 KiB buffer. Both ends are registered once, edge-triggered; at most kTurn bytes are moved
//          before others on the loop get their turn. A sink that does not take leaves the source unread: back-pressure, nothing else.
// Errors:  a source that fails has ended. A sink that nobody reads any more: kEnd stops, kDiscard goes on reading and drops (a task must not
//          block, nor be killed, because its logger died).
// Threads: the loop's.   Ownership: descriptors are borrowed; they outlive the pump's end.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::shim {

class Pump : public std::enable_shared_from_this<Pump> {
 public:
  enum class OnBrokenSink : uint8_t { kEnd, kDiscard };

  static constexpr size_t kBuffer = 64 << 10;
  static constexpr size_t kTurn = 1 << 20;

  // Both descriptors are made non-blocking. `done` is called once, on the loop, after the last byte was handed to the sink; not after Stop.
  static std::shared_ptr<Pump> Start(EventLoop& loop, FdRef source, FdRef sink,
                                     OnBrokenSink on_broken_sink, std::function<void()> done);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  // Counts bytes into `progress`, which outlives the pump; before the loop runs it again.
  void CountInto(std::atomic<uint64_t>* progress) { progress_ = progress; }

  // Ends without `done`; the descriptors may be closed afterwards. Idempotent.
  void Stop();

 private:
  Pump(EventLoop& loop, FdRef source, FdRef sink, OnBrokenSink on_broken_sink,
       std::function<void()> done);
  void Register();
  void Run();
  size_t MoveBySplice();
  size_t MoveByBuffer();
  bool FillBuffer();
  void SinkFailed(int error);
  void Finish();

  EventLoop& loop_;
  const FdRef source_;
  const FdRef sink_;
  const OnBrokenSink on_broken_sink_;
  std::function<void()> done_;
  std::atomic<uint64_t>* progress_ = nullptr;
  EventLoop::Token source_token_ = EventLoop::Token::kNone;
  EventLoop::Token sink_token_ = EventLoop::Token::kNone;
  bool source_ready_ = true;
  bool sink_ready_ = true;
  bool discard_ = false;
  bool splice_ = true;
  bool finished_ = false;
  bool turn_posted_ = false;
  int stuck_ = 0;                  // both ends said ready, yet nothing moved
  std::vector<std::byte> buffer_;  // allocated when first needed
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace wyvern::shim
