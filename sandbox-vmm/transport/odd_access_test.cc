// Accesses of every size at every offset of every structure: what is no field in its own size reads
// as zero, changes nothing and is counted. CH #8506: odd sizes and unaligned accesses once panicked.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <vector>

#include "transport/testing/fixtures.h"

namespace wyvern::transport {
namespace {

constexpr std::array<size_t, 4> kSizes = {1, 2, 4, 8};

struct CommonRow {
  CommonField field;
  size_t size;
};

constexpr CommonRow kCommonRows[] = {
    {CommonField::kDeviceFeatureSelect, 4},
    {CommonField::kDeviceFeature, 4},
    {CommonField::kDriverFeatureSelect, 4},
    {CommonField::kDriverFeature, 4},
    {CommonField::kConfigVector, 2},
    {CommonField::kQueueCount, 2},
    {CommonField::kStatus, 1},
    {CommonField::kGeneration, 1},
    {CommonField::kQueueSelect, 2},
    {CommonField::kQueueSize, 2},
    {CommonField::kQueueVector, 2},
    {CommonField::kQueueEnable, 2},
    {CommonField::kQueueNotifyOffset, 2},
    {CommonField::kDescriptorLow, 4},
    {CommonField::kDescriptorHigh, 4},
    {CommonField::kDriverLow, 4},
    {CommonField::kDriverHigh, 4},
    {CommonField::kDeviceLow, 4},
    {CommonField::kDeviceHigh, 4},
    {CommonField::kQueueReset, 2},
};

// Both halves of an address may be accessed at once (VIRTIO §4.1.3.1 speaks of two accesses).
bool IsCommonField(uint64_t offset, size_t size) {
  const bool address = size == 8 && (offset == 32 || offset == 40 || offset == 48);
  return address || std::ranges::any_of(kCommonRows, [&](const CommonRow& row) {
           return static_cast<uint64_t>(row.field) == offset && row.size == size;
         });
}

// Accesses of any size through a transport whose fields can be written.
template <typename Fixture>
class OddAccess : public Fixture {
 protected:
  OddAccess() { EXPECT_TRUE(this->guest_.Negotiate(virtio::kVersion1 | virtio::kRingReset)); }

  virtual bus::Bus& mmio() = 0;
  // Where on the bus the transport is.
  virtual uint64_t base() const = 0;
  // What accesses that are none must not change.
  virtual std::vector<uint64_t> State() = 0;

  uint64_t Read(uint64_t offset, size_t size) {
    Le64 value = 0;
    EXPECT_TRUE(
        mmio().Read(base() + offset, std::as_writable_bytes(std::span(&value, 1)).first(size)));
    return value;
  }

  void Write(uint64_t offset, size_t size, uint64_t value) {
    const Le64 bytes = value;
    EXPECT_TRUE(mmio().Write(base() + offset, std::as_bytes(std::span(&bytes, 1)).first(size)));
  }

  // Reads as zero, changes nothing, and is counted.
  void ExpectNothing(uint64_t offset, size_t size) {
    const std::vector<uint64_t> before = State();
    const uint64_t ignored = this->transport_->ignored_accesses();
    EXPECT_EQ(Read(offset, size), 0U) << offset << " " << size;
    Write(offset, size, ~uint64_t{0});
    Write(offset, size, 0);
    EXPECT_EQ(this->transport_->ignored_accesses(), ignored + 3) << offset << " " << size;
    EXPECT_EQ(State(), before) << offset << " " << size;
  }

  void ExpectBytesAt(uint64_t device_configuration) {
    for (size_t i = 0; i < this->device_->config.size(); ++i) {
      this->device_->config[i] = std::byte{static_cast<uint8_t>(0x11 * (i + 1))};
    }
    constexpr uint64_t kAll = 0x8877665544332211;
    for (uint64_t offset = 0; offset < 16; ++offset) {
      for (const size_t size : kSizes) {
        const uint64_t shifted = offset < 8 ? kAll >> (8 * offset) : 0;
        const uint64_t mask = size == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * size)) - 1;
        EXPECT_EQ(Read(device_configuration + offset, size), shifted & mask)
            << offset << " " << size;
        Write(device_configuration + offset, size, shifted);  // what is there
        EXPECT_EQ(Read(device_configuration, 8), kAll) << offset << " " << size;
      }
    }
  }

