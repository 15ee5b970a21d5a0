#include "fs/differential/map_step.h"

#include <fmt/format.h>

#include <algorithm>

#include "fs/differential/runner.h"

namespace wyvern::fs::differential {

namespace {

std::string ShowLook(Mapping& mapping, uint64_t length) {
  std::string seen;
  const int error = mapping.Look(&seen);
  return ErrorOr(error, fmt::format("{} bytes {:016x}{}", seen.size(), HashOf(seen),
                                    seen.size() < length ? " SIGBUS" : ""));
}

// Nothing behind the file's end in its last page: what becomes of that is nobody's promise.
std::string StoreThrough(Mapping& mapping, const Step& step, const MapRange& range, File& file) {
  Attributes attributes;
  if (const int error = file.GetAttributes(&attributes); error != 0) {
    return ErrorOr(error);
  }
  const uint64_t at = step.data % range.length;
  size_t length = std::min((step.data >> 32U) % 8192 + 1, range.length - at);
  const uint64_t page_end = AlignedUp(attributes.size);
  if (range.offset + at < page_end) {
    if (range.offset + at >= attributes.size) {
      return "behind the end";
    }
    length = std::min(length, attributes.size - range.offset - at);
  }
  size_t stored = 0;
  const int error = mapping.Store(at, MakeBytes(step.data, length), &stored);
  return ErrorOr(error, fmt::format("{} of {} bytes", stored, length));
}

}  // namespace

std::string RunMap(const Step& step, File& file) {
  const uint64_t offset = Aligned(step.offset);
  const MapRange range{(step.flags & kMapShared) != 0, (step.flags & kMapWritable) != 0, offset,
                       AlignedUp(step.length)};
  MappingRef mapping;
  if (const int error = file.Map(range, &mapping); error != 0) {
    return ErrorOr(error);
  }
  std::string out = ShowLook(*mapping, range.length);
  if ((step.flags & kMapFileWrite) != 0) {
    size_t written = 0;
    const int error = file.Write(offset, MakeBytes(~step.data, range.length / 2), &written);
    out += fmt::format(", write {}, {}", ErrorOr(error, std::to_string(written)),
                       ShowLook(*mapping, range.length));
  }
  if (range.writable) {
    out += fmt::format(", store {}", StoreThrough(*mapping, step, range, file));
    out += ", " + ShowLook(*mapping, range.length);
  }
  if ((step.flags & kMapTruncate) != 0) {
    out += ", ftruncate " + ErrorOr(file.Truncate(step.other_offset));
    out += ", " + ShowLook(*mapping, range.length);
  }
  if ((step.flags & kMapSync) != 0) {
    out += ", msync " + ErrorOr(mapping->Sync());
  }
  return out;
}

}  // namespace wyvern::fs::differential
