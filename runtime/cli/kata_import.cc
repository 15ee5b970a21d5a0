#include "cli/kata_import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "cli/commands.h"
#include "config/config.h"
#include "install/containerd_config.h"

namespace wyvern::cli {

namespace {

constexpr size_t kMaxFile = 1U << 20U;

std::optional<int64_t> Number(std::string_view value) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  return error == std::errc() && end == value.data() + value.size() ? std::optional(number)
                                                                    : std::nullopt;
}

std::string Mebibytes(int64_t number) {
  return fmt::format("{}MiB", number);
}

// Our annotations that Kata's name of an annotation means.
const char* AnnotationKey(std::string_view name) {
  if (name == "default_vcpus") {
    return "sandbox.vcpus";
  }
  if (name == "rx_rate_limiter_max_rate") {
    return "network.rx_rate";
  }
  if (name == "tx_rate_limiter_max_rate") {
    return "network.tx_rate";
  }
  return name == "default_memory" ? "sandbox.memory" : nullptr;
}

struct Reason {
  std::string_view key;  // its last part
  std::string_view why;
};

// Settings that people look for when they are gone; the rest has kNone.
constexpr Reason kReasons[] = {
    {"path", "Wyvern has its own VMM (paths.vmm)"},
    {"kernel", "Wyvern has its own guest; `wyvern guest import` takes another kernel"},
    {"image", "Wyvern has its own guest image"},
    {"initrd", "Wyvern has its own guest image"},
    {"machine_type", "there is one machine"},
    {"shared_fs", "always virtio-fs, by its own server"},
    {"virtio_fs_daemon", "the file server is Wyvern's own (paths.fs)"},
    {"sandbox_cgroup_only", "always so"},
    {"static_sandbox_resource_mgmt", "sandboxes boot with the limits known then, and grow later"},
    {"disable_guest_seccomp", "a container's seccomp profile always holds in the guest"},
    {"internetworking_model", "always tc, redirecting both ways"},
    {"disable_new_netns", "the pod's namespace is used as it is"},
    {"seccompsandbox", "the VMM is always under its filters"},
    {"rootless", "the VMM is always a user of its own"},
    {"confidential_guest", "no confidential guests"},
    {"tdx", "no confidential guests"},
    {"sev_snp_guest", "no confidential guests"},
    {"vfio_mode", "no devices of the host are passed through"},
    {"hotplug_vfio_on_root_bus", "no devices of the host are passed through"},
    {"cold_plug_vfio", "no devices of the host are passed through"},
    {"hot_plug_vfio", "no devices of the host are passed through"},
    {"enable_vhost_user_store", "no vhost-user devices of others in sandboxes"},
    {"enable_template", "no templates"},
    {"vm_cache_number", "no cache of machines"},
};

constexpr std::string_view kNone = "no counterpart";

class Import {
 public:
  explicit Import(const std::string& name) : name_(name) {}

  Result<> Take(const TomlStatement& statement) {
    katas_ |= statement.section.starts_with("hypervisor.") ||
              statement.section.starts_with("agent.") || statement.section == "runtime";
    if (statement.section.starts_with("hypervisor.")) {
      if (hypervisor_.empty()) {
        hypervisor_ = statement.section;
      }
      if (statement.section != hypervisor_) {
        Leave(statement, "only the settings of " + hypervisor_ + " are taken");
        return {};
      }
      return TakeHypervisor(statement);
    }
    if (statement.section.starts_with("agent.") || statement.section == "runtime") {
      return TakeRest(statement);
    }
    Leave(statement, kNone);
    return {};
  }

  // It had a section of theirs with something in it.
  bool katas() const { return katas_; }

  std::string Text() const {
    std::string out =
        fmt::format("# From {}. A line for each setting that was not taken is below.\n", name_);
    for (const auto& [key, value] : set_) {
      out += fmt::format("{}: {}  # {}\n", key, value.first, value.second);
    }
    if (!left_.empty()) {
      out += "\n# Not taken:\n";
    }
    for (const std::string& line : left_) {
      out += "# " + line + "\n";
    }
    return out;
  }