  void ExpectSizesOfNoCpuReachNobodyAt(std::initializer_list<uint64_t> offsets) {
    const std::vector<uint64_t> before = State();
    std::array<std::byte, 16> bytes{};
    for (const size_t size : {0U, 3U, 5U, 6U, 7U, 16U}) {
      for (const uint64_t offset : offsets) {
        EXPECT_FALSE(mmio().Write(base() + offset, std::span(bytes).first(size)));
        EXPECT_FALSE(mmio().Read(base() + offset, std::span(bytes).first(size)));
      }
    }
    EXPECT_EQ(State(), before);
  }
};

class PciOddAccessTest : public OddAccess<testing::PciFixture> {
 protected:
  bus::Bus& mmio() override { return guest_.mmio; }

  uint64_t base() const override { return guest_.bar; }

  std::vector<uint64_t> State() override {
    std::vector<uint64_t> values;
    for (const CommonRow& row : kCommonRows) {
      values.push_back(Read(static_cast<uint64_t>(row.field), row.size));
    }
    return values;
  }
};

TEST_F(PciOddAccessTest, Ch8506_CommonConfigurationTakesEachFieldInItsOwnSizeOnly) {
  for (uint64_t offset = 0; offset < kCommonLength + 8; ++offset) {
    for (const size_t size : kSizes) {
      if (!IsCommonField(offset, size)) {
        ExpectNothing(offset, size);
      }
    }
  }
}

TEST_F(PciOddAccessTest, Ch8506_ReadOnlyFieldsAreNotWritten) {
  for (const CommonField field : {CommonField::kDeviceFeature, CommonField::kQueueCount,
                                  CommonField::kGeneration, CommonField::kQueueNotifyOffset}) {
    const auto row = std::ranges::find(kCommonRows, field, &CommonRow::field);
    const std::vector<uint64_t> before = State();
    const uint64_t ignored = transport_->ignored_accesses();
    Write(static_cast<uint64_t>(field), row->size, ~uint64_t{0});
    EXPECT_EQ(State(), before) << static_cast<int>(field);
    EXPECT_EQ(transport_->ignored_accesses(), ignored + 1) << static_cast<int>(field);
  }
}

TEST_F(PciOddAccessTest, BothHalvesOfAnAddressAtOnce) {
  Write(32, 8, 0x123456789abcdef0);
  EXPECT_EQ(Read(32, 4), 0x9abcdef0U);
  EXPECT_EQ(Read(36, 4), 0x12345678U);
  EXPECT_EQ(Read(32, 8), 0x123456789abcdef0U);
  EXPECT_EQ(transport_->ignored_accesses(), 0U);
}

TEST_F(PciOddAccessTest, Ch8506_IsrIsOneByte) {
  guest_.SetUpQueue(0, driver_.config(), kNoVector);
  guest_.DriverOk();
  device_->running[0].resources.interrupt->SignalQueue(0);
  for (uint64_t offset = 0; offset < 8; ++offset) {
    for (const size_t size : kSizes) {
      if (offset != 0 || size != 1) {
        ExpectNothing(kIsrOffset + offset, size);
      }
    }
  }
  Write(kIsrOffset, 1, 0);
  EXPECT_EQ(Read(kIsrOffset, 1), 1U);
  EXPECT_EQ(Read(kIsrOffset, 1), 0U);
}

TEST_F(PciOddAccessTest, NotificationsAreOfAnyWidthAtTheirQueuesAddressOnly) {
  guest_.SetUpQueue(0, driver_.config(), kNoVector);
  guest_.DriverOk();
  const auto kicked = [&] {
    uint64_t count = 0;
    return read(device_->running.at(0).resources.kick.get(), &count, 8) == 8;
  };
  for (uint64_t offset = 0; offset < 16; ++offset) {
    for (const size_t size : kSizes) {
      EXPECT_EQ(Read(kNotifyOffset + offset, size), 0U);
      Write(kNotifyOffset + offset, size, 0);
      EXPECT_EQ(kicked(), offset == 0) << offset << " " << size;
    }
  }
  Write(kNotifyOffset + kRegionLength - 1, 1, 0);
}

TEST_F(PciOddAccessTest, DeviceConfigurationIsBytes) {
  ExpectBytesAt(kDeviceOffset);
}

TEST_F(PciOddAccessTest, Ch8506_SizesThatNoCpuHasReachNobody) {
  ExpectSizesOfNoCpuReachNobodyAt({kCommonOffset, kIsrOffset, kDeviceOffset, kNotifyOffset});
}

struct MmioRow {
  MmioRegister reg;
  bool readable;
  bool writable;
};

