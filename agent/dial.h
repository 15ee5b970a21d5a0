// agent/dial.h — connections that the host makes to what listens on the guest's loopback: `kubectl port-forward`.
// Shape:   one TCP connection to 127.0.0.1, or to ::1 where nobody listens there; then what it says goes to the host's stream with the token, and
//          back.
// Errors:  UNAVAILABLE: nobody listens; DEADLINE_EXCEEDED: not within kDialTimeout; RESOURCE_EXHAUSTED: kMaxDials are there.
// Threads: the loop's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "agent/stdio.h"
#include "base/event_loop.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

inline constexpr std::chrono::milliseconds kDialTimeout(5'000);
inline constexpr size_t kMaxDials = 256;

class Dialer {
 public:
  Dialer(EventLoop& loop, StdioHub& hub) : loop_(loop), hub_(hub) {}

  ~Dialer() = default;
  Dialer(const Dialer&) = delete;
  Dialer& operator=(const Dialer&) = delete;

  void Dial(const v1::DialTcpRequest& request, const ttrpc::Responder<v1::Empty>& responder);

 private:
  struct Attempt;

  void Try(const std::shared_ptr<Attempt>& attempt, int family);
  void OnEvents(const std::shared_ptr<Attempt>& attempt, int family);
  void Failed(const std::shared_ptr<Attempt>& attempt, int family, int error);
  void Connected(const std::shared_ptr<Attempt>& attempt);

  EventLoop& loop_;
  StdioHub& hub_;
  // Attempts and connections; shared with what may end after this.
  const std::shared_ptr<size_t> count_ = std::make_shared<size_t>(0);
};

}  // namespace wyvern::agent
