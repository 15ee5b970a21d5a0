// The bytes of a state: what is given comes back, what nobody would give is refused.
#include "fs/fs_state.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <climits>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace wyvern::fs {
namespace {

// A directory with a file in it, both open, and a file that lies deeper; one open file that is lost.
FsState SmallState() {
  FsState state;
  state.minor = kFuseMinor;
  state.max_write = 1 << 20;
  state.flags = 0x1122334455667788;
  state.next_node = 10;
  state.next_handle = 20;
  state.lost_nodes = 3;
  state.lost_locked = 1;
  state.nodes = {{5, 1, 1, {7, 100, S_IFDIR, BirthTime{-1, 999'999'999}}, "d"},
                 {2, 8, 5, {7, 101, S_IFREG, std::nullopt}, "\x01\xff f"},
                 {9, 1, 1, {8, 102, S_IFLNK, BirthTime{1, 2}}, "one/two/three"}};
  state.files = {{1, 5, 0}, {19, 2, O_RDWR | O_DIRECT}, {7, 0, 0}};
  return state;
}

void ExpectRefused(const FsState& state, const std::string& why) {
  const auto decoded = DecodeState(EncodeState(state));
  ASSERT_FALSE(decoded.has_value()) << why;
  EXPECT_EQ(decoded.error().code(), Code::kInvalidArgument);
  EXPECT_NE(decoded.error().message().find(why), std::string::npos) << decoded.error().message();
}

using Change = std::pair<std::function<void(FsState&)>, const char*>;

// Of the small state; with what is said of it then.
void ExpectEachRefused(std::initializer_list<Change> changes) {
  for (const auto& [change, why] : changes) {
    FsState state = SmallState();
    change(state);
    ExpectRefused(state, why);
  }
}

TEST(FsStateTest, WhatIsGivenComesBack) {
  const FsState state = SmallState();
  const auto decoded = DecodeState(EncodeState(state));
  ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
  EXPECT_EQ(*decoded, state);
  FsState nothing;
  nothing.next_node = 2;
  nothing.next_handle = 1;
  const auto before_init = DecodeState(EncodeState(nothing));
  ASSERT_TRUE(before_init.has_value()) << before_init.error().message();
  EXPECT_EQ(*before_init, nothing);
}

TEST(FsStateTest, CutAnywhereOrLongerIsRefused) {
  std::vector<std::byte> bytes = EncodeState(SmallState());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(DecodeState(std::span(bytes).first(length)).has_value()) << length;
  }
  for (int more = 0; more < 64; ++more) {
    bytes.push_back(std::byte{0});
    EXPECT_FALSE(DecodeState(bytes).has_value()) << more;
  }
}

// Whatever is let through means one thing only.
TEST(FsStateTest, ChangedBytesAreRefusedOrMeanThemselves) {
  const std::vector<std::byte> bytes = EncodeState(SmallState());
  size_t accepted = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const unsigned mask : {0x01U, 0x80U, 0xffU}) {
      std::vector<std::byte> changed = bytes;
      changed[at] ^= std::byte{static_cast<unsigned char>(mask)};
      if (const auto decoded = DecodeState(changed); decoded) {
        EXPECT_EQ(EncodeState(*decoded), changed) << at;
        ++accepted;
      }
    }
  }
  EXPECT_GT(accepted, 50U);  // flags, devices, inode numbers, most of a name
}

TEST(FsStateTest, OtherVersionIsNamed) {
  std::vector<std::byte> bytes = EncodeState(SmallState());
  bytes[4] = std::byte{2};
  const auto decoded = DecodeState(bytes);
  ASSERT_FALSE(decoded.has_value());
  EXPECT_NE(decoded.error().message().find("it is of version 2, and 1"), std::string::npos)
      << decoded.error().message();
}

// Nothing is allocated for a count before its bytes are there.
TEST(FsStateTest, CountsBeyondTheBytesAreRefused) {
  for (const size_t at : {size_t{48}, size_t{52}}) {  // Header::nodes, files
    for (const uint32_t count : {uint32_t{4}, uint32_t{1000}, ~uint32_t{0}}) {
      std::vector<std::byte> bytes = EncodeState(SmallState());
      std::memcpy(bytes.data() + at, &count, sizeof(count));
      EXPECT_FALSE(DecodeState(bytes).has_value()) << at << ' ' << count;
    }
  }
}

