#include "bus/bus.h"

#include <array>
#include <limits>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace wyvern::bus {
namespace {

constexpr uint64_t kTop = std::numeric_limits<uint64_t>::max();

class RecordingDevice : public BusDevice {
 public:
  void Read(uint64_t offset, std::span<std::byte> out) override {
    last_offset = offset;
    last_size = out.size();
    ++calls;
    std::fill(out.begin(), out.end(), std::byte{0x5a});
  }

  void Write(uint64_t offset, std::span<const std::byte> in) override {
    last_offset = offset;
    last_size = in.size();
    ++calls;
  }

  std::atomic<uint64_t> last_offset{0};
  std::atomic<size_t> last_size{0};
  std::atomic<int> calls{0};
};

TEST(BusTest, AccessThatEndsOutsideTheRangeIsNotDispatched) {
  Bus bus(kTop);
  auto device = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(0x1000, 6, device).has_value());
  std::array<std::byte, 8> data{};
  EXPECT_FALSE(bus.Read(0x1003, std::span(data).first(4)));
  EXPECT_FALSE(bus.Read(0x1000, data));
  EXPECT_FALSE(bus.Write(0x1005, std::span(data).first(2)));
  EXPECT_FALSE(bus.Write(0xfff, std::span(data).first(2)));
  EXPECT_FALSE(bus.Read(kTop, std::span(data).first(8)));
  EXPECT_EQ(device->calls, 0);
  EXPECT_TRUE(bus.Read(0x1002, std::span(data).first(4)));
  EXPECT_EQ(device->last_offset, 2U);
  EXPECT_EQ(bus.counters().unclaimed_reads, 3U);
  EXPECT_EQ(bus.counters().unclaimed_writes, 2U);
}

TEST(BusTest, OddSizesNeverReachADevice) {
  Bus bus(kTop);
  auto device = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(0, 0x100, device).has_value());
  std::array<std::byte, 16> data{};
  for (size_t size : {0, 3, 5, 6, 7, 9, 16}) {
    EXPECT_FALSE(bus.Read(0, std::span(data).first(size))) << size;
    EXPECT_FALSE(bus.Write(0, std::span(data).first(size))) << size;
  }
  EXPECT_EQ(device->calls, 0);
  for (size_t size : {1, 2, 4, 8}) {
    EXPECT_TRUE(bus.Read(0, std::span(data).first(size))) << size;
  }
}

TEST(BusTest, UnclaimedReadIsAllOnes) {
  Bus bus(0xffff);
  std::array<std::byte, 4> data{};
  EXPECT_FALSE(bus.Read(0x80, data));
  EXPECT_EQ(data[0], std::byte{0xff});
  EXPECT_EQ(data[3], std::byte{0xff});
}

TEST(BusTest, OverlapsAndRangesBeyondTheLimitAreRefused) {
  Bus bus(0xffff);
  auto device = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(0x100, 0x10, device).has_value());
  EXPECT_EQ(bus.Insert(0x10f, 1, device).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0xff, 2, device).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0, 0x10000, device).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0x104, 1, device).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(bus.Insert(0x200, 0, device).error().code(), Code::kOutOfRange);
  EXPECT_EQ(bus.Insert(0xffff, 2, device).error().code(), Code::kOutOfRange);
  EXPECT_EQ(bus.Insert(0x200, kTop, device).error().code(), Code::kOutOfRange);
  EXPECT_EQ(bus.Insert(kTop, 1, device).error().code(), Code::kOutOfRange);
  EXPECT_TRUE(bus.Insert(0xff, 1, device).has_value());
  EXPECT_TRUE(bus.Insert(0x110, 1, device).has_value());
  EXPECT_TRUE(bus.Insert(0xffff, 1, device).has_value());
}

