#include <fmt/format.h>

#include <sstream>

#include "cgroup/cgroup.h"

namespace wyvern::runtime {
namespace {

tl::unexpected<Error> Bad(const std::string& text, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("linux.cgroupsPath '{}': {}", text, why));
}

// "a-b.slice" lives in /a.slice/a-b.slice (systemd.slice(5)); "-.slice" is the root.
Result<std::string> SlicePath(const std::string& text, const std::string& slice) {
  if (slice == "-.slice") {
    return std::string();
  }
  const bool suffix = slice.size() > 6 && slice.ends_with(".slice");
  if (!suffix || slice.find('/') != std::string::npos || slice.front() == '-' ||
      slice[slice.size() - 7] == '-' || slice.find("--") != std::string::npos) {
    return Bad(text, "not a slice of systemd");
  }
  const std::string name = slice.substr(0, slice.size() - 6);
  std::string out;
  for (size_t dash = name.find('-'); dash != std::string::npos; dash = name.find('-', dash + 1)) {
    out += "/" + name.substr(0, dash) + ".slice";
  }
  return out + "/" + slice;
}

Result<CgroupPlace> ParseSystemd(const std::string& text) {
  const size_t first = text.find(':');
  const size_t second = text.find(':', first + 1);
  if (second == std::string::npos || text.find(':', second + 1) != std::string::npos) {
    return Bad(text, "must be slice:prefix:name");
  }
  CgroupPlace place;
  place.systemd = true;
  place.slice = first == 0 ? "system.slice" : text.substr(0, first);
  const std::string prefix = text.substr(first + 1, second - first - 1);
  const std::string name = text.substr(second + 1);
  if (name.empty() || name.find('/') != std::string::npos ||
      prefix.find('/') != std::string::npos) {
    return Bad(text, "prefix and name must be words");
  }
  WV_TRY(const std::string slice, SlicePath(text, place.slice));
  place.unit = (prefix.empty() ? name : prefix + "-" + name) + ".scope";
  if (!IsUnitName(place.slice) || !IsUnitName(place.unit)) {
    return Bad(text,
               "slice, prefix and name must be of letters, digits and :-_.\\ , and at most "
               "255 with the suffix");
  }
  place.path = slice + "/" + place.unit;
  return place;
}

}  // namespace

Result<CgroupPlace> ParseCgroupsPath(const std::string& text, const std::string& id) {
  if (text.empty()) {
    CgroupPlace place;
    place.path = "/wyvern/" + id;
    return place;
  }
  if (text.find('/') == std::string::npos && text.find(':') != std::string::npos) {
    return ParseSystemd(text);
  }
  CgroupPlace place;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, '/');) {
    if (part == "..") {
      return Bad(text, "must not contain '..'");
    }
    if (part.size() > 255) {
      return Bad(text, "a part is longer than 255 bytes");
    }
    if (!part.empty() && part != ".") {
      place.path += "/" + part;
    }
  }
  if (place.path.empty()) {
    return Bad(text, "must not be the root");
  }
  return place;
}

CgroupPlace SandboxPlace(const CgroupPlace& place, const std::string& id) {
  CgroupPlace sandbox = place;
  std::string leaf = "wyvern-sandbox-" + id;
  if (place.systemd) {
    leaf += ".scope";
    sandbox.unit = leaf;
  }
  sandbox.path = place.path.substr(0, place.path.rfind('/')) + "/" + leaf;
  return sandbox;
}

}  // namespace wyvern::runtime
