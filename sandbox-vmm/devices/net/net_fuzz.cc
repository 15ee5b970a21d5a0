// A hostile driver of the network device, and a tap with packets of any kind.
// Input:   1 B features refused (bits 0-3), packed rings (bit 4), paused before its reset (bit 5),
//          queue size (bits 6-7), then records of 24 B: operation, pair, 12 B header, 4 B length, 2 B
//          pieces, 4 B data.
//          Operations: transmit, offer buffers, packet from the tap, command, raw descriptor, take
//          what was used, failures of the tap, host calls.
#include <array>
#include <bit>
#include <cerrno>

#include "base/check.h"
#include "net/testing/net_rig.h"
#include "testing/fuzz_records.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::NetRig;
using testing::Raw;

constexpr uint64_t kRamUse = uint64_t{12} << 20;

struct Record {
  uint8_t operation = 0;
  uint8_t pair = 0;
  NetHeader header;
  Le32 length = 0;
  Le16 pieces = 0;
  Le32 data = 0;
};

static_assert(sizeof(Record) == 24);

// One device for all inputs: what one leaves behind must not matter to the next.
class Fuzzed {
 public:
  Fuzzed() : rig_({.pairs = 2, .mtu = 1500, .room_wait = milliseconds(1), .queue_size = 64}) {}

  void Run(const uint8_t* data, size_t size) {
    const uint64_t mark = rig_.device().ram().Mark();
    const uint64_t refused = ((data[0] & 1U) != 0 ? kNetMrgRxbuf : 0) |
                             ((data[0] & 2U) != 0 ? kNetMq : 0) |
                             ((data[0] & 4U) != 0 ? kNetGuestCsum : 0) |
                             ((data[0] & 8U) != 0 ? virtio::kRingFeatures : 0);
    // Bit 3 refuses what rings can have, packed ones too.
    rig_.device().UseRing((data[0] & 0x18U) == 0x10U ? testing::RingKind::kPacked
                                                     : testing::RingKind::kSplit);
    rig_.Start(refused, static_cast<uint16_t>(4U << (data[0] >> 6U)));
    testing::ForEachRecord<Record>({data + 1, size - 1}, size, [&](const Record& record) {
      if (rig_.device().ram().Mark() - mark < kRamUse) {
        Step(record);
      }
    });
    rig_.net().SetLimits({}, {});
    rig_.net().SetLinkUp(true);
    refusing_ = false;
    rig_.tap().RefuseChanges(false);
    for (uint16_t i = 0; i < 5; ++i) {
      rig_.net().SetQueueEnabled(i, true);
    }
    if ((data[0] & 0x20U) != 0) {
      (void)rig_.device().core().Pause();
    }
    rig_.device().core().WriteStatus(0);
    rig_.tap().Clear();
    rig_.device().ram().Release(mark);
  }

 private:
  virtio::testing::FakeDriver* Queue(uint16_t index, uint16_t descriptors) {
    auto& driver = rig_.device().queue(index);
    while (driver.free_descriptors() < descriptors && driver.TakeUsed()) {
    }
    return driver.free_descriptors() < descriptors ? nullptr : &driver;
  }

