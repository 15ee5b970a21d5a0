// A hostile driver of the control queue and of rings that the kernel does not serve, a kernel whose
// calls fail and that gives up on rings, and an owner who cuts the link and plugs memory.
// Input:   1 B features refused (bits 0-2), queue size (bits 6-7), then records of 16 B: operation,
//          pair, 2 B command, 2 B length, 2 B what, 8 B data.
//          Operations: command, transmit, offer buffers, link, failing calls, signals of the kernel,
//          memory, pause and go on.
#include <sys/socket.h>

#include "base/check.h"
#include "net/testing/fake_vhost.h"
#include "net/testing/net_rig.h"
#include "net/vhost_net_device.h"
#include "testing/fuzz_records.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::DeviceRig;
using testing::FakeTap;
using testing::FakeVhost;
using testing::Raw;

constexpr uint16_t kPairs = 2;
constexpr uint64_t kPlugged = uint64_t{4} << 30;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kMany = 100;

struct Record {
  uint8_t operation = 0;
  uint8_t pair = 0;
  uint8_t command_class = 0;
  uint8_t command = 0;
  Le16 length = 0;
  Le16 what = 0;
  std::array<uint8_t, 8> data{};
};

static_assert(sizeof(Record) == 16);

class Fuzzed {
 public:
  Fuzzed() {
    auto calls = std::make_unique<FakeVhost>();
    vhost_ = calls.get();
    vhost_->offered = testing::kVhostFeatures & ~virtio::kRingPacked;
    auto tap = std::make_unique<FakeTap>(kPairs);
    tap_ = tap.get();
    std::vector<UniqueFd> fds;
    for (uint16_t i = 0; i < kPairs; ++i) {
      fds.push_back(*MakeMemfd("vhost", 0));
      fds_.push_back(fds.back().get());
    }
    auto device = VhostNetDevice::Create({.worker = {.name = "vhost", .on_thread_start = nullptr},
                                          .tap = std::move(tap),
                                          .vhost = std::move(fds),
                                          .interface = {.mac = testing::kGuestMac, .mtu = 1500},
                                          .calls = std::move(calls)});
    WV_CHECK(device.has_value());
    net_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
    const UniqueFd file = *MakeMemfd("plugged", 2 * kMany * kPage);
    const auto& ram = rig_->ram().memory();
    // A page or two; more of a file than vhost takes regions, and half of that; more of no file.
    memories_ = {ram,
                 Plug(ram, 1, nullptr),
                 Plug(ram, 2, nullptr),
                 Plug(ram, kMany, &file),
                 Plug(ram, kMany / 2, &file),
                 Plug(ram, kMany, nullptr)};
  }

  void Run(const uint8_t* data, size_t size) {
    const uint64_t mark = rig_->ram().Mark();
    const uint64_t refused = ((data[0] & 1U) != 0 ? kNetMq : 0) |
                             ((data[0] & 2U) != 0 ? kNetGuestOffloads : 0) |
                             ((data[0] & 4U) != 0 ? virtio::kRingFeatures : 0);
    rig_->Start(refused, static_cast<uint16_t>(8U << (data[0] >> 6U)));
    testing::ForEachRecord<Record>({data + 1, size - 1}, 64,
                                   [this](const Record& record) { Step(record); });
    // What fails may be tried again: nothing of this is left for the next input.
    vhost_->FailAt(0);
    vhost_->TakeRequests();
    tap_->RefuseChanges(false);
    rig_->core().WriteStatus(0);
    WV_CHECK(!vhost_->AnyAttached());
    net_->SetLinkUp(true);
    rig_->core().SetMemory(memories_.front());
    tap_->Clear();
    rig_->ram().Release(mark);
  }

 private:
  // Every second page, `count` of them: of `file`, or anonymous.
  static std::shared_ptr<const mem::GuestMemory> Plug(
      std::shared_ptr<const mem::GuestMemory> memory, uint64_t count, const UniqueFd* file) {
    for (uint64_t i = 0; i < count; ++i) {
      mem::RegionSpec region;
      region.start = mem::Gpa{kPlugged + 2 * i * kPage};
      region.size = kPage;
      if (file != nullptr) {
        region.fd = *file->Duplicate();
        region.fd_offset = 2 * i * kPage;
      }
      memory = *memory->WithRegion(std::move(region));
    }
    return memory;
  }

