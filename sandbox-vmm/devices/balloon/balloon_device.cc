#include "balloon/balloon_device.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "balloon/balloon_wire.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<BalloonDevice>> BalloonDevice::Create(BalloonOptions options) {
  if (options.resume && options.resume->version != BalloonState::kVersion) {
    return Fail(Code::kInvalidArgument, "balloon: a state of another version");
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  return std::unique_ptr<BalloonDevice>(new BalloonDevice(std::move(options), std::move(worker)));
}

BalloonDevice::BalloonDevice(BalloonOptions options, std::unique_ptr<LoopThread> worker)
    : options_(std::move(options)), worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceBalloon;
  traits_.features = virtio::kRingFeatures | virtio::kInOrder | kBalloonMustTellHost |
                     kBalloonStatsQueue | kBalloonFreePageHint | kBalloonPagePoison |
                     (options_.deflate_on_oom ? kBalloonDeflateOnOom : 0) |
                     (options_.page_reporting ? kBalloonPageReporting : 0);
  traits_.queue_sizes = {128, 128, 16, 64};
  if (options_.page_reporting) {
    traits_.queue_sizes.push_back(64);  // Linux wants at least 32
  }
  traits_.config_length = sizeof(BalloonConfig);
  traits_.name = "balloon";
  pages_.reserve(wire_pages_.size());
  if (options_.resume) {
    config_.target = options_.resume->target_pages;
    config_.actual = options_.resume->actual_pages;
    config_.hint_command = options_.resume->hint_command;
    config_.poison = options_.resume->poison;
    last_hint_command_ = std::max(options_.resume->last_hint_command, kHintDone);
    hint_round_open_ = options_.resume->hint_round_open;
    driver_hint_command_ = options_.resume->driver_hint_command;
  }
}

BalloonDevice::~BalloonDevice() {
  worker_->Call([this] {
    worker_->loop().Remove(stats_timer_);
    for (uint16_t i = 0; i < kQueueCount; ++i) {
      StopQueue(i);
    }
  });
}

// --- Configuration and the owner's calls ---

void BalloonDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const BalloonConfig config = config_change_.Read([this] { return config_; });
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

// Only `actual` and `poison_val` are the driver's (VIRTIO §5.5.4), whatever the access covers.
void BalloonDevice::WriteConfig(uint32_t offset, std::span<const std::byte> in) {
  config_change_.Quietly([&] {
    const auto bytes = std::as_writable_bytes(std::span(&config_, 1));
    for (size_t i = 0; i < in.size() && offset + uint64_t{i} < bytes.size(); ++i) {
      const size_t at = offset + i;
      if (at / sizeof(Le32) == offsetof(BalloonConfig, actual) / sizeof(Le32) ||
          at / sizeof(Le32) == offsetof(BalloonConfig, poison) / sizeof(Le32)) {
        bytes[at] = in[i];
      }
    }
  });
}

Result<> BalloonDevice::SetTarget(uint64_t bytes) {
  const uint64_t pages = bytes / kBalloonPage;
  if (bytes % kBalloonPage != 0 || pages > std::numeric_limits<uint32_t>::max()) {
    return Fail(Code::kInvalidArgument, "balloon: a target is a multiple of 4096 below 16 TiB");
  }
  config_change_.Change([&] { config_.target = static_cast<uint32_t>(pages); });
  return {};
}

uint64_t BalloonDevice::actual() const {
  return config_change_.Read([this] { return config_.actual.value() * kBalloonPage; });
}

BalloonStats BalloonDevice::stats() const {
  return config_change_.Read([this] { return stats_; });
}

BalloonState BalloonDevice::state() const {
  uint32_t driver_hint_command = 0;
  worker_->Call([&] { driver_hint_command = driver_hint_command_; });
  return config_change_.Read([&] {
    return BalloonState{.target_pages = config_.target,
                        .actual_pages = config_.actual,
                        .hint_command = config_.hint_command,
                        .last_hint_command = last_hint_command_,
                        .hint_round_open = hint_round_open_,
                        .driver_hint_command = driver_hint_command,
                        .poison = config_.poison};
  });
}

