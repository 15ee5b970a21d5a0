#include "sandbox/pod_forward.h"

#include <sys/socket.h>

#include <set>
#include <utility>

#include "base/log.h"
#include "base/plain_text.h"
#include "base/stream_relay.h"

namespace wyvern::runtime {
namespace {

// The client hears of it: an end without a word could be an answer.
void Reset(UniqueFd connection) {
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  static_cast<void>(setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
}

}  // namespace

struct PodForward::State : std::enable_shared_from_this<PodForward::State> {
  State(EventLoop& event_loop, ttrpc::BlockingPool& blocking_pool, Dial dialler)
      : loop(event_loop), pool(blocking_pool), dial(std::move(dialler)) {}

  void Accepted(UniqueFd connection, uint16_t port) {
    if (count >= kMaxForwards) {
      WV_WARN_LIMITED("port-forward: {} connections are there: one to port {} is refused",
                      kMaxForwards, port);
      Reset(std::move(connection));
      return;
    }
    ++count;
    auto held = std::make_shared<UniqueFd>(std::move(connection));
    pool.Run([self = shared_from_this(), held, port] {
      auto dialled = self->dial(port);
      auto stream = std::make_shared<UniqueFd>();
      if (dialled.has_value()) {
        *stream = std::move(*dialled);
      } else {
        WV_INFO("port-forward to {}: {}", port,
                PlainText(dialled.error().message(), kMaxGuestError));
      }
      self->loop.Post([self, held, stream] { self->Dialled(*held, *stream); });
    });
  }

  void Dialled(UniqueFd& connection, UniqueFd& stream) {
    if (!stream.valid() || listener == nullptr) {
      --count;
      Reset(std::move(connection));
      return;
    }
    auto entry = std::make_shared<std::shared_ptr<StreamRelay>>();
    auto relay = StreamRelay::Start(loop, std::move(connection), std::move(stream),
                                    [self = shared_from_this(), entry] {
                                      --self->count;
                                      self->relays.erase(std::exchange(*entry, nullptr));
                                    });
    if (!relay.has_value()) {
      --count;
      WV_WARN("port-forward: {}", relay.error().message());
      return;
    }
    *entry = *relay;
    relays.insert(*relay);
  }

  EventLoop& loop;
  ttrpc::BlockingPool& pool;
  const Dial dial;
  std::unique_ptr<LoopbackListener> listener;  // null: closed
  std::set<std::shared_ptr<StreamRelay>> relays;
  size_t count = 0;  // those being dialled, too
};

Result<std::unique_ptr<PodForward>> PodForward::Start(LoopThread& loop, ttrpc::BlockingPool& pool,
                                                      FdRef network_namespace, Dial dial) {
  auto state = std::make_shared<State>(loop.loop(), pool, std::move(dial));
  Result<> started;
  loop.Call([&] {
    auto listener = LoopbackListener::Start(
        loop.loop(), network_namespace, [weak = std::weak_ptr(state)](UniqueFd fd, uint16_t port) {
          if (const auto living = weak.lock()) {
            living->Accepted(std::move(fd), port);
          }
        });
    if (listener.has_value()) {
      state->listener = std::move(*listener);
    } else {
      started = tl::unexpected(std::move(listener).error());
    }
  });
  WV_TRY_VOID(std::move(started));
  return std::unique_ptr<PodForward>(new PodForward(loop, std::move(state)));
}

void PodForward::Close() {
  loop_.Call([this] {
    state_->listener.reset();
    for (const std::shared_ptr<StreamRelay>& relay : std::exchange(state_->relays, {})) {
      relay->Stop();
    }
  });
}

}  // namespace wyvern::runtime