TEST(FsStateTest, NodesThatNoServerGaveAreRefused) {
  ExpectEachRefused({
      {[](FsState& state) { state.nodes[1].node = 5; }, "node 5 is given twice"},
      {[](FsState& state) { state.nodes[0].node = 1; }, "node 1 is given twice"},
      {[](FsState& state) { state.nodes[0].node = 0; }, "node 0 is given twice, or never was"},
      {[](FsState& state) { state.nodes[2].node = 10; }, "node 10 is given twice, or never was"},
      {[](FsState& state) { state.nodes[1].lookups = 0; }, "looked up 0 times"},
      {[](FsState& state) { state.nodes[1].lookups = ~uint64_t{0}; }, "looked up 1844"},
      {[](FsState& state) { state.nodes[1].base = 9; }, "node 2 lies in no directory before it"},
      {[](FsState& state) { state.nodes[1].base = 2; }, "node 2 lies in no directory before it"},
      {[](FsState& state) { state.nodes[0].identity.file_type = S_IFREG; },
       "node 2 lies in no directory before it"},
      {[](FsState& state) { state.nodes[1].base = 0; }, "node 2 lies in no directory before it"},
      {[](FsState& state) { state.nodes[2].identity.file_type = 0; }, "is of no type of file"},
      {[](FsState& state) { state.nodes[2].identity.file_type |= 0644; }, "is of no type of file"},
      {[](FsState& state) { state.nodes[0].identity.birth->nanoseconds = 1'000'000'000; },
       "a time of birth that is none"},
      {[](FsState& state) { state.next_node = uint64_t{1} << 63U; }, "numbers that no server"},
      {[](FsState& state) { state.next_node = 1; }, "numbers that no server"},
      {[](FsState& state) { state.minor = 0; }, "no session"},
  });
}

TEST(FsStateTest, PathsThatLeaveTheDirectoryAreRefused) {
  const std::string longest(NAME_MAX, 'n');
  std::string deep = longest;
  while (deep.size() < PATH_MAX) {
    deep += "/" + longest;
  }
  for (const std::string& path :
       {std::string(), std::string("/"), std::string("/etc"), std::string(".."), std::string("."),
        std::string("../x"), std::string("a/.."), std::string("a/../b"), std::string("a/./b"),
        std::string("a//b"), std::string("a/"), std::string("a\0b", 3), std::string("a/\0", 3),
        longest + "n", "a/" + longest + "n", deep}) {
    FsState state = SmallState();
    state.nodes[2].path = path;
    ExpectRefused(state, "the path of node 9");
  }
  FsState state = SmallState();
  state.nodes[1].path = "a/b";  // elsewhere than from the root a path is a name
  ExpectRefused(state, "the path of node 2");
  for (const std::string& path : {std::string("..."), std::string("..a/b.."), longest,
                                  deep.substr(0, PATH_MAX - 1 - NAME_MAX - 1)}) {
    state = SmallState();
    state.nodes[2].path = path;
    EXPECT_TRUE(DecodeState(EncodeState(state)).has_value()) << path.size();
  }
}

TEST(FsStateTest, OpenFilesThatNoServerGaveAreRefused) {
  ExpectEachRefused({
      {[](FsState& state) { state.files[1].handle = 1; }, "open file 1 is given twice"},
      {[](FsState& state) { state.files[2].handle = 19; }, "open file 19 is given twice"},
      {[](FsState& state) { state.files[0].handle = 0; }, "open file 0 never was"},
      {[](FsState& state) { state.files[0].handle = 20; }, "open file 20 never was"},
      {[](FsState& state) { state.files[1].node = 3; }, "open file 19 is of no inode"},
      {[](FsState& state) { state.files[1].node = 9; }, "open file 19 is of no inode"},  // a link
      {[](FsState& state) { state.files[1].flags = O_CREAT; }, "open file 19 has flags 0x40"},
      {[](FsState& state) { state.files[1].flags = O_TRUNC | O_RDWR; }, "open file 19 has flags"},
      {[](FsState& state) { state.files[1].flags = O_PATH; }, "open file 19 has flags"},
      {[](FsState& state) { state.files[1].flags = O_ACCMODE; }, "open file 19 has flags 0x3"},
      {[](FsState& state) { state.files[0].flags = O_RDWR; }, "open file 1 has flags 0x2"},
      {[](FsState& state) { state.files[2].flags = O_RDWR; },
       "a file that is not carried has flags"},
      {[](FsState& state) { state.lost_locked = 2; }, "more files with locks than lost ones"},
      {[](FsState& state) { state.next_handle = ~uint64_t{0}; }, "numbers that no server"},
      {[](FsState& state) { state.next_handle = 0; }, "numbers that no server"},
  });
}

}  // namespace
}  // namespace wyvern::fs
