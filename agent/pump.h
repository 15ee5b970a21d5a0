// agent/pump.h — bytes between a process's stdio and the host's streams.
// Shape:   one direction each; what was read and could not be written waits in the pump (at most kChunk), and nothing more is read
//          until it has left: back-pressure reaches the writer. Copies on purpose: splice(2) into a socket may block the loop.
// Life:    a pump keeps itself alive until its direction has ended; the handle may be dropped.
// Errors:  none: a side that is gone ends the direction. Output to a host that is gone is read and dropped, so that no process
//          blocks or dies of it.
// Threads: the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::agent {

// A registration with the loop that comes and goes: a hung-up descriptor is reported for ever, also when no event is asked for.
class IoWatch {
 public:
  IoWatch(EventLoop& loop, EventLoop::IoCallback callback)
      : loop_(loop), callback_(std::move(callback)) {}

  ~IoWatch() { Set(FdRef(-1), kOff); }

  IoWatch(const IoWatch&) = delete;
  IoWatch& operator=(const IoWatch&) = delete;

  static constexpr uint32_t kOff = UINT32_MAX;
  // events 0 waits for hang-up and errors only.
  void Set(FdRef fd, uint32_t events);

 private:
  EventLoop& loop_;
  EventLoop::IoCallback callback_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  uint32_t events_ = kOff;
};

// From a pipe's read end or a pseudo terminal to a stream of the host.
class OutputPump : public std::enable_shared_from_this<OutputPump> {
 public:
  static std::shared_ptr<OutputPump> Start(EventLoop& loop, UniqueFd source);

  OutputPump(EventLoop& loop, UniqueFd source);

  // The host's stream; nothing is read before it is there.
  void Attach(UniqueFd stream);
  // Delivers what is in the pipe now and ends then, within a bounded time: nobody may wait for writers that are left.
  void EndSoon();

 private:
  void Update();
  void OnSource();
  void ContinueSoon();
  void OnStream(uint32_t events);
  // False: the host does not take more now.
  bool WritePending();
  void SourceEnded();
  void StreamGone();
  void Close();

  EventLoop& loop_;
  std::shared_ptr<OutputPump> self_;
  UniqueFd source_;
  UniqueFd stream_;
  IoWatch source_watch_;
  IoWatch stream_watch_;
  EventLoop::Token timer_ = EventLoop::Token::kNone;
  std::string pending_;
  size_t pending_sent_ = 0;
  bool discard_ = false;  // the host is gone
  bool ending_ = false;   // an empty pipe is its end
};

// From a stream of the host to a pipe's write end or a pseudo terminal.
class InputPump : public std::enable_shared_from_this<InputPump> {
 public:
  static std::shared_ptr<InputPump> Start(EventLoop& loop, UniqueFd sink);

  InputPump(EventLoop& loop, UniqueFd sink);

  void Attach(UniqueFd stream);
  // The host's CloseStdin. With a stream the end of file comes in the stream, behind its data, which may take another way and
  // longer than the call; without one, or when nothing came for ten seconds, the input ends here.
  void CloseInput();
  void Close();

 private:
  void Update();
  void OnStream();
  void OnSink(uint32_t events);
  bool WritePending();
  void ArmIdleTimer();

  EventLoop& loop_;
  std::shared_ptr<InputPump> self_;
  UniqueFd sink_;
  UniqueFd stream_;
  IoWatch sink_watch_;
  IoWatch stream_watch_;
  EventLoop::Token timer_ = EventLoop::Token::kNone;
  std::string pending_;
  size_t pending_written_ = 0;
  bool closing_ = false;
  bool stream_ended_ = false;
};

}  // namespace wyvern::agent