  virtio::testing::FakeDriver* Queue(uint16_t index, uint16_t descriptors) {
    auto& driver = rig_->queue(index);
    while (driver.free_descriptors() < descriptors && driver.TakeUsed()) {
    }
    return driver.free_descriptors() < descriptors ? nullptr : &driver;
  }

  // Data of a length that the command has, or any other.
  void Command(const Record& record) {
    constexpr std::array<size_t, 6> kLengths = {1, 6, 2, 0, 2, 8};
    // VIRTIO §5.1.2: where it is depends on MQ.
    const uint16_t control = (rig_->features() & kNetMq) != 0 ? 2 * kPairs : 2;
    auto* driver = Queue(control, 3);
    if (driver == nullptr) {
      return;
    }
    const size_t kind = record.command_class % 6;
    std::string bytes = Raw(NetCommand{.command_class = static_cast<uint8_t>(kind),
                                       .command = static_cast<uint8_t>(record.command % 3)}) +
                        Raw(record.data) + std::string(64, '\0');
    const size_t length = record.length < 64 ? kLengths.at(kind) : record.length % 64U;
    auto build = driver->Build();
    build.Readable(std::string_view(bytes).substr(0, sizeof(NetCommand) + length));
    if ((record.pair & 0x80U) == 0) {
      build.Writable(1);
    }
    build.Submit();
    rig_->Kick(control);
    (void)rig_->WaitMaybe(control, milliseconds(1));
  }

  void Packet(const Record& record, uint16_t queue, bool readable) {
    if (auto* driver = Queue(queue, 2)) {
      auto build = driver->Build();
      if (readable) {
        build.Readable(std::string(1 + record.length % 2000U, 't'));
      } else {
        build.Writable(1 + record.length % 2000U);
      }
      build.Submit();
      rig_->Kick(queue);
    }
  }

  void Link(const Record& record) {
    if ((record.what & 2U) != 0) {
      const std::string packet = Raw(NetHeader{}) + testing::Frame(60);
      (void)send(tap_->host(record.pair % kPairs).get(), packet.data(), packet.size(),
                 MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    net_->SetLinkUp((record.what & 1U) != 0);
  }

  void Fail(const Record& record) {
    static constexpr std::array<unsigned long, 11> kRequests = {0,
                                                                VHOST_SET_FEATURES,
                                                                VHOST_SET_MEM_TABLE,
                                                                VHOST_SET_VRING_NUM,
                                                                VHOST_SET_VRING_BASE,
                                                                VHOST_SET_VRING_ADDR,
                                                                VHOST_SET_VRING_CALL,
                                                                VHOST_SET_VRING_ERR,
                                                                VHOST_SET_VRING_KICK,
                                                                VHOST_NET_SET_BACKEND,
                                                                VHOST_GET_VRING_BASE};
    vhost_->FailAt(kRequests.at(record.what % kRequests.size()));
    tap_->RefuseChanges((record.pair & 0x80U) != 0);
  }

  void Kernel(const Record& record) {
    const int fd = fds_.at(record.pair % kPairs);
    if ((record.what & 2U) != 0) {
      vhost_->SetBase(fd, record.what & 1U, record.length);
    } else {
      vhost_->Signal(fd, record.what & 1U, (record.what & 0xf0U) == 0xf0U);
    }
  }

  void Step(const Record& record) {
    const auto pair = static_cast<uint16_t>(record.pair % kPairs);
    switch (record.operation % 8) {
      case 0:
        Command(record);
        break;
      case 1:
        Packet(record, static_cast<uint16_t>(2 * pair + 1), true);
        break;
      case 2:
        Packet(record, static_cast<uint16_t>(2 * pair), false);
        break;
      case 3:
        Link(record);
        break;
      case 4:
        Fail(record);
        break;
      case 5:
        Kernel(record);
        break;
      case 6:
        // It fails where a call does; then the device needs a reset.
        (void)rig_->core().ChangeMemory(memories_.at(record.what % memories_.size()));
        break;
      default:
        (void)rig_->core().Pause();
        (void)rig_->core().Resume();
        break;
    }
  }

  FakeVhost* vhost_ = nullptr;
  FakeTap* tap_ = nullptr;
  VhostNetDevice* net_ = nullptr;
  std::vector<int> fds_;
  std::unique_ptr<DeviceRig> rig_;
  std::vector<std::shared_ptr<const mem::GuestMemory>> memories_;
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
