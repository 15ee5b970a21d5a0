// What fio's verify=crc32c does, with us as the driver: random writes, zeroes, discards and reads on
// several queues, each block of 4 KiB with a checksum, while the disk is paused, resumed, reset and
// resized and single queues stop and start. Afterwards the file holds exactly what was acknowledged.
//
// WYVERN_BLK_INTEGRITY_SECONDS: how long for each engine (2); WYVERN_BLK_INTEGRITY_SEED: which run.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <set>

#include "blk/testing/blk_rig.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;

constexpr uint32_t kBlock = 4096;
constexpr uint32_t kSectorsPerBlock = kBlock / 512;
constexpr uint64_t kBlocks = BlkRig::kDiskSize / kBlock;
constexpr uint64_t kFewestBlocks = kBlocks / 2;
constexpr uint64_t kMaxRun = 8;  // blocks of a request
constexpr uint16_t kQueues = 4;
constexpr uint16_t kRingSize = 64;
constexpr size_t kDepth = 12;  // requests in flight on each queue

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody changes it
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

uint32_t Crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < made.size(); ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1U) ^ ((value & 1U) != 0 ? 0x82f63b78U : 0U);
      }
      made.at(i) = value;
    }
    return made;
  }();
  uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc = (crc >> 8U) ^ table.at((crc ^ static_cast<unsigned char>(byte)) & 0xffU);
  }
  return ~crc;
}

struct BlockHeader {
  uint64_t generation = 0;  // 0 never was written
  uint64_t block = 0;
  uint32_t crc = 0;  // of what follows
  uint32_t length = kBlock - 24;
};

static_assert(sizeof(BlockHeader) == 24);

// The contents of a block: random bytes that the generation seeds, under a header.
std::string MakeBlock(uint64_t generation, uint64_t block) {
  std::string bytes(kBlock, '\0');
  uint64_t state = generation * 0x9e3779b97f4a7c15U + block;
  for (size_t at = sizeof(BlockHeader); at < kBlock; at += 8) {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    std::memcpy(bytes.data() + at, &state, 8);
  }
  BlockHeader header{.generation = generation, .block = block};
  header.crc = Crc32c(std::string_view(bytes).substr(sizeof(header)));
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

// The generation of what is in a block; 0 for zeroes. Nothing: it is none of ours, or torn.
std::optional<uint64_t> GenerationOf(std::string_view bytes, uint64_t block) {
  if (bytes.find_first_not_of('\0') == std::string_view::npos) {
    return 0;
  }
  BlockHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.block != block || header.generation == 0 ||
      header.crc != Crc32c(bytes.substr(sizeof(header)))) {
    return std::nullopt;
  }
  return header.generation;
}

// A driver that remembers.
class Verifier {
 public:
  Verifier(EngineKind engine, uint64_t seed)
      : rig_(engine, {.queues = kQueues, .lanes = 2}), random_(seed) {
    Restart();
  }

