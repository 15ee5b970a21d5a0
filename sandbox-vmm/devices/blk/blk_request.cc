#include "blk/blk_request.h"

#include <algorithm>
#include <array>
#include <span>

namespace wyvern::devices {

namespace {

bool InDisk(uint64_t sector, uint64_t count, uint64_t sectors) {
  return count <= sectors && sector <= sectors - count;
}

// Of reads and writes: the whole chain's length against the whole disk (CH 376434a69: not
// descriptor by descriptor).
BlkStatus PlaceData(uint64_t sector, const BlkLimits& limits, BlkRequest* request) {
  if (request->length % kSectorSize != 0 ||
      !InDisk(sector, request->length / kSectorSize, limits.sectors)) {
    return BlkStatus::kIoError;
  }
  request->offset = sector * kSectorSize;
  return BlkStatus::kOk;
}

// §5.2.6.2: an unknown flag is UNSUPP, and so is unmap with DISCARD, which has none.
bool FlagsAreKnown(std::span<const BlkWireRange> ranges, uint32_t known) {
  return std::ranges::all_of(
      ranges, [known](const BlkWireRange& range) { return (range.flags & ~known) == 0; });
}

// All ranges are judged before the first is touched.
BlkStatus PlaceRanges(const virtio::Chain& chain, const BlkLimits& limits, BlkRequest* request) {
  const bool discard = request->type == BlkType::kDiscard;
  const uint64_t feature = discard ? kBlkDiscard : kBlkWriteZeroes;
  const uint32_t max_ranges = discard ? kMaxDiscardRanges : kMaxZeroRanges;
  const uint32_t max_sectors = discard ? kMaxDiscardSectors : kMaxZeroSectors;
  if (!limits.read_only && (limits.features & feature) == 0) {
    return BlkStatus::kUnsupported;
  }
  const uint32_t bytes = chain.readable_length() - static_cast<uint32_t>(sizeof(BlkHeader));
  const uint32_t count = bytes / static_cast<uint32_t>(sizeof(BlkWireRange));
  if (count == 0 || bytes % sizeof(BlkWireRange) != 0 || count > max_ranges) {
    return BlkStatus::kIoError;
  }
  std::array<BlkWireRange, std::max(kMaxDiscardRanges, kMaxZeroRanges)> wire;
  const auto ranges = std::span(wire).first(count);
  if (!chain.Read(sizeof(BlkHeader), std::as_writable_bytes(ranges))) {
    return BlkStatus::kIoError;
  }
  if (!FlagsAreKnown(ranges, discard ? 0 : kRangeUnmap)) {
    return BlkStatus::kUnsupported;
  }
  if (limits.read_only) {
    return BlkStatus::kIoError;
  }
  for (const BlkWireRange& range : ranges) {
    const uint64_t sector = range.sector;
    const uint32_t sectors = range.sectors;
    if (sectors > max_sectors || !InDisk(sector, sectors, limits.sectors)) {
      return BlkStatus::kIoError;
    }
    if (sectors > 0) {
      request->ranges.push_back({.offset = sector * kSectorSize,
                                 .length = sectors * kSectorSize,
                                 .unmap = discard || (range.flags & kRangeUnmap) != 0});
    }
  }
  return BlkStatus::kOk;
}

}  // namespace

uint64_t BlkRequest::end() const {
  uint64_t end = offset + length;
  for (const BlkRange& range : ranges) {
    end = std::max(end, range.offset + range.length);
  }
  return end;
}

uint64_t BlkRequest::bytes() const {
  uint64_t bytes = length;
  if (type == BlkType::kWriteZeroes) {
    for (const BlkRange& range : ranges) {
      bytes += range.length;
    }
  }
  return bytes;
}

BlkRequest ParseBlkRequest(const virtio::Chain& chain, const BlkLimits& limits) {
  BlkRequest request;
  const auto header = chain.ReadAs<BlkHeader>(0);
  if (!header) {
    request.status = BlkStatus::kIoError;
    return request;
  }
  request.type = static_cast<BlkType>(header->type.value());
  switch (request.type) {
    case BlkType::kIn:
      request.length = chain.writable_length() - 1;
      request.status = PlaceData(header->sector, limits, &request);
      break;
    case BlkType::kOut:
      request.length = chain.readable_length() - static_cast<uint32_t>(sizeof(BlkHeader));
      // §5.2.6.2: a write request of a read-only device is IOERR, and nothing is written.
      request.status =
          limits.read_only ? BlkStatus::kIoError : PlaceData(header->sector, limits, &request);
      break;
    case BlkType::kFlush:
      break;
    case BlkType::kGetId:
      request.length = chain.writable_length() - 1;
      break;
    case BlkType::kDiscard:
    case BlkType::kWriteZeroes:
      request.status = PlaceRanges(chain, limits, &request);
      break;
    default:
      request.status = BlkStatus::kUnsupported;
      break;
  }
  return request;
}

}  // namespace wyvern::devices