Result<uint32_t> BalloonDevice::StartHinting() {
  uint32_t command = 0;
  bool refused = false;
  config_change_.Change([&] {
    command = last_hint_command_ + 1;
    if (command < kFirstHintCommand) {
      // All ids have been used. Again only after the driver's STOP (VIRTIO §5.5.6.5.2).
      refused = hint_round_open_;
      command = kFirstHintCommand;
    }
    if (!refused) {
      last_hint_command_ = command;
      hint_round_open_ = true;
      config_.hint_command = command;
    }
  });
  if (refused) {
    return Fail(Code::kFailedPrecondition, "balloon: the driver has not ended its round of hints");
  }
  return command;
}

void BalloonDevice::SetHintCommand(uint32_t command) {
  config_change_.Change([&] { config_.hint_command = command; });
}

void BalloonDevice::StopHinting() {
  SetHintCommand(kHintStop);
}

void BalloonDevice::FinishHinting() {
  SetHintCommand(kHintDone);
}

void BalloonDevice::SetStatsInterval(std::chrono::milliseconds interval) {
  worker_->loop().Post([this, interval] {
    stats_interval_ = interval;
    ArmStatsTimer();
  });
}

void BalloonDevice::RequestStats() {
  worker_->loop().Post([this] { AskForStats(); });
}

// --- Queues ---

Result<> BalloonDevice::StartQueue(uint16_t index, virtio::QueueResources resources,
                                   uint64_t features, std::optional<virtio::QueueState> resume) {
  const auto memory = resources.memory;
  const auto interrupt = resources.interrupt;
  const bool resumed = resume.has_value();
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick = [this, index] { OnKick(index); },
                               .on_fault =
                                   [this] {
                                     Count(counters_.faults);
                                     NeedsReset();
                                   }},
                              [&](std::unique_ptr<ActiveQueue> queue) {
                                features_ = features;
                                stats_undone_ = stats_undone_ && (index != kStats || resumed);
                                queues_[index] = {.active = std::move(queue), .memory = memory};
                                config_change_.QueueStarted(interrupt);
                                OnKick(index);
                              });
}

std::optional<virtio::QueueState> BalloonDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    Queue& queue = queues_[index];
    if (queue.active == nullptr) {
      return;
    }
    if (index == kStats && stats_chain_) {
      queue.active->queue().UndoPop(TakeStatsChain());
      stats_undone_ = true;
    }
    state = queue.active->state();
    queue = {};
    config_change_.QueueStopped();
  });
  return state;
}

// Its chains name pages, which are not the queue's to find.
bool BalloonDevice::MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) {
  worker_->Call([&] {
    for (Queue& queue : queues_) {
      if (queue.active != nullptr) {
        queue.memory = memory;
      }
    }
  });
  return true;
}

void BalloonDevice::Reset() {
  worker_->Call([this] {
    features_ = 0;
    stats_undone_ = false;
    const bool round_begun = driver_hint_command_ >= kFirstHintCommand;
    OnHintCommand(kHintStop);
    config_change_.Quietly([&] {
      config_.actual = 0;
      config_.poison = 0;
      // A round that had begun has ended with its driver; what no driver has seen yet waits for one.
      if (round_begun && config_.hint_command >= kFirstHintCommand) {
        config_.hint_command = kHintStop;
      }
    });
  });
}

std::vector<virtio::CounterValue> BalloonDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  const uint64_t target =
      config_change_.Read([this] { return config_.target.value() * kBalloonPage; });
  return {{"target_bytes", target},
          {"actual_bytes", actual()},
          {"inflated_pages", get(counters_.inflated_pages)},
          {"deflated_pages", get(counters_.deflated_pages)},
          {"reported_pages", get(counters_.reported_pages)},
          {"reports_kept", get(counters_.reports_kept)},
          {"hinted_pages", get(counters_.hinted_pages)},
          {"hints_ignored", get(counters_.hints_ignored)},
          {"freed_pages", get(counters_.freed_pages)},
          {"refused_pages", get(counters_.refused_pages)},
          {"pages_over_limit", get(counters_.pages_over_limit)},
          {"host_calls", get(counters_.host_calls)},
          {"host_failures", get(counters_.host_failures)},
          {"stats_updates", get(counters_.stats_updates)},
          {"stats_ignored", get(counters_.stats_ignored)},
          {"bad_requests", get(counters_.bad_requests)},
          {"faults", get(counters_.faults)}};
}

}  // namespace wyvern::devices