  // A request, or what the owner does now and then.
  void Step() {
    const uint64_t chance = Below(1000);
    if (chance == 0) {
      Reset();
    } else if (chance <= 3) {
      PauseAndResume();
    } else if (chance <= 8) {
      StopAndStart(static_cast<uint16_t>(Below(kQueues)));
    } else if (chance <= 13) {
      Resize();
    } else {
      Send(static_cast<uint16_t>(Below(kQueues)));
    }
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      Collect(queue);
    }
    ++steps_;
  }

  void Finish() {
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      rig_.device().KickAlways(queue);
      while (!pending_.at(queue).empty()) {
        Take(queue, rig_.device().WaitUsed(queue));
      }
    }
    for (uint64_t block = 0; block < kBlocks; ++block) {
      CheckBlock(rig_.OnDisk(block * kBlock, kBlock), block);
    }
    EXPECT_EQ(rig_.device().counter("io_errors"), 0U);
    EXPECT_EQ(rig_.device().counter("faults"), 0U);
  }

  bool failed() const { return ::testing::Test::HasFailure(); }

  void Print() const {
    std::cout << "  " << steps_ << " steps: " << written_ << " writes, " << read_ << " reads, "
              << zeroed_ << " zeroes and discards, " << refused_ << " behind the end; " << pauses_
              << " pauses, " << stops_ << " stops, " << resets_ << " resets, " << resizes_
              << " resizes\n";
  }

 private:
  struct Pending {
    BlkType type = BlkType::kIn;
    uint64_t block = 0;
    uint64_t count = 0;
    uint64_t generation = 0;  // of a write; 0: zeroes
    uint64_t smallest = 0;    // sizes of the disk while it was in flight, in blocks
    uint64_t largest = 0;
    mem::Gpa data{};
    mem::Gpa status{};
  };

  uint64_t Below(uint64_t bound) { return random_() % bound; }

  // Negotiates, and makes the buffers that requests use in turn.
  void Restart() {
    testing::DeviceRig& device = rig_.device();
    device.ram().Release(mark_);
    device.Start(Below(2) == 0 ? 0 : kBlkConfigWce | (Below(2) == 0 ? 0 : kBlkFlush), kRingSize);
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      buffers_.at(queue).clear();
      pending_.at(queue).clear();
      for (size_t i = 0; i < kDepth; ++i) {
        buffers_.at(queue).push_back(device.ram().Allocate(kMaxRun * kBlock + 64, 4096));
      }
    }
    busy_.clear();
  }

  void Send(uint16_t queue) {
    if (buffers_.at(queue).empty()) {
      return;
    }
    const uint64_t choice = Below(20);
    Pending request{.type = choice < 9    ? BlkType::kOut
                            : choice < 17 ? BlkType::kIn
                            : choice < 18 ? BlkType::kFlush
                            : choice < 19 ? BlkType::kWriteZeroes
                                          : BlkType::kDiscard};
    if (request.type != BlkType::kFlush) {
      request.count = 1 + Below(kMaxRun);
      request.block = Below(kBlocks - request.count + 1);
      for (uint64_t i = 0; i < request.count; ++i) {
        if (busy_.contains(request.block + i)) {
          return;  // requests side by side on the same block may end either way
        }
      }
    }
    const mem::Gpa buffer = buffers_.at(queue).back();
    buffers_.at(queue).pop_back();
    request.data = buffer;
    request.smallest = blocks_;
    request.largest = blocks_;
    Place(queue, &request);
    for (uint64_t i = 0; i < request.count; ++i) {
      busy_.insert(request.block + i);
    }
    if (Below(3) != 0) {
      rig_.device().Kick(queue);
    }
  }

  void Place(uint16_t queue, Pending* request) {
    const virtio::testing::GuestRam& ram = rig_.device().ram();
    const auto length = static_cast<uint32_t>(request->count * kBlock);
    const mem::Gpa header{mem::Raw(request->data) + kMaxRun * kBlock};
    const mem::Gpa range{mem::Raw(header) + 16};
    request->status = mem::Gpa{mem::Raw(header) + 32};
    BlkHeader wire;
    wire.type = static_cast<uint32_t>(request->type);
    ram.Write(request->status, uint8_t{0xff});
    auto build = rig_.device().queue(queue).Build();
    const bool has_ranges =
        request->type == BlkType::kDiscard || request->type == BlkType::kWriteZeroes;
    if (!has_ranges) {
      wire.sector = request->block * kSectorsPerBlock;
    }
    ram.Write(header, wire);
    build.ReadableAt(header, sizeof(wire));
    if (request->type == BlkType::kOut) {
      request->generation = ++generation_;
      for (uint64_t i = 0; i < request->count; ++i) {
        const std::string bytes = MakeBlock(request->generation, request->block + i);
        const mem::Gpa at{mem::Raw(request->data) + i * kBlock};
        WV_CHECK(ram.memory()->WriteBytes(at, std::as_bytes(std::span(bytes))).has_value());
      }
      AddData(build, request->data, length, false);
    } else if (request->type == BlkType::kIn) {
      ram.Fill(request->data, length, std::byte{0x5a});
      AddData(build, request->data, length, true);
    } else if (has_ranges) {
      BlkWireRange wire_range;
      wire_range.sector = request->block * kSectorsPerBlock;
      wire_range.sectors = static_cast<uint32_t>(request->count) * kSectorsPerBlock;
      const bool unmap = request->type == BlkType::kWriteZeroes && Below(2) == 0;
      wire_range.flags = unmap ? kRangeUnmap : 0;
      ram.Write(range, wire_range);
      build.ReadableAt(range, sizeof(wire_range));
    }
    const uint16_t head = build.WritableAt(request->status, 1).Submit();
    pending_.at(queue)[head] = *request;
  }

  // In one piece or in two that part anywhere.
  void AddData(virtio::testing::ChainBuilder& build, mem::Gpa at, uint32_t length, bool writable) {
    const auto first = Below(2) == 0 ? length : static_cast<uint32_t>(1 + Below(length - 1));
    const mem::Gpa second{mem::Raw(at) + first};
    if (writable) {
      build.WritableAt(at, first);
    } else {
      build.ReadableAt(at, first);
    }
    if (first < length && writable) {
      build.WritableAt(second, length - first);
    } else if (first < length) {
      build.ReadableAt(second, length - first);
    }
  }

  void Collect(uint16_t queue) {
    auto& driver = rig_.device().queue(queue);
    for (;;) {
      const std::optional<virtio::testing::Used> used = driver.TakeUsed();
      if (!used) {
        break;
      }
      Take(queue, *used);
    }
    driver.SetUsedEvent(driver.UsedIndexInRing());
  }

  void Take(uint16_t queue, const virtio::testing::Used& used) {
    auto& pending = pending_.at(queue);
    const auto found = pending.find(used.head);
    ASSERT_TRUE(found != pending.end());
    const Pending request = found->second;
    pending.erase(found);
    buffers_.at(queue).push_back(request.data);
    for (uint64_t i = 0; i < request.count; ++i) {
      busy_.erase(request.block + i);
    }
    const auto status = static_cast<BlkStatus>(rig_.device().ram().Read<uint8_t>(request.status));
    const uint64_t end = request.block + request.count;
    if (status == BlkStatus::kOk) {
      ASSERT_LE(end, request.largest);
      Apply(request);
      return;
    }
    ASSERT_EQ(status, BlkStatus::kIoError);
    ASSERT_GT(end, request.smallest);
    ++refused_;
  }

  void Apply(const Pending& request) {
    for (uint64_t i = 0; i < request.count; ++i) {
      const uint64_t block = request.block + i;
      if (request.type == BlkType::kIn) {
        const mem::Gpa at{mem::Raw(request.data) + i * kBlock};
        CheckBlock(rig_.device().ram().Text(at, kBlock), block);
      } else {
        expected_.at(block) = request.generation;
      }
    }
    read_ += request.type == BlkType::kIn ? 1 : 0;
    written_ += request.type == BlkType::kOut ? 1 : 0;
    zeroed_ += request.type == BlkType::kDiscard || request.type == BlkType::kWriteZeroes ? 1 : 0;
  }

  void CheckBlock(std::string_view bytes, uint64_t block) {
    const std::optional<uint64_t> generation = GenerationOf(bytes, block);
    ASSERT_TRUE(generation) << "block " << block << " is torn or another's";
    ASSERT_EQ(generation.value_or(0), expected_.at(block)) << "block " << block;
  }

  // Whatever is not in the used ring after a reset has not happened: the device finishes what it took.
  void Reset() {
    rig_.device().core().WriteStatus(0);
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      Collect(queue);
    }
    Restart();
    ++resets_;
  }

  void PauseAndResume() {
    (void)rig_.device().core().Pause();
    for (uint16_t queue = 0; queue < kQueues && Below(2) == 0; ++queue) {
      Send(queue);
    }
    ASSERT_TRUE(rig_.device().core().Resume());
    ++pauses_;
  }

  void StopAndStart(uint16_t queue) {
    transport::TransportCore& core = rig_.device().core();
    const auto state = core.StopQueue(queue);
    ASSERT_TRUE(state);
    for (uint64_t i = Below(3); i > 0; --i) {
      Send(static_cast<uint16_t>(Below(kQueues)));
    }
    ASSERT_TRUE(core.StartQueue(queue, state));
    ++stops_;
  }

  // The file keeps its length: what a smaller disk must not touch is there to be looked at.
  void Resize() {
    blocks_ = Below(3) == 0 ? kBlocks : kFewestBlocks + Below(kBlocks - kFewestBlocks + 1);
    ASSERT_TRUE(rig_.blk().Resize(blocks_ * kBlock));
    ++resizes_;
    for (auto& queue : pending_) {
      for (auto& [head, request] : queue) {
        request.smallest = std::min(request.smallest, blocks_);
        request.largest = std::max(request.largest, blocks_);
      }
    }
  }

  BlkRig rig_;
  std::mt19937_64 random_;
  const uint64_t mark_ = rig_.device().ram().Mark();
  std::vector<uint64_t> expected_ = std::vector<uint64_t>(kBlocks);  // generations
  std::array<std::map<uint16_t, Pending>, kQueues> pending_;         // by head
  std::array<std::vector<mem::Gpa>, kQueues> buffers_;               // free ones
  std::set<uint64_t> busy_;                                          // blocks of requests in flight
  uint64_t generation_ = 0;
  uint64_t blocks_ = kBlocks;  // of the disk now
  uint64_t steps_ = 0;
  uint64_t written_ = 0;
  uint64_t read_ = 0;
  uint64_t zeroed_ = 0;
  uint64_t refused_ = 0;
  uint64_t pauses_ = 0;
  uint64_t stops_ = 0;
  uint64_t resets_ = 0;
  uint64_t resizes_ = 0;
};

class BlkIntegrityTest : public ::testing::TestWithParam<EngineKind> {};

TEST_P(BlkIntegrityTest, FileHoldsExactlyWhatWasAcknowledged) {
  if (GetParam() == EngineKind::kUring && !IoRing::Create()) {
    GTEST_SKIP() << "io_uring is not to be had on this host";
  }
  const std::chrono::seconds time(FromEnvironment("WYVERN_BLK_INTEGRITY_SECONDS", 2));
  const uint64_t seed = FromEnvironment("WYVERN_BLK_INTEGRITY_SEED", std::random_device{}());
  SCOPED_TRACE("WYVERN_BLK_INTEGRITY_SEED=" + std::to_string(seed));
  Verifier verifier(GetParam(), seed);
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end && !verifier.failed()) {
    verifier.Step();
  }
  verifier.Finish();
  verifier.Print();
}

INSTANTIATE_TEST_SUITE_P(Engines, BlkIntegrityTest,
                         ::testing::Values(EngineKind::kUring, EngineKind::kPool),
                         [](const auto& info) {
                           return info.param == EngineKind::kUring ? "uring" : "pool";
                         });

}  // namespace
}  // namespace wyvern::devices
