// vhost_user/state_file.h — a device's state on its way between front-end and back-end: a file in memory.
// Spec:    vhost-user "Migrating back-end state": the channel may be anything that is read or written
//          from its beginning to its end.
// Shape:   a sealed file is all of a state, so that neither end waits for the other. Where a front-end
//          wants to write (QEMU), it gets room that cannot grow; what it has written ends where its
//          file offset, which both ends share, stands.
// Trust:   a file of the peer's is asked whether it is in memory before anything else. To read one
//          there (at an offset of our own) waits for nobody: a file of FUSE or NFS, a pipe, or a lock of
//          the file's offset may be made to wait for ever.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/fd.h"

namespace wyvern::vhost_user {

// memfd, or a file of tmpfs or hugetlbfs.
bool IsInMemory(FdRef file);
// In memory, and nobody can change it any more.
bool IsSealed(FdRef file);

// All of `state`, sealed, to be read from its beginning.
Result<UniqueFd> SealState(std::span<const std::byte> state);
// The state, or what is written of it, from a file in memory. RESOURCE_EXHAUSTED: more than
// DeviceState::kMaxBytes.
Result<std::vector<std::byte>> ReadStateFile(FdRef file);

// DeviceState::kMaxBytes to be written, none of them used yet.
Result<UniqueFd> MakeStateRoom();
// What has been written there by write(2).
Result<std::vector<std::byte>> ReadStateRoom(FdRef room);

}  // namespace wyvern::vhost_user
