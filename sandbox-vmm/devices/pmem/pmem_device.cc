#include "pmem/pmem_device.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr uint32_t kRequestFlush = 0;  // VIRTIO §5.19.6
constexpr uint32_t kOk = 0;            // VIRTIO §5.19.7.3: 0 or -1
constexpr uint32_t kError = 0xffffffff;
constexpr uint64_t kPage = 4096;

struct Config {
  Le64 start;
  Le64 size;
};

}  // namespace

Result<std::unique_ptr<PmemDevice>> PmemDevice::Create(const WorkerOptions& options,
                                                       PmemRange range) {
  const uint64_t start = mem::Raw(range.start);
  if (range.size == 0 || start % kPage != 0 || range.size % kPage != 0 ||
      range.size > ~uint64_t{0} - start) {
    return Fail(Code::kInvalidArgument, "persistent memory is a range of whole pages");
  }
  WV_TRY(auto worker, StartWorker(options));
  return std::unique_ptr<PmemDevice>(new PmemDevice(std::move(worker), range));
}

PmemDevice::PmemDevice(std::unique_ptr<LoopThread> worker, PmemRange range)
    : range_(range), worker_(std::move(worker)) {
  traits_.device_id = virtio::kDevicePmem;
  traits_.features = virtio::kRingFeatures | virtio::kInOrder;
  traits_.queue_sizes = {64};
  traits_.config_length = sizeof(Config);
  traits_.name = "pmem";
}

PmemDevice::~PmemDevice() {
  StopQueue(0);
}

void PmemDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  Config config;
  config.start = mem::Raw(range_.start);
  config.size = range_.size;
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

void PmemDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> PmemDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
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

std::optional<virtio::QueueState> PmemDevice::StopQueue(uint16_t /*index*/) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queue_ != nullptr) {
      state = queue_->state();
      queue_.reset();
    }
  });
  return state;
}

void PmemDevice::Serve() {
  queue_->Drain([this](virtio::Chain chain) {
    bool valid = false;
    const uint32_t written = Answer(chain, &valid);
    (valid ? flushes_ : bad_requests_).fetch_add(1, std::memory_order_relaxed);
    queue_->queue().Push(std::move(chain), written);
    return true;
  });
}

uint32_t PmemDevice::Answer(virtio::Chain& chain, bool* valid) {
  const auto type = chain.ReadAs<Le32>(0);
  *valid = type.has_value() && type->value() == kRequestFlush;
  const Le32 response(*valid ? kOk : kError);
  if (!chain.Write(0, std::as_bytes(std::span(&response, 1)))) {
    *valid = false;  // nowhere to answer
    return 0;
  }
  return sizeof(response);
}

std::vector<virtio::CounterValue> PmemDevice::counters() const {
  return {{"flushes", flushes_.load(std::memory_order_relaxed)},
          {"bad_requests", bad_requests_.load(std::memory_order_relaxed)},
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::devices
