// guest/import.h — makes a distribution's kernel a guest: `wyvern guest import`.
// Shape:   kernel unpacked if need be and checked; its modules, our agent and a list become the initramfs; both are stored (store.h).
// Errors:  each says which input is wrong and what to give instead. Nothing is left behind by one.
// Blocks:  for seconds: it unpacks, writes and syncs some 60 MiB. Imports take turns by a lock in the directory.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "guest/store.h"

namespace wyvern::guest {

struct ImportOptions {
  std::string kernel;   // bzImage (vmlinuz) or ELF (vmlinux)
  std::string modules;  // /lib/modules/RELEASE or what holds it; empty: /lib/modules
  std::string name;     // empty: the kernel's release
  std::string image;    // the guest's EROFS image, which has the agent
  std::string agent;    // another agent than the image's; empty: none
  std::vector<std::string> extra_modules;
  std::string cmdline;
  std::string directory;  // of the store
};

struct Imported {
  Guest guest;
  bool cached = false;               // it was there already, made of the same
  std::vector<std::string> missing;  // optional drivers that the kernel does not have
};

Result<Imported> ImportGuest(const ImportOptions& options);

}  // namespace wyvern::guest
