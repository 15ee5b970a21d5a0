// cli/image.h — what `wyvern run` starts from: a root directory, an OCI layout, or an OCI archive.
// Spec:    OCI image specification 1.1: image-layout.md, manifest.md, config.md.
// Trust:   layouts and archives are untrusted: every blob is checked against its digest before it is used.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "user/user.h"

namespace wyvern::cli {

struct ImageConfig {
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> env;
  std::string cwd;
  std::string user;  // "uid[:gid]" or names
};

struct Image {
  std::vector<std::string> layers;  // directories, lowest first; one for a plain root directory
  bool is_directory = false;        // a plain root directory: used as it is, also written to
  std::vector<UniqueFd> held;       // keep the layers in the store (image_store.h)
  ImageConfig config;
};

// `source`: a directory with a root file system, a directory with `oci-layout`, or a tar archive of the latter. Layers are unpacked
// once into <store>/layers/<digest> and reused; none is removed while the image lives. NOT_FOUND, INVALID_ARGUMENT or DATA_LOSS say what is wrong with the source.
Result<Image> OpenImage(const std::string& source, const std::string& store);

// Of the image's config or of --user: names are looked up in the image, never on the host (user/user.h).
Result<runtime::UserIds> ResolveUser(const Image& image, const std::string& user);

}  // namespace wyvern::cli
