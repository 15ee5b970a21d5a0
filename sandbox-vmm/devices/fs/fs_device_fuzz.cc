// A driver of the virtio-fs device over its rings, honest or not, while the host takes and gives locks.
// A ring whose driver has kept the rules must answer each of its requests once, under its own number,
// although the driver notifies only when asked: one that waits for a lock when it has it or the session
// ends, any other one soon.
// Input:   1 B rings: packed (bit 0), EVENT_IDX (bit 1), three threads (bit 2), size (bits 6-7), then
//          records of 8 B: operation, queue, kind, flags, 2 B, 2 B.
//          Operations: request, lock of the host, await, stop and go on (there, or elsewhere), kick
//          or a look at the configuration, driver's wish for interrupts, let time pass, start anew (the
//          ring, or the device), raw descriptor, index.
// Not reached: the end of a turn of 128 requests (no ring here holds so many), chains outside of the
//          memory (the queue refuses them), options that Create refuses.
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/endian.h"
#include "fs/fs_device.h"
#include "fs/fuzz_directory.h"
#include "fs/fuzz_ring.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::fs {
namespace {

using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;

constexpr uint64_t kRamBytes = uint64_t{8} << 20;
constexpr uint64_t kRamUse = uint64_t{6} << 20;
// Where a hostile ring points to: behind what honest rings use, whose answers are judged, and up to the end of memory.
constexpr uint64_t kHostileAt = uint64_t{7} << 20;
constexpr uint16_t kQueues = 3;
constexpr int kMaxRecords = 64;
constexpr int kMaxPauses = 3;
// Below libFuzzer's limit for an input; far beyond the timer's longest interval.
constexpr std::chrono::seconds kPatience{8};

struct Record {
  uint8_t operation = 0;
  uint8_t queue = 0;
  uint8_t kind = 0;
  uint8_t flags = 0;
  Le16 first = 0;
  Le16 second = 0;
};

static_assert(sizeof(Record) == 8);

// Of Record::flags, beside what a ring takes for a request.
constexpr uint8_t kFlock = 8;

// One device for all inputs: what one leaves behind must not matter to the next.
class Fuzzed {
 public:
  Fuzzed(GuestRam& ram, unsigned threads)
      : ram_(ram),
        threads_(threads),
        server_(FuzzServer(nullptr)),
        host_(*Open(FuzzDirectory() + "/a", O_RDWR)) {
    NewDevice();
  }

  void Run(const uint8_t* data, size_t size) {
    const uint64_t mark = ram_.Mark();
    bits_ = data[0];
    ++data;
    --size;
    pauses_ = 0;
    replaced_ = false;
    Begin();
    for (int i = 0; i < kMaxRecords && size >= sizeof(Record) && ram_.Mark() - mark < kRamUse;
         ++i, data += sizeof(Record), size -= sizeof(Record)) {
      Record record;
      std::memcpy(&record, data, sizeof(record));
      Step(record);
    }
    EndSession();
    for (uint16_t i = 0; i < kQueues; ++i) {
      Await(i, true);
      Stop(i);
    }
    device_->Reset();
    const ServerStats stats = server_->stats();
    WV_CHECK(stats.lock_waits == 0 && stats.lock_owners == 0);
    ram_.Release(mark);
  }

 private:
  void NewDevice() {
    FsDeviceOptions options;
    options.tag = "fuzz";
    options.request_queues = kQueues - 1;
    options.threads = threads_;
    device_ = *FsDevice::Create(*server_, options);
  }

  // The session goes on with the next one; what waited is not answered.
  void ReplaceDevice() {
    if (replaced_) {
      return;
    }
    replaced_ = true;
    device_.reset();
    WV_CHECK(server_->stats().lock_waits == 0);
    NewDevice();
    for (uint16_t i = 0; i < kQueues; ++i) {
      Fresh(i);
    }
  }

