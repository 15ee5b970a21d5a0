// A hostile driver of the block device, an owner who meanwhile resizes it, limits it and takes
// snapshots, and a host whose I/O fails.
// Input:   1 B the disk (mod 4: io_uring, failing, threads, read-only with threads), then records of
//          17 B: 1 B what (bits 0-1), chain (bit 2 indirect, bits 4-7 pieces), queue (bit 3); then for
//          a request 4 B type, 8 B sector, 2 B data length, 2 B room; its data is what follows in the
//          input, as long as there is any. Otherwise: a write to the configuration; a new size of the
//          disk, with an odd room while requests are in flight; and by room (mod 4) a stop and start of
//          the queue, a rate limit, a snapshot or another device of the same file (type, bit 3), a
//          notification with what becomes of I/O (type, for
//          the disk that fails: 4 bits for each of 8 operations in turn).
//          The first record's first byte also says which features the driver refuses (bits 4-6) and
//          what rings it has (bit 7: packed).
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "blk/testing/blk_rig.h"

namespace {

using wyvern::devices::BlkType;
using wyvern::devices::testing::BlkRig;
using wyvern::devices::testing::EngineKind;

constexpr size_t kRecord = 17;
constexpr uint16_t kDescriptorsOfARequest = 40;
constexpr uint64_t kMemory = uint64_t{12} << 20;  // of the guest's 16 MiB, for one input

struct Record {
  explicit Record(const uint8_t* at) : what(at[0]) {
    std::memcpy(&type, at + 1, 4);
    std::memcpy(&sector, at + 5, 8);
    std::memcpy(&length, at + 13, 2);
    std::memcpy(&room, at + 15, 2);
  }

  uint16_t queue() const { return (what >> 3U) & 1U; }

  uint8_t what;
  uint32_t type = 0;
  uint64_t sector = 0;
  uint16_t length = 0;
  uint16_t room = 0;
};

// Ends operations as the input says: whole, in part, not at all.
class FailingEngine final : public wyvern::devices::IoEngine {
 public:
  static inline std::atomic<uint32_t> script{0};

  FailingEngine(wyvern::EventLoop& loop, Done done) : loop_(loop), done_(std::move(done)) {}

  wyvern::Result<> Watch() override { return {}; }

  void Submit(const wyvern::devices::IoRequest& request) override {
    uint64_t length = 0;
    for (const iovec& part : request.parts) {
      std::memset(part.iov_base, request.kind == wyvern::devices::IoKind::kRead ? 'r' : 'w',
                  request.kind == wyvern::devices::IoKind::kRead ? part.iov_len : 0);
      length += part.iov_len;
    }
    ended_.emplace_back(request.tag, Outcome(static_cast<int32_t>(length)));
  }

  // Posted: the lane is not called from here.
  void Kick() override {
    if (!ended_.empty()) {
      loop_.Post([this, ended = std::exchange(ended_, {})] {
        for (const auto& [tag, result] : ended) {
          done_(tag, result);
        }
        done_(kBatchEnd, 0);
      });
    }
  }

 private:
  int32_t Outcome(int32_t length) {
    switch (script.load() >> (4 * (count_++ % 8)) & 15U) {
      default:
        return length;
      case 1:
        return length > 1 ? length / 2 : length;
      case 2:
        return -EINTR;
      case 3:
        return -EIO;
      case 4:
        return -EOPNOTSUPP;
      case 5:
        return 0;
    }
  }

