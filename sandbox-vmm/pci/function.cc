#include "pci/function.h"

#include <algorithm>

#include "base/check.h"
#include "base/endian.h"

namespace wyvern::pci {

namespace {

constexpr uint8_t kCapabilityMsix = 0x11;
constexpr uint16_t kMsixEnable = 1U << 15;
constexpr uint16_t kMsixFunctionMask = 1U << 14;

struct MsixCapability {
  Le16 control;
  Le32 table;
  Le32 pba;
};

static_assert(sizeof(MsixCapability) == 10);

bool Overlaps(uint16_t offset, size_t length, uint16_t from, size_t size) {
  return offset < from + size && from < offset + length;
}

bool Within(uint64_t offset, size_t length, uint64_t start, uint64_t size) {
  return offset >= start && length <= size && offset - start <= size - length;
}

}  // namespace

// What the bus calls; keeps the function alive while a vCPU is in it.
class Function::BarDevice final : public bus::BusDevice {
 public:
  BarDevice(std::shared_ptr<Function> function, unsigned bar)
      : function_(std::move(function)), bar_(bar) {}

  void Read(uint64_t offset, std::span<std::byte> out) override {
    function_->AccessBarRead(bar_, offset, out);
  }

  void Write(uint64_t offset, std::span<const std::byte> in) override {
    function_->AccessBarWrite(bar_, offset, in);
  }

