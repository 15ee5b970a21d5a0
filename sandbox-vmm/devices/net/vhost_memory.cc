#include "net/vhost_memory.h"

#include <sys/mman.h>

#include <fmt/format.h>

#include <utility>

namespace wyvern::devices {

namespace {

constexpr uint64_t kPage = 4096;
// As GuestMemory: so that huge pages can be mapped.
constexpr uint64_t kHugePage = 2ULL << 20U;

VhostRegion AsItIs(const mem::RegionInfo& region) {
  return {mem::Raw(region.start), region.size, region.host_address};
}

}  // namespace

Result<VhostMemory::View> VhostMemory::MakeView(const Place& place, uint64_t size) {
  WV_TRY_CONTEXT(Mapping reservation,
                 Mapping::Create(size + kHugePage, PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, FdRef(-1)),
                 "address space for vhost");
  View view{.reservation = std::move(reservation), .size = size};
  const auto host = reinterpret_cast<uintptr_t>(view.reservation.data());
  view.base = view.reservation.data() + (place.start - host) % kHugePage;
  return view;
}

Result<std::vector<VhostMemory::Piece>> VhostMemory::Sort(
    std::span<const mem::RegionInfo> regions) {
  std::vector<Piece> pieces;
  std::map<Place, uint64_t> files;  // how often
  std::vector<std::pair<Place, uint64_t>> places;
  for (const mem::RegionInfo& region : regions) {
    Place place;
    uint64_t size = 0;
    // What may only be read stays as it is: a region of vhost's says nothing of that.
    if (region.fd.valid() && !region.read_only && mem::Raw(region.start) >= region.fd_offset) {
      WV_TRY_CONTEXT(const auto file, Fstat(region.fd), "guest memory");
      place = {file.st_dev, file.st_ino, mem::Raw(region.start) - region.fd_offset};
      size = (static_cast<uint64_t>(file.st_size) + kPage - 1) / kPage * kPage;
      ++files[place];
    }
    places.emplace_back(place, size);
    pieces.push_back({.region = region});
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto& [place, size] = places[i];
    const auto many = files.find(place);
    auto view = views_.find(place);
    if (size != 0 && view == views_.end() && many != files.end() && many->second > 1) {
      WV_TRY(View made, MakeView(place, size));
      view = views_.emplace(place, std::move(made)).first;
    }
    if (view != views_.end()) {
      pieces[i].view = &view->second;
    }
  }
  return pieces;
}

// First what is gone: a chunk that is plugged in another size lies where others were.
Result<> VhostMemory::MapPieces(View& view, std::span<const Piece> pieces) {
  std::map<uint64_t, const mem::RegionInfo*> wanted;
  for (const Piece& piece : pieces) {
    if (piece.view == &view) {
      wanted.emplace(piece.region.fd_offset, &piece.region);
    }
  }
  for (auto it = view.mapped.begin(); it != view.mapped.end();) {
    const auto still = wanted.find(it->first);
    if (still != wanted.end() && still->second->size == it->second) {
      ++it;
      continue;
    }
    if (::mmap(view.base + it->first, it->second, PROT_NONE,
               MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED) {
      return SysError("mmap over what vhost had");
    }
    it = view.mapped.erase(it);
  }
  for (const auto& [offset, region] : wanted) {
    if (view.mapped.contains(offset)) {
      continue;
    }
    if (region->size > view.size || offset > view.size - region->size) {
      return Fail(Code::kInvalidArgument, "guest memory beyond its file");
    }
    std::byte* at = view.base + offset;
    if (::mmap(at, region->size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED | MAP_NORESERVE,
               region->fd.get(), static_cast<off_t>(offset)) == MAP_FAILED) {
      return SysError("mmap for vhost");
    }
    view.mapped.emplace(offset, region->size);
    (void)::madvise(at, region->size, MADV_DONTDUMP);  // as the first mapping
  }
  return {};
}

Result<std::vector<VhostRegion>> VhostMemory::Update(const mem::GuestMemory& memory) {
  std::vector<VhostRegion> table;
  // Views stay once they are there: the same memory is soon back.
  if (views_.empty() && memory.regions().size() <= kMaxRegions) {
    for (const mem::RegionInfo& region : memory.regions()) {
      table.push_back(AsItIs(region));
    }
    return table;
  }
  WV_TRY(const std::vector<Piece> pieces, Sort(memory.regions()));
  for (auto& [place, view] : views_) {
    WV_TRY_VOID(MapPieces(view, pieces));
  }
  const View* last = nullptr;
  for (const Piece& piece : pieces) {
    VhostRegion region = AsItIs(piece.region);
    if (piece.view == nullptr) {
      table.push_back(region);
    } else if (piece.view == last) {
      // With what lies between them, where nothing is.
      table.back().size = region.guest_address + region.size - table.back().guest_address;
    } else {
      region.host_address = reinterpret_cast<uintptr_t>(piece.view->base) + piece.region.fd_offset;
      table.push_back(region);
    }
    last = piece.view;
  }
  if (table.size() > kMaxRegions) {
    return Fail(Code::kResourceExhausted,
                fmt::format("vhost takes {} memory regions, not {}", kMaxRegions, table.size()));
  }
  return table;
}

}  // namespace wyvern::devices
