#include "legacy/serial.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "irq/testing/fake_interrupts.h"

namespace wyvern::legacy {
namespace {

constexpr uint64_t kData = 0;
constexpr uint64_t kIer = 1;
constexpr uint64_t kIir = 2;
constexpr uint64_t kLcr = 3;
constexpr uint64_t kMcr = 4;
constexpr uint64_t kLsr = 5;
constexpr uint64_t kMsr = 6;
constexpr uint64_t kScr = 7;

class SerialTest : public testing::Test {
 protected:
  uint8_t In(uint64_t offset) {
    std::byte value{};
    serial_.Read(offset, std::span(&value, 1));
    return static_cast<uint8_t>(value);
  }

  void Out(uint64_t offset, unsigned value) {
    const auto byte = static_cast<std::byte>(value);
    serial_.Write(offset, std::span(&byte, 1));
  }

  size_t Type(std::string_view text) { return serial_.Receive(std::as_bytes(std::span(text))); }

  irq::testing::FakeLine line_;
  std::string output_;
  Serial serial_{&line_, [this](std::span<const std::byte> bytes) {
                   for (const std::byte byte : bytes) {
                     output_.push_back(static_cast<char>(byte));
                   }
                 }};
};

TEST_F(SerialTest, InputBeyondTheFifoIsRefusedNotStored) {
  Out(kIir, 1);  // FIFO on
  EXPECT_EQ(Type(std::string(100, 'x')), Serial::kFifoSize);
  EXPECT_EQ(Type("y"), 0U);
  for (size_t i = 0; i < Serial::kFifoSize; ++i) {
    EXPECT_EQ(In(kData), 'x');
  }
  EXPECT_EQ(In(kLsr) & 1U, 0U);
  EXPECT_EQ(In(kData), 0);
}

TEST_F(SerialTest, LoopbackFloodOverrunsInsteadOfGrowing) {
  Out(kMcr, 0x10);
  for (int i = 0; i < 1000; ++i) {
    Out(kData, 'z');
  }
  EXPECT_EQ(In(kLsr) & 3U, 3U);  // data ready, overrun
  EXPECT_EQ(In(kLsr) & 2U, 0U);  // reading clears it
  EXPECT_TRUE(output_.empty());
}

TEST_F(SerialTest, WideAccessesAreSuccessiveRegisters) {
  const std::byte two[2] = {std::byte{'a'}, std::byte{0}};
  serial_.Write(0, two);
  EXPECT_EQ(output_, "a");
  std::byte eight[8];
  serial_.Read(0, eight);
  EXPECT_EQ(eight[kLsr], std::byte{0x60});
}

TEST_F(SerialTest, TransmitsAtOnce) {
  for (const char c : std::string_view("hello\n")) {
    EXPECT_EQ(In(kLsr) & 0x60U, 0x60U);
    Out(kData, static_cast<unsigned char>(c));
  }
  EXPECT_EQ(output_, "hello\n");
}

TEST_F(SerialTest, LinuxProbeSees16550A) {
  // drivers/tty/serial/8250: IER keeps 0..15, scratch holds, FIFO bits in IIR, loopback of modem lines.
  Out(kIer, 0xff);
  EXPECT_EQ(In(kIer), 0x0f);
  Out(kIer, 0);
  Out(kScr, 0xa5);
  EXPECT_EQ(In(kScr), 0xa5);
  Out(kIir, 1);
  EXPECT_EQ(In(kIir) & 0xc0U, 0xc0U);
  Out(kMcr, 0x10 | 0x08 | 0x02);
  EXPECT_EQ(In(kMsr) & 0xf0U, 0x90U);
  Out(kMcr, 0);
  EXPECT_EQ(In(kMsr), 0xb0);
}

TEST_F(SerialTest, DivisorIsBehindItsLatch) {
  Out(kLcr, 0x83);
  Out(kData, 0x34);
  Out(kIer, 0x12);
  EXPECT_EQ(In(kData), 0x34);
  EXPECT_EQ(In(kIer), 0x12);
  Out(kLcr, 0x03);
  EXPECT_EQ(In(kIer), 0);
  EXPECT_TRUE(output_.empty());
}

TEST_F(SerialTest, EachEmptyTransmitterIsAnEdge) {
  Out(kMcr, 0x08);
  Out(kIer, 2);
  EXPECT_EQ(line_.rises, 1);
  EXPECT_EQ(In(kIir) & 0xfU, 2U);
  EXPECT_FALSE(line_.level);
  Out(kData, 'a');
  EXPECT_EQ(line_.rises, 2);
  Out(kData, 'b');
  EXPECT_EQ(line_.rises, 3);
  Out(kIer, 0);
  EXPECT_FALSE(line_.level);
}

TEST_F(SerialTest, ReceivedByteInterruptsUntilRead) {
  Out(kMcr, 0x08);
  Out(kIer, 1);
  EXPECT_EQ(Type("q"), 1U);
  EXPECT_TRUE(line_.level);
  EXPECT_EQ(In(kIir) & 0xfU, 4U);
  EXPECT_EQ(In(kData), 'q');
  EXPECT_FALSE(line_.level);
  EXPECT_EQ(In(kIir) & 0xfU, 1U);
}

TEST_F(SerialTest, WithoutOut2NothingInterrupts) {
  Out(kIer, 3);
  Type("q");
  EXPECT_EQ(line_.rises, 0);
}

}  // namespace
}  // namespace wyvern::legacy
