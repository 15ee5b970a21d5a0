// blk/blk_lane.h — one worker of a disk: an I/O engine and the queues that it serves.
// Shape:   each queue has its share of the requests in flight, so that none keeps another from the
//          engine. A queue whose share is used up, or that the rate limit holds back, keeps its
//          chains in the ring, where a stop finds them.
// Threads: Start, Stop, Settle and Wake from any thread but the worker, one at a time for each
//          queue; the rest is the worker's.
// Trust:   chains are the guest's.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "blk/blk_disk.h"
#include "blk/blk_task.h"
#include "blk/io_engine.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

class BlkLane {
 public:
  // Requests in flight, of all queues together, however large their rings are: what an engine is
  // given at once, and what bounds the memory that a guest can make us bind to its requests.
  static constexpr uint32_t kSlots = 256;

  using EngineFactory =
      std::function<Result<std::unique_ptr<IoEngine>>(EventLoop& loop, IoEngine::Done done)>;

  // `disk` must outlive the lane; `queues`: how many it is going to serve. Threads of the engine are
  // started here, by the caller: the worker's filter may forbid it.
  static Result<std::unique_ptr<BlkLane>> Create(BlkDisk& disk, unsigned index, uint32_t queues,
                                                 const WorkerOptions& worker,
                                                 const EngineFactory& engine);
  // Preconditions: every queue is stopped.
  ~BlkLane();
  BlkLane(const BlkLane&) = delete;
  BlkLane& operator=(const BlkLane&) = delete;

  // `options` without on_kick.
  Result<> Start(ActiveQueue::Options options);
  // When it returns, nothing of the queue is in flight; the lane's other queues go on meanwhile.
  std::optional<virtio::QueueState> Stop(uint16_t index);
  // Returns when no request that began before touches anything at or behind `end`.
  void Settle(uint64_t end);
  // The rate limit has changed.
  void Wake();

  const BlkCounters& counters() const { return counters_; }

 private:
  using StopPromise = std::promise<std::optional<virtio::QueueState>>;

  struct Served {
    std::unique_ptr<ActiveQueue> ring;
    uint16_t index = 0;
    uint64_t features = 0;
    uint32_t in_flight = 0;
    bool full = false;      // has used up its share, and chains are waiting
    bool lined_up = false;  // waits for the rate limit
    std::shared_ptr<StopPromise> stopping;
  };

  struct Slot {
    Served* queue = nullptr;
    BlkTask task;
    bool awaited = false;  // by Settle
  };

  BlkLane(BlkDisk& disk, unsigned index, uint32_t queues, std::unique_ptr<LoopThread> worker);
  Served* Find(uint16_t index);
  void Serve(Served& queue);
  bool Begin(Served& queue, virtio::Chain chain);
  void Run(Served& queue, virtio::Chain chain);
  bool Submit(uint32_t tag);
  void OnDone(uint32_t tag, int32_t result);
  void Finish(uint32_t tag);
  void EndBatch();
  uint32_t TakeSlot();
  void Answer(Served& queue, virtio::Chain chain, const BlkRequest& request, BlkStatus status);
  BlkStatus AnswerId(virtio::Chain& chain, uint32_t room) const;
  void BeginStop(uint16_t index, std::shared_ptr<StopPromise> done);
  void FinishStop(Served& queue);
  void LineUp(Served& queue, std::chrono::milliseconds delay);
  void ServeLine();

  BlkDisk& disk_;
  const unsigned index_;
  const uint32_t share_;  // of the slots, for each queue
  std::vector<std::unique_ptr<Served>> queues_;
  std::deque<Slot> slots_;  // as many as were ever needed at once, up to kSlots; by tag
  std::vector<uint32_t> free_slots_;
  std::deque<Served*> line_;  // queues that wait for the rate limit
  EventLoop::Token timer_ = EventLoop::Token::kNone;
  std::shared_ptr<std::promise<void>> settled_;
  uint32_t unsettled_ = 0;
  BlkCounters counters_;
  std::unique_ptr<IoEngine> engine_;
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
