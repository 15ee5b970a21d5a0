// The common configuration structure: which access is a field, and what each field does.
#include <array>
#include <cstring>

#include "transport/msix_interrupt.h"
#include "transport/pci_transport.h"
#include "transport/virtio_pci_layout.h"

namespace wyvern::transport {

namespace {

struct Field {
  CommonField field;
  uint8_t size;
};

constexpr std::array kFields = {
    Field{CommonField::kDeviceFeatureSelect, 4},
    Field{CommonField::kDeviceFeature, 4},
    Field{CommonField::kDriverFeatureSelect, 4},
    Field{CommonField::kDriverFeature, 4},
    Field{CommonField::kConfigVector, 2},
    Field{CommonField::kQueueCount, 2},
    Field{CommonField::kStatus, 1},
    Field{CommonField::kGeneration, 1},
    Field{CommonField::kQueueSelect, 2},
    Field{CommonField::kQueueSize, 2},
    Field{CommonField::kQueueVector, 2},
    Field{CommonField::kQueueEnable, 2},
    Field{CommonField::kQueueNotifyOffset, 2},
    Field{CommonField::kDescriptorLow, 4},
    Field{CommonField::kDescriptorHigh, 4},
    Field{CommonField::kDriverLow, 4},
    Field{CommonField::kDriverHigh, 4},
    Field{CommonField::kDeviceLow, 4},
    Field{CommonField::kDeviceHigh, 4},
    Field{CommonField::kQueueReset, 2},
};

// VIRTIO §4.1.3.1: each field is accessed in its own size, 64-bit fields as two halves. Other
// accesses are no field.
bool IsField(uint64_t offset, size_t size) {
  for (const Field& field : kFields) {
    if (static_cast<uint64_t>(field.field) == offset) {
      return field.size == size;
    }
  }
  return false;
}

// An 8-byte access to one of the addresses: two halves, as the bus of some machines would split it.
bool IsAddress(uint64_t offset, size_t size) {
  return size == 8 && offset >= static_cast<uint64_t>(CommonField::kDescriptorLow) &&
         offset % 8 == 0;
}

}  // namespace

void PciTransport::ReadCommon(uint64_t offset, std::span<std::byte> out) {
  if (IsAddress(offset, out.size())) {
    ReadCommon(offset, out.first(4));
    ReadCommon(offset + 4, out.subspan(4));
    return;
  }
  if (IsField(offset, out.size())) {
    const Le32 value = ReadCommonField(static_cast<uint8_t>(offset));
    std::memcpy(out.data(), &value, out.size());
  } else {
    Ignore();
  }
}

void PciTransport::WriteCommon(uint64_t offset, std::span<const std::byte> in) {
  if (IsAddress(offset, in.size())) {
    WriteCommon(offset, in.first(4));
    WriteCommon(offset + 4, in.subspan(4));
    return;
  }
  if (IsField(offset, in.size())) {
    Le32 value = 0;
    std::memcpy(&value, in.data(), in.size());
    WriteCommonField(static_cast<uint8_t>(offset), value);
  } else {
    Ignore();
  }
}

uint32_t PciTransport::ReadCommonField(uint8_t field) {
  const uint16_t queue = queue_select_.load();
  const auto low = [](mem::Gpa address) { return static_cast<uint32_t>(mem::Raw(address)); };
  const auto high = [](mem::Gpa address) {
    return static_cast<uint32_t>(mem::Raw(address) >> 32U);
  };
  switch (static_cast<CommonField>(field)) {
    case CommonField::kDeviceFeatureSelect:
      return device_feature_select_.load();
    case CommonField::kDeviceFeature:
      return core_->ReadDeviceFeatures(device_feature_select_.load());
    case CommonField::kDriverFeatureSelect:
      return driver_feature_select_.load();
    case CommonField::kDriverFeature:
      return core_->ReadDriverFeatures(driver_feature_select_.load());
    case CommonField::kConfigVector:
      return interrupt_->config_vector();
    case CommonField::kQueueCount:
      return core_->queue_count();
    case CommonField::kStatus:
      return core_->status();
    case CommonField::kGeneration:
      return core_->config_generation() & 0xffU;
    case CommonField::kQueueSelect:
      return queue;
    case CommonField::kQueueSize:
      return core_->queue(queue).config.size;
    case CommonField::kQueueVector:
      return interrupt_->queue_vector(queue);
    case CommonField::kQueueEnable:
      return core_->queue(queue).enabled ? 1 : 0;
    case CommonField::kQueueNotifyOffset:
      return queue < core_->queue_count() ? queue : 0;
    case CommonField::kDescriptorLow:
      return low(core_->queue(queue).config.descriptor_area);
    case CommonField::kDescriptorHigh:
      return high(core_->queue(queue).config.descriptor_area);
    case CommonField::kDriverLow:
      return low(core_->queue(queue).config.driver_area);
    case CommonField::kDriverHigh:
      return high(core_->queue(queue).config.driver_area);
    case CommonField::kDeviceLow:
      return low(core_->queue(queue).config.device_area);
    case CommonField::kDeviceHigh:
      return high(core_->queue(queue).config.device_area);
    case CommonField::kQueueReset:
      return core_->queue_resetting(queue) ? 1 : 0;
  }
  return 0;
}

void PciTransport::WriteCommonField(uint8_t field, uint32_t value) {
  switch (static_cast<CommonField>(field)) {
    case CommonField::kDeviceFeatureSelect:
      device_feature_select_.store(value);
      return;
    case CommonField::kDriverFeatureSelect:
      driver_feature_select_.store(value);
      return;
    case CommonField::kDriverFeature:
      core_->WriteDriverFeatures(driver_feature_select_.load(), value);
      return;
    case CommonField::kConfigVector:
      interrupt_->SetConfigVector(static_cast<uint16_t>(value));
      return;
    case CommonField::kStatus:
      core_->WriteStatus(static_cast<uint8_t>(value));
      return;
    case CommonField::kQueueSelect:
      queue_select_.store(static_cast<uint16_t>(value));
      return;
    default:
      WriteQueueField(field, queue_select_.load(), value);
      return;
  }
}

void PciTransport::WriteQueueField(uint8_t field, uint16_t queue, uint32_t value) {
  using Area = TransportCore::Area;
  switch (static_cast<CommonField>(field)) {
    case CommonField::kQueueSize:
      core_->WriteQueueSize(queue, static_cast<uint16_t>(value));
      return;
    case CommonField::kQueueVector:
      interrupt_->SetQueueVector(queue, static_cast<uint16_t>(value));
      return;
    case CommonField::kQueueEnable:
      // Only 1 means something (VIRTIO §4.1.4.3.2).
      if (value != 1) {
        Ignore();
        return;
      }
      core_->EnableQueue(queue);
      if (core_->queue(queue).enabled) {
        bells_->Enable(queue);
      }
      return;
    case CommonField::kQueueReset:
      if (value != 1) {
        Ignore();
      } else if (core_->ResetQueue(queue)) {
        interrupt_->SetQueueVector(queue, kNoVector);  // as after any reset: §4.1.5.1.2.1
      }
      return;
    case CommonField::kDescriptorLow:
    case CommonField::kDescriptorHigh:
      core_->WriteQueueAddress(queue, Area::kDescriptor,
                               field == static_cast<uint8_t>(CommonField::kDescriptorHigh), value);
      return;
    case CommonField::kDriverLow:
    case CommonField::kDriverHigh:
      core_->WriteQueueAddress(queue, Area::kDriver,
                               field == static_cast<uint8_t>(CommonField::kDriverHigh), value);
      return;
    case CommonField::kDeviceLow:
    case CommonField::kDeviceHigh:
      core_->WriteQueueAddress(queue, Area::kDevice,
                               field == static_cast<uint8_t>(CommonField::kDeviceHigh), value);
      return;
    default:
      Ignore();  // read-only
      return;
  }
}

void PciTransport::ResetRegisters() {
  interrupt_->Reset();
  device_feature_select_.store(0);
  driver_feature_select_.store(0);
  queue_select_.store(0);
}

}  // namespace wyvern::transport
