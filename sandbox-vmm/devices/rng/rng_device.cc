#include "rng/rng_device.h"

#include <sys/random.h>

#include <algorithm>
#include <array>

#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<RngDevice>> RngDevice::Create(const WorkerOptions& options) {
  WV_TRY(auto worker, StartWorker(options));
  return std::unique_ptr<RngDevice>(new RngDevice(std::move(worker)));
}

RngDevice::RngDevice(std::unique_ptr<LoopThread> worker) : worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceEntropy;
  traits_.features = virtio::kRingFeatures;
  traits_.queue_sizes = {64};
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
  Result<> result;
  worker_->Call([&] {
    auto started =
        ActiveQueue::Start(worker_->loop(), {.index = index,
                                             .resources = std::move(resources),
                                             .features = features,
                                             .resume = resume,
                                             .device = traits_.name,
                                             .on_kick = [this] { Serve(); },
                                             .on_fault =
                                                 [this] {
                                                   faults_.fetch_add(1, std::memory_order_relaxed);
                                                   NeedsReset();
                                                 }});
    if (!started) {
      result = tl::unexpected(std::move(started).error());
      return;
    }
    queue_ = *std::move(started);
    Serve();
  });
  return result;
}

std::optional<virtio::QueueState> RngDevice::StopQueue(uint16_t /*index*/) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queue_ != nullptr) {
      state = queue_->state();
      queue_.reset();
    }
  });
  return state;
}

void RngDevice::Serve() {
  queue_->Drain([this](virtio::Chain chain) {
    const uint32_t written = Fill(chain);
    requests_.fetch_add(1, std::memory_order_relaxed);
    bytes_.fetch_add(written, std::memory_order_relaxed);
    queue_->queue().Push(std::move(chain), written);
    return true;
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
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::devices
