#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "oci/translate.h"

namespace wyvern::oci {
namespace {

constexpr std::array<std::string_view, 7> kGuestTypes = {"proc",   "sysfs",  "tmpfs",  "mqueue",
                                                         "devpts", "cgroup", "cgroup2"};
constexpr std::array<std::string_view, 2> kIdMapOptions = {"idmap", "ridmap"};

bool Has(const std::vector<std::string>& options, std::string_view word) {
  return std::ranges::find(options, word) != options.end();
}

// The last of "ro" and "rw" counts, as in mount(8).
bool IsReadOnly(const std::vector<std::string>& options) {
  bool read_only = false;
  for (const std::string& option : options) {
    if (option == "ro" || option == "rro") {
      read_only = true;
    } else if (option == "rw" || option == "rrw") {
      read_only = false;
    }
  }
  return read_only;
}

Result<> TranslateBind(Json& mount, const std::string& field, const TranslateOptions& options,
                       std::vector<Export>& exports) {
  const std::vector<std::string> words = GetStrings(mount, "options");
  for (const std::string& word : words) {
    if (std::ranges::find_if(kIdMapOptions, [&](std::string_view o) {
          return word == o || word.starts_with(std::string(o) + "=");
        }) != kIdMapOptions.end()) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}.options: {}: id-mapped mounts are not supported", field, word));
    }
  }
  std::string source = GetString(mount, "source");
  if (source.empty()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}.source: missing: a bind mount needs one", field));
  }
  if (source.front() != '/') {
    source = options.bundle + "/" + source;
  }
  const bool read_only = IsReadOnly(words);
  const bool recursive = Has(words, "rbind") || !Has(words, "bind");
  auto it = std::ranges::find(exports, source, &Export::source);
  if (it == exports.end()) {
    Export added;
    added.name = fmt::format("{}-v{}", options.share_prefix, exports.size());
    added.source = source;
    added.read_only = read_only;
    added.recursive = recursive;
    added.field = field;
    exports.push_back(std::move(added));
    it = std::prev(exports.end());
  } else {
    it->read_only &= read_only;
    it->recursive |= recursive;
  }
  it->follow_host_mounts |=
      Has(words, "slave") || Has(words, "rslave") || Has(words, "shared") || Has(words, "rshared");
  mount["type"] = "bind";
  mount["source"] = fmt::format("{}/{}", kGuestShare, it->name);
  return {};
}

}  // namespace

Result<std::vector<Export>> TranslateMounts(Json& document, const TranslateOptions& options) {
  std::vector<Export> exports;
  Json* mounts = Child(document, "mounts");
  if (mounts == nullptr) {
    return exports;
  }
  for (size_t i = 0; i < mounts->size(); ++i) {
    Json& mount = (*mounts)[i];
    const std::string field = fmt::format("mounts[{}]", i);
    const std::string destination = GetString(mount, "destination");
    if (destination.empty()) {
      return Fail(Code::kInvalidArgument, fmt::format("{}.destination: missing", field));
    }
    if (destination.front() != '/') {
      mount["destination"] = "/" + destination;
    }
    const std::string type = GetString(mount, "type");
    const std::vector<std::string> words = GetStrings(mount, "options");
    if (type == "bind" || type == "rbind" || Has(words, "bind") || Has(words, "rbind")) {
      WV_TRY_VOID(TranslateBind(mount, field, options, exports));
    } else if (std::ranges::find(kGuestTypes, type) == kGuestTypes.end()) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}.type: '{}' is refused: the guest mounts bind, proc, sysfs, "
                              "tmpfs, mqueue, devpts and cgroup only; mount "
                              "other file systems on the host and bind them",
                              field, type));
    }
  }
  return exports;
}

}  // namespace wyvern::oci
