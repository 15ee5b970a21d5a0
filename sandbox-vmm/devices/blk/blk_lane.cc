#include "blk/blk_lane.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::devices {

namespace {

constexpr uint32_t kIdBytes = 20;  // VIRTIO §5.2.6

void Count(std::atomic<uint64_t>& counter, uint64_t add = 1) {
  // One writer: no need of a locked addition.
  counter.store(counter.load(std::memory_order_relaxed) + add, std::memory_order_relaxed);
}

const char* Verb(BlkType type) {
  switch (type) {
    case BlkType::kIn:
      return "read";
    case BlkType::kOut:
      return "write";
    case BlkType::kFlush:
      return "flush";
    case BlkType::kDiscard:
      return "discard";
    case BlkType::kWriteZeroes:
      return "write of zeroes";
    default:
      return "request";
  }
}

// Nothing to be done by an engine.
bool IsEmpty(const BlkRequest& request) {
  return request.type != BlkType::kFlush && request.length == 0 && request.ranges.empty();
}

}  // namespace

Result<std::unique_ptr<BlkLane>> BlkLane::Create(BlkDisk& disk, unsigned index, uint32_t queues,
                                                 const WorkerOptions& worker,
                                                 const EngineFactory& engine) {
  WV_CHECK(index < BlkLimiter::kMaxLanes && queues > 0 && queues <= kSlots);
  WV_TRY(auto thread, StartWorker(worker));
  std::unique_ptr<BlkLane> lane(new BlkLane(disk, index, queues, std::move(thread)));
  BlkLane* self = lane.get();
  WV_TRY(lane->engine_, engine(lane->worker_->loop(), [self](uint32_t tag, int32_t result) {
           self->OnDone(tag, result);
         }));
  Result<> watched;
  lane->worker_->Call([&] { watched = self->engine_->Watch(); });
  WV_TRY_VOID(std::move(watched));
  return lane;
}

BlkLane::BlkLane(BlkDisk& disk, unsigned index, uint32_t queues, std::unique_ptr<LoopThread> worker)
    : disk_(disk), index_(index), share_(kSlots / queues), worker_(std::move(worker)) {}

BlkLane::~BlkLane() {
  worker_->Call([this] {
    WV_CHECK(queues_.empty());
    engine_.reset();
  });
}

BlkLane::Served* BlkLane::Find(uint16_t index) {
  const auto found =
      std::ranges::find_if(queues_, [index](const auto& queue) { return queue->index == index; });
  return found == queues_.end() ? nullptr : found->get();
}

Result<> BlkLane::Start(ActiveQueue::Options options) {
  Result<> result;
  worker_->Call([&] {
    auto queue = std::make_unique<Served>();
    Served* const served = queue.get();
    served->index = options.index;
    served->features = options.features;
    options.on_kick = [this, served] { Serve(*served); };
    auto started = ActiveQueue::Start(worker_->loop(), std::move(options));
    if (!started) {
      result = tl::unexpected(std::move(started).error());
      return;
    }
    served->ring = *std::move(started);
    queues_.push_back(std::move(queue));
    Serve(*served);
  });
  return result;
}

// Not by waiting in the worker: the other queues' requests go on, and one of them may be what keeps
// the host's disk busy.
std::optional<virtio::QueueState> BlkLane::Stop(uint16_t index) {
  WV_CHECK(!worker_->loop().OnLoopThread());
  auto done = std::make_shared<StopPromise>();
  auto state = done->get_future();
  worker_->loop().Post([this, index, done] { BeginStop(index, done); });
  return state.get();
}

void BlkLane::BeginStop(uint16_t index, std::shared_ptr<StopPromise> done) {
  Served* const queue = Find(index);
  if (queue == nullptr) {
    done->set_value(std::nullopt);
    return;
  }
  queue->stopping = std::move(done);
  if (queue->lined_up) {
    std::erase(line_, queue);
    if (line_.empty()) {
      worker_->loop().Remove(std::exchange(timer_, EventLoop::Token::kNone));
      disk_.limiter.Leave(index_);
    }
  }
  if (queue->in_flight == 0) {
    FinishStop(*queue);
  }
}