 private:
  // It goes into comments, where a quoted name's control characters have no place.
  static std::string FullName(const TomlStatement& statement) {
    std::string name =
        statement.section.empty() ? statement.key : statement.section + "." + statement.key;
    std::erase_if(name, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    return name;
  }

  // A value that a file of ours would refuse is an error here, with Kata's line.
  Result<> Set(const TomlStatement& statement, const std::string& key, const std::string& value) {
    runtime::ConfigSources sources;
    sources.file = sources.directory = "";
    // annotations.allow comes from names that are known to be keys.
    if (key != "annotations.allow") {
      sources.command_line = {{key, value}};
    }
    if (const auto config = runtime::LoadConfig(sources); !config) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}:{}: {} = {}: {}", name_, statement.line, FullName(statement),
                              statement.value, config.error().message()));
    }
    set_[key] = {value, fmt::format("{}, line {}", FullName(statement), statement.line)};
    return {};
  }

  // One line, whatever the setting's value is.
  void Leave(const TomlStatement& statement, std::string_view why) {
    std::string value(statement.value.substr(0, statement.value.find('\n')));
    constexpr size_t kMaxShown = 60;
    if (value.size() < statement.value.size() || value.size() > kMaxShown) {
      value = value.substr(0, kMaxShown) + "…";
    }
    std::string line =
        fmt::format("{} = {} (line {}): {}", FullName(statement), value, statement.line, why);
    std::erase_if(line, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    left_.push_back(std::move(line));
  }

  Result<> TakeHypervisor(const TomlStatement& statement) {
    const std::string& key = statement.key;
    const auto number = Number(statement.value);
    const bool yes = statement.value == "true";
    if (key == "default_vcpus" && number && *number > 0) {
      return Set(statement, "sandbox.vcpus", fmt::format("{}", *number));
    }
    if (key == "default_maxvcpus" && number) {
      // More than a machine here can have is as many as it can.
      return Set(statement, "sandbox.max_vcpus", *number > 32 ? "32" : fmt::format("{}", *number));
    }
    if (key == "default_memory" && number) {
      return Set(statement, "sandbox.memory", Mebibytes(*number));
    }
    if (key == "default_maxmemory" && number) {
      return Set(statement, "sandbox.max_memory", *number == 0 ? "0" : Mebibytes(*number));
    }
    if (key == "enable_hugepages") {
      return Set(statement, "memory.huge_pages", yes ? "2MiB" : "transparent");
    }
    if (key == "reclaim_guest_freed_memory" || key == "enable_balloon_f_reporting") {
      return Set(statement, "memory.page_reporting", yes ? "true" : "false");
    }
    if (key == "rx_rate_limiter_max_rate" || key == "tx_rate_limiter_max_rate") {
      return Set(statement, key.starts_with("rx") ? "network.rx_rate" : "network.tx_rate",
                 std::string(statement.value));
    }
    if (key == "disable_block_device_use") {
      return Set(statement, "storage.block", yes ? "share" : "auto");
    }
    if (key == "virtio_fs_cache") {
      return TakeCache(statement);
    }
    if (key == "kernel_params") {
      return TakeKernelWords(statement);
    }
    if (key == "enable_annotations") {
      return TakeAnnotations(statement);
    }
    return TakeRest(statement);
  }

  Result<> TakeRest(const TomlStatement& statement) {
    const std::string& key = statement.key;
    const auto number = Number(statement.value);
    if (key == "enable_debug") {
      // Of several sections; one is enough.
      if (statement.value == "true") {
        return Set(statement, "log.level", "debug");
      }
      return {};
    }
    if (key == "debug_console_enabled") {
      return Set(statement, "guest.debug_exec", std::string(statement.value));
    }
    if (key == "guest_hook_path") {
      const auto strings = TomlStrings(statement.value);
      if (strings.empty() || strings.front().empty()) {
        return {};
      }
      return Set(statement, "guest.hooks", strings.front());
    }
    if (key == "enable_vcpus_pinning") {
      return Set(statement, "sandbox.pin_vcpus", std::string(statement.value));
    }
    if (key == "sandbox_bind_mounts") {
      return TakeBindMounts(statement);
    }
    if (key == "dial_timeout" && number) {
      return Set(statement, "timeouts.boot", fmt::format("{}s", *number));
    }
    if (key == "create_container_timeout" && number) {
      return Set(statement, "timeouts.agent_call", fmt::format("{}s", *number));
    }
    const auto reason = std::ranges::find(kReasons, key, &Reason::key);
    Leave(statement, reason == std::end(kReasons) ? kNone : reason->why);
    return {};
  }

  Result<> TakeCache(const TomlStatement& statement) {
    const auto strings = TomlStrings(statement.value);
    const std::string mode = strings.empty() ? "" : strings.front();
    if (mode == "always" || mode == "auto" || mode == "never" || mode == "none") {
      return Set(statement, "share.cache.root",
                 mode == "always" ? "1h"
                 : mode == "auto" ? "1s"
                                  : "0s");
    }
    Leave(statement, kNone);
    return {};
  }

  // What is for Kata's agent or for systemd in its guest means nothing here.
  Result<> TakeKernelWords(const TomlStatement& statement) {
    const auto strings = TomlStrings(statement.value);
    std::string words;
    std::string_view rest = strings.empty() ? std::string_view() : strings.front();
    while (!rest.empty()) {
      const std::string_view word = rest.substr(0, rest.find(' '));
      rest.remove_prefix(std::min(word.size() + 1, rest.size()));
      if (!word.empty() && !word.starts_with("agent.") && !word.starts_with("systemd.")) {
        words += (words.empty() ? "" : " ") + std::string(word);
      }
    }
    if (words.empty()) {
      return {};
    }
    if (words.find_first_of("\"\\") != std::string::npos) {
      Leave(statement, "quotes in words of the kernel's command line");
      return {};
    }
    WV_TRY_VOID(Set(statement, "sandbox.kernel_cmdline", words));
    set_["sandbox.kernel_cmdline"].first = "\"" + words + "\"";
    return {};
  }

  // "path", "path:ro" or "path:rw".
  Result<> TakeBindMounts(const TomlStatement& statement) {
    std::vector<std::string> taken;
    std::vector<std::string> left;
    for (const std::string& word : TomlStrings(statement.value)) {
      // What means nothing to YAML, nor in a list with commas.
      const bool plain =
          word.starts_with('/') && word.find_first_not_of(
                                       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklm"
                                       "nopqrstuvwxyz0123456789/._-+@:") == std::string::npos;
      if (plain && !word.ends_with(":rw")) {
        taken.push_back(word.ends_with(":ro") ? word.substr(0, word.size() - 3) : word);
      } else {
        left.push_back(word);
      }
    }
    if (!left.empty()) {
      Leave(statement, fmt::format("a guest does not write there: {}", fmt::join(left, ", ")));
    }
    return taken.empty()
               ? Result<>()
               : Set(statement, "sandbox.bind_mounts", fmt::format("{}", fmt::join(taken, ",")));
  }

  Result<> TakeAnnotations(const TomlStatement& statement) {
    std::vector<std::string> taken;
    std::vector<std::string> left;
    for (const std::string& name : TomlStrings(statement.value)) {
      if (const char* key = AnnotationKey(name)) {
        taken.emplace_back(key);
      } else {
        left.push_back(name);
      }
    }
    if (!left.empty()) {
      Leave(statement, fmt::format("no annotation of ours is like {}", fmt::join(left, ", ")));
    }
    return Set(statement, "annotations.allow", fmt::format("[{}]", fmt::join(taken, ", ")));
  }

  const std::string name_;
  bool katas_ = false;
  std::string hypervisor_;
  std::map<std::string, std::pair<std::string, std::string>> set_;  // key → value, origin
  std::vector<std::string> left_;
};

}  // namespace

Result<std::string> ImportKata(std::string_view toml, const std::string& name) {
  Import import(name);
  for (const TomlStatement& statement : TomlStatements(toml)) {
    if (!statement.key.empty()) {
      WV_TRY_VOID(import.Take(statement));
    }
  }
  if (!import.katas()) {
    return Fail(Code::kInvalidArgument, name + ": no settings of Kata Containers in it");
  }
  return import.Text();
}

Result<int> ConfigImport(const std::string& file) {
  WV_TRY(const std::string toml, ReadFile(file, kMaxFile));
  WV_TRY(const std::string yaml, ImportKata(toml, file));
  fmt::print("{}", yaml);
  return 0;
}

}  // namespace wyvern::cli
