// fs/fs_state.h — what a guest may rely on of its file server, as bytes: for a server in another
// process, maybe on another host, with the same files.
// Shape:   the session (INIT's answer), the inodes with how to find them, the open files. Little
//          endian, no padding; one state has one form. Node ids are never used again, so there are
//          no generations, but what the next id is.
// Not in it: contents and attributes, which are the files'; the position in a directory, which each
//          READDIR brings along (a cookie is the host's file system's, and means what that says);
//          the options of a server and of its exports, which are the new server's own.
// Trust:   what is decoded comes from a socket. No count is believed before there are bytes for it,
//          no path leaves the directory that it starts in, no number may make one of ours wrap.
#pragma once

#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "fs/file_identity.h"

namespace wyvern::fs {

struct FsState {
  static constexpr uint32_t kVersion = 1;

  struct Node {
    uint64_t node = 0;
    uint64_t lookups = 0;
    // What `path` starts from: a node before this one in the list, whose entry it is, or the root,
    // from which it may have several components.
    uint64_t base = 0;
    FileIdentity identity;
    std::string path;
    bool operator==(const Node&) const = default;
  };

  struct OpenFile {
    uint64_t handle = 0;
    uint64_t node = 0;   // 0: cannot be carried
    uint32_t flags = 0;  // of open(2), kOpenFlags; a directory has none
    bool operator==(const OpenFile&) const = default;
  };

  uint32_t minor = 0;  // of FUSE 7; 0: there was no INIT, and there is nothing else
  uint32_t max_write = 0;
  uint64_t flags = 0;  // as INIT's answer
  uint64_t next_node = 0;
  uint64_t next_handle = 0;
  uint32_t lost_nodes = 0;   // inodes that no name leads to
  uint32_t lost_locked = 0;  // of the open files, those that have locks on the host
  std::vector<Node> nodes;
  std::vector<OpenFile> files;
  bool operator==(const FsState&) const = default;
};

// What happens when the guest loses inodes or open files: it keeps running where it was, or it goes
// on and gets errors (ESTALE, EIO) for just these. As virtiofsd's --migration-on-error, the choice
// is that of the server that loads.
enum class OnLoss : uint8_t { kAbort, kGuestError };

// Of open(2), what an open file is opened again with.
inline constexpr uint32_t kOpenFlags = O_ACCMODE | O_DIRECT | O_NOATIME;

std::vector<std::byte> EncodeState(const FsState& state);
// INVALID_ARGUMENT: no state, of a version that we do not know, or one that contradicts itself.
Result<FsState> DecodeState(std::span<const std::byte> bytes);

}  // namespace wyvern::fs
