#include "virtio_mem/mem_device.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/log.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

// VIRTIO §5.15.3
constexpr uint64_t kMemAcpiPxm = uint64_t{1} << 0;
constexpr uint64_t kMemUnpluggedInaccessible = uint64_t{1} << 1;

void CountMem(std::atomic<uint64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

Result<> CheckLayout(const MemOptions& options) {
  const uint64_t block = options.block_size;
  const uint64_t size = options.region.size;
  const uint64_t start = mem::Raw(options.region.start);
  if (!std::has_single_bit(block) || block < MemDevice::kMinBlockSize) {
    return Fail(Code::kInvalidArgument, "virtio-mem: a block is a power of two from 2 MiB");
  }
  if (size == 0 || size % block != 0 || start % block != 0 ||
      size > std::numeric_limits<uint64_t>::max() - start || size / block > MemDevice::kMaxBlocks) {
    return Fail(Code::kInvalidArgument, "virtio-mem: a region is 1 to 65536 whole blocks");
  }
  if (options.requested_size % block != 0 || options.requested_size > size) {
    return Fail(Code::kInvalidArgument,
                "virtio-mem: what is requested is whole blocks of the region");
  }
  if (options.backing == nullptr) {
    return Fail(Code::kInvalidArgument, "virtio-mem: nothing behind the region");
  }
  return {};
}

}  // namespace

uint64_t MemDevice::BlockSizeFor(uint64_t region_size) {
  constexpr uint64_t kMostSlots = 512;
  constexpr uint64_t kLargest = uint64_t{128} << 20U;
  uint64_t block = kMinBlockSize;
  while (block < kLargest && region_size / block > kMostSlots) {
    block *= 2;
  }
  return block;
}

Result<std::unique_ptr<MemDevice>> MemDevice::Create(MemOptions options) {
  WV_TRY_VOID(CheckLayout(options));
  WV_TRY(auto worker, StartWorker(options.worker));
  std::unique_ptr<MemDevice> device(new MemDevice(std::move(options), std::move(worker)));
  if (const auto& resume = device->options_.resume; resume) {
    WV_TRY_VOID_CONTEXT(device->Restore(*resume), "virtio-mem: restoring its state");
  }
  return device;
}

MemDevice::MemDevice(MemOptions options, std::unique_ptr<LoopThread> worker)
    : options_(std::move(options)),
      map_(options_.region.size / options_.block_size),
      worker_(std::move(worker)) {
  traits_.device_id = virtio::kDeviceMem;
  traits_.features = virtio::kRingFeatures | virtio::kInOrder | kMemUnpluggedInaccessible |
                     (options_.node ? kMemAcpiPxm : 0);
  traits_.queue_sizes = {64};
  traits_.config_length = sizeof(MemConfig);
  traits_.name = "mem";
  config_.block_size = options_.block_size;
  config_.node = options_.node.value_or(0);
  config_.address = mem::Raw(options_.region.start);
  config_.region_size = options_.region.size;
  config_.requested_size = options_.requested_size;
  config_.usable_size = UsableFor(options_.requested_size);
}

MemDevice::~MemDevice() {
  StopQueue(0);
}

Result<> MemDevice::Restore(const MemState& state) {
  const uint64_t block = options_.block_size;
  if (state.version != MemState::kVersion || state.block_size != block ||
      state.region_size != options_.region.size || state.usable_size % block != 0 ||
      state.usable_size > state.region_size || state.requested_size % block != 0 ||
      state.requested_size > state.usable_size) {
    return Fail(Code::kInvalidArgument, "it is of another version or region");
  }
  auto map = PlugMap::FromWords(map_.blocks(), state.plugged);
  const uint64_t usable_blocks = state.usable_size / block;
  if (!map || map->NextPlugged(usable_blocks).has_value()) {
    return Fail(Code::kInvalidArgument, "its blocks are not those of the region");
  }
  PlugMap restored = *std::move(map);
  Result<> result;
  worker_->Call([&] {
    std::optional<BlockRun> run = restored.NextPlugged(0);
    while (run.has_value()) {
      if (auto plugged = options_.backing->Plug(RangeOf(*run)); !plugged) {
        result = tl::unexpected(std::move(plugged).error());
        return;
      }
      run = restored.NextPlugged(run->first + run->count);
    }
    map_ = std::move(restored);
    config_change_.Quietly([&] {
      config_.usable_size = state.usable_size;
      config_.requested_size = state.requested_size;
      config_.plugged_size = map_.plugged() * block;
    });
  });
  return result;
}