TEST(BusTest, RangeMayEndAtTheTopOfTheAddressSpace) {
  Bus bus(kTop);
  auto device = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(kTop - 7, 8, device).has_value());
  std::array<std::byte, 8> data{};
  EXPECT_TRUE(bus.Read(kTop - 7, data));
  EXPECT_FALSE(bus.Read(kTop - 6, data));
  EXPECT_EQ(bus.Insert(0, kTop, device).error().code(), Code::kAlreadyExists);
}

TEST(BusTest, FailedMoveLeavesTheOldPlace) {
  Bus bus(0xffff);
  auto device = std::make_shared<RecordingDevice>();
  auto other = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(0x100, 0x10, device).has_value());
  ASSERT_TRUE(bus.Insert(0x200, 0x10, other).has_value());
  EXPECT_EQ(bus.Move(0x100, 0x10, 0x208).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(bus.Move(0x100, 0x10, 0xfff8).error().code(), Code::kOutOfRange);
  EXPECT_EQ(bus.Move(0x100, 0x8, 0x300).error().code(), Code::kNotFound);
  std::byte one{};
  EXPECT_TRUE(bus.Read(0x100, std::span(&one, 1)));
  // A move may overlap its own old place.
  EXPECT_TRUE(bus.Move(0x100, 0x10, 0x108).has_value());
  EXPECT_FALSE(bus.Read(0x100, std::span(&one, 1)));
  EXPECT_TRUE(bus.Read(0x117, std::span(&one, 1)));
  EXPECT_EQ(device->last_offset, 0xfU);
}

TEST(BusTest, RemoveNeedsTheExactRange) {
  Bus bus(0xffff);
  ASSERT_TRUE(bus.Insert(0x100, 0x10, std::make_shared<RecordingDevice>()).has_value());
  EXPECT_EQ(bus.Remove(0x100, 0xf).error().code(), Code::kNotFound);
  EXPECT_TRUE(bus.Remove(0x100, 0x10).has_value());
  EXPECT_EQ(bus.Remove(0x100, 0x10).error().code(), Code::kNotFound);
}

class SelfMovingDevice : public BusDevice {
 public:
  explicit SelfMovingDevice(Bus* bus) : bus_(bus) {}

  void Read(uint64_t, std::span<std::byte>) override {}

  void Write(uint64_t, std::span<const std::byte>) override {
    ASSERT_TRUE(bus_->Move(0x1000, 0x100, 0x2000).has_value());
  }

 private:
  Bus* bus_;
};

TEST(BusTest, DeviceMayMoveItselfWhileItIsCalled) {
  Bus bus(0xffff);
  ASSERT_TRUE(bus.Insert(0x1000, 0x100, std::make_shared<SelfMovingDevice>(&bus)).has_value());
  const std::byte one{};
  EXPECT_TRUE(bus.Write(0x1000, std::span(&one, 1)));
  std::byte out{};
  EXPECT_TRUE(bus.Read(0x2000, std::span(&out, 1)));
}

TEST(BusTest, ReadersAlwaysFindAMovingDeviceAtOneOfItsPlaces) {
  Bus bus(kTop);
  auto device = std::make_shared<RecordingDevice>();
  auto fixed = std::make_shared<RecordingDevice>();
  ASSERT_TRUE(bus.Insert(0x1000, 0x10, device).has_value());
  ASSERT_TRUE(bus.Insert(0x9000, 0x10, fixed).has_value());
  std::atomic<bool> stop{false};
  std::atomic<int> misses{0};
  std::vector<std::thread> readers;
  readers.reserve(2);
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      std::byte out{};
      while (!stop) {
        misses += bus.Read(0x9004, std::span(&out, 1)) ? 0 : 1;
        bus.Read(0x1000, std::span(&out, 1));
      }
    });
  }
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(bus.Move(0x1000, 0x10, 0x5000).has_value());
    ASSERT_TRUE(bus.Move(0x5000, 0x10, 0x1000).has_value());
  }
  stop = true;
  for (auto& reader : readers) {
    reader.join();
  }
  EXPECT_EQ(misses, 0);
}

}  // namespace
}  // namespace wyvern::bus
