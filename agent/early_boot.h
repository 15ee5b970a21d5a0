// agent/early_boot.h — /init of an imported kernel: loads its modules, mounts the guest's root and becomes the agent there.
// Shape:   the initramfs that `wyvern guest import` makes (runtime/guest/initramfs.h): /init is this program, /modules/list says
//          which files of /modules to load, in order: "<file> required" or "<file> optional" per line.
// Errors:  the caller ends with them, and so does the guest (panic; the line is on the console).
// Threads: before there are any.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::agent {

struct BootModule {
  std::string file;  // in /modules
  bool required = false;
};

// INVALID_ARGUMENT names the line that is wrong.
Result<std::vector<BootModule>> ParseModuleList(const std::string& text);

// What the kernel would do itself with these words, had it the drivers built in.
struct RootMount {
  std::string device;
  std::string type;
  std::string options;
  std::string init;
};

Result<RootMount> RootFromCommandLine(const std::map<std::string, std::string>& words);
// "dax=always,ro" → "ro": what is left for a kernel or device without DAX.
std::string WithoutDax(const std::string& options);

// True in the initramfs, false in the real root.
bool InInitramfs();

// Returns only with an error.
Result<> EarlyBoot();

}  // namespace wyvern::agent
