// events/publisher.h — tells containerd what happened, in order, whatever containerd is doing meanwhile.
// Shape:   one queue, one thread, one call in flight: an event is sent when containerd has answered the one before. A connection that fails is
//          made again, for as long as it takes (containerd may be restarting). An event that containerd answers with an error is sent again for
//          `refusal_patience`; one it calls invalid, or that no ttrpc message can carry, is dropped at once.
// Twice:   containerd may have published what it has not answered yet, so an answer that is late is waited for on the same connection. Only
//          when that connection ends, or after `answer_patience`, is the event sent again: it may then arrive twice.
// Bounds:  /tasks/oom is all that the guest causes without end: only those make room for others. Every other event answers a call of
//          containerd's or is the one exit of a process, and clients wait for it: never dropped for want of room.
// Errors:  none to callers: a task must not fail because nobody listens. Logged, rate-limited.
// Threads: Publish from any thread, in the order of the calls; never blocks.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "ttrpc/client.h"

namespace wyvern::shim {

class EventSink {
 public:
  virtual ~EventSink() = default;
  // `topic`: "/tasks/exit"; `type`: "containerd.events.TaskExit"; `event`: the serialized message.
  virtual void Publish(std::string_view topic, std::string_view type, std::string event) = 0;
};

struct PublisherOptions {
  std::string
      address;  // TTRPC_ADDRESS: a path, or unix://path. Empty: nobody listens, events are dropped
  std::string ns;
  std::chrono::milliseconds slow_answer{5000};  // then a line says so
  std::chrono::milliseconds answer_patience{60000};
  std::chrono::milliseconds first_backoff{20};
  std::chrono::milliseconds max_backoff{500};
  std::chrono::milliseconds refusal_patience{60000};
  size_t max_queued = 16384;  // then the oldest of /tasks/oom is dropped
};

class Publisher final : public EventSink {
 public:
  explicit Publisher(PublisherOptions options);
  // Drops what is still queued; Flush first.
  ~Publisher() override;
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  void Publish(std::string_view topic, std::string_view type, std::string event) override;

  // Waits until everything published so far was delivered; false when `patience` ended first.
  bool Flush(std::chrono::milliseconds patience);

 private:
  struct Item {
    std::string topic;
    std::string request;                              // serialized ForwardRequest
    std::chrono::steady_clock::time_point give_up{};  // set by the first refusal
  };

  enum class Outcome : uint8_t { kDelivered, kInvalid, kRefused, kUnreachable };

  void Run();
  Outcome Send(const Item& item);
  Result<> Connect();
  // The answer of one call, or UNAVAILABLE when the publisher ends first.
  Result<> Forward(const Item& item);
  // False: the queue is full of what must not be dropped. With mu_ held.
  bool DropOldestOom();
  // Sleeps unless the publisher ends; `lock` is held before and after.
  void Sleep(std::unique_lock<std::mutex>& lock, std::chrono::milliseconds time);

  const PublisherOptions options_;
  std::unique_ptr<ttrpc::Client> client_;  // the thread's own
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Item> queue_;  // guarded by mu_; the front is the one being sent
  bool stop_ = false;       // guarded by mu_
  uint64_t dropped_ = 0;    // guarded by mu_
  std::thread thread_;
};

}  // namespace wyvern::shim
