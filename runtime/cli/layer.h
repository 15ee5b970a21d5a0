// cli/layer.h — unpacks one image layer into a directory that overlayfs takes as a lowerdir.
// Spec:    OCI image specification, layer.md: whiteouts (.wh.NAME) and opaque directories (.wh..wh..opq).
// Trust:   the archive is untrusted: no absolute path, no "..", nothing through a symlink.
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

// `archive`: tar, plain or compressed with gzip, zstd, xz or bzip2. `directory` exists and is empty. Whiteouts become character
// devices 0:0 and the xattr trusted.overlay.opaque, as overlayfs wants them. DATA_LOSS: a damaged archive. A disk that does
// not take all of it is an error, too.
Result<> UnpackLayer(FdRef archive, const std::string& directory);

// Unpacks a whole tar (an OCI archive) into `directory`: regular files and directories only.
Result<> UnpackArchive(FdRef archive, const std::string& directory);

}  // namespace wyvern::cli