  void LookAtConfig(const Record& record) const {
    std::array<std::byte, 64> bytes{};
    bytes.fill(std::byte{0xff});
    const auto part = std::span(bytes).first(record.second.value() % bytes.size());
    device_->ReadConfig(record.first.value() % 64U, part);
    WV_CHECK(std::ranges::find(part, std::byte{0xff}) == part.end());
  }

  // --- The session ---

  // Without rings.
  std::string Ask(const FuzzRequest& request) {
    std::string in = request.Encode(++unique_);
    std::string out(sizeof(fuse_out_header) + request.room, '\0');
    const iovec in_part{in.data(), in.size()};
    const iovec out_part{out.data(), out.size()};
    const uint32_t written =
        server_->Handle(std::span(&in_part, 1), std::span(&out_part, 1), &scratch_);
    out.resize(written);
    return out.substr(std::min(out.size(), sizeof(fuse_out_header)));
  }

  static std::string InitBody() {
    fuse_init_in in{};
    in.major = kFuseMajor;
    in.minor = kFuseMinor;
    in.flags = ~0U;
    in.flags2 = ~0U;
    return Bytes(in);
  }

  void Begin() {
    Ask({FUSE_INIT, 0, InitBody(), 64});
    const FuzzRequest lookup{FUSE_LOOKUP, FUSE_ROOT_ID, std::string("a") + '\0',
                             sizeof(fuse_entry_out)};
    node_ = Parse<fuse_entry_out>(Ask(lookup)).nodeid;
    fuse_open_in open{};
    open.flags = O_RDWR;
    file_ = Parse<fuse_open_out>(Ask({FUSE_OPEN, node_, Bytes(open), sizeof(fuse_open_out)})).fh;
    WV_CHECK(node_ != 0);
    for (uint16_t i = 0; i < kQueues; ++i) {
      Fresh(i);
    }
  }

  // Every wait ends, and the host is in nobody's way.
  void EndSession() {
    Unlock();
    const FuzzRequest destroy{.opcode = FUSE_DESTROY, .body = {}};
    for (uint16_t i = 1; i < kQueues; ++i) {
      if (rings_[i].running && rings_[i].honest() && rings_[i].Room()) {
        rings_[i].Submit(destroy, ++unique_, 0);
        return;
      }
    }
    Ask(destroy);
  }

  void Unlock() {
    struct flock lock {};

    lock.l_type = F_UNLCK;
    ::fcntl(host_.get(), F_OFD_SETLK, &lock);
    ::flock(host_.get(), LOCK_UN);
  }

  // --- Rings ---

  void Fresh(uint16_t index) {
    const uint64_t features = virtio::kVersion1 | virtio::kRingIndirectDesc |
                              ((bits_ & 1U) != 0 ? virtio::kRingPacked : 0) |
                              ((bits_ & 2U) != 0 ? virtio::kRingEventIdx : 0);
    rings_[index].Renew(ram_, static_cast<uint16_t>(8U << (bits_ >> 6U)), features);
    Start(index, std::nullopt);
  }

  void Start(uint16_t index, std::optional<virtio::QueueState> resume) {
    FuzzRing& ring = rings_[index];
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = ring.driver().config();
    resources.kick = ring.kick.fd();
    resources.interrupt = interrupt_;
    ring.running =
        device_->StartQueue(index, std::move(resources), ring.driver().features(), resume)
            .has_value();
    WV_CHECK(ring.running || !ring.honest());
  }

  std::optional<virtio::QueueState> Stop(uint16_t index) {
    FuzzRing& ring = rings_[index];
    const auto state = device_->StopQueue(index);
    WV_CHECK(state.has_value() == ring.running);
    ring.running = false;
    ring.Collect();
    // What was taken was given back, but for what waits.
    WV_CHECK(!state || !ring.honest() || ring.Owes(true) ||
             state->next_available == state->next_used);
    return state;
  }