  wyvern::EventLoop& loop_;
  const Done done_;
  std::vector<std::pair<uint32_t, int32_t>> ended_;
  uint32_t count_ = 0;
};

// False: the ring is full and nothing comes back.
bool SendRequest(BlkRig& rig, const Record& record, std::string_view follows) {
  auto& driver = rig.device().queue(record.queue());
  if (driver.free_descriptors() < kDescriptorsOfARequest) {
    rig.device().KickAlways(record.queue());
    (void)rig.device().WaitMaybe(record.queue(), std::chrono::milliseconds(1));
    if (driver.free_descriptors() < kDescriptorsOfARequest) {
      return false;
    }
  }
  std::string bytes = BlkRig::Header(static_cast<BlkType>(record.type), record.sector);
  bytes += follows.substr(0, record.length);
  bytes.resize(16 + record.length, 'f');
  auto build = driver.Build();
  if ((record.what & 4U) != 0) {
    build.Indirect();
  }
  const size_t step = bytes.size() / (1 + (record.what >> 4U)) + 1;
  for (size_t at = 0; at < bytes.size(); at += step) {
    build.Readable(std::string_view(bytes).substr(at, step));
  }
  if (record.room > 0) {
    build.Writable(record.room);
  }
  build.Submit();
  return true;
}

// Of requests or bytes, from one that lets nothing wait to one that lets most wait.
void Limit(BlkRig& rig, const Record& record) {
  const wyvern::devices::TokenBucketConfig bucket{
      .size = record.sector % (1U << 20U),
      .one_time_burst = record.sector >> 48U,
      .refill_time = std::chrono::microseconds(record.length % 5000)};
  wyvern::devices::RateLimiterConfig limits;
  ((record.type & 1U) != 0 ? limits.ops : limits.bandwidth) = bucket;
  rig.blk().SetRateLimits(limits);
}

// What the device saves it takes back, also with debt; what it cannot be, it refuses.
void Snapshot(BlkRig& rig, const Record& record) {
  auto& core = rig.device().core();
  const auto first = core.StopQueue(0);
  const auto second = core.StopQueue(1);
  auto state = rig.blk().SaveState();
  WV_CHECK(rig.blk().RestoreState(state).has_value());
  if ((record.type & 1U) != 0) {
    state.version += record.type & 2U;
    state.sectors = record.sector % 4096;
    state.writeback = (record.type & 4U) != 0;
    state.limits.bandwidth.tokens = -static_cast<int64_t>(record.length);
    (void)rig.blk().RestoreState(state);
  }
  if (first) {
    (void)core.StartQueue(0, first);
  }
  if (second) {
    (void)core.StartQueue(1, second);
  }
}

// A device over the same file, of any shape: it is made only with what BlkOptions allows.
void OtherDisk(BlkRig& rig, const Record& record) {
  const uint64_t shape = record.sector;
  wyvern::devices::BlkOptions options{
      .worker = {.name = "other", .on_thread_start = nullptr},
      .file = *rig.disk().Duplicate(),
      .read_only = (record.type & 16U) != 0,
      .serial = std::string(record.length % 24U, 's'),
      .queues = static_cast<uint16_t>(shape % 18),
      .queue_size = static_cast<uint16_t>((uint64_t{1} << (shape >> 8U) % 12) + (shape >> 16U) % 2),
      .block_size =
          static_cast<uint32_t>((uint64_t{1} << (shape >> 24U) % 16) + (shape >> 32U) % 2),
      .lanes = static_cast<uint16_t>((shape >> 40U) % 4)};
  const bool sound = !options.read_only && options.serial.size() <= 20 && options.queues >= 1 &&
                     options.queues <= 16 && (shape >> 16U) % 2 == 0 && options.queue_size >= 4 &&
                     options.queue_size <= 1024 && (shape >> 32U) % 2 == 0 &&
                     options.block_size >= 512 && options.block_size <= 4096 &&
                     options.lanes >= 1 && options.lanes <= options.queues;
  WV_CHECK(wyvern::devices::BlkDevice::Create(std::move(options)).has_value() == sound);
}

void DoRecord(BlkRig& rig, const Record& record) {
  auto& core = rig.device().core();
  if ((record.what & 3U) == 1) {
    const auto value = std::as_bytes(std::span(&record.sector, 1));
    core.WriteConfig(record.type % 80, value.first(record.room % 9));
    WV_CHECK(rig.device().Config<uint64_t>(0) <= BlkRig::kDiskSize / 512);
    (void)rig.device().Config<uint64_t>(record.type % 80);
    return;
  }
  if ((record.what & 3U) == 2) {
    if ((record.room & 1U) != 0) {
      rig.device().KickAlways(record.queue());
    }
    (void)rig.blk().Resize(record.sector % (2 * BlkRig::kDiskSize));
    return;
  }
  rig.device().KickAlways(record.queue());
  switch (record.room % 4) {
    case 0:
      if (const auto state = core.StopQueue(record.queue())) {
        (void)core.StartQueue(record.queue(), state);
      }
      break;
    case 1:
      Limit(rig, record);
      break;
    case 2:
      if ((record.type & 8U) != 0) {
        OtherDisk(rig, record);
      } else {
        Snapshot(rig, record);
      }
      break;
    default:
      FailingEngine::script = record.type;
      break;
  }
}

BlkRig& RigOf(uint8_t which) {
  static auto* uring = new BlkRig(EngineKind::kUring, {.queues = 2});
  static auto* threads =
      new BlkRig(EngineKind::kPool, {.queues = 2, .lanes = 2, .block_size = 4096});
  static auto* read_only = new BlkRig(EngineKind::kPool, {.read_only = true, .queues = 2});
  static auto* failing = new BlkRig(
      EngineKind::kPool,
      {.queues = 2, .engine = [](wyvern::EventLoop& loop, wyvern::devices::IoEngine::Done done) {
         return wyvern::Result<std::unique_ptr<wyvern::devices::IoEngine>>(
             std::make_unique<FailingEngine>(loop, std::move(done)));
       }});
  switch (which % 4) {
    case 1:
      return *failing;
    case 2:
      return *threads;
    case 3:
      return *read_only;
    default:
      return *uring;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::kBlkConfigWce;
  using wyvern::devices::kBlkDiscard;
  using wyvern::devices::kBlkFlush;
  if (size == 0) {
    return 0;
  }
  BlkRig* const rig = &RigOf(data[0]);
  FailingEngine::script = 0;
  ++data;
  --size;
  auto& device = rig->device();
  const uint64_t mark = device.ram().Mark();
  const uint8_t refused = size > 0 ? data[0] >> 4U : 0;
  device.UseRing((refused & 8U) != 0 ? wyvern::devices::testing::RingKind::kPacked
                                     : wyvern::devices::testing::RingKind::kSplit);
  device.Start(((refused & 1U) != 0 ? kBlkFlush : 0) | ((refused & 2U) != 0 ? kBlkConfigWce : 0) |
               ((refused & 4U) != 0 ? kBlkDiscard : 0));
  for (; size >= kRecord && device.ram().Mark() - mark < kMemory;
       data += kRecord, size -= kRecord) {
    const Record record(data);
    if ((record.what & 3U) != 0) {
      DoRecord(*rig, record);
    } else if (!SendRequest(*rig, record,
                            {reinterpret_cast<const char*>(data) + kRecord, size - kRecord})) {
      break;
    }
  }
  device.KickAlways(0);
  device.KickAlways(1);
  device.core().WriteStatus(0);
  rig->blk().SetRateLimits({});
  (void)rig->blk().Resize(BlkRig::kDiskSize);
  device.ram().Release(mark);
  return 0;
}