// A guest plugs where it can: Linux wants whole memory blocks of its own.
uint64_t MemDevice::UsableFor(uint64_t requested) const {
  const uint64_t size = options_.region.size;
  const uint64_t block = options_.block_size;
  const uint64_t extra = (kUsableExtra + block - 1) / block * block;
  return requested + std::min(extra, size - requested);
}

// --- Configuration and the owner's calls ---

void MemDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const MemConfig config = config_change_.Read([this] { return config_; });
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

// Read-only for the driver (VIRTIO §5.15.4).
void MemDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> MemDevice::SetRequestedSize(uint64_t bytes) {
  if (bytes % options_.block_size != 0 || bytes > options_.region.size) {
    return Fail(Code::kInvalidArgument,
                "virtio-mem: what is requested is whole blocks of the region");
  }
  config_change_.Change([&] {
    config_.requested_size = bytes;
    // It only grows here; UNPLUG ALL may shrink it (VIRTIO §5.15.4.2).
    config_.usable_size = std::max(config_.usable_size.value(), UsableFor(bytes));
  });
  return {};
}

uint64_t MemDevice::plugged_size() const {
  return config_change_.Read([this] { return config_.plugged_size.value(); });
}

Result<> MemDevice::UnplugAll() {
  MemResponseType done = MemResponseType::kAck;
  worker_->Call([&] { done = UnplugEverything(); });
  if (done != MemResponseType::kAck) {
    return Fail(Code::kUnavailable, "virtio-mem: the host cannot unplug the region now");
  }
  return {};
}

MemState MemDevice::state() const {
  MemState state;
  worker_->Call([&] { state.plugged.assign(map_.words().begin(), map_.words().end()); });
  config_change_.Read([&] {
    state.block_size = config_.block_size;
    state.region_size = config_.region_size;
    state.usable_size = config_.usable_size;
    state.requested_size = config_.requested_size;
    return 0;
  });
  return state;
}

// --- Queue ---

Result<> MemDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  if ((features & kMemUnpluggedInaccessible) == 0) {
    // VIRTIO §5.15.5.2: what is unplugged is not there, so nothing could be read from it.
    return Fail(Code::kFailedPrecondition,
                "virtio-mem: the driver does without UNPLUGGED_INACCESSIBLE");
  }
  const auto interrupt = resources.interrupt;
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick = [this] { Serve(); },
                               .on_fault =
                                   [this] {
                                     CountMem(counters_.faults);
                                     NeedsReset();
                                   }},
                              [&](std::unique_ptr<ActiveQueue> queue) {
                                queue_ = std::move(queue);
                                config_change_.QueueStarted(interrupt);
                                Serve();
                              });
}

std::optional<virtio::QueueState> MemDevice::StopQueue(uint16_t /*index*/) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queue_ != nullptr) {
      state = queue_->state();
      queue_.reset();
      config_change_.QueueStopped();
    }
  });
  return state;
}

void MemDevice::Serve() {
  queue_->Drain([this](virtio::Chain chain) {
    const uint32_t written = Answer(chain);
    queue_->queue().Push(std::move(chain), written);
    return true;
  });
}

// A request that cannot be answered is not carried out.
uint32_t MemDevice::Answer(virtio::Chain& chain) {
  MemResponse response{};
  if (chain.writable_length() < sizeof(response)) {
    CountMem(counters_.bad_requests);
    return 0;
  }
  const auto request = chain.ReadAs<MemRequest>(0);
  if (request) {
    response = Handle(*request);
  } else {
    CountMem(counters_.bad_requests);
    response.type = static_cast<uint16_t>(MemResponseType::kError);
  }
  if (!chain.Write(0, std::as_bytes(std::span(&response, 1)))) {
    return 0;
  }
  return sizeof(response);
}

MemResponse MemDevice::Handle(const MemRequest& request) {
  MemResponseType type = MemResponseType::kError;
  MemBlockState state = MemBlockState::kPlugged;
  const std::optional<BlockRun> run = BlocksOf(request);
  switch (static_cast<MemRequestType>(request.type.value())) {
    case MemRequestType::kPlug:
      CountMem(counters_.plugs);
      type = run ? Plug(*run) : MemResponseType::kError;
      break;
    case MemRequestType::kUnplug:
      CountMem(counters_.unplugs);
      type = run ? Unplug(*run) : MemResponseType::kError;
      break;
    case MemRequestType::kUnplugAll:
      CountMem(counters_.unplug_alls);
      type = UnplugEverything();
      break;
    case MemRequestType::kState:
      CountMem(counters_.states);
      if (run) {
        type = MemResponseType::kAck;
        state = StateOf(*run);
      }
      break;
    default:
      CountMem(counters_.bad_requests);
      break;
  }
  if (type == MemResponseType::kError) {
    CountMem(counters_.refused);
  }
  MemResponse response{};
  response.type = static_cast<uint16_t>(type);
  response.state = static_cast<uint16_t>(state);
  return response;
}

