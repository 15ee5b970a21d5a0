#include "transport/pci_transport.h"

#include <algorithm>
#include <bit>
#include <bitset>

#include "base/check.h"
#include "base/log.h"
#include "transport/msix_interrupt.h"
#include "transport/virtio_pci_layout.h"

namespace wyvern::transport {

namespace {

// PCI class codes as other machines give them: guests show them, drivers do not care.
uint32_t ClassCode(uint16_t device_id) {
  switch (device_id) {
    case virtio::kDeviceBlock:
    case virtio::kDeviceFs:
      return 0x018000;  // mass storage, other
    case virtio::kDeviceVsock:
      return 0x078000;  // communication, other
    default:
      return 0xff0000;  // unassigned
  }
}

pci::Identity IdentityOf(const virtio::DeviceTraits& traits) {
  return {.vendor = kVirtioVendor,
          .device = static_cast<uint16_t>(kVirtioDeviceBase + traits.device_id),
          .revision = 1,  // VIRTIO §4.1.2.1: 1 or higher for non-transitional devices
          .class_code = ClassCode(traits.device_id),
          .subsystem_vendor = kVirtioVendor,
          .subsystem = static_cast<uint16_t>(kVirtioDeviceBase + traits.device_id)};
}

bool InArea(uint64_t offset, size_t length, uint64_t start, uint64_t size) {
  return offset >= start && length <= size && offset - start <= size - length;
}

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20U;
constexpr uint64_t kMaxRegion = uint64_t{1} << 40U;

bool RegionsAreSound(const std::vector<virtio::SharedMemoryRegion>& regions) {
  std::bitset<256> ids;
  for (const virtio::SharedMemoryRegion& region : regions) {
    if (ids.test(region.id) || region.length == 0 || region.length % kPage != 0 ||
        region.length > kMaxRegion) {
      return false;
    }
    ids.set(region.id);
  }
  return true;
}

}  // namespace

Result<std::shared_ptr<PciTransport>> PciTransport::Create(
    std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
    irq::MsiRouter& router, irq::DoorbellRegistry& doorbells) {
  const virtio::DeviceTraits& traits = device->traits();
  const size_t queues = traits.queue_sizes.size();
  if (queues > kMaxQueues || traits.config_length > kRegionLength ||
      traits.shared_memory.size() > kMaxSharedMemory) {
    return Fail(Code::kInvalidArgument, "virtio device is too large for its PCI transport");
  }
  if (!RegionsAreSound(traits.shared_memory)) {
    return Fail(Code::kInvalidArgument, "shared-memory regions have ids of their own and pages");
  }
  WV_TRY(auto bells, QueueDoorbells::Create(&doorbells, traits.name, queues));
  WV_TRY(auto msix, pci::Msix::Create(router, static_cast<uint16_t>(queues + 1)));
  std::shared_ptr<PciTransport> transport(new PciTransport(traits, std::move(bells)));
  transport->AddStructures(traits);
  transport->interrupt_ = std::make_shared<MsixInterrupt>(*msix, queues);
  transport->AddMsix(std::move(msix), 0, kMsixTableOffset, kMsixPbaOffset);
  PciTransport* self = transport.get();
  transport->core_ = std::make_unique<TransportCore>(
      std::move(device), std::move(memory), transport->interrupt_,
      [self](uint16_t queue) { return self->bells_->kick(queue)->fd(); },
      virtio::kRingReset | virtio::kNotificationData);
  transport->core_->set_kick_renewal(
      [self](uint16_t queue) { return self->bells_->RenewKick(queue); });
  transport->core_->set_reset_callback([self] { self->ResetRegisters(); });
  return transport;
}

PciTransport::PciTransport(const virtio::DeviceTraits& traits,
                           std::unique_ptr<QueueDoorbells> bells)
    : Function(IdentityOf(traits)), bells_(std::move(bells)) {}

PciTransport::~PciTransport() {
  core_.reset();  // the device's threads signal through the other members
}

void PciTransport::AddStructure(uint8_t type, uint64_t offset, uint32_t length) {
  VirtioPciCapability body;
  body.length = sizeof(body) + 2;
  body.type = type;
  body.offset = static_cast<uint32_t>(offset);
  body.size = length;
  set_up().AddCapability(kCapabilityVendor, std::as_bytes(std::span(&body, 1)));
}

void PciTransport::AddStructures(const virtio::DeviceTraits& traits) {
  set_up().AddMemoryBar(0, kBarSize);
  AddStructure(static_cast<uint8_t>(CapabilityType::kCommon), kCommonOffset, kCommonLength);
  AddStructure(static_cast<uint8_t>(CapabilityType::kIsr), kIsrOffset, 1);
  if (traits.config_length > 0) {
    AddStructure(static_cast<uint8_t>(CapabilityType::kDevice), kDeviceOffset,
                 traits.config_length);
  }

  struct {
    VirtioPciCapability capability;
    Le32 multiplier = kNotifyMultiplier;
  } notify;

  notify.capability.length = sizeof(notify) + 2;
  notify.capability.type = static_cast<uint8_t>(CapabilityType::kNotify);
  notify.capability.offset = static_cast<uint32_t>(kNotifyOffset);
  notify.capability.size =
      static_cast<uint32_t>(kNotifyMultiplier * std::max<size_t>(bells_->queues(), 1));
  set_up().AddCapability(kCapabilityVendor, std::as_bytes(std::span(&notify, 1)));

  // VIRTIO §4.1.4.9: bar, offset, length and data are the driver's.
  struct {
    VirtioPciCapability capability;
    Le32 data = 0;
  } access;

  access.capability.length = sizeof(access) + 2;
  access.capability.type = static_cast<uint8_t>(CapabilityType::kPciAccess);
  std::array<std::byte, sizeof(access)> writable{};
  writable[2] = std::byte{0xff};
  std::fill(writable.begin() + 6, writable.end(), std::byte{0xff});
  pci_access_ =
      set_up().AddCapability(kCapabilityVendor, std::as_bytes(std::span(&access, 1)), writable);
  AddSharedMemory(traits.shared_memory);
}

// VIRTIO §4.1.4.7. Regions of huge pages begin at one, so that the host can map them so.
void PciTransport::AddSharedMemory(const std::vector<virtio::SharedMemoryRegion>& regions) {
  if (regions.empty()) {
    return;
  }
  uint64_t end = 0;
  for (const virtio::SharedMemoryRegion& region : regions) {
    const uint64_t alignment = region.length >= kHugePage ? kHugePage : kPage;
    const uint64_t offset = (end + alignment - 1) / alignment * alignment;
    end = offset + region.length;
    shared_memory_.emplace_back(region.id, offset);
    VirtioPciCapability64 body;
    body.low.length = sizeof(body) + 2;
    body.low.type = static_cast<uint8_t>(CapabilityType::kSharedMemory);
    body.low.bar = kSharedMemoryBar;
    body.low.id = region.id;
    body.low.offset = static_cast<uint32_t>(offset);
    body.low.size = static_cast<uint32_t>(region.length);
    body.offset_high = static_cast<uint32_t>(offset >> 32U);
    body.size_high = static_cast<uint32_t>(region.length >> 32U);
    set_up().AddCapability(kCapabilityVendor, std::as_bytes(std::span(&body, 1)));
  }
  set_up().AddMemoryBar(kSharedMemoryBar, std::bit_ceil(end));
}

void PciTransport::ReadBar(unsigned bar, uint64_t offset, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
  if (bar != 0) {
    Ignore();  // shared memory where nothing is mapped
    return;
  }
  if (InArea(offset, out.size(), kCommonOffset, kCommonLength)) {
    ReadCommon(offset - kCommonOffset, out);
  } else if (offset == kIsrOffset && out.size() == 1) {
    out[0] = std::byte{interrupt_->TakeIsr()};
  } else if (InArea(offset, out.size(), kDeviceOffset, kRegionLength)) {
    core_->ReadConfig(static_cast<uint32_t>(offset - kDeviceOffset), out);
  } else {
    Ignore();
  }
}

void PciTransport::WriteBar(unsigned bar, uint64_t offset, std::span<const std::byte> in) {
  if (bar != 0) {
    Ignore();
    return;
  }
  if (InArea(offset, in.size(), kCommonOffset, kCommonLength)) {
    WriteCommon(offset - kCommonOffset, in);
  } else if (InArea(offset, in.size(), kDeviceOffset, kRegionLength)) {
    core_->WriteConfig(static_cast<uint32_t>(offset - kDeviceOffset), in);
  } else if (InArea(offset, in.size(), kNotifyOffset, kRegionLength)) {
    Ring(offset - kNotifyOffset);
  } else {
    Ignore();
  }
}

// A notification that the kernel did not take: no doorbell was to be had, or it came by the PCI
// access capability. Of any width, as a doorbell's.
void PciTransport::Ring(uint64_t notify_offset) {
  const uint64_t queue = notify_offset / kNotifyMultiplier;
  if (notify_offset % kNotifyMultiplier == 0 && queue < bells_->queues()) {
    bells_->kick(static_cast<uint16_t>(queue))->Signal();
  } else {
    Ignore();
  }
}

void PciTransport::OnBarMapped(unsigned bar, std::optional<uint64_t> address) {
  if (bar == kSharedMemoryBar) {
    for (const auto& [id, offset] : shared_memory_) {
      if (on_moved_) {
        on_moved_(id, address ? std::optional(mem::Gpa{*address + offset}) : std::nullopt);
      }
    }
    return;
  }
  if (!address) {
    bells_->MoveTo({});
    return;
  }
  bells_->MoveTo([area = *address + kNotifyOffset](uint16_t queue) {
    return irq::Doorbell{.address = mem::Gpa{area + uint64_t{kNotifyMultiplier} * queue},
                         .length = 0,
                         .match = std::nullopt};
  });
}

std::optional<PciTransport::PciAccess> PciTransport::AccessWindow(uint16_t offset, size_t length) {
  const auto data = static_cast<uint16_t>(pci_access_ + 16);
  if (pci_access_ == 0 || offset >= data + 4 || offset + length <= data) {
    return std::nullopt;
  }
  const PciAccess access{
      .bar = static_cast<uint8_t>(PeekConfig32(static_cast<uint16_t>(pci_access_ + 4))),
      .offset = PeekConfig32(static_cast<uint16_t>(pci_access_ + 8)),
      .size = PeekConfig32(static_cast<uint16_t>(pci_access_ + 12))};
  // VIRTIO §4.1.4.9.1: 1, 2 or 4, and the offset a multiple of it.
  if ((access.size != 1 && access.size != 2 && access.size != 4) ||
      access.offset % access.size != 0) {
    return std::nullopt;
  }
  return access;
}

void PciTransport::BeforeConfigRead(uint16_t offset, size_t length) {
  if (const auto access = AccessWindow(offset, length)) {
    Le32 data = 0;
    auto bytes = std::as_writable_bytes(std::span(&data, 1)).first(access->size);
    AccessBarRead(access->bar, access->offset, bytes);
    PokeConfig32(static_cast<uint16_t>(pci_access_ + 16), data);
  }
}

void PciTransport::AfterConfigWrite(uint16_t offset, size_t length) {
  if (const auto access = AccessWindow(offset, length)) {
    const Le32 data = PeekConfig32(static_cast<uint16_t>(pci_access_ + 16));
    AccessBarWrite(access->bar, access->offset,
                   std::as_bytes(std::span(&data, 1)).first(access->size));
  }
}

}  // namespace wyvern::transport