  void Await(uint16_t index, bool waits_too) {
    FuzzRing& ring = rings_[index];
    if (!ring.running || !ring.honest()) {
      return;
    }
    ring.KickIfAsked();
    while (ring.Collect(), ring.Owes(waits_too)) {
      const uint64_t seen = interrupt_->queue_signals(index);
      if (!ring.driver().packed()) {
        ring.driver().SetNoInterrupt(false);
      }
      ring.driver().SetUsedEvent(ring.driver().UsedIndexInRing());
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (!ring.Collect()) {
        // Else nobody looks at the queue, or nobody tells.
        WV_CHECK(interrupt_->WaitQueue(index, seen, kPatience));
      }
    }
  }

  // --- Requests ---

  FuzzRequest Lock(uint32_t opcode, const Record& record) const {
    fuse_lk_in in{};
    in.fh = file_;
    in.owner = record.second.value() % 4U;
    in.lk.start = record.second.value() >> 8U;
    in.lk.end = (record.first.value() & 4U) != 0 ? in.lk.start : INT64_MAX;
    constexpr uint32_t kTypes[] = {F_WRLCK, F_UNLCK, F_RDLCK, F_WRLCK};
    in.lk.type = kTypes[record.first.value() % 4U];
    in.lk_flags = (record.flags & kFlock) != 0 ? FUSE_LK_FLOCK : 0;
    return {opcode, node_, Bytes(in), opcode == FUSE_GETLK ? uint32_t{sizeof(fuse_lk_out)} : 0U};
  }

  FuzzRequest Io(const Record& record, bool write) const {
    if (write) {
      fuse_write_in in{};
      in.fh = file_;
      in.offset = record.first.value();
      const std::string data(record.second.value() % 512U, 'w');
      in.size = static_cast<uint32_t>(data.size());
      return {FUSE_WRITE, node_, Bytes(in) + data, sizeof(fuse_write_out)};
    }
    fuse_read_in in{};
    in.fh = file_;
    in.offset = record.first.value();
    in.size = record.second.value() % 8192U;
    return {FUSE_READ, node_, Bytes(in), in.size};
  }

  FuzzRequest Make(const Record& record) const {
    const uint64_t first = record.first.value();
    switch (record.kind % 16) {
      case 0:
        return {FUSE_GETATTR, FUSE_ROOT_ID, Bytes(fuse_getattr_in{}), sizeof(fuse_attr_out)};
      case 1:
        return Io(record, false);
      case 2:
        return Io(record, true);
      case 3:
        return {FUSE_LOOKUP, FUSE_ROOT_ID, std::string((first & 1U) != 0 ? "a" : "none") + '\0',
                sizeof(fuse_entry_out)};
      case 4:
        return {FUSE_OPEN, node_, Bytes(fuse_open_in{O_RDWR, 0}), sizeof(fuse_open_out)};
      case 5:
        return Lock(FUSE_SETLK, record);
      case 6:
        return Lock(FUSE_GETLK, record);
      case 7:
        return {FUSE_FLUSH, node_, Bytes(fuse_flush_in{file_, 0, 0, first % 4}), 0};
      case 8: {
        fuse_release_in in{};
        in.fh = file_;
        return {FUSE_RELEASE, node_, Bytes(in), 0};
      }
      case 9:
      case 10:
        return {FUSE_INTERRUPT, 0, Bytes(fuse_interrupt_in{unique_ - first % 8}), 0};
      case 11:
        return {FUSE_FORGET, node_, Bytes(fuse_forget_in{first % 4}), 0};
      case 12:
        return (first & 1U) != 0 ? FuzzRequest{FUSE_INIT, 0, InitBody(), 64}
                                 : FuzzRequest{FUSE_DESTROY, 0, "", 0};
      case 13:
        return {static_cast<uint32_t>(first), node_,
                std::string(record.second.value() % 256U, '\0'), record.second.value() % 4096U};
      default:
        return Lock(FUSE_SETLKW, record);
    }
  }

  // --- Records ---

