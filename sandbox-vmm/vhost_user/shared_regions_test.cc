// Which parts of guest memory are one region for a back-end, and what it lacks.
#include "vhost_user/shared_regions.h"

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <vector>

namespace wyvern::vhost_user {
namespace {

constexpr uint64_t kChunk = 0x10000;
constexpr uint64_t kWindow = uint64_t{1} << 32U;

mem::RegionSpec Chunk(const UniqueFd& file, uint64_t number, uint64_t at_number, bool read_only) {
  mem::RegionSpec spec;
  spec.start = mem::Gpa{kWindow + number * kChunk};
  spec.size = kChunk;
  spec.fd = *file.Duplicate();
  spec.fd_offset = at_number * kChunk;
  spec.read_only = read_only;
  return spec;
}

struct Piece {
  uint64_t first;
  uint64_t count;

  bool operator==(const Piece&) const = default;
};

void PrintTo(const Piece& piece, std::ostream* out) {
  *out << piece.first << "+" << piece.count;
}

std::vector<Piece> Pieces(std::span<const SharedRegion> regions) {
  std::vector<Piece> pieces;
  for (const SharedRegion& region : regions) {
    pieces.push_back({(region.guest_address - kWindow) / kChunk, region.size / kChunk});
  }
  return pieces;
}

TEST(SharedRegionsTest, NeighboursInGuestAndFileAreOne) {
  const UniqueFd file = *MakeMemfd("chunks", 64 * kChunk);
  const UniqueFd other = *MakeMemfd("other", 64 * kChunk);
  std::vector<mem::RegionSpec> specs;
  specs.push_back(Chunk(file, 0, 0, false));
  specs.push_back(Chunk(file, 1, 1, false));
  specs.push_back(Chunk(file, 2, 2, false));
  specs.push_back(Chunk(file, 4, 4, false));   // not a neighbour in the guest
  specs.push_back(Chunk(file, 5, 7, false));   // not a neighbour in the file
  specs.push_back(Chunk(other, 6, 8, false));  // of another file
  specs.push_back(Chunk(other, 7, 9, true));   // of another kind
  specs.push_back(Chunk(other, 8, 10, true));
  mem::RegionSpec anonymous;
  anonymous.start = mem::Gpa{kWindow + 9 * kChunk};
  anonymous.size = kChunk;
  specs.push_back(std::move(anonymous));
  const auto memory = *mem::GuestMemory::Create(std::move(specs));
  const auto all = SharedRegions(*memory, true);
  ASSERT_TRUE(all.has_value());
  EXPECT_EQ(Pieces(*all), (std::vector<Piece>{{0, 3}, {4, 1}, {5, 1}, {6, 1}, {7, 2}}));
  const MemoryRegion wire = (*all)[2].ToWire();
  EXPECT_EQ(wire.mmap_offset, 7 * kChunk);
  EXPECT_EQ(wire.user_address, wire.guest_address + kUserDistance);
  const auto writable = SharedRegions(*memory, false);
  ASSERT_TRUE(writable.has_value());
  EXPECT_EQ(Pieces(*writable), (std::vector<Piece>{{0, 3}, {4, 1}, {5, 1}, {6, 1}}));
}

std::vector<SharedRegion> OneFile(std::initializer_list<Piece> pieces, ino_t inode = 1) {
  std::vector<SharedRegion> regions;
  for (const Piece& piece : pieces) {
    regions.push_back({.guest_address = kWindow + piece.first * kChunk,
                       .size = piece.count * kChunk,
                       .file_offset = piece.first * kChunk,
                       .inode = inode});
  }
  return regions;
}

struct CompareCase {
  std::vector<SharedRegion> has;
  std::vector<SharedRegion> shown;
  std::vector<Piece> stale;
  std::vector<Piece> kept;
  std::vector<Piece> missing;
};

TEST(SharedRegionsTest, OnlyWhatChangedIsSaid) {
  const CompareCase cases[] = {
      {{}, OneFile({{0, 4}}), {}, {}, {{0, 4}}},
      {OneFile({{0, 4}}), {}, {{0, 4}}, {}, {}},
      {OneFile({{0, 4}}), OneFile({{0, 4}}), {}, {{0, 4}}, {}},
      // Grown on both sides, and in between.
      {OneFile({{2, 1}, {4, 1}}),
       OneFile({{1, 6}}),
       {},
       {{2, 1}, {4, 1}},
       {{1, 1}, {3, 1}, {5, 2}}},
      // Cut short, or begun later: the rest is said anew.
      {OneFile({{0, 4}}), OneFile({{0, 3}}), {{0, 4}}, {}, {{0, 3}}},
      {OneFile({{0, 4}}), OneFile({{1, 3}}), {{0, 4}}, {}, {{1, 3}}},
      {OneFile({{0, 4}, {6, 1}}), OneFile({{0, 1}, {3, 4}}), {{0, 4}}, {{6, 1}}, {{0, 1}, {3, 3}}},
      // The same place in another file.
      {OneFile({{0, 4}}), OneFile({{0, 4}}, 2), {{0, 4}}, {}, {{0, 4}}},
  };
  for (const CompareCase& one : cases) {
    const SharedChanges changes = Compare(one.has, one.shown);
    EXPECT_EQ(Pieces(changes.stale), one.stale);
    EXPECT_EQ(Pieces(changes.kept), one.kept);
    EXPECT_EQ(Pieces(changes.missing), one.missing);
  }
}

TEST(SharedRegionsTest, MissingPartsLieWhereTheyAreInTheFile) {
  const auto changes = Compare(OneFile({{2, 1}}), OneFile({{1, 4}}));
  ASSERT_EQ(changes.missing.size(), 2U);
  EXPECT_EQ(changes.missing[0].file_offset, kChunk);
  EXPECT_EQ(changes.missing[1].file_offset, 3 * kChunk);
}

}  // namespace
}  // namespace wyvern::vhost_user