  void Step(const Record& record) {
    const auto pair = static_cast<uint16_t>(record.pair % 2);
    const auto receive = static_cast<uint16_t>(2 * pair);
    const auto transmit = static_cast<uint16_t>(receive + 1);
    switch (record.operation % 8) {
      case 0:
        Transmit(record, transmit);
        break;
      case 1:
        for (uint32_t i = 0; i <= record.pieces.value() % 8U; ++i) {
          if (auto* driver = Queue(receive, 1)) {
            driver->Build().Writable(1 + record.length.value() % 4096).Submit();
          }
        }
        rig_.device().Kick(receive);
        break;
      case 2: {
        // To the guest; to all; to several; to another one; to one of a command's.
        static constexpr std::array<MacAddress, 5> kTo = {{testing::kGuestMac,
                                                           {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
                                                           {1, 0, 0x5e, 0, 0, 1},
                                                           {2, 0, 0, 0, 0, 9},
                                                           {2, 0, 0, 0, 0, 7}}};
        const std::string frame =
            testing::Frame(14 + record.length.value() % 70000,
                           kTo.at(record.data.value() % kTo.size()), record.pieces.value());
        (void)rig_.HostSend(std::string_view(frame).substr(0, frame.size() - record.pair % 15),
                            record.header, pair);
        break;
      }
      case 3:
        Command(record);
        break;
      case 4:
        rig_.device().queue(receive).WriteDescriptor(
            record.header.flags % 4, {record.data.value(), record.length.value(),
                                      record.pieces.value(), record.header.hdr_len.value()});
        rig_.device().queue(receive).MakeAvailable(record.header.gso_type);
        rig_.device().KickAlways(receive);
        break;
      case 5:
        rig_.device().KickAlways(receive);
        rig_.device().KickAlways(transmit);
        (void)rig_.HostReceiveMaybe(pair, milliseconds(0));
        break;
      case 6:
        refusing_ = (record.pair & 4U) != 0;
        rig_.tap().RefuseChanges(refusing_);
        if (record.pair % 2 == 0) {
          rig_.tap().FailSend((record.pair & 2U) != 0 ? EAGAIN : EIO, record.pieces.value() % 4);
        } else {
          rig_.tap().FailReceive((record.pair & 2U) != 0 ? EFAULT : EBADFD,
                                 record.pieces.value() % 4);
        }
        break;
      default:
        HostCall(record);
        break;
    }
  }

  void Transmit(const Record& record, uint16_t queue) {
    auto* driver = Queue(queue, 4);
    if (driver == nullptr) {
      return;
    }
    std::string bytes = Raw(record.header) + std::string(record.length.value() % 70000, 't');
    bytes.resize(bytes.size() - record.pieces.value() % std::min<size_t>(bytes.size(), 13));
    auto build = driver->Build();
    if ((record.pair & 4U) != 0) {
      build.Indirect();
    }
    const size_t step = bytes.size() / 4 + 1;
    for (size_t at = 0; at < bytes.size(); at += step) {
      build.Readable(std::string_view(bytes).substr(at, step));
    }
    build.Submit();
    rig_.device().Kick(queue);
  }

  void Command(const Record& record) {
    const uint16_t queue = rig_.control_queue();
    auto* driver = Queue(queue, 3);
    if (driver == nullptr) {
      return;
    }
    const std::string data = Raw(record.header) + Raw(record.length) + Raw(record.data);
    auto build = driver->Build();
    build.Readable(Raw(NetCommand{.command_class = static_cast<uint8_t>(record.pair % 6),
                                  .command = static_cast<uint8_t>(record.header.flags % 7)}));
    if (const size_t length = record.pieces.value() % (data.size() + 1); length > 0) {
      build.Readable(std::string_view(data).substr(0, length));
    }
    if (record.pair < 240) {
      build.Writable(1);
    }
    build.Submit();
    rig_.device().Kick(queue);
  }

  // What the device saves it takes back; with something changed, what it can be.
  void Snapshot(const Record& record) {
    (void)rig_.device().core().Pause();
    NetState state = rig_.net().Save();
    WV_CHECK(rig_.net().Restore(state).has_value() || refusing_);
    if ((record.length.value() & 1U) != 0) {
      state.version += record.header.flags >> 7U;
      state.features ^= uint64_t{record.header.flags & 1U} << 60U;  // RSS, which is not offered
      if ((state.features & kNetMq) != 0) {
        state.pairs = record.header.gso_type % 4;
      }
      state.offloads &= record.data.value();
      state.announce = (record.header.flags & 2U) != 0;
      state.filter.promiscuous = (record.header.flags & 4U) != 0;
      state.filter.unicast.count = record.header.hdr_len.value();
      state.filter.multicast.overflow = (record.header.flags & 8U) != 0;
      state.receive.bandwidth.tokens = -static_cast<int64_t>(record.data.value());
      (void)rig_.net().Restore(state);
    }
    WV_CHECK(rig_.device().core().Resume().has_value());
  }

  // A device of any shape is made only with what NetOptions allows.
  static void Other(const Record& record) {
    NetOptions options;
    options.worker = {.name = "other", .on_thread_start = nullptr};
    if (const uint16_t pairs = record.pieces.value() % 4; pairs < 3) {
      options.tap = std::make_unique<testing::FakeTap>(pairs);
    }
    std::memcpy(options.interface.mac.data(), &record.data, sizeof(record.data));
    options.interface.mtu = record.header.gso_size;
    options.queue_size = record.header.csum_start;
    const bool made = NetDevice::Create(std::move(options)).has_value();
    WV_CHECK(!made || (record.pieces.value() % 4 % 3 != 0 &&
                       std::has_single_bit(record.header.csum_start.value())));
  }

  void HostCall(const Record& record) {
    switch (record.pair % 6) {
      case 5:
        Other(record);
        break;
      case 4:
        rig_.net().SetQueueEnabled(record.pieces.value() % 6U, (record.length.value() & 1U) != 0);
        break;
      case 0:
        rig_.net().SetLinkUp((record.length.value() & 1U) != 0);
        break;
      case 1: {
        const TokenBucketConfig bucket{
            .size = record.length.value(),
            .one_time_burst = record.data.value(),
            .refill_time = std::chrono::nanoseconds(record.pieces.value())};
        rig_.net().SetLimits({.bandwidth = bucket}, {.ops = bucket});
        break;
      }
      case 2:
        rig_.net().Announce();
        break;
      default: {
        Snapshot(record);
        break;
      }
    }
  }

  NetRig rig_;
  bool refusing_ = false;
};

}  // namespace
}  // namespace wyvern::devices

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* fuzzed = new wyvern::devices::Fuzzed();
  if (size > 0) {
    fuzzed->Run(data, size);
  }
  return 0;
}
