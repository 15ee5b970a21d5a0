// install/tree.h — files and links of an installation, each replaced so that a reader sees the old one or the new one.
// Errors:  of the system, with the path. Of a read-only file system the message says what to do.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

// Makes `path` below `root`, and what is missing above it, which it adds to `made`, outermost first.
Result<> MakeDirectories(const std::string& root, const std::string& path,
                         std::vector<std::string>& made);

// Makes `path` a symlink to `target`, in place of a symlink; something else there is an error.
Result<> PointLink(const std::string& path, const std::string& target);
// Its target; empty if there is no symlink.
std::string LinkTarget(const std::string& path);

// "<64 hex digits>"; empty if it cannot be read.
std::string DigestOf(const std::string& path);

struct PayloadFile {
  std::string path;  // in the payload: "bin/wyvern"
  std::string sha256;
  bool program = false;
};

// What is to be installed: files of a directory, and documents made by the program itself.
struct Payload {
  UniqueFd directory;
  std::vector<PayloadFile> files;
  std::map<std::string, std::string> documents;  // path → text
  std::string version;                           // "0.1.0-3f2a91c04d1e": names the contents, too
};

// Looks at `directory` (a directory with bin/, libexec/, share/guest/) and reads all of it. NOT_FOUND names what is missing.
Result<Payload> OpenPayload(const std::string& directory, std::string_view program_version,
                            std::map<std::string, std::string> documents);

// True if `directory` has all of the payload, unharmed.
bool HasPayload(const std::string& directory, const Payload& payload);
// Makes `directory` from the payload: all of it or nothing, in place of what is there.
Result<> PlacePayload(const std::string& directory, const Payload& payload);

// With all below it; symlinks are not followed. Not there: success.
Result<> RemoveVersion(const std::string& directory);

// "wyvern-vmm (pid 12)" for each process of `root`/proc that runs one of the files below `directory`, but not for this one. Where no /proc is
// mounted nothing can be seen.
std::vector<std::string> UsersOf(const std::string& root, const std::string& directory);

}  // namespace wyvern::cli
