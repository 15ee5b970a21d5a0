// `wyvern guest import | list | remove`.
#include "cli/guest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "guest/import.h"
#include "guest/store.h"

namespace wyvern::cli {

namespace {

Result<std::shared_ptr<const runtime::Config>> Configuration(const std::string& file) {
  runtime::ConfigSources sources;
  sources.options_path = file;
  return runtime::LoadConfig(sources);
}

Result<> NeedRoot() {
  if (geteuid() != 0) {
    return Fail(Code::kPermissionDenied, "guests are root's: run this as root");
  }
  return {};
}

}  // namespace

Result<int> GuestImport(const GuestImportOptions& options) {
  WV_TRY_VOID(NeedRoot());
  WV_TRY(const auto config, Configuration(options.config_file));
  WV_TRY(const guest::Imported imported, guest::ImportGuest({.kernel = options.kernel,
                                                             .modules = options.modules,
                                                             .name = options.name,
                                                             .image = config->sandbox.image,
                                                             .agent = options.agent,
                                                             .extra_modules = options.extra_modules,
                                                             .cmdline = options.cmdline,
                                                             .directory = config->paths.guests}));
  const guest::Guest& guest = imported.guest;
  fmt::print(stderr, "wyvern: guest {} {}: kernel {}, {} modules, {:.1f} MiB in {}\n", guest.name,
             imported.cached ? "is already there" : "imported", guest.release, guest.modules.size(),
             static_cast<double>(guest.kernel.size + guest.initrd.size) / (1 << 20U),
             guest.directory);
  if (!imported.missing.empty()) {
    fmt::print(stderr, "wyvern: this kernel has no {}\n", fmt::join(imported.missing, ", "));
  }
  fmt::print(
      "# For all sandboxes: put this into /etc/wyvern/conf.d/. For one: wyvern run --guest {} …\n"
      "guest:\n  name: \"{}\"\n",
      guest.name, guest.name);
  return 0;
}

Result<int> GuestList(const std::string& config_file, bool json) {
  WV_TRY(const auto config, Configuration(config_file));
  WV_TRY(const auto guests, guest::ListGuests(config->paths.guests));
  if (!json) {
    fmt::print("{:<1} {:<32} {:<32} {:>8} {:>8}\n", "", "NAME", "KERNEL", "MODULES", "MIB");
  }
  nlohmann::json list = nlohmann::json::array();
  for (const guest::Guest& guest : guests) {
    const bool selected = guest.name == config->guest.name;
    const uint64_t size = guest.kernel.size + guest.initrd.size;
    if (json) {
      list.push_back({{"name", guest.name},
                      {"release", guest.release},
                      {"selected", selected},
                      {"modules", guest.modules},
                      {"directory", guest.directory},
                      {"bytes", size}});
    } else {
      fmt::print("{:<1} {:<32} {:<32} {:>8} {:>8.1f}\n", selected ? "*" : "", guest.name,
                 guest.release, guest.modules.size(), static_cast<double>(size) / (1 << 20U));
    }
  }
  if (json) {
    fmt::print("{}\n", list.dump(1));
  }
  return 0;
}

Result<int> GuestRemove(const std::string& config_file, const std::string& name) {
  WV_TRY_VOID(NeedRoot());
  WV_TRY(const auto config, Configuration(config_file));
  WV_TRY_VOID(guest::RemoveGuest(config->paths.guests, name));
  return 0;
}

}  // namespace wyvern::cli
