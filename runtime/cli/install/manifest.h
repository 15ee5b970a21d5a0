// install/manifest.h — what `wyvern install` put where, so that uninstall undoes that and nothing else.
// Format:  /var/lib/wyvern/install.json: {"format":1,"version":"0.1.0-3f2a…","placed":[{"kind":"link","path":"/usr/bin/wyvern","mark":"…"}]}.
//          Written before anything is done and again at the end: after an interruption it names more than is there, never less.
// Errors:  FAILED_PRECONDITION: of a later format. DATA_LOSS: not what we write.
// Trust:   written by root for root; still, a path that is not absolute or goes up (..) is refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::cli {

enum class PlacedKind : uint8_t {
  kDirectory,  // made; mark is empty
  kLink,       // a symlink; mark is its target
  kFile,       // mark is the SHA-256 of what was written
  kLines,      // lines in a file of the administrator's; mark is their SHA-256
};

struct Placed {
  PlacedKind kind = PlacedKind::kFile;
  std::string path;  // as the installed system has it, without the root that it was installed below
  std::string mark;

  bool operator==(const Placed&) const = default;
};

struct Manifest {
  std::string version;  // of the last install that came to its end; empty: none has yet
  std::vector<Placed> placed;

  const Placed* Find(PlacedKind kind, std::string_view path) const;
  // In place of what it says of that kind and path.
  void Put(Placed item);
  void Remove(PlacedKind kind, std::string_view path);
};

// Not there: an empty one.
Result<Manifest> ReadManifest(const std::string& file);
Result<> WriteManifest(const std::string& file, const Manifest& manifest);

}  // namespace wyvern::cli
