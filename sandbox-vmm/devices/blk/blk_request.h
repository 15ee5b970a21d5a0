// blk/blk_request.h — what a block request asks for, checked.
// Spec:    VIRTIO 1.3 §5.2.6.
// Errors:  a request that cannot be done is answered by its status; nothing here fails.
// Trust:   chains are the guest's; the header is copied once.
#pragma once

#include <cstdint>

#include "base/endian.h"
#include "virtio/queue.h"

namespace wyvern::devices {

inline constexpr uint64_t kSectorSize = 512;

enum class BlkStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };
enum class BlkType : uint32_t { kIn = 0, kOut = 1, kFlush = 4, kGetId = 8 };

struct BlkHeader {
  Le32 type = 0;
  Le32 reserved = 0;
  Le64 sector = 0;
};

static_assert(sizeof(BlkHeader) == 16);

struct BlkLimits {
  uint64_t sectors = 0;
  bool read_only = false;
};

struct BlkRequest {
  BlkType type = BlkType::kIn;
  BlkStatus status = BlkStatus::kOk;  // anything else: answer at once
  uint64_t offset = 0;                // bytes in the file
  uint32_t length = 0;                // bytes of data
};

// The last writable byte is the status; before it the data of reads. Behind the header: the data of
// writes.
// Preconditions: the chain has a writable byte.
BlkRequest ParseBlkRequest(const virtio::Chain& chain, const BlkLimits& limits);

}  // namespace wyvern::devices
