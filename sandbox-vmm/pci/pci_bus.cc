#include "pci/pci_bus.h"

#include <algorithm>

#include "base/check.h"

namespace wyvern::pci {

namespace {

constexpr unsigned kMostPortSlots = 2;

// A host bridge that guests know from other machines: the generic PCI Express host of QEMU.
constexpr Identity kHostBridge = {.vendor = 0x1b36,
                                  .device = 0x0008,
                                  .revision = 0,
                                  .class_code = 0x060000,
                                  .subsystem_vendor = 0,
                                  .subsystem = 0};

class HostBridge final : public Function {
 public:
  HostBridge() : Function(kHostBridge) {}

 protected:
  void ReadBar(unsigned, uint64_t, std::span<std::byte> out) override {
    std::ranges::fill(out, std::byte{0xff});
  }

  void WriteBar(unsigned, uint64_t, std::span<const std::byte>) override {}
};

// Calls access(offset, piece) for each part of [offset, offset + data.size()) that lies inside one
// doubleword.
template <typename Span, typename F>
void SplitDoublewords(uint64_t offset, Span data, F access) {
  while (!data.empty()) {
    const size_t piece = std::min<size_t>(data.size(), 4 - offset % 4);
    access(offset, data.first(piece));
    offset += piece;
    data = data.subspan(piece);
  }
}

}  // namespace

class PciBus::Ecam final : public bus::BusDevice {
 public:
  explicit Ecam(PciBus& bus) : bus_(bus) {}

  void Read(uint64_t offset, std::span<std::byte> out) override {
    bus_.ReadConfig(static_cast<uint8_t>(offset >> 20U), static_cast<uint8_t>(offset >> 12U),
                    static_cast<uint16_t>(offset & 0xfffU), out);
  }

  void Write(uint64_t offset, std::span<const std::byte> in) override {
    bus_.WriteConfig(static_cast<uint8_t>(offset >> 20U), static_cast<uint8_t>(offset >> 12U),
                     static_cast<uint16_t>(offset & 0xfffU), in);
  }

 private:
  PciBus& bus_;
};

// CONFIG_ADDRESS at 0xcf8 takes doublewords only; CONFIG_DATA at 0xcfc any size.
class PciBus::Ports final : public bus::BusDevice {
 public:
  explicit Ports(PciBus& bus) : bus_(bus) {}

  void Read(uint64_t offset, std::span<std::byte> out) override {
    const uint32_t address = address_.load(std::memory_order_relaxed);
    if (offset == 0 && out.size() == 4) {
      for (size_t i = 0; i < 4; ++i) {
        out[i] = static_cast<std::byte>(address >> (8 * i));
      }
    } else if (offset >= 4 && Enabled(address)) {
      bus_.ReadConfig(Bus(address), DeviceFunction(address), Register(address, offset), out);
    } else {
      std::ranges::fill(out, std::byte{0xff});
    }
  }

  void Write(uint64_t offset, std::span<const std::byte> in) override {
    if (offset == 0 && in.size() == 4) {
      uint32_t address = 0;
      for (size_t i = 0; i < 4; ++i) {
        address |= static_cast<uint32_t>(in[i]) << (8 * i);
      }
      // Bits 30:24 and 1:0 read as zero.
      address_.store(address & 0x80fffffcU, std::memory_order_relaxed);
      return;
    }
    const uint32_t address = address_.load(std::memory_order_relaxed);
    if (offset >= 4 && Enabled(address)) {
      bus_.WriteConfig(Bus(address), DeviceFunction(address), Register(address, offset), in);
    }
  }

 private:
  static bool Enabled(uint32_t address) { return (address >> 31U) != 0; }

  static uint8_t Bus(uint32_t address) { return static_cast<uint8_t>(address >> 16U); }

  static uint8_t DeviceFunction(uint32_t address) { return static_cast<uint8_t>(address >> 8U); }

  static uint16_t Register(uint32_t address, uint64_t offset) {
    return static_cast<uint16_t>((address & 0xfcU) + (offset - 4));
  }

