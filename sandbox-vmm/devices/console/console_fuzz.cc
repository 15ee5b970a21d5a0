// A hostile driver of the console, hosts that come, go, write and read, in one direction or both, and
// an owner who adds and removes ports, and takes snapshots.
// Input:   records of 8 B: operation, port, 2 B event or length, 4 B value. The first operation
//          also says which features the driver refuses (bits 0-2) and what rings it has (bit 5:
//          packed).
#include <sys/socket.h>

#include "console/testing/console_guest.h"
#include "testing/fuzz_records.h"

namespace {

using wyvern::UniqueFd;
using wyvern::devices::ConsoleControl;
using wyvern::devices::ConsoleDevice;
using wyvern::devices::ConsoleOptions;
using wyvern::devices::ConsoleOverflow;
using wyvern::devices::testing::ConsoleGuest;
using wyvern::devices::testing::ForEachRecord;
using wyvern::devices::testing::RingKind;

struct Record {
  uint8_t operation;
  uint8_t port;
  uint16_t what;
  uint32_t value;
};

constexpr uint32_t kPorts = 4;
const std::string kScrap(70000, 'f');

bool Room(ConsoleGuest& guest, uint16_t queue) {
  auto& driver = guest.rig().queue(queue);
  if (driver.free_descriptors() < 4) {
    (void)guest.rig().WaitMaybe(queue, std::chrono::milliseconds(0));
  }
  return driver.free_descriptors() >= 4;
}

void Driver(ConsoleGuest& guest, const Record& record) {
  const uint16_t queue = record.port % 10;
  if (!Room(guest, queue)) {
    return;
  }
  auto build = guest.rig().queue(queue).Build();
  if ((record.operation & 0x40U) != 0) {
    build.Indirect();
  }
  switch (record.operation % 4) {
    case 0:
      build.Writable(1 + record.what % 5000U);
      break;
    case 1:
      build.Readable(std::string_view(kScrap).substr(0, record.what));
      break;
    case 2: {
      ConsoleControl control;
      control.id = (record.operation & 0x80U) != 0 ? record.value : record.value % kPorts;
      control.event = record.what;
      control.value = static_cast<uint16_t>(record.value >> 16U);
      build.Readable({reinterpret_cast<const char*>(&control), sizeof(control)});
      break;
    }
    default:
      build.Readable("both").Writable(1 + record.what % 64U);
      break;
  }
  build.Submit();
  guest.rig().KickAlways(queue);
}

// Of both directions, or of one: the host's end, and what the device gets.
void Attach(ConsoleGuest& guest, uint32_t id, UniqueFd& host, uint32_t how) {
  auto pair = wyvern::MakeSocketPair(SOCK_STREAM);
  if (!pair) {
    return;
  }
  wyvern::devices::ConsoleEnds ends;
  (how % 4 == 2 ? ends.out : ends.in) = std::move(pair->second);
  ends.in_is_out = how % 4 == 0;
  if (guest.device().Attach(id, std::move(ends))) {
    host = std::move(pair->first);
  }
}

// Stops for a snapshot; another device takes it if it can be one's.
void Snapshot(ConsoleGuest& guest, uint32_t id, uint32_t value) {
  (void)guest.rig().core().Pause();
  if ((value & 1U) != 0) {
    auto state = guest.device().state();
    state.version += value >> 31U;
    state.ports.at(id).control.name = std::string(value >> 8U & 0xffU, 'n');
    state.ports.at(id).resume_at = value;
    ConsoleOptions options;
    options.worker = {.name = "other", .on_thread_start = nullptr};
    options.max_ports = kPorts + (value >> 30U & 1U);
    options.resume = std::move(state);
    const bool fits = value >> 30U == 0 && (value >> 8U & 0xffU) <= 128;
    WV_CHECK(ConsoleDevice::Create(std::move(options)).has_value() == fits);
  }
  WV_CHECK(guest.rig().core().Resume().has_value());
}

void Owner(ConsoleGuest& guest, std::array<UniqueFd, kPorts>& hosts, const Record& record) {
  const uint32_t id = record.port % kPorts;
  auto& device = guest.device();
  switch (record.what % 8) {
    case 0:
      Attach(guest, id, hosts[id], record.value);
      break;
    case 1:
      (void)device.Detach(id);
      break;
    case 2:
      (void)device.Resize(id, static_cast<uint16_t>(record.value), 25);
      break;
    case 3:
      (void)device.AddPort(id, {.name = std::string(record.value % 130U, 'n'),
                                .console = (record.value & 0x100U) != 0,
                                .overflow = (record.value & 0x200U) != 0 ? ConsoleOverflow::kDrop
                                                                         : ConsoleOverflow::kWait});
      break;
    case 4:
      (void)device.RemovePort(id);
      break;
    case 5:
      hosts[id].Reset();
      break;
    case 6:
      if (hosts[id].valid()) {
        (void)send(hosts[id].get(), kScrap.data(), record.value % kScrap.size(),
                   MSG_DONTWAIT | MSG_NOSIGNAL);
      }
      break;
    default:
      Snapshot(guest, id, record.value);
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* guest = new ConsoleGuest();
  const uint64_t mark = guest->rig().ram().Mark();
  std::array<UniqueFd, kPorts> hosts;
  guest->rig().UseRing(size > 0 && (data[0] & 0x20U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  guest->Start(size > 0 ? uint64_t{data[0]} & 7U : 0, 8);
  ForEachRecord<Record>({data, size}, 64, [&hosts](const Record& record) {
    if (record.operation % 8 == 7) {
      Owner(*guest, hosts, record);
    } else if (record.operation % 8 == 6) {
      guest->rig().core().WriteConfig(record.what % 16U,
                                      std::as_bytes(std::span(&record.value, 1)));
    } else {
      Driver(*guest, record);
    }
    if (hosts[record.port % kPorts].valid()) {
      std::array<char, 4096> scrap;
      (void)recv(hosts[record.port % kPorts].get(), scrap.data(), scrap.size(), MSG_DONTWAIT);
    }
  });
  for (uint32_t id = 0; id < kPorts; ++id) {
    (void)guest->device().Detach(id);
  }
  guest->rig().core().WriteStatus(0);
  guest->rig().ram().Release(mark);
  return 0;
}
