// guest/erofs_file.h — reads one file out of an EROFS image without mounting it: the agent out of the guest's image.
// Spec:    Linux Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h: uncompressed inodes, plain or with their tail inline.
// Errors:  NOT_FOUND: no such file in it; DATA_LOSS: not such an image, or a damaged one; UNIMPLEMENTED: compressed or chunked.
// Trust:   hostile: every offset is checked, sizes and the number of directory blocks are bounded, symlinks are not followed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::guest {

// `path`: "sbin/wyvern-agent". More than `limit` bytes are DATA_LOSS.
Result<std::string> ReadErofsFile(FdRef image, std::string_view path, uint64_t limit);

}  // namespace wyvern::guest