// Nothing is in flight: nothing can write into guest memory any more (CH 7e2e7a164).
void BlkLane::FinishStop(Served& queue) {
  const std::shared_ptr<StopPromise> done = std::move(queue.stopping);
  const virtio::QueueState state = queue.ring->state();
  std::erase_if(queues_, [&](const auto& each) { return each.get() == &queue; });
  done->set_value(state);
}

void BlkLane::Settle(uint64_t end) {
  auto done = std::make_shared<std::promise<void>>();
  auto settled = done->get_future();
  worker_->loop().Post([this, end, done] {
    for (Slot& slot : slots_) {
      if (slot.task.busy() && slot.task.request().end() > end) {
        slot.awaited = true;
        ++unsettled_;
      }
    }
    if (unsettled_ == 0) {
      done->set_value();
    } else {
      settled_ = done;
    }
  });
  settled.wait();
}

void BlkLane::Wake() {
  worker_->Call([this] {
    worker_->loop().Remove(std::exchange(timer_, EventLoop::Token::kNone));
    ServeLine();
  });
}

void BlkLane::Serve(Served& queue) {
  if (queue.stopping != nullptr || queue.lined_up) {
    return;
  }
  queue.ring->Drain([&](virtio::Chain chain) { return Begin(queue, std::move(chain)); });
  engine_->Kick();
}

// False: the chain stays in the ring for now.
bool BlkLane::Begin(Served& queue, virtio::Chain chain) {
  if (queue.in_flight == share_) {
    queue.full = true;
    queue.ring->queue().UndoPop(std::move(chain));
    return false;
  }
  if (disk_.limiter.limited()) {
    std::chrono::milliseconds delay{};
    if (!disk_.limiter.Ready(index_, &delay)) {
      queue.ring->queue().UndoPop(std::move(chain));
      LineUp(queue, delay);
      return false;
    }
  }
  Run(queue, std::move(chain));
  return true;
}

void BlkLane::Run(Served& queue, virtio::Chain chain) {
  const bool limited = disk_.limiter.limited();
  if (chain.writable_length() == 0) {
    Count(counters_.bad_requests);  // nowhere to put a status
    if (limited) {
      disk_.limiter.Spend(0);
    }
    queue.ring->queue().Push(std::move(chain), 0);
    return;
  }
  BlkRequest request =
      ParseBlkRequest(chain, {.sectors = disk_.sectors.load(std::memory_order_relaxed),
                              .read_only = disk_.read_only,
                              .features = queue.features});
  if (limited) {
    disk_.limiter.Spend(request.status == BlkStatus::kOk ? request.bytes() : 0);
  }
  if (request.status != BlkStatus::kOk) {
    Count(counters_.bad_requests);
    Answer(queue, std::move(chain), request, request.status);
    return;
  }
  if (request.type == BlkType::kGetId) {
    const BlkStatus status = AnswerId(chain, request.length);
    Answer(queue, std::move(chain), request, status);
    return;
  }
  if (IsEmpty(request)) {
    Answer(queue, std::move(chain), request, BlkStatus::kOk);
    return;
  }
  const uint32_t tag = TakeSlot();
  ++queue.in_flight;
  Slot& slot = slots_[tag];
  slot.queue = &queue;
  slot.task.Begin(std::move(chain), std::move(request), disk_.WritesAreStable(queue.features));
  if (!Submit(tag)) {
    Finish(tag);
  }
}

// The one that was freed last: a disk with little to do touches few.
uint32_t BlkLane::TakeSlot() {
  if (free_slots_.empty()) {
    // The shares add up to no more than that.
    WV_CHECK(slots_.size() < kSlots);
    slots_.emplace_back();
    return static_cast<uint32_t>(slots_.size() - 1);
  }
  const uint32_t tag = free_slots_.back();
  free_slots_.pop_back();
  return tag;
}

bool BlkLane::Submit(uint32_t tag) {
  std::optional<IoRequest> io = slots_[tag].task.Next();
  if (!io) {
    return false;
  }
  io->tag = tag;
  engine_->Submit(*io);
  return true;
}

