#include "virtio/testing/guest_ram.h"

#include "base/check.h"

namespace wyvern::virtio::testing {

GuestRam::GuestRam(uint64_t size)
    : GuestRam(std::vector<std::pair<mem::Gpa, uint64_t>>{{mem::Gpa{kBase}, size}}) {}

GuestRam::GuestRam(const std::vector<std::pair<mem::Gpa, uint64_t>>& regions) {
  std::vector<mem::RegionSpec> specs;
  for (const auto& [start, size] : regions) {
    auto fd = MakeMemfd("guest-ram", size);
    WV_CHECK(fd.has_value());
    specs.push_back({.start = start, .size = size, .fd = *std::move(fd), .guest_ram = true});
  }
  auto memory = mem::GuestMemory::Create(std::move(specs));
  WV_CHECK(memory.has_value());
  memory_ = *std::move(memory);
  next_ = mem::Raw(regions.front().first);
  end_ = next_ + regions.front().second;
}

void GuestRam::Must(bool ok) {
  WV_CHECK(ok);
}

mem::Gpa GuestRam::Allocate(uint64_t length, uint64_t alignment) {
  const uint64_t start = (next_ + alignment - 1) / alignment * alignment;
  WV_CHECK(start + length <= end_);
  next_ = start + length;
  return mem::Gpa{start};
}

mem::Gpa GuestRam::Put(std::string_view text) {
  const mem::Gpa at = Allocate(text.size());
  Must(memory_->WriteBytes(at, std::as_bytes(std::span(text))).has_value());
  return at;
}

std::string GuestRam::Text(mem::Gpa from, uint64_t length) const {
  std::string text(length, '\0');
  Must(memory_->ReadBytes(from, std::as_writable_bytes(std::span(text))).has_value());
  return text;
}

void GuestRam::Fill(mem::Gpa from, uint64_t length, std::byte value) const {
  const std::vector<std::byte> bytes(length, value);
  Must(memory_->WriteBytes(from, bytes).has_value());
}

}  // namespace wyvern::virtio::testing