// Whole blocks, at least one, all of them usable (VIRTIO §5.15.6.3 and the following).
std::optional<BlockRun> MemDevice::BlocksOf(const MemRequest& request) const {
  const uint64_t address = request.address;
  const uint64_t count = request.blocks;
  const uint64_t start = mem::Raw(options_.region.start);
  const uint64_t usable =
      config_change_.Read([this] { return config_.usable_size / options_.block_size; });
  if (count == 0 || address < start || address % options_.block_size != 0) {
    return std::nullopt;
  }
  const uint64_t first = (address - start) / options_.block_size;
  if (count > usable || first > usable - count) {
    return std::nullopt;
  }
  return BlockRun{.first = first, .count = count};
}

MemoryRange MemDevice::RangeOf(BlockRun run) const {
  return {.start = mem::Gpa{mem::Raw(options_.region.start) + run.first * options_.block_size},
          .size = run.count * options_.block_size};
}

MemResponseType MemDevice::OnHostError(const Error& error) {
  CountMem(counters_.host_failures);
  WV_WARN_LIMITED("{}: {}", options_.worker.name, error.message());
  return MemResponseType::kBusy;
}

MemResponseType MemDevice::Plug(BlockRun run) {
  if (map_.PluggedIn(run) != 0) {
    return MemResponseType::kError;
  }
  const uint64_t requested =
      config_change_.Read([this] { return config_.requested_size / options_.block_size; });
  if (map_.plugged() > requested || run.count > requested - map_.plugged()) {
    CountMem(counters_.over_requested);
    return MemResponseType::kNack;
  }
  if (auto plugged = options_.backing->Plug(RangeOf(run)); !plugged) {
    return OnHostError(plugged.error());
  }
  map_.Set(run, true);
  PublishPlugged();
  return MemResponseType::kAck;
}

MemResponseType MemDevice::Unplug(BlockRun run) {
  if (map_.PluggedIn(run) != run.count) {
    return MemResponseType::kError;
  }
  if (auto unplugged = options_.backing->Unplug(RangeOf(run)); !unplugged) {
    return OnHostError(unplugged.error());
  }
  map_.Set(run, false);
  PublishPlugged();
  return MemResponseType::kAck;
}

MemResponseType MemDevice::UnplugEverything() {
  if (map_.plugged() > 0) {
    if (auto unplugged = options_.backing->UnplugAll(); !unplugged) {
      return OnHostError(unplugged.error());
    }
    map_.Set({.first = 0, .count = map_.blocks()}, false);
    PublishPlugged();
  }
  // No notification for this (VIRTIO §5.15.4.2).
  config_change_.Quietly([this] { config_.usable_size = UsableFor(config_.requested_size); });
  return MemResponseType::kAck;
}

void MemDevice::PublishPlugged() {
  config_change_.Quietly([this] { config_.plugged_size = map_.plugged() * options_.block_size; });
}

MemBlockState MemDevice::StateOf(BlockRun run) const {
  const uint64_t plugged = map_.PluggedIn(run);
  if (plugged == 0) {
    return MemBlockState::kUnplugged;
  }
  return plugged == run.count ? MemBlockState::kPlugged : MemBlockState::kMixed;
}

std::vector<virtio::CounterValue> MemDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  const MemConfig config = config_change_.Read([this] { return config_; });
  return {{"requested_bytes", config.requested_size},
          {"plugged_bytes", config.plugged_size},
          {"plugs", get(counters_.plugs)},
          {"unplugs", get(counters_.unplugs)},
          {"unplug_alls", get(counters_.unplug_alls)},
          {"states", get(counters_.states)},
          {"refused", get(counters_.refused)},
          {"over_requested", get(counters_.over_requested)},
          {"host_failures", get(counters_.host_failures)},
          {"bad_requests", get(counters_.bad_requests)},
          {"faults", get(counters_.faults)}};
}

}  // namespace wyvern::devices