  PciBus& bus_;
  std::atomic<uint32_t> address_{0};
};

PciBus::PciBus(bus::Bus& mmio, PciBusOptions options)
    : mmio_(mmio),
      options_(std::move(options)),
      port_slots_(static_cast<uint8_t>(
          std::min<unsigned>(kMostPortSlots, (options_.buses - 1U) / kPortsPerSlot))),
      ports_(size_t{port_slots_} * kPortsPerSlot),
      ecam_(std::make_shared<Ecam>(*this)),
      config_ports_(std::make_shared<Ports>(*this)) {
  slots_[0] = std::make_shared<HostBridge>();
  slots_[0]->Attach(mmio_, options_.windows);
}

PciBus::~PciBus() {
  for (auto& function : slots_) {
    if (function != nullptr) {
      function->Detach();
    }
  }
  for (const Port& port : ports_) {
    if (port.behind != nullptr) {
      port.behind->Detach();
    }
  }
}

// First fit between what was given out, naturally aligned.
std::optional<uint64_t> PciBus::FreeAddress(uint64_t size) const {
  for (const Window& window : options_.windows) {
    uint64_t address = (window.start + size - 1) / size * size;
    bool moved = true;
    while (moved) {
      moved = false;
      for (const auto& slot : placed_) {
        for (const Window& taken : slot) {
          if (address < taken.start + taken.size && taken.start < address + size) {
            address = (taken.start + taken.size + size - 1) / size * size;
            moved = true;
          }
        }
      }
    }
    if (size <= window.size && address >= window.start &&
        address - window.start <= window.size - size) {
      return address;
    }
  }
  return std::nullopt;
}

bool PciBus::IsFree(uint8_t slot) const {
  return slot < kSlots - port_slots_ && slots_[slot] == nullptr && !retired_[slot];
}

std::optional<uint8_t> PciBus::FreeSlot() const {
  for (uint8_t slot = 1; slot < kSlots; ++slot) {
    if (IsFree(slot)) {
      return slot;
    }
  }
  return std::nullopt;
}

Result<Place> PciBus::Add(std::shared_ptr<Function> function, std::optional<uint8_t> slot) {
  const std::lock_guard lock(mu_);
  if (slot && *slot >= kSlots) {
    return Fail(Code::kInvalidArgument, "PCI slot number above 31");
  }
  if (slot && !IsFree(*slot)) {
    return Fail(Code::kAlreadyExists, "PCI slot is taken");
  }
  if (!slot) {
    slot = FreeSlot();
  }
  if (!slot) {
    return AddBehindPort(std::move(function));
  }
  for (const Function::BarInfo& bar : function->bars()) {
    const std::optional<uint64_t> address = FreeAddress(bar.size);
    if (!address) {
      placed_[*slot].clear();
      return Fail(Code::kResourceExhausted, "no room for a PCI BAR");
    }
    placed_[*slot].push_back({.start = *address, .size = bar.size});
    function->PlaceBar(bar.index, *address);
  }
  function->Attach(mmio_, options_.windows);
  slots_[*slot] = std::move(function);
  return Place{.slot = *slot};
}

// In order: guests look at a device's other functions only where it has function 0.
Result<Place> PciBus::AddBehindPort(std::shared_ptr<Function> function) {
  const auto free = std::ranges::find_if(
      ports_, [](const Port& port) { return port.behind == nullptr && !port.retired; });
  if (free == ports_.end()) {
    return Fail(Code::kResourceExhausted,
                ports_.empty() ? "all 31 PCI slots are taken"
                               : "all PCI slots are taken, and all places behind root ports");
  }
  const auto number = static_cast<uint8_t>(free - ports_.begin());
  if (free->port == nullptr) {
    free->port = std::make_shared<RootPort>(number);
    free->port->Attach(mmio_, options_.windows);
  }
  function->Attach(mmio_, options_.windows);
  free->behind = std::move(function);
  return Place{.slot = static_cast<uint8_t>(kSlots - port_slots_ + number / kPortsPerSlot),
               .port = static_cast<uint8_t>(number % kPortsPerSlot)};
}

PciBus::Port* PciBus::FindPort(Place place) {
  const unsigned first = kSlots - port_slots_;
  if (!place.port || *place.port >= kPortsPerSlot || place.slot < first || place.slot >= kSlots) {
    return nullptr;
  }
  Port& port = ports_[(place.slot - first) * kPortsPerSlot + *place.port];
  return port.behind != nullptr ? &port : nullptr;
}

Result<std::shared_ptr<Function>> PciBus::Remove(Place place, After then) {
  const std::lock_guard lock(mu_);
  std::shared_ptr<Function> function;
  if (Port* port = FindPort(place)) {
    function = std::move(port->behind);
    port->behind = nullptr;
    port->retired = then == After::kRetired;
  } else if (!place.port && place.slot != 0 && place.slot < kSlots &&
             slots_[place.slot] != nullptr) {
    function = std::move(slots_[place.slot]);
    slots_[place.slot] = nullptr;
    retired_[place.slot] = then == After::kRetired;
    placed_[place.slot].clear();
  } else {
    return Fail(Code::kNotFound, "no PCI function at " + place.Text());
  }
  function->Detach();
  for (const auto& other : slots_) {
    if (other != nullptr) {
      other->RetryBars();
    }
  }
  for (const Port& port : ports_) {
    if (port.behind != nullptr) {
      port.behind->RetryBars();
    }
  }
  return function;
}

std::shared_ptr<Function> PciBus::Target(uint8_t bus, uint8_t device_function) const {
  const std::lock_guard lock(mu_);
  const unsigned slot = device_function >> 3U;
  const unsigned number = device_function & 7U;
  if (bus == 0) {
    const unsigned first = kSlots - port_slots_;
    if (slot >= first) {
      return ports_[(slot - first) * kPortsPerSlot + number].port;
    }
    return number == 0 ? slots_[slot] : nullptr;
  }
  if (device_function != 0) {
    return nullptr;
  }
  // Of ports that the guest gave one number, the first one has it.
  const auto port = std::ranges::find_if(ports_, [bus](const Port& candidate) {
    return candidate.port != nullptr && candidate.port->secondary_bus() == bus;
  });
  return port != ports_.end() ? port->behind : nullptr;
}

void PciBus::ReadConfig(uint8_t bus, uint8_t device_function, uint16_t offset,
                        std::span<std::byte> out) {
  const std::shared_ptr<Function> target = Target(bus, device_function);
  if (target == nullptr) {
    std::ranges::fill(out, std::byte{0xff});
    return;
  }
  SplitDoublewords(offset, out, [&](uint64_t at, std::span<std::byte> piece) {
    target->ReadConfig(static_cast<uint16_t>(at), piece);
  });
}

void PciBus::WriteConfig(uint8_t bus, uint8_t device_function, uint16_t offset,
                         std::span<const std::byte> in) {
  const std::shared_ptr<Function> target = Target(bus, device_function);
  if (target == nullptr) {
    return;
  }
  SplitDoublewords(offset, in, [&](uint64_t at, std::span<const std::byte> piece) {
    target->WriteConfig(static_cast<uint16_t>(at), piece);
  });
}

}  // namespace wyvern::pci
