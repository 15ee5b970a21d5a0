#include "blk/blk_request.h"

namespace wyvern::devices {

namespace {

// The whole chain's range against the whole disk (CH 376434a69: not descriptor by descriptor).
bool InDisk(uint64_t sector, uint32_t length, uint64_t sectors) {
  return length % kSectorSize == 0 && sector <= sectors && length / kSectorSize <= sectors - sector;
}

}  // namespace

BlkRequest ParseBlkRequest(const virtio::Chain& chain, const BlkLimits& limits) {
  BlkRequest request;
  const auto header = chain.ReadAs<BlkHeader>(0);
  if (!header) {
    request.status = BlkStatus::kIoError;
    return request;
  }
  request.type = static_cast<BlkType>(header->type.value());
  const uint64_t sector = header->sector;
  switch (request.type) {
    case BlkType::kIn:
      request.length = chain.writable_length() - 1;
      break;
    case BlkType::kOut:
      request.length = chain.readable_length() - static_cast<uint32_t>(sizeof(BlkHeader));
      if (limits.read_only) {
        request.status = BlkStatus::kIoError;
        return request;
      }
      break;
    case BlkType::kFlush:
      return request;
    case BlkType::kGetId:
      request.length = chain.writable_length() - 1;
      return request;
    default:
      request.status = BlkStatus::kUnsupported;
      return request;
  }
  if (!InDisk(sector, request.length, limits.sectors)) {
    request.status = BlkStatus::kIoError;
    return request;
  }
  request.offset = sector * kSectorSize;
  return request;
}

}  // namespace wyvern::devices
