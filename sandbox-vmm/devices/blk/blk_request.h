// blk/blk_request.h — what a block request asks for, checked.
// Spec:    VIRTIO 1.4 §5.2.3 (features), §5.2.6 (requests).
// Units:   a sector is 512 bytes, whatever the block size (§5.2.5); offsets and lengths are bytes.
// Errors:  a request that cannot be done is answered by its status; nothing here fails.
// Trust:   chains are the guest's; the header and the ranges are copied once.
#pragma once

#include <cstdint>
#include <vector>

#include "base/endian.h"
#include "virtio/queue.h"

namespace wyvern::devices {

inline constexpr uint64_t kSectorSize = 512;

// §5.2.3
inline constexpr uint64_t kBlkSizeMax = uint64_t{1} << 1;
inline constexpr uint64_t kBlkSegMax = uint64_t{1} << 2;
inline constexpr uint64_t kBlkReadOnly = uint64_t{1} << 5;
inline constexpr uint64_t kBlkBlockSize = uint64_t{1} << 6;
inline constexpr uint64_t kBlkFlush = uint64_t{1} << 9;
inline constexpr uint64_t kBlkTopology = uint64_t{1} << 10;
inline constexpr uint64_t kBlkConfigWce = uint64_t{1} << 11;
inline constexpr uint64_t kBlkMultiQueue = uint64_t{1} << 12;
inline constexpr uint64_t kBlkDiscard = uint64_t{1} << 13;
inline constexpr uint64_t kBlkWriteZeroes = uint64_t{1} << 14;

// What one DISCARD or WRITE_ZEROES may ask for; the configuration tells the driver. Zeroes may have
// to be written, so a request of them is as large as one of data at most.
inline constexpr uint32_t kMaxDiscardSectors = 1 << 22;  // of a range: 2 GiB
inline constexpr uint32_t kMaxDiscardRanges = 32;
inline constexpr uint32_t kMaxZeroSectors = 1 << 15;  // of a range: 16 MiB
inline constexpr uint32_t kMaxZeroRanges = 16;

enum class BlkStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

// GET_LIFETIME (10), SECURE_ERASE (14) and the zone commands belong to features that are not
// offered.
enum class BlkType : uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};

struct BlkHeader {
  Le32 type = 0;
  Le32 reserved = 0;
  Le64 sector = 0;
};

static_assert(sizeof(BlkHeader) == 16);

// A range of DISCARD and WRITE_ZEROES as the driver writes it.
struct BlkWireRange {
  Le64 sector = 0;
  Le32 sectors = 0;
  Le32 flags = 0;
};

static_assert(sizeof(BlkWireRange) == 16);

inline constexpr uint32_t kRangeUnmap = 1;  // the only flag there is

struct BlkLimits {
  uint64_t sectors = 0;
  bool read_only = false;
  uint64_t features = 0;  // negotiated
};

struct BlkRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool unmap = false;  // the storage may be given back
};

struct BlkRequest {
  BlkType type = BlkType::kIn;
  BlkStatus status = BlkStatus::kOk;  // anything else: answer at once
  uint64_t offset = 0;                // in the file
  uint32_t length = 0;                // of data
  std::vector<BlkRange> ranges{};     // of kDiscard and kWriteZeroes, none of them empty

  // The first byte behind everything that the request touches.
  uint64_t end() const;
  // What a limit of bytes per time counts: data, and zeroes, which may have to be written.
  uint64_t bytes() const;
};

// The last writable byte is the status; before it the data of reads. Behind the header: the data of
// writes, or ranges.
// Preconditions: the chain has a writable byte.
BlkRequest ParseBlkRequest(const virtio::Chain& chain, const BlkLimits& limits);

}  // namespace wyvern::devices
