// ttrpc/blocking.h — threads for handlers that block: one per call in flight, idle ones are used
// again. There is no upper limit: a Wait may block for days, and a full pool would then keep the
// Kill away that ends it. The number of calls is bounded by
// ServerOptions::max_calls_per_connection. Threads: Run from any thread. The destructor waits for
// running work: what it waits for must be made to end first.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "ttrpc/call.h"

namespace wyvern::ttrpc {

class BlockingPool {
 public:
  // Threads are called `name` (at most 15 bytes) and end after `idle` without work.
  explicit BlockingPool(const std::string& name,
                        std::chrono::milliseconds idle = std::chrono::seconds(10));
  ~BlockingPool();
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  void Run(std::function<void()> work);
  // Threads that exist, busy or idle.
  size_t thread_count() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// server.RegisterUnary<Req, Resp>(service, method, Blocking<Req, Resp>(pool, [](const Req&, const
// CallContext&) -> Result<Resp> {…})); The pool outlives the server.
template <typename Req, typename Resp>
std::function<void(Req, const CallContext&, Responder<Resp>)> Blocking(
    BlockingPool& pool, std::function<Result<Resp>(const Req&, const CallContext&)> function) {
  auto shared = std::make_shared<std::function<Result<Resp>(const Req&, const CallContext&)>>(
      std::move(function));
  return [&pool, shared](Req request, const CallContext& context, Responder<Resp> responder) {
    pool.Run([shared, request = std::move(request), context, responder = std::move(responder)] {
      responder.Answer((*shared)(request, context));
    });
  };
}

}  // namespace wyvern::ttrpc
