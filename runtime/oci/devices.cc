// Device nodes and the rules for them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "oci/translate.h"

namespace wyvern::oci {
namespace {

// Character devices of every Linux (Documentation/admin-guide/devices.txt) that the guest kernel has too.
constexpr std::array<std::pair<int64_t, int64_t>, 11> kGuestDevices = {{
    {1, 3},
    {1, 5},
    {1, 7},
    {1, 8},
    {1, 9},  // null, zero, full, random, urandom
    {5, 0},
    {5, 1},
    {5, 2},  // tty, console, ptmx
    {10, 200},
    {10, 229},
    {10, 237},  // net/tun, fuse, loop-control
}};

// include/linux/kdev_t.h
constexpr int64_t kMaxMajor = (1 << 12) - 1;
constexpr int64_t kMaxMinor = (1 << 20) - 1;
constexpr int64_t kEveryNumber = -1;

struct Rule {
  std::string type;  // "": all
  int64_t major = kEveryNumber, minor = kEveryNumber;
  bool allow = false;
  std::string access;

  bool IsForAll() const {
    return (type.empty() || type == "a") && major == kEveryNumber && minor == kEveryNumber;
  }

  bool Covers(int64_t its_major, int64_t its_minor) const {
    return (type.empty() || type == "a" || type == "b") &&
           (major == kEveryNumber || major == its_major) &&
           (minor == kEveryNumber || minor == its_minor);
  }
};

Rule ReadRule(const Json& rule) {
  return {GetString(rule, "type"), GetInt(rule, "major", kEveryNumber),
          GetInt(rule, "minor", kEveryNumber), GetBool(rule, "allow"), GetString(rule, "access")};
}

std::vector<Rule> ReadRules(const Json& linux_section) {
  std::vector<Rule> out;
  const Json* resources = Child(linux_section, "resources");
  const Json* rules = resources == nullptr ? nullptr : Child(*resources, "devices");
  if (rules != nullptr) {
    for (const Json& rule : *rules) {
      out.push_back(ReadRule(rule));
    }
  }
  return out;
}

// Allowed to use every device: what --privileged makes, together with the whole of the host's /dev.
bool MayUseAllDevices(const std::vector<Rule>& rules) {
  return std::ranges::any_of(rules, [](const Rule& rule) { return rule.allow && rule.IsForAll(); });
}

struct Access {
  bool read = false, write = false;
};

// What the rules allow, with a device by its number; one that allows everything is not meant.
Access AccessTo(const std::vector<Rule>& rules, int64_t major, int64_t minor) {
  Access out;
  for (const Rule& rule : rules) {
    if (rule.IsForAll() || !rule.Covers(major, minor)) {
      continue;
    }
    for (const auto& [letter, flag] : {std::pair('r', &out.read), std::pair('w', &out.write)}) {
      if (rule.access.find(letter) != std::string::npos) {
        *flag = rule.allow;
      }
    }
  }
  return out;
}

// A disk of the host that the container gets; nothing: another device.
std::optional<BlockDevice> ReadBlockDevice(const Json& device, const std::vector<Rule>& rules,
                                           size_t index) {
  const int64_t major = GetInt(device, "major");
  const int64_t minor = GetInt(device, "minor");
  const Access access = AccessTo(rules, major, minor);
  if (GetString(device, "type") != "b" || major < 0 || major > kMaxMajor || minor < 0 ||
      minor > kMaxMinor || (!access.read && !access.write)) {
    return std::nullopt;
  }
  return BlockDevice{{static_cast<uint32_t>(major), static_cast<uint32_t>(minor)},
                     access.write,
                     GetString(device, "path"),
                     fmt::format("linux.devices[{}]", index)};
}

bool IsOfEveryLinux(const Json& device) {
  const std::string type = GetString(device, "type");
  const std::pair number(GetInt(device, "major"), GetInt(device, "minor"));
  return type == "p" || ((type == "c" || type == "u") &&
                         std::ranges::find(kGuestDevices, number) != kGuestDevices.end());
}

}  // namespace

bool IsGuestDevice(DeviceNumber number) {
  return std::ranges::find(kGuestDevices, std::pair<int64_t, int64_t>(
                                              number.major, number.minor)) != kGuestDevices.end();
}

Result<std::vector<BlockDevice>> FindBlockDevices(const Json& linux_section) {
  std::vector<BlockDevice> out;
  const Json* devices = Child(linux_section, "devices");
  if (devices == nullptr) {
    return out;
  }
  const std::vector<Rule> rules = ReadRules(linux_section);
  for (size_t i = 0; i < devices->size(); ++i) {
    auto device = ReadBlockDevice((*devices)[i], rules, i);
    if (device.has_value() &&
        std::ranges::find(out, device->number, &BlockDevice::number) == out.end()) {
      out.push_back(*std::move(device));
    }
  }
  if (out.size() > kMaxDisks) {
    return Fail(Code::kInvalidArgument,
                fmt::format("linux.devices: {} block devices, a container gets {} at most",
                            out.size(), kMaxDisks));
  }
  return out;
}

Result<> TranslateDevices(Json& linux_section, const std::map<DeviceNumber, DeviceNumber>& devices,
                          Notes& notes) {
  Json* list = Child(linux_section, "devices");
  if (list == nullptr) {
    return {};
  }
  const std::vector<Rule> rules = ReadRules(linux_section);
  const bool privileged = MayUseAllDevices(rules);
  Json out = Json::array();
  size_t dropped = 0;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& device = (*list)[i];
    if (IsOfEveryLinux(device)) {
      out.push_back(device);
    } else if (const auto block = ReadBlockDevice(device, rules, i); block.has_value()) {
      if (const auto it = devices.find(block->number); it != devices.end()) {
        Json mine = device;
        mine["major"] = it->second.major;
        mine["minor"] = it->second.minor;
        out.push_back(std::move(mine));
      }
    } else if (privileged) {
      ++dropped;
    } else {
      return Fail(
          Code::kInvalidArgument,
          fmt::format("linux.devices[{}]: {} ({} {}:{}) is refused: {}", i,
                      GetString(device, "path"), GetString(device, "type"), GetInt(device, "major"),
                      GetInt(device, "minor"),
                      GetString(device, "type") == "b"
                          ? "no rule of linux.resources.devices lets the container read or write it"
                          : "it is a device of the host, and only block devices are passed to the "
                            "guest"));
    }
  }
  if (dropped > 0) {
    notes.Add(fmt::format(
        "linux.devices: {} devices of the host ignored: they do not exist in the guest", dropped));
  }
  *list = std::move(out);
  return {};
}

void TranslateDeviceRules(Json& resources, const std::map<DeviceNumber, DeviceNumber>& devices,
                          Notes& notes) {
  Json* rules = Child(resources, "devices");
  if (rules == nullptr) {
    return;
  }
  Json out = Json::array();
  for (const Json& each : *rules) {
    const Rule rule = ReadRule(each);
    const bool by_number = rule.type != "c" && rule.type != "u" &&
                           (rule.major != kEveryNumber || rule.minor != kEveryNumber);
    if (!by_number) {
      out.push_back(each);
      continue;
    }
    const auto it = std::ranges::find_if(devices, [&](const auto& device) {
      return device.first.major == rule.major && device.first.minor == rule.minor;
    });
    if (it == devices.end()) {
      notes.Add(fmt::format(
          "linux.resources.devices: a rule for {} {}:{} ignored: in the guest these numbers are of "
          "other devices",
          rule.type.empty() ? "a" : rule.type, rule.major, rule.minor));
      continue;
    }
    Json mine = each;
    mine["major"] = it->second.major;
    mine["minor"] = it->second.minor;
    out.push_back(std::move(mine));
  }
  *rules = std::move(out);
}

}  // namespace wyvern::oci
