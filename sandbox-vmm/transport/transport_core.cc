#include "transport/transport_core.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "virtio/split_ring_core.h"

namespace wyvern::transport {

namespace {

using virtio::kStatusAcknowledge;
using virtio::kStatusDriver;
using virtio::kStatusDriverOk;
using virtio::kStatusFailed;
using virtio::kStatusFeaturesOk;
using virtio::kStatusNeedsReset;

constexpr uint8_t kDriverBits =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;

}  // namespace

TransportCore::TransportCore(std::unique_ptr<virtio::VirtioDevice> device,
                             std::shared_ptr<const mem::GuestMemory> memory,
                             std::shared_ptr<virtio::Interrupt> interrupt, KickSource kick,
                             uint64_t transport_features)
    : device_(std::move(device)),
      traits_(device_->traits()),
      interrupt_(std::move(interrupt)),
      kick_(std::move(kick)),
      transport_features_(transport_features),
      feed_(std::make_shared<virtio::MemoryFeed>(std::move(memory))),
      queues_(traits_.queue_sizes.size()),
      resetting_(queues_.size()) {
  for (size_t i = 0; i < queues_.size(); ++i) {
    WV_CHECK(wv_ring_size_valid(traits().queue_sizes[i]));
    queues_[i] = DefaultSlot(i);
  }
  device_->set_fault_callback([this] { MarkNeedsReset(); });
}

TransportCore::~TransportCore() {
  on_reset_ = nullptr;  // whoever set it may be gone
  {
    const std::lock_guard lock(mu_);
    ResetLocked();
  }
  // Its threads may report a fault until it is gone: while all that the fault callback uses lives.
  device_.reset();
}

uint64_t TransportCore::device_features() const {
  return traits().features | virtio::kVersion1 | transport_features_;
}

void TransportCore::WriteStatus(uint8_t value) {
  const std::lock_guard lock(mu_);
  if (value == 0) {
    ResetLocked();
    return;
  }
  // DEVICE_NEEDS_RESET is ours: drivers write back what they read.
  AddStatusLocked(value & kDriverBits);
}

void TransportCore::ResetLocked() {
  for (size_t i = 0; i < queues_.size(); ++i) {
    StopLocked(static_cast<uint16_t>(i));
    queues_[i] = DefaultSlot(i);
  }
  device_->Reset();
  driver_features_ = 0;
  if (on_reset_) {
    on_reset_();
  }
  // Last: a driver that reads 0 may begin anew at once, with another vCPU (VIRTIO §2.4.1).
  status_.store(0, std::memory_order_release);
}

TransportCore::QueueSlot TransportCore::DefaultSlot(size_t index) const {
  QueueSlot slot;
  slot.registers.config.size = traits().queue_sizes[index];
  return slot;
}

void TransportCore::AddStatusLocked(uint8_t value) {
  const uint8_t old_status = status_.load(std::memory_order_relaxed) & kDriverBits;
  if ((value & old_status) != old_status || (old_status & kStatusFailed) != 0) {
    // A driver never takes a bit back (VIRTIO §2.1.1), and after FAILED only a reset follows.
    Refuse();
    return;
  }
  uint8_t now = old_status;
  const auto add = [&](uint8_t bit, uint8_t needs) {
    if ((value & bit) == 0 || (now & bit) != 0) {
      return false;
    }
    if ((now & needs) != needs) {
      Refuse();
      return false;
    }
    now |= bit;
    status_.fetch_or(bit, std::memory_order_acq_rel);
    return true;
  };
  add(kStatusFailed, 0);
  add(kStatusAcknowledge, 0);
  add(kStatusDriver, kStatusAcknowledge);
  if ((value & kStatusFeaturesOk) != 0 && !FeaturesAcceptable()) {
    // The driver sees that the bit did not stay (VIRTIO §3.1.1 step 6).
    return;
  }
  if (add(kStatusFeaturesOk, kStatusDriver)) {
    device_->FeaturesAccepted(FeaturesOfDevice());
  }
  if (add(kStatusDriverOk, kStatusFeaturesOk)) {
    StartEnabledLocked();
  }
}

uint64_t TransportCore::FeaturesOfDevice() const {
  return driver_features_ & (traits().features | virtio::kVersion1);
}

bool TransportCore::FeaturesAcceptable() const {
  return (driver_features_ & ~device_features()) == 0 &&
         (driver_features_ & virtio::kVersion1) != 0;
}

void TransportCore::StartEnabledLocked() {
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].registers.enabled && !StartOrBreakLocked(static_cast<uint16_t>(i))) {
      return;
    }
  }
}

