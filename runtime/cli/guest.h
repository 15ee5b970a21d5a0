// cli/guest.h — `wyvern guest import | list | remove`: kernels of distributions as guests.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::cli {

struct GuestImportOptions {
  std::string kernel;
  std::string modules;
  std::string name;
  std::string agent;
  std::vector<std::string> extra_modules;
  std::string cmdline;
  std::string config_file;  // on top of /etc/wyvern/wyvern.yaml
};

// Prints on stdout the configuration that selects the guest, on stderr what was done.
Result<int> GuestImport(const GuestImportOptions& options);
Result<int> GuestList(const std::string& config_file, bool json);
Result<int> GuestRemove(const std::string& config_file, const std::string& name);

}  // namespace wyvern::cli
