// virtio/testing/hostile_ring.h — a queue, and a driver that writes what it likes into its ring.
// Shape:   a fixture over a Format: its raw descriptors, and how a driver writes them.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "virtio/packed_ring_core.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio::testing {

struct SplitFormat {
  using Raw = RawDescriptor;

  // What every driver writes: one readable buffer.
  static Raw Readable(uint64_t address) { return {address, 1, 0, 0}; }

  static void Write(FakeDriver& driver, uint16_t index, const Raw& raw) {
    driver.WriteDescriptor(index, raw);
  }

  static void WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index, const Raw& raw) {
    FakeDriver::WriteTable(ram, table, index, raw);
  }

  static void Publish(FakeDriver& driver) { driver.MakeAvailable(0); }
};

struct PackedFormat {
  using Raw = RawPacked;

  static constexpr uint16_t kAvail = WV_PACKED_F_AVAIL;  // available in the first lap

  static Raw Readable(uint64_t address) { return {address, 1, 0, kAvail}; }

  static void Write(FakeDriver& driver, uint16_t slot, const Raw& raw) {
    driver.WritePacked(slot, raw);
  }

  static void WriteTable(GuestRam& ram, mem::Gpa table, uint32_t index, const Raw& raw) {
    FakeDriver::WritePackedTable(ram, table, index, raw);
  }

  // The descriptors' flags have done it.
  static void Publish(FakeDriver&) {}
};

template <typename Format>
class HostileRing : public ::testing::Test {
 protected:
  using Raw = typename Format::Raw;

  void Start(uint16_t size, uint64_t features) {
    driver_ = std::make_unique<FakeDriver>(ram_, size, features);
    auto queue = Queue::Create(ram_.memory(), driver_->config(), features, std::nullopt);
    ASSERT_TRUE(queue);
    queue_ = *std::move(queue);
  }

  // The address of a buffer that is one.
  uint64_t Good() { return mem::Raw(ram_.Allocate(64)); }

  // Descriptors from the ring's first on, as given. A split ring's are a chain, made available; a packed
  // ring's are as their flags say.
  void Offer(std::initializer_list<Raw> descriptors) {
    uint16_t slot = 0;
    for (const Raw& descriptor : descriptors) {
      Format::Write(*driver_, slot++, descriptor);
    }
    Format::Publish(*driver_);
  }

  // The address of an indirect table.
  uint64_t Table(std::initializer_list<Raw> descriptors) {
    const mem::Gpa table = ram_.Allocate(16 * descriptors.size());
    uint32_t index = 0;
    for (const Raw& descriptor : descriptors) {
      Format::WriteTable(ram_, table, index++, descriptor);
    }
    return mem::Raw(table);
  }

  static std::string TextOfChain(const Chain& chain) {
    std::string text(chain.readable_length(), '\0');
    EXPECT_TRUE(chain.Read(0, std::as_writable_bytes(std::span(text))));
    return text;
  }

  void ExpectFault(ChainFault fault) {
    auto chain = queue_->Pop();
    ASSERT_FALSE(chain);
    EXPECT_EQ(chain.error(), fault) << ChainFaultName(chain.error());
    // It latches: also when the driver repairs the ring, until the queue is made anew.
    Format::Write(*driver_, 0, Format::Readable(Good()));
    auto again = queue_->Pop();
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error(), fault);
    EXPECT_FALSE(queue_->EnableNotification());
  }

  // Of two chains of 4 writable bytes the first is popped, and the second one claims what is in flight.
  void ExpectSecondIsInFlight() {
    Chain first = MustPop(*queue_);
    auto second = queue_->Pop();
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error(), ChainFault::kHeadInFlight);
    queue_->Push(std::move(first), 4);  // what is in flight still completes
    EXPECT_EQ(driver_->MustTakeUsed().written, 4U);
  }

  GuestRam ram_;
  std::unique_ptr<FakeDriver> driver_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace wyvern::virtio::testing
