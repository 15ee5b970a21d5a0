#include "legacy/serial.h"

#include <utility>

namespace wyvern::legacy {

namespace {

// Register offsets.
constexpr uint64_t kData = 0;             // RBR / THR, divisor low with DLAB
constexpr uint64_t kInterruptEnable = 1;  // IER, divisor high with DLAB
constexpr uint64_t kInterruptId = 2;      // IIR / FCR
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kIerReceived = 0x01;
constexpr uint8_t kIerTransmitEmpty = 0x02;
constexpr uint8_t kIerLineStatus = 0x04;
constexpr uint8_t kIerMask = 0x0f;

constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirTransmitEmpty = 0x02;
constexpr uint8_t kIirReceived = 0x04;
constexpr uint8_t kIirLineStatus = 0x06;
constexpr uint8_t kIirFifoEnabled = 0xc0;

constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kFcrClearReceive = 0x02;
constexpr uint8_t kLcrDivisorAccess = 0x80;
constexpr uint8_t kMcrOut2 = 0x08;  // gates the interrupt on PCs
constexpr uint8_t kMcrLoopback = 0x10;
constexpr uint8_t kMcrMask = 0x1f;

constexpr uint8_t kLsrDataReady = 0x01;
constexpr uint8_t kLsrOverrun = 0x02;
constexpr uint8_t kLsrTransmitEmpty = 0x60;  // holding and shift register

constexpr uint8_t kMsrConnected = 0xb0;  // carrier, data set ready, clear to send

}  // namespace

Serial::Serial(irq::InterruptLine* line, Sink sink) : line_(line), sink_(std::move(sink)) {}

Serial::~Serial() = default;

uint8_t Serial::PendingCause() const {
  if ((interrupt_enable_ & kIerLineStatus) != 0 && overrun_) {
    return kIirLineStatus;
  }
  if ((interrupt_enable_ & kIerReceived) != 0 && fifo_count_ > 0) {
    return kIirReceived;
  }
  if ((interrupt_enable_ & kIerTransmitEmpty) != 0 && transmit_pending_) {
    return kIirTransmitEmpty;
  }
  return kIirNone;
}

void Serial::UpdateLine() {
  line_->SetLevel(PendingCause() != kIirNone && (modem_control_ & kMcrOut2) != 0 &&
                  (modem_control_ & kMcrLoopback) == 0);
}

void Serial::PushReceived(uint8_t value) {
  const size_t capacity = fifo_enabled_ ? kFifoSize : 1;
  if (fifo_count_ >= capacity) {
    overrun_ = true;
    return;
  }
  fifo_[(fifo_head_ + fifo_count_) % kFifoSize] = value;
  ++fifo_count_;
}

void Serial::Transmit(uint8_t value) {
  if ((modem_control_ & kMcrLoopback) != 0) {
    PushReceived(value);
  } else if (sink_) {
    const auto byte = static_cast<std::byte>(value);
    sink_(std::span(&byte, 1));
  }
  // The line falls while the byte is in the transmitter: the interrupt controller needs an edge for each "empty".
  transmit_pending_ = false;
  UpdateLine();
  transmit_pending_ = true;
}

uint8_t Serial::ReadRegister(uint64_t offset) {
  const bool divisor = (line_control_ & kLcrDivisorAccess) != 0;
  switch (offset) {
    case kData: {
      if (divisor) {
        return static_cast<uint8_t>(divisor_);
      }
      if (fifo_count_ == 0) {
        return 0;
      }
      const uint8_t value = fifo_[fifo_head_];
      fifo_head_ = (fifo_head_ + 1) % kFifoSize;
      --fifo_count_;
      return value;
    }
    case kInterruptEnable:
      return divisor ? static_cast<uint8_t>(divisor_ >> 8U) : interrupt_enable_;
    case kInterruptId: {
      const uint8_t cause = PendingCause();
      if (cause == kIirTransmitEmpty) {
        transmit_pending_ = false;
      }
      return static_cast<uint8_t>(cause | (fifo_enabled_ ? kIirFifoEnabled : 0U));
    }
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus: {
      const unsigned status = kLsrTransmitEmpty | (fifo_count_ > 0 ? kLsrDataReady : 0U) |
                              (overrun_ ? kLsrOverrun : 0U);
      overrun_ = false;
      return static_cast<uint8_t>(status);
    }
    case kModemStatus:
      if ((modem_control_ & kMcrLoopback) != 0) {
        // RTS → CTS, DTR → DSR, OUT1 → RI, OUT2 → DCD.
        const unsigned mcr = modem_control_;
        return static_cast<uint8_t>((mcr & 0x0cU) << 4U | (mcr & 0x02U) << 3U |
                                    (mcr & 0x01U) << 5U);
      }
      return kMsrConnected;
    default:
      return scratch_;
  }
}

void Serial::WriteRegister(uint64_t offset, uint8_t value) {
  const bool divisor = (line_control_ & kLcrDivisorAccess) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00U) | value);
      } else {
        Transmit(value);
      }
      return;
    case kInterruptEnable:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0x00ffU) | static_cast<unsigned>(value) << 8U);
        return;
      }
      if ((value & kIerTransmitEmpty) != 0 && (interrupt_enable_ & kIerTransmitEmpty) == 0) {
        transmit_pending_ = true;
      }
      interrupt_enable_ = value & kIerMask;
      return;
    case kInterruptId:
      if ((value & kFcrClearReceive) != 0 || ((value & kFcrEnable) != 0) != fifo_enabled_) {
        fifo_count_ = 0;
      }
      fifo_enabled_ = (value & kFcrEnable) != 0;
      return;
    case kLineControl:
      line_control_ = value;
      return;
    case kModemControl:
      modem_control_ = value & kMcrMask;
      return;
    case kScratch:
      scratch_ = value;
      return;
    default:
      return;  // line and modem status are read-only
  }
}

void Serial::Read(uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mu_);
  // Wider accesses are successive registers, as on an 8-bit bus.
  for (std::byte& byte : out) {
    byte = static_cast<std::byte>(ReadRegister(offset++));
  }
  UpdateLine();
}

void Serial::Write(uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mu_);
  for (const std::byte byte : in) {
    WriteRegister(offset++, static_cast<uint8_t>(byte));
  }
  UpdateLine();
}

size_t Serial::Receive(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mu_);
  const size_t capacity = fifo_enabled_ ? kFifoSize : 1;
  size_t taken = 0;
  while (taken < bytes.size() && fifo_count_ < capacity && (modem_control_ & kMcrLoopback) == 0) {
    PushReceived(static_cast<uint8_t>(bytes[taken++]));
  }
  UpdateLine();
  return taken;
}

}  // namespace wyvern::legacy