bool TransportCore::StartOrBreakLocked(uint16_t index) {
  if (auto started = StartLocked(index, std::nullopt); !started) {
    WV_WARN_LIMITED("{}: queue {} does not start: {}", traits().name, index,
                    started.error().message());
    MarkNeedsReset();
    return false;
  }
  return true;
}

Result<> TransportCore::StartLocked(uint16_t index, std::optional<virtio::QueueState> resume) {
  QueueSlot& slot = queues_[index];
  virtio::QueueResources resources{.memory = feed_->memory(),
                                   .config = slot.registers.config,
                                   .kick = kick_(index),
                                   .interrupt = interrupt_};
  resources.config.feed = feed_;
  if (renew_kick_) {
    resources.renew_kick = [this, index] { return renew_kick_(index); };
  }
  WV_TRY_VOID(device_->StartQueue(index, std::move(resources), FeaturesOfDevice(), resume));
  slot.running = true;
  slot.paused.reset();
  return {};
}

std::optional<virtio::QueueState> TransportCore::StopLocked(uint16_t index) {
  if (!queues_[index].running) {
    return std::nullopt;
  }
  queues_[index].running = false;
  return device_->StopQueue(index);
}

void TransportCore::MarkNeedsReset() {
  uint8_t old_status = status_.load(std::memory_order_acquire);
  do {
    if ((old_status & kStatusNeedsReset) != 0) {
      return;
    }
    // 0 stays 0: there is nothing to reset, and a driver waits after its reset until it reads 0.
  } while (old_status != 0 && !status_.compare_exchange_weak(
                                  old_status, static_cast<uint8_t>(old_status | kStatusNeedsReset),
                                  std::memory_order_acq_rel));
  if ((old_status & kStatusDriverOk) != 0) {
    interrupt_->SignalConfig();  // VIRTIO §2.1.2
  }
  if (on_broken_) {
    on_broken_();
  }
}

uint32_t TransportCore::ReadDeviceFeatures(uint32_t select) const {
  return select < 2 ? static_cast<uint32_t>(device_features() >> (32 * select)) : 0;
}

uint32_t TransportCore::ReadDriverFeatures(uint32_t select) const {
  const std::lock_guard lock(mu_);
  return select < 2 ? static_cast<uint32_t>(driver_features_ >> (32 * select)) : 0;
}

void TransportCore::WriteDriverFeatures(uint32_t select, uint32_t value) {
  const std::lock_guard lock(mu_);
  const uint8_t status = status_.load(std::memory_order_relaxed);
  if ((status & kStatusDriver) == 0 || (status & kStatusFeaturesOk) != 0) {
    Refuse();
    return;
  }
  if (select >= 2) {
    // Drivers write zeros to words that they do not know.
    if (value != 0) {
      Refuse();
    }
    return;
  }
  const unsigned shift = 32 * select;
  driver_features_ = (driver_features_ & ~(uint64_t{0xffffffff} << shift)) | uint64_t{value}
                                                                                 << shift;
}

void TransportCore::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mu_);
  config_now_.resize(traits().config_length);
  if (!config_now_.empty()) {
    device_->ReadConfig(0, config_now_);
  }
  if (!config_seen_.empty() && config_now_ != config_seen_) {
    generation_.fetch_add(1, std::memory_order_acq_rel);
  }
  config_now_.swap(config_seen_);
  std::ranges::fill(out, std::byte{0});
  if (offset < config_seen_.size()) {
    const size_t bytes = std::min(out.size(), config_seen_.size() - offset);
    std::memcpy(out.data(), config_seen_.data() + offset, bytes);
  }
}

void TransportCore::WriteConfig(uint32_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mu_);
  device_->WriteConfig(offset, in);
}

Result<> TransportCore::SetFeatures(uint64_t features) {
  const std::lock_guard lock(mu_);
  if ((features & ~device_features()) != 0) {
    return Fail(Code::kInvalidArgument, "virtio feature bits that were not offered");
  }
  if (std::ranges::any_of(queues_, &QueueSlot::running)) {
    return Fail(Code::kInvalidArgument, "virtio features changed while a queue runs");
  }
  driver_features_ = features;
  device_->FeaturesAccepted(FeaturesOfDevice());
  return {};
}

