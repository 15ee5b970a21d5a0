#include "transport/mmio_transport.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "transport/mmio_interrupt.h"
#include "transport/virtio_mmio_layout.h"
#include "transport/virtio_pci_layout.h"

namespace wyvern::transport {

namespace {

uint32_t Low(uint64_t value) {
  return static_cast<uint32_t>(value);
}

uint32_t High(uint64_t value) {
  return static_cast<uint32_t>(value >> 32U);
}

}  // namespace

Result<std::shared_ptr<MmioTransport>> MmioTransport::Create(
    std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
    irq::InterruptLine& line, irq::DoorbellRegistry* doorbells, MmioPlace place) {
  const virtio::DeviceTraits& traits = device->traits();
  const size_t queues = traits.queue_sizes.size();
  if (queues > kMaxQueues || traits.config_length > kSize - kMmioConfig) {
    return Fail(Code::kInvalidArgument, "virtio device is too large for its MMIO transport");
  }
  WV_TRY(auto bells, QueueDoorbells::Create(doorbells, traits.name, queues));
  if (doorbells != nullptr) {
    const auto notify = static_cast<uint64_t>(MmioRegister::kQueueNotify);
    bells->MoveTo([address = mem::Gpa{place.address + notify}](uint16_t queue) {
      return irq::Doorbell{.address = address, .length = 4, .match = queue};
    });
  }
  const bool notification_data = doorbells == nullptr;
  std::shared_ptr<MmioTransport> transport(
      new MmioTransport(notification_data, std::move(place), std::move(bells)));
  transport->interrupt_ = std::make_shared<LineInterrupt>(line);
  MmioTransport* self = transport.get();
  transport->core_ = std::make_unique<TransportCore>(
      std::move(device), std::move(memory), transport->interrupt_,
      [self](uint16_t queue) { return self->bells_->kick(queue)->fd(); },
      virtio::kRingReset | (notification_data ? virtio::kNotificationData : 0));
  transport->core_->set_kick_renewal(
      [self](uint16_t queue) { return self->bells_->RenewKick(queue); });
  transport->core_->set_reset_callback([self] { self->ResetRegisters(); });
  return transport;
}

MmioTransport::MmioTransport(bool notification_data, MmioPlace place,
                             std::unique_ptr<QueueDoorbells> bells)
    : notification_data_(notification_data), place_(std::move(place)), bells_(std::move(bells)) {}

MmioTransport::~MmioTransport() {
  core_.reset();  // the device's threads signal through the other members
  interrupt_->Reset();
}

void MmioTransport::Read(uint64_t offset, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
  if (offset >= kMmioConfig) {
    core_->ReadConfig(static_cast<uint32_t>(offset - kMmioConfig), out);
  } else if (out.size() == 4 && offset % 4 == 0) {
    const Le32 value = ReadRegister(static_cast<uint16_t>(offset));
    std::memcpy(out.data(), &value, sizeof(value));
  } else {
    Ignore();
  }
}

void MmioTransport::Write(uint64_t offset, std::span<const std::byte> in) {
  if (offset >= kMmioConfig) {
    core_->WriteConfig(static_cast<uint32_t>(offset - kMmioConfig), in);
  } else if (in.size() == 4 && offset % 4 == 0) {
    Le32 value = 0;
    std::memcpy(&value, in.data(), sizeof(value));
    WriteRegister(static_cast<uint16_t>(offset), value);
  } else {
    Ignore();
  }
}

// All 32 bits count: 0x10000 is not queue 0.
uint16_t MmioTransport::SelectedQueue() const {
  static_assert(kMaxQueues < UINT16_MAX, "the number for a queue that no device has");
  return static_cast<uint16_t>(std::min<uint32_t>(queue_select_.load(), UINT16_MAX));
}

uint32_t MmioTransport::ReadRegister(uint16_t offset) {
  switch (static_cast<MmioRegister>(offset)) {
    case MmioRegister::kMagicValue:
      return kMmioMagic;
    case MmioRegister::kVersion:
      return kMmioVersion;
    case MmioRegister::kDeviceId:
      return core_->traits().device_id;
    case MmioRegister::kVendorId:
      return kVirtioVendor;
    case MmioRegister::kDeviceFeatures:
      return core_->ReadDeviceFeatures(device_features_select_.load());
    case MmioRegister::kQueueSizeMax:
      return core_->max_queue_size(SelectedQueue());
    case MmioRegister::kQueueReady:
      return core_->queue(SelectedQueue()).enabled ? 1 : 0;
    case MmioRegister::kInterruptStatus:
      return interrupt_->status();
    case MmioRegister::kStatus:
      return core_->status();
    case MmioRegister::kSharedMemoryLengthLow:
    case MmioRegister::kSharedMemoryLengthHigh:
    case MmioRegister::kSharedMemoryBaseLow:
    case MmioRegister::kSharedMemoryBaseHigh:
      return ReadSharedMemory(offset);
    case MmioRegister::kQueueReset:
      return core_->queue_resetting(SelectedQueue()) ? 1 : 0;
    case MmioRegister::kConfigGeneration:
      return core_->config_generation();
    default:
      Ignore();  // write-only, or none
      return 0;
  }
}

// VIRTIO §4.2.2: -1 where the selected region does not exist.
uint32_t MmioTransport::ReadSharedMemory(uint16_t offset) const {
  uint64_t length = ~uint64_t{0};
  uint64_t base = ~uint64_t{0};
  const uint32_t select = shared_memory_select_.load();
  for (const virtio::SharedMemoryRegion& region : core_->traits().shared_memory) {
    const auto placed = place_.shared_memory.find(region.id);
    if (region.id == select && placed != place_.shared_memory.end()) {
      length = region.length;
      base = mem::Raw(placed->second);
    }
  }
  switch (static_cast<MmioRegister>(offset)) {
    case MmioRegister::kSharedMemoryLengthLow:
      return Low(length);
    case MmioRegister::kSharedMemoryLengthHigh:
      return High(length);
    case MmioRegister::kSharedMemoryBaseLow:
      return Low(base);
    default:
      return High(base);
  }
}

void MmioTransport::WriteRegister(uint16_t offset, uint32_t value) {
  switch (static_cast<MmioRegister>(offset)) {
    case MmioRegister::kDeviceFeaturesSelect:
      device_features_select_.store(value);
      return;
    case MmioRegister::kDriverFeaturesSelect:
      driver_features_select_.store(value);
      return;
    case MmioRegister::kDriverFeatures:
      core_->WriteDriverFeatures(driver_features_select_.load(), value);
      return;
    case MmioRegister::kQueueSelect:
      queue_select_.store(value);
      return;
    case MmioRegister::kQueueNotify:
      Notify(value);
      return;
    case MmioRegister::kInterruptAck:
      interrupt_->Acknowledge(value);
      return;
    case MmioRegister::kStatus:
      // Only zero resets: 0x100 is no status, and not a reset either.
      if (value > UINT8_MAX) {
        Ignore();
      } else {
        core_->WriteStatus(static_cast<uint8_t>(value));
      }
      return;
    case MmioRegister::kSharedMemorySelect:
      shared_memory_select_.store(value);
      return;
    default:
      WriteQueueRegister(offset, SelectedQueue(), value);
      return;
  }
}

void MmioTransport::WriteQueueRegister(uint16_t offset, uint16_t queue, uint32_t value) {
  using Area = TransportCore::Area;
  switch (static_cast<MmioRegister>(offset)) {
    case MmioRegister::kQueueSize:
      // Not cut to 16 bits: 0x10010 is no size of a queue, and is refused as 0 is.
      core_->WriteQueueSize(queue, value > UINT16_MAX ? uint16_t{0} : static_cast<uint16_t>(value));
      return;
    case MmioRegister::kQueueReady:
      WriteReady(queue, value);
      return;
    case MmioRegister::kQueueReset:
      if (value == 1) {
        core_->ResetQueue(queue);
      } else {
        Ignore();
      }
      return;
    case MmioRegister::kDescriptorLow:
      core_->WriteQueueAddress(queue, Area::kDescriptor, false, value);
      return;
    case MmioRegister::kDescriptorHigh:
      core_->WriteQueueAddress(queue, Area::kDescriptor, true, value);
      return;
    case MmioRegister::kDriverLow:
      core_->WriteQueueAddress(queue, Area::kDriver, false, value);
      return;
    case MmioRegister::kDriverHigh:
      core_->WriteQueueAddress(queue, Area::kDriver, true, value);
      return;
    case MmioRegister::kDeviceLow:
      core_->WriteQueueAddress(queue, Area::kDevice, false, value);
      return;
    case MmioRegister::kDeviceHigh:
      core_->WriteQueueAddress(queue, Area::kDevice, true, value);
      return;
    default:
      Ignore();  // read-only, or none
      return;
  }
}

// VIRTIO §4.2.2.1: contents of a queue are not accessed while QueueReady is zero.
void MmioTransport::WriteReady(uint16_t queue, uint32_t value) {
  if (value == 0) {
    core_->DisableQueue(queue);
  } else if (value != 1) {
    Ignore();
  } else {
    core_->EnableQueue(queue);
    if (core_->queue(queue).enabled) {
      bells_->Enable(queue);
    }
  }
}

// A notification that the kernel did not take.
void MmioTransport::Notify(uint32_t value) {
  const uint32_t queue = notification_data_ ? value & 0xffffU : value;
  if (queue < bells_->queues()) {
    bells_->kick(static_cast<uint16_t>(queue))->Signal();
  } else {
    Ignore();
  }
}

// Under the core's lock.
void MmioTransport::ResetRegisters() {
  interrupt_->Reset();
  device_features_select_.store(0);
  driver_features_select_.store(0);
  queue_select_.store(0);
  shared_memory_select_.store(0);
}

}  // namespace wyvern::transport
