#include "fs/differential/ring_carrier.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/check.h"

namespace wyvern::fs::differential {

namespace {

constexpr uint64_t kGuestPage = 4096;

// What is allocated next begins as far behind a page as `bytes`: direct I/O asks for alignment.
void PlaceLike(virtio::testing::GuestRam& ram, const void* bytes) {
  const auto into_page = reinterpret_cast<uintptr_t>(bytes) % kGuestPage;
  ram.Allocate(0, kGuestPage);
  ram.Allocate(into_page - into_page % 16, 1);
}

}  // namespace

Result<std::shared_ptr<RingCarrier>> RingCarrier::Create(virtio::VirtioDevice& device,
                                                         uint64_t features) {
  std::shared_ptr<RingCarrier> carrier(new RingCarrier(device, features));
  WV_TRY_VOID(carrier->Start());
  return carrier;
}

RingCarrier::RingCarrier(virtio::VirtioDevice& device, uint64_t features)
    : device_(device), features_((features & device.traits().features) | virtio::kVersion1) {}

Result<> RingCarrier::Start() {
  for (uint16_t index = 0; index < kQueues; ++index) {
    WV_TRY(EventFd kick, EventFd::Create());
    rings_.push_back({virtio::testing::FakeDriver(ram_, kRingSize, features_), std::move(kick)});
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = rings_.back().driver.config();
    resources.kick = rings_.back().kick.fd();
    resources.interrupt = interrupt_;
    WV_TRY_VOID(device_.StartQueue(index, std::move(resources), features_, std::nullopt));
  }
  return {};
}

RingCarrier::~RingCarrier() {
  for (uint16_t index = 0; index < kQueues; ++index) {
    device_.StopQueue(index);
  }
}

virtio::testing::Used RingCarrier::Await(uint16_t queue, uint64_t seen) {
  constexpr int kPatience = 12;  // waits of 5 s: a machine under load, or one that was stopped
  int waits = 0;
  for (;;) {
    if (const auto used = rings_[queue].driver.TakeUsed()) {
      return *used;
    }
    waits = interrupt_->WaitQueue(queue, seen) ? 0 : waits + 1;
    WV_CHECK(waits < kPatience);
    seen = interrupt_->queue_signals(queue);
  }
}

uint32_t RingCarrier::Carry(std::span<const iovec> request, std::span<const iovec> out) {
  fuse_in_header header{};
  std::string head;
  for (const iovec& part : request) {
    const size_t wanted =
        std::min(part.iov_len, sizeof(header) - std::min(sizeof(header), head.size()));
    head.append(static_cast<const char*>(part.iov_base), wanted);
  }
  std::memcpy(&header, head.data(), std::min(head.size(), sizeof(header)));
  const bool urgent = header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET ||
                      header.opcode == FUSE_INTERRUPT;
  const uint16_t queue = urgent ? 0 : 1;
  virtio::testing::FakeDriver& driver = rings_[queue].driver;
  const uint64_t mark = ram_.Mark();
  auto chain = driver.Build();
  for (const iovec& part : request) {
    if (part.iov_len != 0) {
      PlaceLike(ram_, part.iov_base);
      const mem::Gpa at = ram_.Put({static_cast<const char*>(part.iov_base), part.iov_len});
      chain.ReadableAt(at, static_cast<uint32_t>(part.iov_len));
    }
  }
  std::vector<mem::Gpa> replies;
  for (const iovec& part : out) {
    PlaceLike(ram_, part.iov_base);
    replies.push_back(ram_.Allocate(part.iov_len, 1));
    if (part.iov_len != 0) {
      chain.WritableAt(replies.back(), static_cast<uint32_t>(part.iov_len));
    }
  }
  // As Linux does; now and then without.
  if ((features_ & virtio::kRingIndirectDesc) != 0 && header.unique % 4 != 0) {
    chain.Indirect();
  }
  const uint64_t seen = interrupt_->queue_signals(queue);
  driver.SetUsedEvent(driver.UsedIndexInRing());
  const uint16_t submitted = chain.Submit();
  if (driver.ShouldNotify()) {
    rings_[queue].kick.Signal();
  }
  const virtio::testing::Used used = Await(queue, seen);
  WV_CHECK(used.head == submitted);
  size_t left = used.written;
  for (size_t i = 0; i < out.size() && left > 0; ++i) {
    const size_t piece = std::min(left, out[i].iov_len);
    const std::string bytes = ram_.Text(replies[i], piece);
    std::memcpy(out[i].iov_base, bytes.data(), bytes.size());
    left -= piece;
  }
  ram_.Release(mark);
  return used.written;
}

}  // namespace wyvern::fs::differential