constexpr MmioRow kMmioRows[] = {
    {MmioRegister::kMagicValue, true, false},
    {MmioRegister::kVersion, true, false},
    {MmioRegister::kDeviceId, true, false},
    {MmioRegister::kVendorId, true, false},
    {MmioRegister::kDeviceFeatures, true, false},
    {MmioRegister::kDeviceFeaturesSelect, false, true},
    {MmioRegister::kDriverFeatures, false, true},
    {MmioRegister::kDriverFeaturesSelect, false, true},
    {MmioRegister::kQueueSelect, false, true},
    {MmioRegister::kQueueSizeMax, true, false},
    {MmioRegister::kQueueSize, false, true},
    {MmioRegister::kQueueReady, true, true},
    {MmioRegister::kQueueNotify, false, true},
    {MmioRegister::kInterruptStatus, true, false},
    {MmioRegister::kInterruptAck, false, true},
    {MmioRegister::kStatus, true, true},
    {MmioRegister::kDescriptorLow, false, true},
    {MmioRegister::kDescriptorHigh, false, true},
    {MmioRegister::kDriverLow, false, true},
    {MmioRegister::kDriverHigh, false, true},
    {MmioRegister::kDeviceLow, false, true},
    {MmioRegister::kDeviceHigh, false, true},
    {MmioRegister::kSharedMemorySelect, false, true},
    {MmioRegister::kSharedMemoryLengthLow, true, false},
    {MmioRegister::kSharedMemoryLengthHigh, true, false},
    {MmioRegister::kSharedMemoryBaseLow, true, false},
    {MmioRegister::kSharedMemoryBaseHigh, true, false},
    {MmioRegister::kQueueReset, true, true},
    {MmioRegister::kConfigGeneration, true, false},
};

class MmioOddAccessTest : public OddAccess<testing::MmioFixture> {
 protected:
  bus::Bus& mmio() override { return guest_.bus; }

  uint64_t base() const override { return testing::MmioGuest::kBase; }

  // Everything that a driver can see, and what it can write without reading.
  std::vector<uint64_t> State() override {
    std::vector<uint64_t> values;
    for (const MmioRow& row : kMmioRows) {
      if (row.readable) {
        values.push_back(Read(static_cast<uint64_t>(row.reg), 4));
      }
    }
    for (uint16_t queue = 0; queue < 2; ++queue) {
      const QueueRegisters registers = transport_->core().queue(queue);
      values.insert(values.end(),
                    {registers.config.size, mem::Raw(registers.config.descriptor_area),
                     mem::Raw(registers.config.driver_area), mem::Raw(registers.config.device_area),
                     uint64_t{registers.enabled}});
    }
    return values;
  }
};

TEST_F(MmioOddAccessTest, Ch8506_RegistersTakeAlignedAccessesOf32BitsOnly) {
  const auto exists = [](uint64_t offset) {
    return std::ranges::any_of(
        kMmioRows, [&](const MmioRow& row) { return static_cast<uint64_t>(row.reg) == offset; });
  };
  for (uint64_t offset = 0; offset < kMmioConfig; ++offset) {
    for (const size_t size : kSizes) {
      if (size != 4 || !exists(offset)) {
        ExpectNothing(offset, size);
      }
    }
  }
}

TEST_F(MmioOddAccessTest, AccessesAgainstARegistersDirectionDoNothing) {
  for (const MmioRow& row : kMmioRows) {
    const auto offset = static_cast<uint64_t>(row.reg);
    const std::vector<uint64_t> before = State();
    const uint64_t ignored = transport_->ignored_accesses();
    if (!row.readable) {
      EXPECT_EQ(Read(offset, 4), 0U) << offset;
    }
    if (!row.writable) {
      Write(offset, 4, ~uint64_t{0});
    }
    const uint64_t expected = (row.readable ? 0 : 1) + (row.writable ? 0 : 1);
    EXPECT_EQ(transport_->ignored_accesses(), ignored + expected) << offset;
    EXPECT_EQ(State(), before) << offset;
  }
}

TEST_F(MmioOddAccessTest, DeviceConfigurationIsBytes) {
  ExpectBytesAt(kMmioConfig);
}

TEST_F(MmioOddAccessTest, Ch8506_SizesThatNoCpuHasReachNobody) {
  ExpectSizesOfNoCpuReachNobodyAt({0, 0x70, kMmioConfig, 0xff0});
}

}  // namespace
}  // namespace wyvern::transport
