#include "agent/guest_hooks.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

namespace wyvern::agent {

namespace fs = std::filesystem;

Result<> FindGuestHooks(const std::string& directory, v1::CreateSandboxResponse* response) {
  if (!directory.starts_with('/')) {
    return Fail(Code::kInvalidArgument, "guest.hooks: must be an absolute path");
  }
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return Fail(Code::kNotFound, "guest.hooks: the guest has no directory " + directory);
  }
  for (const char* kind : {"prestart", "poststart", "poststop"}) {
    std::vector<std::string> paths;
    for (fs::directory_iterator entry(directory + "/" + kind, error), end; !error && entry != end;
         entry.increment(error)) {
      std::error_code ignored;
      const std::string path = entry->path();
      if (fs::is_regular_file(path, ignored) && access(path.c_str(), X_OK) == 0) {
        paths.push_back(path);
      }
    }
    std::ranges::sort(paths);
    for (std::string& path : paths) {
      v1::GuestHook* hook = response->add_hooks();
      hook->set_kind(kind);
      hook->set_path(std::move(path));
    }
  }
  if (response->hooks_size() > kMaxGuestHooks) {
    return Fail(Code::kResourceExhausted, "guest.hooks: " + directory + " has more than " +
                                              std::to_string(kMaxGuestHooks) + " programs");
  }
  return {};
}

}  // namespace wyvern::agent
