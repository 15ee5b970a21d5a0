#include "gone/gone_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/endian.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr std::byte kBlkIoError{1};         // VIRTIO §5.2.6: VIRTIO_BLK_S_IOERR
constexpr std::byte kNetCommandError{1};    // VIRTIO §5.1.6.5: VIRTIO_NET_ERR
constexpr size_t kNetStatus = 6;            // VIRTIO §5.1.4: offset of status in the configuration
constexpr std::byte kNetLinkUp{1};          // its VIRTIO_NET_S_LINK_UP
constexpr uint16_t kVsockReceive = 0;       // VIRTIO §5.10.2
constexpr uint16_t kVsockEvent = 2;         // VIRTIO §5.10.2
constexpr uint32_t kVsockReset = 0;         // VIRTIO §5.10.6.7: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
constexpr uint16_t kMemError = 3;           // VIRTIO §5.15.6.2: VIRTIO_MEM_RESP_ERROR
constexpr uint32_t kPmemFailed = ~0U;       // VIRTIO §5.19.6: -1
constexpr uint16_t kBalloonStatistics = 2;  // VIRTIO §5.5.2, where it is negotiated
constexpr uint64_t kBalloonHasStatistics = 1U << 1U;
constexpr uint32_t kFuseUnique = 8;  // struct fuse_in_header: offset of unique

struct MemResponse {
  Le16 type;
  Le16 padding[3];
  Le16 state;
};

struct FuseOutHeader {
  Le32 length;
  Le32 error;
  Le64 unique;
};

static_assert(sizeof(MemResponse) == 10 && sizeof(FuseOutHeader) == 16);

// Bytes written; nothing where there is no room for all of it, or no memory.
template <typename T>
uint32_t Put(virtio::Chain& chain, const T& answer) {
  const auto bytes = std::as_bytes(std::span(&answer, 1));
  return chain.writable_length() >= bytes.size() && chain.Write(0, bytes)
             ? static_cast<uint32_t>(bytes.size())
             : 0;
}

// The status is the last byte; what is before it was not written (VIRTIO §2.7.8.2).
uint32_t FailBlk(virtio::Chain& chain) {
  const uint32_t room = chain.writable_length();
  if (room == 0 || !chain.Write(room - 1, std::span(&kBlkIoError, 1))) {
    return 0;
  }
  return room == 1 ? 1 : 0;
}

uint32_t FailFuse(virtio::Chain& chain) {
  const auto unique = chain.ReadAs<Le64>(kFuseUnique);
  if (!unique) {
    return 0;
  }
  return Put(chain, FuseOutHeader{.length = sizeof(FuseOutHeader),
                                  .error = static_cast<uint32_t>(-EIO),
                                  .unique = *unique});
}

std::vector<std::byte> WithoutLink(const virtio::DeviceTraits& traits,
                                   std::vector<std::byte> config) {
  if (traits.device_id == virtio::kDeviceNet && config.size() > kNetStatus) {
    config[kNetStatus] &= ~kNetLinkUp;
  }
  return config;
}

}  // namespace

Result<std::unique_ptr<GoneDevice>> GoneDevice::Create(const WorkerOptions& options,
                                                       const virtio::DeviceTraits& traits,
                                                       std::vector<std::byte> config) {
  WV_TRY(auto worker, StartWorker(options));
  return std::unique_ptr<GoneDevice>(
      new GoneDevice(std::move(worker), traits, WithoutLink(traits, std::move(config))));
}

GoneDevice::GoneDevice(std::unique_ptr<LoopThread> worker, const virtio::DeviceTraits& traits,
                       std::vector<std::byte> config)
    : traits_(traits), config_(std::move(config)), worker_(std::move(worker)) {}

GoneDevice::~GoneDevice() = default;

void GoneDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
  if (offset < config_.size()) {
    std::memcpy(out.data(), config_.data() + offset, std::min(out.size(), config_.size() - offset));
  }
}

Result<> GoneDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                                std::optional<virtio::QueueState> resume) {
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick = [this, index] { Serve(index); },
                               .on_fault =
                                   [this] {
                                     faults_.fetch_add(1, std::memory_order_relaxed);
                                     NeedsReset();
                                   }},
                              [&](std::unique_ptr<ActiveQueue> queue) {
                                queues_[index] = {std::move(queue), features};
                                Serve(index);
                              });
}

std::optional<virtio::QueueState> GoneDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (const auto found = queues_.find(index); found != queues_.end()) {
      state = found->second.ring->state();
      queues_.erase(found);
    }
  });
  return state;
}

void GoneDevice::Reset() {
  worker_->Call([&] { reset_told_ = false; });
}

void GoneDevice::Serve(uint16_t index) {
  queues_.at(index).ring->Drain(
      [this, index](virtio::Chain chain) { return Answer(index, std::move(chain)); });
}

// False: the chain stays in the ring.
bool GoneDevice::Answer(uint16_t index, virtio::Chain chain) {
  const Served& served = queues_.at(index);
  const auto written = Fail(index, served.features, chain);
  if (!written) {
    served.ring->queue().UndoPop(std::move(chain));
    return false;
  }
  failed_.fetch_add(1, std::memory_order_relaxed);
  served.ring->queue().Push(std::move(chain), *written);
  return true;
}

// Bytes written. Nothing: the chain is no request.
std::optional<uint32_t> GoneDevice::Fail(uint16_t index, uint64_t features, virtio::Chain& chain) {
  const bool to_fill = chain.readable_length() == 0;
  switch (traits_.device_id) {
    case virtio::kDeviceBlock:
      return FailBlk(chain);
    case virtio::kDeviceFs:
      return FailFuse(chain);
    case virtio::kDeviceNet:
      return to_fill ? std::nullopt : std::optional(Put(chain, kNetCommandError));
    case virtio::kDeviceConsole:
      return to_fill ? std::nullopt : std::optional(0U);
    case virtio::kDeviceVsock:
      return index == kVsockReceive ? std::nullopt
             : index == kVsockEvent ? TellReset(chain)
                                    : std::optional(0U);
    case virtio::kDevicePmem:
      return Put(chain, Le32(kPmemFailed));
    case virtio::kDeviceMem:
      return Put(chain, MemResponse{.type = kMemError, .padding = {}, .state = 0});
    case virtio::kDeviceBalloon:
      return index == kBalloonStatistics && (features & kBalloonHasStatistics) != 0
                 ? std::nullopt
                 : std::optional(0U);
    default:
      return 0;
  }
}

// Connections end at once instead of by their timeouts.
std::optional<uint32_t> GoneDevice::TellReset(virtio::Chain& chain) {
  if (std::exchange(reset_told_, true)) {
    return std::nullopt;
  }
  return Put(chain, Le32(kVsockReset));
}

std::vector<virtio::CounterValue> GoneDevice::counters() const {
  return {{"failed", failed_.load(std::memory_order_relaxed)},
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::devices