Result<> TransportCore::ConfigureQueue(uint16_t index, const virtio::QueueConfig& config) {
  const std::lock_guard lock(mu_);
  if (index >= queues_.size()) {
    return Fail(Code::kInvalidArgument, "no such queue");
  }
  if (!SizeValidLocked(index, config.size)) {
    return Fail(Code::kInvalidArgument, "bad queue size");
  }
  if (queues_[index].running) {
    return Fail(Code::kFailedPrecondition, "queue is running");
  }
  queues_[index].registers.config = config;
  return {};
}

Result<> TransportCore::StartQueue(uint16_t index, std::optional<virtio::QueueState> resume) {
  const std::lock_guard lock(mu_);
  if (index >= queues_.size()) {
    return Fail(Code::kInvalidArgument, "no such queue");
  }
  if (queues_[index].running) {
    return Fail(Code::kFailedPrecondition, "queue is running");
  }
  return StartLocked(index, resume);
}

std::optional<virtio::QueueState> TransportCore::StopQueue(uint16_t index) {
  const std::lock_guard lock(mu_);
  return index < queues_.size() ? StopLocked(index) : std::nullopt;
}

bool TransportCore::running(uint16_t index) const {
  const std::lock_guard lock(mu_);
  return index < queues_.size() && queues_[index].running;
}

void TransportCore::SetMemory(std::shared_ptr<const mem::GuestMemory> memory) {
  feed_->Publish(std::move(memory));
}

bool TransportCore::TakesMemory(const mem::GuestMemory& memory) {
  const std::lock_guard lock(mu_);
  return device_->TakesMemory(memory);
}

bool TransportCore::GrowMemory(const std::shared_ptr<const mem::GuestMemory>& memory) {
  const std::lock_guard lock(mu_);
  if (!device_->MemoryGrew(memory)) {
    return false;
  }
  feed_->Publish(memory);
  return true;
}

Result<> TransportCore::ChangeMemory(std::shared_ptr<const mem::GuestMemory> memory) {
  const std::lock_guard lock(mu_);
  std::vector<std::pair<uint16_t, std::optional<virtio::QueueState>>> stopped;
  for (uint16_t i = 0; i < queue_count(); ++i) {
    if (queues_[i].running) {
      stopped.emplace_back(i, StopLocked(i));
    }
  }
  feed_->Publish(std::move(memory));
  Result<> result;
  for (const auto& [index, state] : stopped) {
    auto started = StartLocked(index, state);
    if (!started) {
      MarkNeedsReset();
      if (result) {
        result = std::move(started);
      }
    }
  }
  return result;
}

void TransportCore::ReplaceDevice(std::unique_ptr<virtio::VirtioDevice> replacement) {
  {
    const std::lock_guard lock(mu_);
    std::vector<std::pair<uint16_t, std::optional<virtio::QueueState>>> stopped;
    for (uint16_t i = 0; i < queue_count(); ++i) {
      if (queues_[i].running) {
        stopped.emplace_back(i, StopLocked(i));
      }
    }
    device_->set_fault_callback(nullptr);  // its faults are nobody's any more
    device_.swap(replacement);
    device_->set_fault_callback([this] { MarkNeedsReset(); });
    if ((status_.load(std::memory_order_relaxed) & kStatusFeaturesOk) != 0) {
      device_->FeaturesAccepted(FeaturesOfDevice());
    }
    for (const auto& [index, state] : stopped) {
      const bool renewed = !renew_kick_ || renew_kick_(index).has_value();
      if (!renewed || !StartLocked(index, state)) {
        MarkNeedsReset();
      }
    }
    if ((status_.load(std::memory_order_relaxed) & kStatusDriverOk) != 0) {
      interrupt_->SignalConfig();
    }
  }
  replacement.reset();  // without the lock: what its threads still do may take it
}

TransportState TransportCore::Pause() {
  const std::lock_guard lock(mu_);
  TransportState state;
  state.status = status();
  state.driver_features = driver_features_;
  for (size_t i = 0; i < queues_.size(); ++i) {
    QueueSlot& slot = queues_[i];
    if (slot.running) {
      slot.paused = StopLocked(static_cast<uint16_t>(i));
    }
    state.queues.push_back(slot.registers);
    state.rings.push_back(slot.paused);
  }
  return state;
}

Result<> TransportCore::Resume() {
  const std::lock_guard lock(mu_);
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (const auto paused = queues_[i].paused; paused) {
      if (auto started = StartLocked(static_cast<uint16_t>(i), paused); !started) {
        MarkNeedsReset();
        return started;
      }
    }
  }
  return {};
}

}  // namespace wyvern::transport
