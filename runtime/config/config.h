// config/config.h — the effective configuration: built-in < /etc/wyvern/wyvern.yaml < conf.d/*.yaml < runtime options < annotations.
// Shape:   one value per key; configs/wyvern.yaml lists every key with default, unit and meaning and is checked against keys.cc.
// Errors:  INVALID_ARGUMENT "<file>:<line>: <key>: <what is wrong>"; unknown keys and wrong types are errors; options' body is the file
//          "runtime options"; what `wyvern run` was told is "command line"; a refused annotation is PERMISSION_DENIED.
// Trust:   files and runtime options come from the host's administrator; annotations from pod authors: only what annotations.allow lists.
// Threads: immutable once loaded; share it as shared_ptr<const Config>.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace wyvern::runtime {

struct Config {
  struct Sandbox {
    uint32_t vcpus = 0;
    uint64_t memory = 0;      // bytes
    uint32_t max_vcpus = 0;   // 0: by the host
    uint64_t max_memory = 0;  // bytes; 0: by the host
    bool pin_vcpus = false;
    std::string kernel;
    std::string image;
    std::string initrd;  // empty: none
    std::string kernel_cmdline;
    std::vector<std::string> bind_mounts;
  } sandbox;

  struct Memory {
    enum class HugePages : uint8_t { kTransparent, kNone, k2MiB, k1GiB };
    enum class Reclaim : uint8_t { kNever, kLimited, kAlways };

    HugePages huge_pages = HugePages::kTransparent;
    Reclaim reclaim = Reclaim::kNever;
    bool page_reporting = false;
  } memory;

  struct Guest {
    std::string name;  // empty: sandbox.kernel and sandbox.initrd
    bool debug_exec = false;
    std::string hooks;               // a directory in the guest; empty: none
    std::vector<std::string> allow;  // names of GuestPermissions()
  } guest;

  enum class HostNetwork : uint8_t { kRefuse, kPasst };

  struct Network {
    // Bits a second, of each interface; 0: no limit.
    uint64_t rx_rate = 0;  // to the guest
    uint64_t tx_rate = 0;
    HostNetwork host = HostNetwork::kRefuse;
    bool host_loopback = false;
  } network;

  struct Sockets {
    std::vector<std::string> allow;
    std::vector<std::string> proxy;  // of those
  } sockets;

  struct Share {
    uint32_t queues = 0;
    std::chrono::milliseconds cache_root{};
    std::chrono::milliseconds cache_read_only{};
    std::chrono::milliseconds cache_volume{};
  } share;

  enum class BlockStorage : uint8_t { kAuto, kShare };

  struct Storage {
    BlockStorage block = BlockStorage::kAuto;
  } storage;

  struct Paths {
    std::string vmm, fs, anchor, guests, passt;
  } paths;

  struct Log {
    LogLevel level = LogLevel::kInfo;
    bool journal = true;
  } log;

  struct Timeouts {
    std::chrono::milliseconds boot{}, agent_call{}, resize{}, shutdown{};
  } timeouts;

  struct Overhead {
    uint64_t memory = 0;       // bytes
    uint32_t cpu_percent = 0;  // of one CPU
  } overhead;

  struct Annotations {
    std::vector<std::string> allow;
  } annotations;

  std::string state_dir;
  std::string cgroup_root;

  // Where each value came from: "built-in", "/etc/wyvern/wyvern.yaml:12", "annotation io.wyvern.vcpus".
  std::map<std::string, std::string> origins;
};

// The built-in values.
Config BuiltInConfig();

// What guest.allow can list: Policy of agent-proto/proto/agent.proto.
std::span<const std::string_view> GuestPermissions();

// Sizes as keys have them: "256MiB", "1GiB", "64KiB", plain bytes.
Result<uint64_t> ParseSize(std::string_view text);

// Rates as keys and Kubernetes' bandwidth annotations have them: whole bits a second with k, M, G, T (thousands) or Ki, Mi, Gi, Ti. 0, or 1k to
// 1T: less than 1k is a mistake in the unit.
Result<uint64_t> ParseRate(std::string_view text);

struct ConfigSources {
  std::string file = "/etc/wyvern/wyvern.yaml";  // may be missing
  std::string directory = "/etc/wyvern/conf.d";  // *.yaml in order of name; may be missing
  std::string options_path;  // runtime options' config_path: YAML; empty: none; must exist
  std::string options_body;  // runtime options' config_body: TOML
  // Key and value, as `wyvern run` was told.
  std::vector<std::pair<std::string, std::string>> command_line;
  std::map<std::string, std::string>
      annotations;  // of config.json; only io.wyvern.* and known aliases are looked at
  std::string program = "/proc/self/exe";  // that asks
};

// Programs, kernel and image are then those that the symlinks on their paths led to: of one version, even if it is upgraded. Where `program` is of
// an installed version (cli/install) and a link leads into another one, its own version's are taken.
Result<std::shared_ptr<const Config>> LoadConfig(const ConfigSources& sources);

// Every key with its value and origin, as yaml with comments.
std::string EffectiveYaml(const Config& config);

struct EffectiveValue {
  std::string name;    // "sandbox.vcpus"
  std::string value;   // as yaml has it
  std::string origin;  // "built-in", "/etc/wyvern/wyvern.yaml:12"
};

// The same as a list.
std::vector<EffectiveValue> EffectiveValues(const Config& config);
// The text of configs/wyvern.yaml.
std::string DefaultYaml();

// What configs/wyvern.yaml says of a key, for other documents.
struct KeyDocument {
  std::string_view name;      // "sandbox.vcpus"
  std::string_view fallback;  // the built-in value, as yaml has it
  std::string_view text;      // one or more lines, unit included
  bool system_only = false;   // not by runtime options or annotations
};

std::vector<KeyDocument> KeyDocuments();

}  // namespace wyvern::runtime
