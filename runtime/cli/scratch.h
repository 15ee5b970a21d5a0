// cli/scratch.h — the directory of one `wyvern run`: its bundle, and the upper and work directories of an overlay.
// Errors:  INVALID_ARGUMENT: the name is none. ALREADY_EXISTS: a run of that name, or what one left.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"

namespace wyvern::cli {

inline constexpr const char* kScratch = "/var/lib/wyvern/run";

class Scratch {
 public:
  // <directory>/<name>, made; `name` is checked before that (oci::CheckId).
  static Result<Scratch> Create(const std::string& name, const std::string& directory = kScratch);

  Scratch(Scratch&& other) noexcept : path_(std::exchange(other.path_, "")) {}

  Scratch& operator=(Scratch&&) = delete;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // Removes it, but nothing while anything is mounted below it: the root of the run may be a directory of the user's.
  ~Scratch();

  const std::string& path() const { return path_; }

  std::string bundle() const { return path_ + "/bundle"; }

  std::string upper() const { return path_ + "/upper"; }

  std::string work() const { return path_ + "/work"; }

 private:
  explicit Scratch(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

}  // namespace wyvern::cli