void BlkLane::OnDone(uint32_t tag, int32_t result) {
  if (tag == IoEngine::kBatchEnd) {
    EndBatch();
    return;
  }
  if (!slots_[tag].task.Advance(result) || !Submit(tag)) {
    Finish(tag);
  }
}

void BlkLane::Finish(uint32_t tag) {
  Slot& slot = slots_[tag];
  const BlkTask& task = slot.task;
  if (task.status() == BlkStatus::kIoError) {
    // An error of the host's file, or its end before the disk's: it was truncated.
    Count(counters_.io_errors);
    WV_WARN_LIMITED("{}: {} at {}: {}", disk_.name, Verb(task.request().type),
                    task.request().offset,
                    task.error() == 0 ? "end of file" : strerrordesc_np(task.error()));
  }
  --slot.queue->in_flight;
  virtio::Chain chain = slot.task.Take();
  Answer(*slot.queue, std::move(chain), task.request(), task.status());
  free_slots_.push_back(tag);
  if (std::exchange(slot.awaited, false) && --unsettled_ == 0) {
    std::exchange(settled_, nullptr)->set_value();
  }
}

void BlkLane::EndBatch() {
  // By number: a queue that has stopped leaves the list.
  for (size_t i = 0; i < queues_.size();) {
    Served& queue = *queues_[i];
    queue.ring->Signal();
    if (queue.stopping != nullptr && queue.in_flight == 0) {
      FinishStop(queue);
      continue;
    }
    if (queue.full && queue.in_flight < share_) {
      queue.full = false;
      queue.ring->RunAgain();
    }
    ++i;
  }
  engine_->Kick();  // requests that went on
}

BlkStatus BlkLane::AnswerId(virtio::Chain& chain, uint32_t room) const {
  std::array<std::byte, kIdBytes> id{};
  std::memcpy(id.data(), disk_.serial.data(), disk_.serial.size());
  const auto answer = std::span(id).first(std::min<size_t>(room, id.size()));
  return chain.Write(0, answer) ? BlkStatus::kOk : BlkStatus::kIoError;
}

void BlkLane::Answer(Served& queue, virtio::Chain chain, const BlkRequest& request,
                     BlkStatus status) {
  // VIRTIO §2.7.8.2: as many bytes as were written from the beginning of the chain's writable part.
  // The status is its last byte: behind room that was not filled it does not count.
  const uint32_t room = chain.writable_length() - 1;
  uint32_t filled = 0;
  if (status == BlkStatus::kOk) {
    switch (request.type) {
      case BlkType::kIn:
        Count(counters_.reads);
        Count(counters_.bytes_read, request.length);
        filled = room;
        break;
      case BlkType::kOut:
        Count(counters_.writes);
        Count(counters_.bytes_written, request.length);
        break;
      case BlkType::kFlush:
        Count(counters_.flushes);
        break;
      case BlkType::kGetId:
        filled = std::min(room, kIdBytes);
        break;
      case BlkType::kDiscard:
        Count(counters_.discards);
        break;
      case BlkType::kWriteZeroes:
        Count(counters_.write_zeroes);
        break;
    }
  }
  const auto byte = static_cast<std::byte>(status);
  if (!chain.Write(room, std::span(&byte, 1))) {
    filled = 0;  // memory that cannot be written: the driver's loss
  } else if (filled == room) {
    ++filled;
  }
  queue.ring->queue().Push(std::move(chain), filled);
}

void BlkLane::LineUp(Served& queue, std::chrono::milliseconds delay) {
  Count(counters_.throttled);
  queue.lined_up = true;
  line_.push_back(&queue);
  if (timer_ == EventLoop::Token::kNone) {
    timer_ = worker_->loop().After(delay, [this] {
      timer_ = EventLoop::Token::kNone;
      ServeLine();
    });
  }
}

// In turn: whoever uses up what there is goes to the end, and the timer is set again.
void BlkLane::ServeLine() {
  while (!line_.empty() && timer_ == EventLoop::Token::kNone) {
    Served* const queue = line_.front();
    line_.pop_front();
    queue->lined_up = false;
    Serve(*queue);
  }
  if (line_.empty()) {
    disk_.limiter.Leave(index_);
  }
}

}  // namespace wyvern::devices
