#include "rng/rng_device.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <utility>

#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<RngDevice>> RngDevice::Create(const WorkerOptions& options,
                                                     const RateLimiterConfig& limits) {
  WV_TRY(auto worker, StartWorker(options));
  return std::unique_ptr<RngDevice>(new RngDevice(std::move(worker), limits));
}

RngDevice::RngDevice(std::unique_ptr<LoopThread> worker, const RateLimiterConfig& limits)
    : limiter_(limits, RateLimiter::Now()), worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceEntropy;
  traits_.features = virtio::kRingFeatures | virtio::kInOrder;
  traits_.queue_sizes = {1024};  // QEMU 10 gives a vhost-user one that many, unasked
  traits_.name = "rng";
}

RngDevice::~RngDevice() {
  StopQueue(0);
}

void RngDevice::ReadConfig(uint32_t /*offset*/, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
}

void RngDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> RngDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick = [this] { Serve(); },
                               .on_fault =
                                   [this] {
                                     faults_.fetch_add(1, std::memory_order_relaxed);
                                     NeedsReset();
                                   }},
                              [this](std::unique_ptr<ActiveQueue> queue) {
                                queue_ = std::move(queue);
                                Serve();
                              });
}

std::optional<virtio::QueueState> RngDevice::StopQueue(uint16_t /*index*/) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queue_ != nullptr) {
      worker_->loop().Remove(std::exchange(timer_, EventLoop::Token::kNone));
      state = queue_->state();
      queue_.reset();
    }
  });
  return state;
}

void RngDevice::Serve() {
  if (timer_ == EventLoop::Token::kNone) {
    queue_->Drain([this](virtio::Chain chain) { return Answer(std::move(chain)); });
  }
}

// False: the chain stays in the ring for now.
bool RngDevice::Answer(virtio::Chain chain) {
  const bool limited = limiter_.limited();
  if (limited) {
    const RateLimiter::Time now = RateLimiter::Now();
    if (!limiter_.Ready(now)) {
      queue_->queue().UndoPop(std::move(chain));
      Later(now);
      return false;
    }
  }
  const uint32_t written = Fill(chain);
  if (limited) {
    limiter_.Spend(written, RateLimiter::Now());
  }
  requests_.fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(written, std::memory_order_relaxed);
  queue_->queue().Push(std::move(chain), written);
  return true;
}

void RngDevice::Later(RateLimiter::Time now) {
  throttled_.fetch_add(1, std::memory_order_relaxed);
  timer_ = worker_->loop().After(limiter_.Delay(now), [this] {
    timer_ = EventLoop::Token::kNone;
    Serve();
  });
}

uint32_t RngDevice::Fill(virtio::Chain& chain) {
  const uint32_t wanted = std::min(chain.writable_length(), kMaxBytes);
  std::array<std::byte, 4096> block;
  uint32_t done = 0;
  while (done < wanted) {
    const size_t piece = std::min<size_t>(block.size(), wanted - done);
    const ssize_t got = getrandom(block.data(), piece, 0);
    if (got <= 0) {
      continue;  // EINTR: the pool is ready long before a VMM starts
    }
    if (!chain.Write(done, std::span(block).first(static_cast<size_t>(got)))) {
      break;  // memory that cannot be written: the driver gets what fit
    }
    done += static_cast<uint32_t>(got);
  }
  return done;
}

std::vector<virtio::CounterValue> RngDevice::counters() const {
  return {{"requests", requests_.load(std::memory_order_relaxed)},
          {"bytes", bytes_.load(std::memory_order_relaxed)},
          {"throttled", throttled_.load(std::memory_order_relaxed)},
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

void RngDevice::SetRateLimits(const RateLimiterConfig& limits) {
  worker_->Call([&] {
    limiter_.Update(limits, RateLimiter::Now());
    worker_->loop().Remove(std::exchange(timer_, EventLoop::Token::kNone));
    if (queue_ != nullptr) {
      Serve();
    }
  });
}

RngState RngDevice::SaveState() {
  RngState state;
  worker_->Call([&] { state.limits = limiter_.Save(RateLimiter::Now()); });
  return state;
}

Result<> RngDevice::RestoreState(const RngState& state) {
  if (state.version != RngState::kVersion) {
    return Fail(Code::kInvalidArgument, "an entropy device's state of another version");
  }
  worker_->Call([&] { limiter_.Restore(state.limits, RateLimiter::Now()); });
  return {};
}

}  // namespace wyvern::devices
