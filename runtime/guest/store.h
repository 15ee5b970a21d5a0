// guest/store.h — the imported kernels of this host: <directory>/<name>/{vmlinux,initrd,guest.json}.
// Shape:   guest.json, version 1: name, kernel release, digests of what it was made of and of both files, modules, words for the
//          kernel's command line. A guest is complete or not there: it is made beside and renamed.
// Errors:  NOT_FOUND, DATA_LOSS: each says how to import it (again).
// Trust:   the directory is root's; guest.json may be damaged, never an attack.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::guest {

struct StoredFile {
  std::string digest;  // "sha256:…"
  uint64_t size = 0;
};

struct Guest {
  std::string name;
  std::string release;
  std::string cmdline;        // after the runtime's own words, before those of the configuration
  std::string source_digest;  // of the file that was imported as kernel
  StoredFile kernel;
  StoredFile initrd;
  std::vector<std::string> modules;  // in the order of loading
  std::string directory;             // where it was found; not in guest.json

  std::string kernel_path() const { return directory + "/vmlinux"; }

  std::string initrd_path() const { return directory + "/initrd"; }
};

// Letters, digits and "._+-", at most 64, the first a letter or digit: safe as a file name and in YAML.
bool IsGuestName(std::string_view name);

Result<Guest> FindGuest(const std::string& directory, const std::string& name);

// By name; what is no complete guest is left out.
Result<std::vector<Guest>> ListGuests(const std::string& directory);

Result<> RemoveGuest(const std::string& directory, const std::string& name);

// Puts the finished directory `from` (vmlinux, initrd; on the same file system) in the place of the guest's old one, if any.
Result<> PutGuest(const std::string& directory, const Guest& guest, const std::string& from);

}  // namespace wyvern::guest
