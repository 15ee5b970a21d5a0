// sandbox/pod_forward.h — who dials localhost in a pod's namespace on the host, as CRI's port-forward does, reaches what listens on the guest's.
// Shape:   each connection (network/loopback.h) is a call of the agent, which answers with a stream of the guest's; then bytes go both ways. What
//          the guest refuses, and what is more than kMaxForwards at a time, is reset.
// Trust:   the host's processes with a way into the namespace are root's. The guest gets a connection and its bytes, nothing else.
// Threads: Start and Close from any but the loop's; `dial` runs in the pool.
#pragma once

#include <functional>
#include <memory>

#include "base/loop_thread.h"
#include "network/loopback.h"
#include "ttrpc/blocking.h"

namespace wyvern::runtime {

inline constexpr size_t kMaxForwards = 256;

class PodForward {
 public:
  using Dial = std::function<Result<UniqueFd>(uint16_t port)>;

  // `loop` and `pool` outlive it, `dial` what the pool has begun. Errors: LoopbackListener's.
  static Result<std::unique_ptr<PodForward>> Start(LoopThread& loop, ttrpc::BlockingPool& pool,
                                                   FdRef network_namespace, Dial dial);
  ~PodForward() = default;
  PodForward(const PodForward&) = delete;
  PodForward& operator=(const PodForward&) = delete;

  // No connection is taken any more, and none is left. Idempotent; before the loop's end.
  void Close();

 private:
  struct State;

  PodForward(LoopThread& loop, std::shared_ptr<State> state)
      : loop_(loop), state_(std::move(state)) {}

  LoopThread& loop_;
  const std::shared_ptr<State> state_;  // the loop's thread
};

}  // namespace wyvern::runtime