  void HostLock(const Record& record) const {
    struct flock lock {};

    lock.l_type = (record.kind & 1U) != 0 ? F_UNLCK : F_WRLCK;
    if ((record.kind & 2U) == 0) {
      ::fcntl(host_.get(), F_OFD_SETLK, &lock);
    } else {
      ::flock(host_.get(), ((record.kind & 1U) != 0 ? LOCK_UN : LOCK_EX) | LOCK_NB);
    }
  }

  void Wish(FuzzRing& ring, const Record& record) const {
    if ((record.kind & 1U) != 0) {
      ring.driver().SetNoInterrupt((record.kind & 2U) != 0);
    } else {
      const auto ahead = static_cast<uint16_t>(record.first.value() % 4U);
      ring.driver().SetUsedEvent(static_cast<uint16_t>(ring.driver().UsedIndexInRing() + ahead));
    }
  }

  // From here on the ring promises nothing.
  void Hostile(FuzzRing& ring, const Record& record) const {
    ring.Distrust();
    if (record.operation % 11 == 9) {
      ring.driver().SetAvailableIndex(record.first.value());
    } else {
      const uint64_t near = GuestRam::kBase + kHostileAt + uint64_t{record.first.value()} * 16;
      ring.driver().WriteDescriptor(record.kind % 8,
                                    {.address = (record.flags & 1U) != 0 ? ~near : near,
                                     .length = record.second.value(),
                                     .flags = static_cast<uint16_t>(record.flags >> 1U & 7U),
                                     .next = static_cast<uint16_t>(record.flags >> 4U)});
      ring.driver().MakeAvailable(record.kind % 8);
    }
    ring.kick.Signal();
  }

  void Step(const Record& record) {
    const uint16_t index = record.queue % kQueues;
    FuzzRing& ring = rings_[index];
    switch (record.operation % 11) {
      default:
        if (ring.Room()) {
          const FuzzRequest request = Make(record);
          ring.Submit(request, ++unique_, record.flags);
        }
        break;
      case 3:
        HostLock(record);
        break;
      case 4:
        Await(index, false);
        break;
      case 5:
        if (auto state = Stop(index)) {
          if ((record.kind & 1U) != 0) {
            state->next_used = record.first.value();
            ring.Distrust();
          }
          Start(index, state);
        }
        break;
      case 6:
        if ((record.kind & 1U) != 0) {
          LookAtConfig(record);
        } else {
          ring.kick.Signal();
        }
        break;
      case 7:
        Wish(ring, record);
        break;
      case 8:
        if (pauses_ < kMaxPauses) {
          ++pauses_;
          std::this_thread::sleep_for(LockWaits::kFirstRetry);
        }
        break;
      case 9:
        Hostile(ring, record);
        break;
      case 10:
        if ((record.kind & 3U) != 0) {
          Hostile(ring, record);
        } else if ((record.flags & 1U) != 0) {
          ReplaceDevice();
        } else {
          Stop(index);
          Fresh(index);
        }
        break;
    }
  }

  GuestRam& ram_;
  const unsigned threads_;
  const std::unique_ptr<FileServer> server_;
  const UniqueFd host_;
  std::unique_ptr<FsDevice> device_;
  const std::shared_ptr<FakeInterrupt> interrupt_ = std::make_shared<FakeInterrupt>();
  std::array<FuzzRing, kQueues> rings_;
  Scratch scratch_;
  uint8_t bits_ = 0;
  int pauses_ = 0;
  bool replaced_ = false;
  uint64_t unique_ = 0;
  uint64_t node_ = 0;
  uint64_t file_ = 0;
};

}  // namespace
}  // namespace wyvern::fs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Before the servers limit the size of files, which a memfd is, too.
  static auto* ram = new wyvern::virtio::testing::GuestRam(wyvern::fs::kRamBytes);
  static auto* one = new wyvern::fs::Fuzzed(*ram, 1);
  static auto* three = new wyvern::fs::Fuzzed(*ram, 3);
  if (size > 0) {
    ((data[0] & 4U) != 0 ? three : one)->Run(data, size);
  }
  return 0;
}