 private:
  const std::shared_ptr<Function> function_;
  const unsigned bar_;
};

Function::Function(const Identity& identity) : config_(identity) {}

Function::~Function() = default;

void Function::AddMsix(std::unique_ptr<Msix> msix, unsigned bar, uint64_t table_offset,
                       uint64_t pba_offset) {
  WV_CHECK(msix_ == nullptr && table_offset % 8 == 0 && pba_offset % 8 == 0);
  WV_CHECK(Within(table_offset, msix->table_size(), 0, config_.bar_size(bar)));
  WV_CHECK(Within(pba_offset, msix->pba_size(), 0, config_.bar_size(bar)));
  MsixCapability body;
  body.control = static_cast<uint16_t>(msix->vectors() - 1);
  body.table = static_cast<uint32_t>(table_offset) | bar;
  body.pba = static_cast<uint32_t>(pba_offset) | bar;
  const Le16 writable(uint16_t{kMsixEnable | kMsixFunctionMask});
  msix_capability_ = config_.AddCapability(kCapabilityMsix, std::as_bytes(std::span(&body, 1)),
                                           std::as_bytes(std::span(&writable, 1)));
  msix_ = std::move(msix);
  msix_bar_ = bar;
  msix_table_ = table_offset;
  msix_pba_ = pba_offset;
}

void Function::ReadConfig(uint16_t offset, std::span<std::byte> out) {
  if (!Within(offset, out.size(), 0, ConfigSpace::kSize)) {
    std::ranges::fill(out, std::byte{0xff});
    return;
  }
  BeforeConfigRead(offset, out.size());
  const std::lock_guard lock(mu_);
  config_.Read(offset, out);
}

void Function::WriteConfig(uint16_t offset, std::span<const std::byte> in) {
  if (!Within(offset, in.size(), 0, ConfigSpace::kSize)) {
    return;
  }
  {
    const std::lock_guard lock(mu_);
    config_.Write(offset, in);
    if (Overlaps(offset, in.size(), kCommand, 2) ||
        Overlaps(offset, in.size(), kBar0, size_t{4} * kBars)) {
      UpdateBars();
    }
    if (msix_capability_ != 0 &&
        Overlaps(offset, in.size(), static_cast<uint16_t>(msix_capability_ + 2), 2)) {
      UpdateMsixControl();
    }
  }
  AfterConfigWrite(offset, in.size());
}

void Function::UpdateMsixControl() {
  const uint16_t control = config_.Get16(static_cast<uint16_t>(msix_capability_ + 2));
  msix_->SetControl((control & kMsixEnable) != 0, (control & kMsixFunctionMask) != 0);
}

bool Function::InWindow(uint64_t address, uint64_t size) const {
  return std::ranges::any_of(windows_, [&](const Window& window) {
    return Within(address, size, window.start, window.size);
  });
}

void Function::UpdateBars() {
  if (bus_ == nullptr) {
    return;
  }
  const bool decoding = (config_.command() & kCommandMemory) != 0;
  for (unsigned i = 0; i < kBars; ++i) {
    const uint64_t size = config_.bar_size(i);
    if (size == 0) {
      continue;
    }
    const uint64_t address = config_.bar_address(i);
    const bool wanted = decoding && InWindow(address, size);
    if (mapped_[i] && wanted && *mapped_[i] == address) {
      continue;
    }
    const bool was_mapped = mapped_[i].has_value();
    if (mapped_[i]) {
      WV_CHECK(bus_->Remove(*mapped_[i], size).has_value());
      mapped_[i].reset();
    }
    if (wanted && bus_->Insert(address, size, std::make_shared<BarDevice>(shared_from_this(), i))) {
      mapped_[i] = address;
    }
    if (was_mapped || mapped_[i]) {
      OnBarMapped(i, mapped_[i]);
    }
  }
}

void Function::Attach(bus::Bus& mmio, std::span<const Window> windows) {
  const std::lock_guard lock(mu_);
  WV_CHECK(bus_ == nullptr);
  bus_ = &mmio;
  windows_.assign(windows.begin(), windows.end());
  UpdateBars();
}

void Function::Detach() {
  const std::lock_guard lock(mu_);
  if (bus_ == nullptr) {
    return;
  }
  windows_.clear();
  UpdateBars();
  bus_ = nullptr;
}

void Function::RetryBars() {
  const std::lock_guard lock(mu_);
  UpdateBars();
}

std::vector<Function::BarInfo> Function::bars() const {
  const std::lock_guard lock(mu_);
  std::vector<BarInfo> bars;
  for (unsigned i = 0; i < kBars; ++i) {
    if (config_.bar_size(i) != 0) {
      bars.push_back({.index = i, .size = config_.bar_size(i)});
    }
  }
  return bars;
}

std::optional<uint64_t> Function::mapped(unsigned bar) const {
  const std::lock_guard lock(mu_);
  return mapped_.at(bar);
}

void Function::PlaceBar(unsigned bar, uint64_t address) {
  const std::lock_guard lock(mu_);
  config_.set_bar_address(bar, address);
  UpdateBars();
}

bool Function::AccessBarRead(unsigned bar, uint64_t offset, std::span<std::byte> out) {
  if (bar >= kBars || !Within(offset, out.size(), 0, config_.bar_size(bar))) {
    std::ranges::fill(out, std::byte{0xff});
    return false;
  }
  if (msix_ != nullptr && bar == msix_bar_) {
    if (Within(offset, out.size(), msix_table_, msix_->table_size())) {
      msix_->ReadTable(offset - msix_table_, out);
      return true;
    }
    if (Within(offset, out.size(), msix_pba_, msix_->pba_size())) {
      msix_->ReadPending(offset - msix_pba_, out);
      return true;
    }
  }
  ReadBar(bar, offset, out);
  return true;
}

bool Function::AccessBarWrite(unsigned bar, uint64_t offset, std::span<const std::byte> in) {
  if (bar >= kBars || !Within(offset, in.size(), 0, config_.bar_size(bar))) {
    return false;
  }
  if (msix_ != nullptr && bar == msix_bar_) {
    if (Within(offset, in.size(), msix_table_, msix_->table_size())) {
      msix_->WriteTable(offset - msix_table_, in);
      return true;
    }
    if (Within(offset, in.size(), msix_pba_, msix_->pba_size())) {
      return true;  // read-only
    }
  }
  WriteBar(bar, offset, in);
  return true;
}

uint32_t Function::PeekConfig32(uint16_t offset) {
  const std::lock_guard lock(mu_);
  return config_.Get32(offset);
}

void Function::PokeConfig32(uint16_t offset, uint32_t value) {
  const std::lock_guard lock(mu_);
  config_.Set32(offset, value);
}

}  // namespace wyvern::pci
