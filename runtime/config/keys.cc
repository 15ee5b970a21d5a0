#include "config/keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "base/check.h"

namespace wyvern::runtime {
namespace {

template <typename T>
using Ref = std::function<T&(Config&)>;

// The text of one value that is a word, or a string or integer where these are meant.
Result<std::string> Scalar(const RawValue& raw, bool string, bool integer) {
  if (raw.type == RawType::kList) {
    return Fail(Code::kInvalidArgument, "must be one value, not a list");
  }
  if (raw.type == RawType::kBoolean || (raw.type == RawType::kString && !string) ||
      (raw.type == RawType::kInteger && !integer)) {
    return Fail(Code::kInvalidArgument, !string    ? "must be an integer"
                                        : !integer ? "must be a string"
                                                   : "must be a string or an integer");
  }
  return raw.text;
}

Result<uint64_t> ParseNumber(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is not a whole number", text));
  }
  return value;
}

// Splits "30s" into 30 and the factor of its unit.
template <size_t N>
Result<uint64_t> ParseWithUnit(std::string_view text,
                               const std::array<std::pair<std::string_view, uint64_t>, N>& units,
                               std::string_view example) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  auto number = ParseNumber(text.substr(0, digits));
  const std::string_view unit = text.substr(digits);
  const auto it = std::ranges::find(units, unit, &std::pair<std::string_view, uint64_t>::first);
  if (!number.has_value() || (it == units.end() && !(unit.empty() && *number == 0))) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' must be like {}", text, example));
  }
  uint64_t out = 0;
  if (__builtin_mul_overflow(*number, it == units.end() ? 1 : it->second, &out)) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is too large", text));
  }
  return out;
}

std::string FormatSize(uint64_t bytes) {
  for (const auto& [unit, factor] : {std::pair("GiB", 1ULL << 30U), std::pair("MiB", 1ULL << 20U),
                                     std::pair("KiB", 1ULL << 10U)}) {
    if (bytes >= factor && bytes % factor == 0) {
      return fmt::format("{}{}", bytes / factor, unit);
    }
  }
  return fmt::format("{}", bytes);
}

std::string FormatDuration(std::chrono::milliseconds value) {
  const auto ms = value.count();
  if (ms == 0) {
    return "0s";
  }
  if (ms % 3600000 == 0) {
    return fmt::format("{}h", ms / 3600000);
  }
  return ms % 1000 == 0 ? fmt::format("{}s", ms / 1000) : fmt::format("{}ms", ms);
}

// Doubly quoted; what yaml would read otherwise is escaped.
std::string Quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += c;
  }
  return out + '"';
}

Key Count(std::string_view name, std::string_view fallback, std::string_view doc, uint32_t low,
          uint32_t high, const Ref<uint32_t>& ref) {
  return {
      name,
      fallback,
      doc,
      false,
      [=](Config& config, const RawValue& raw) -> Result<> {
        WV_TRY(const std::string text, Scalar(raw, /*string=*/false, /*integer=*/true));
        WV_TRY(const uint64_t value, ParseNumber(text));
        if (value < low || value > high) {
          return Fail(Code::kInvalidArgument, fmt::format("{} is not in {}..{}", value, low, high));
        }
        ref(config) = static_cast<uint32_t>(value);
        return {};
      },
      [=](const Config& config) { return fmt::format("{}", ref(const_cast<Config&>(config))); }};
}

Key Size(std::string_view name, std::string_view fallback, std::string_view doc, uint64_t low,
         uint64_t granule, const Ref<uint64_t>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(const std::string text, Scalar(raw, /*string=*/true, /*integer=*/true));
            WV_TRY(const uint64_t value, ParseSize(text));
            if (value < low || value % granule != 0) {
              return Fail(Code::kInvalidArgument,
                          fmt::format("{} must be at least {} and a multiple of {}", text,
                                      FormatSize(low), FormatSize(granule)));
            }
            ref(config) = value;
            return {};
          },
          [=](const Config& config) { return FormatSize(ref(const_cast<Config&>(config))); }};
}

std::string FormatRate(uint64_t bits) {
  for (const auto& [unit, factor] :
       {std::pair("T", 1'000'000'000'000ULL), std::pair("G", 1'000'000'000ULL),
        std::pair("M", 1'000'000ULL), std::pair("k", 1'000ULL)}) {
    if (bits >= factor && bits % factor == 0) {
      return fmt::format("{}{}", bits / factor, unit);
    }
  }
  return fmt::format("{}", bits);
}

Key Rate(std::string_view name, std::string_view fallback, std::string_view doc,
         const Ref<uint64_t>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(const std::string text, Scalar(raw, /*string=*/true, /*integer=*/true));
            WV_TRY(ref(config), ParseRate(text));
            return {};
          },
          [=](const Config& config) { return FormatRate(ref(const_cast<Config&>(config))); }};
}

Key Duration(std::string_view name, std::string_view fallback, std::string_view doc,
             const Ref<std::chrono::milliseconds>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(const std::string text, Scalar(raw, /*string=*/true, /*integer=*/true));
            WV_TRY(ref(config), ParseDuration(text));
            return {};
          },
          [=](const Config& config) { return FormatDuration(ref(const_cast<Config&>(config))); }};
}

Key Text(std::string_view name, std::string_view fallback, std::string_view doc,
         const Ref<std::string>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(std::string text, Scalar(raw, /*string=*/true, /*integer=*/false));
            if (std::ranges::any_of(text,
                                    [](char c) { return static_cast<unsigned char>(c) < 0x20; })) {
              return Fail(Code::kInvalidArgument, "must be one line without control characters");
            }
            ref(config) = std::move(text);
            return {};
          },
          [=](const Config& config) { return Quote(ref(const_cast<Config&>(config))); }};
}

Key Path(std::string_view name, std::string_view fallback, std::string_view doc,
         const Ref<std::string>& ref, bool system_only = false) {
  Key key = Text(name, fallback, doc, ref);
  key.system_only = system_only;
  key.set = [set = key.set, optional = fallback.empty()](Config& config,
                                                         const RawValue& raw) -> Result<> {
    if (!raw.text.starts_with('/') &&
        !(optional && raw.text.empty() && raw.type != RawType::kList)) {
      return Fail(Code::kInvalidArgument, "must be an absolute path");
    }
    return set(config, raw);
  };
  return key;
}

Key Level(std::string_view name, std::string_view fallback, std::string_view doc,
          const Ref<LogLevel>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            const std::optional<LogLevel> level = ParseLogLevel(raw.text);
            if (!level.has_value()) {
              return Fail(Code::kInvalidArgument, "must be debug, info, warn or error");
            }
            ref(config) = *level;
            return {};
          },
          [=](const Config& config) {
            return std::string(LogLevelName(ref(const_cast<Config&>(config))));
          }};
}

// One of a few words, of which `all` names those of a message: "auto or share".
template <typename T, size_t N>
Key Choice(std::string_view name, std::string_view fallback, std::string_view doc,
           const std::array<std::pair<std::string_view, T>, N>& words, std::string_view all,
           const Ref<T>& ref) {
  using Word = std::pair<std::string_view, T>;
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            const auto it = std::ranges::find(words, raw.text, &Word::first);
            if (it == words.end() || raw.type == RawType::kList) {
              return Fail(Code::kInvalidArgument, fmt::format("must be {}", all));
            }
            ref(config) = it->second;
            return {};
          },
          [=](const Config& config) {
            const T value = ref(const_cast<Config&>(config));
            return std::string(std::ranges::find(words, value, &Word::second)->first);
          }};
}

Key Flag(std::string_view name, std::string_view fallback, std::string_view doc,
         const Ref<bool>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            if ((raw.type != RawType::kWord && raw.type != RawType::kBoolean) ||
                (raw.text != "true" && raw.text != "false")) {
              return Fail(Code::kInvalidArgument, "must be true or false");
            }
            ref(config) = raw.text == "true";
            return {};
          },
          [=](const Config& config) {
            return std::string(ref(const_cast<Config&>(config)) ? "true" : "false");
          }};
}

Key KeyList(std::string_view name, std::string_view fallback, std::string_view doc,
            const Ref<std::vector<std::string>>& ref) {
  return {name,
          fallback,
          doc,
          true,
          [=](Config& config, const RawValue& raw) -> Result<> {
            if (raw.type != RawType::kList) {
              return Fail(Code::kInvalidArgument, "must be a list");
            }
            for (const std::string& item : raw.items) {
              const Key* key = FindKey(item);
              if (key == nullptr || key->system_only) {
                return Fail(Code::kInvalidArgument,
                            fmt::format("'{}' is not a key that an annotation can set", item));
              }
            }
            ref(config) = raw.items;
            return {};
          },
          [=](const Config& config) {
            return fmt::format("[{}]", fmt::join(ref(const_cast<Config&>(config)), ", "));
          }};
}

// Of a list; in an annotation with commas between them.
Result<std::vector<std::string>> Items(const RawValue& raw) {
  if (raw.type == RawType::kList) {
    return raw.items;
  }
  if (raw.type != RawType::kWord) {
    return Fail(Code::kInvalidArgument, "must be a list");
  }
  std::vector<std::string> items;
  for (size_t at = 0; at < raw.text.size();) {
    const size_t end = std::min(raw.text.find(',', at), raw.text.size());
    items.push_back(raw.text.substr(at, end - at));
    at = end + 1;
  }
  return items;
}

// Of `words`, which `fallback` lists.
Key WordList(std::string_view name, std::string_view fallback, std::string_view doc,
             std::span<const std::string_view> words, const Ref<std::vector<std::string>>& ref) {
  return {name,
          fallback,
          doc,
          false,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(std::vector<std::string> items, Items(raw));
            for (const std::string& item : items) {
              if (std::ranges::find(words, item) == words.end()) {
                return Fail(Code::kInvalidArgument,
                            fmt::format("'{}' is none of {}", item, fmt::join(words, ", ")));
              }
            }
            ref(config) = std::move(items);
            return {};
          },
          [=](const Config& config) {
            return fmt::format("[{}]", fmt::join(ref(const_cast<Config&>(config)), ", "));
          }};
}

// Absolute ones; in an annotation with commas between them.
Key PathList(std::string_view name, std::string_view doc, const Ref<std::vector<std::string>>& ref,
             bool system_only = false) {
  return {name,
          "[]",
          doc,
          system_only,
          [=](Config& config, const RawValue& raw) -> Result<> {
            WV_TRY(std::vector<std::string> paths, Items(raw));
            for (const std::string& path : paths) {
              if (!path.starts_with('/') || std::ranges::any_of(path, [](char c) {
                    return static_cast<unsigned char>(c) < 0x20;
                  })) {
                return Fail(Code::kInvalidArgument, fmt::format("'{}' is no absolute path", path));
              }
            }
            ref(config) = std::move(paths);
            return {};
          },
          [=](const Config& config) {
            std::vector<std::string> quoted;
            for (const std::string& path : ref(const_cast<Config&>(config))) {
              quoted.push_back(Quote(path));
            }
            return fmt::format("[{}]", fmt::join(quoted, ", "));
          }};
}

using Ms = std::chrono::milliseconds;
using Block = Config::BlockStorage;
using HostNetwork = Config::HostNetwork;
using HugePages = Config::Memory::HugePages;
using Reclaim = Config::Memory::Reclaim;

std::vector<Key> MakeSandboxKeys() {
  return {
      Count(
          "sandbox.vcpus", "1",
          "vCPUs of a sandbox at least, 1 to 8. CPU limits of its containers raise it: a quota is "
          "rounded up to whole vCPUs, and a cpuset\ncounts where there is no quota.",
          1, 8, [](Config& c) -> uint32_t& { return c.sandbox.vcpus; }),
      Size("sandbox.memory", "256MiB",
           "Guest memory at least, bytes with KiB, MiB or GiB; a multiple of 2MiB. Memory limits "
           "of its containers raise it.",
           64U << 20U, 2U << 20U, [](Config& c) -> uint64_t& { return c.sandbox.memory; }),
      Count("sandbox.max_vcpus", "0",
            "What a sandbox can grow to while it runs, by limits of its containers and `wyvern "
            "resize`, 1 to 32. 0: as many as the host has, 32 at\nmost. Each costs the host a KVM "
            "vCPU and the guest some memory, also while it does not run.",
            0, 32, [](Config& c) -> uint32_t& { return c.sandbox.max_vcpus; }),
      Size("sandbox.max_memory", "0",
           "The same for guest memory; a multiple of 2MiB. 0: as much as the host has, 32GiB at "
           "most. What the guest does not use costs nothing.",
           0, 2U << 20U, [](Config& c) -> uint64_t& { return c.sandbox.max_memory; }),
      Flag("sandbox.pin_vcpus", "false",
           "Binds each vCPU to a CPU of its own while the containers' cpusets together have as "
           "many CPUs as there are vCPUs.",
           [](Config& c) -> bool& { return c.sandbox.pin_vcpus; }),
      Path("sandbox.kernel", "/usr/share/wyvern/guest/vmlinux",
           "Guest kernel: an ELF file with a PVH entry on x86_64.",
           [](Config& c) -> std::string& { return c.sandbox.kernel; }),
      Path("sandbox.image", "/usr/share/wyvern/guest/image.erofs",
           "Guest root: a read-only EROFS image, shared by all sandboxes.",
           [](Config& c) -> std::string& { return c.sandbox.image; }),
      Path("sandbox.initrd", "", "Initial RAM disk for an imported kernel; empty: none.",
           [](Config& c) -> std::string& { return c.sandbox.initrd; }),
      Text("sandbox.kernel_cmdline", "",
           "Words added at the end of the guest kernel's command line.",
           [](Config& c) -> std::string& { return c.sandbox.kernel_cmdline; }),
      PathList(
          "sandbox.bind_mounts",
          "Directories and files of the host that each guest sees, read-only, as "
          "/run/wyvern/share/host-<last part of the path>: for what\nruns in it beside the "
          "containers (wyvern exec --guest). Containers do not see them.",
          [](Config& c) -> std::vector<std::string>& { return c.sandbox.bind_mounts; }, true),
      Text("guest.name", "",
           "A guest of `wyvern guest import`: its kernel and initial RAM disk instead of the "
           "sandbox's. Empty: none.",
           [](Config& c) -> std::string& { return c.guest.name; }),
      Flag("guest.debug_exec", "false",
           "`wyvern exec --guest`: commands in the guest, outside of every container, as its root. "
           "Only the host's root can ask for them\n(control.sock); keep this key out of "
           "annotations.allow.",
           [](Config& c) -> bool& { return c.guest.debug_exec; }),
      Path(
          "guest.hooks", "",
          "Directory in the guest whose programs are hooks of every container, beside those of its "
          "config.json: prestart/, poststart/ and\npoststop/ below it, each kind's by name. They "
          "run in the guest, outside of the container, with its state on stdin; one that "
          "fails\nis the container's failure. Empty: none.",
          [](Config& c) -> std::string& { return c.guest.hooks; }),
      WordList(
          "guest.allow", "[exec, guest_exec, stdin, signal, update, pause, port_forward, files]",
          "What may be asked of a sandbox that runs. Its guest is told when it boots, refuses "
          "the rest whoever asks (PERMISSION_DENIED), and is not\ntold otherwise later: exec, "
          "a process more in a container; guest_exec, `wyvern exec --guest`; stdin, input for "
          "processes (`run -i`);\nsignal, signals but SIGKILL, which always ends a container; "
          "update, other limits; pause, also its end; port_forward; files, other\ncontent of "
          "a ConfigMap or Secret than it began with. It binds this host's clients, not its "
          "root. An annotation has commas between them.",
          GuestPermissions(), [](Config& c) -> std::vector<std::string>& { return c.guest.allow; }),
  };
}

std::vector<Key> MakeMemoryKeys() {
  return {
      Choice<HugePages>(
          "memory.huge_pages", "transparent",
          "What the host backs guest memory with. transparent: small pages, which its kernel makes "
          "huge where it lets who asks for it\n(/sys/kernel/mm/transparent_hugepage/shmem_enabled: "
          "advise); none: never huge ones; 2MiB, 1GiB: pages of the host's pool\n"
          "(vm.nr_hugepages), reserved when the sandbox starts and given back when it ends: its "
          "memory then costs all of its size, and is\nwhole pages.",
          std::array<std::pair<std::string_view, HugePages>, 4>(
              {{{"transparent", HugePages::kTransparent},
                {"none", HugePages::kNone},
                {"2MiB", HugePages::k2MiB},
                {"1GiB", HugePages::k1GiB}}}),
          "transparent, none, 2MiB or 1GiB",
          [](Config& c) -> HugePages& { return c.memory.huge_pages; }),
      Flag("memory.page_reporting", "true",
           "The guest tells which of its memory is free, and the host gets it back within seconds. "
           "Memory that is used again must be found\nagain: false is for who cannot wait for "
           "that.",
           [](Config& c) -> bool& { return c.memory.page_reporting; }),
      Choice<Reclaim>(
          "memory.reclaim", "limited",
          "Page cache that nobody has used for some seconds goes back to the host, in the guest "
          "and "
          "on the host, as long as no program waits\nfor memory: limited does so for containers "
          "with a memory limit, always for all, never for none.",
          std::array<std::pair<std::string_view, Reclaim>, 3>({{{"limited", Reclaim::kLimited},
                                                                {"always", Reclaim::kAlways},
                                                                {"never", Reclaim::kNever}}}),
          "limited, always or never", [](Config& c) -> Reclaim& { return c.memory.reclaim; }),
  };
}

std::vector<Key> MakeNetworkKeys() {
  return {
      Rate("network.rx_rate", "0",
           "What each network interface of a sandbox may receive, bits a second with k, M, G or T "
           "(thousands); 0: no limit. Kubernetes'\nannotation kubernetes.io/ingress-bandwidth says "
           "this one, where containerd hands it over (pod_annotations of the runtime).",
           [](Config& c) -> uint64_t& { return c.network.rx_rate; }),
      Rate("network.tx_rate", "0",
           "The same for what it may send: kubernetes.io/egress-bandwidth. A pod's annotation may "
           "say more than this file; to forbid that take\nthe key out of annotations.allow.",
           [](Config& c) -> uint64_t& { return c.network.tx_rate; }),
      Choice<HostNetwork>(
          "network.host", "refuse",
          "What a container or pod gets that asks for the host's network (hostNetwork, "
          "--net-host), "
          "whose interfaces no guest can have: refuse,\nan error; passt, a network of its own "
          "(10.0.2.15) from which passt connects by the host's addresses, as any program of the "
          "host. It\nis reached by nobody. The host needs the package passt of Debian 13.",
          std::array<std::pair<std::string_view, HostNetwork>, 2>(
              {{{"refuse", HostNetwork::kRefuse}, {"passt", HostNetwork::kPasst}}}),
          "refuse or passt", [](Config& c) -> HostNetwork& { return c.network.host; }),
      Flag(
          "network.host_loopback", "false",
          "With passt: what listens on the host's 127.0.0.1 answers at 10.0.2.2. Much that listens "
          "there asks nobody who he is.",
          [](Config& c) -> bool& { return c.network.host_loopback; }),
      PathList(
          "sockets.allow",
          "Unix sockets of the host, by their paths, that sockets.proxy may name. What listens "
          "there "
          "sees root of the host, whoever connects in\nthe guest: /run/containerd/containerd.sock "
          "in a container is the host.",
          [](Config& c) -> std::vector<std::string>& { return c.sockets.allow; }, true),
      PathList("sockets.proxy",
               "Those whose bind mounts work in a sandbox's containers: who connects there reaches "
               "the host's. Any other answers nobody. Meant for the\nannotation "
               "io.wyvern.sockets.proxy, which has commas between the paths.",
               [](Config& c) -> std::vector<std::string>& { return c.sockets.proxy; }),
  };
}

std::vector<Key> MakeShareKeys() {
  return {
      Count("share.queues", "1", "Request queues of the file server, 1 to 8.", 1, 8,
            [](Config& c) -> uint32_t& { return c.share.queues; }),
      Duration(
          "share.cache.root", "1s",
          "How long the guest may trust names and attributes of a container's root (ms, s, m, h).",
          [](Config& c) -> Ms& { return c.share.cache_root; }),
      Duration(
          "share.cache.read_only", "1h",
          "The same for a root that the container may not write (root.readonly, `wyvern run "
          "--read-only`). What the host changes in it, by hooks\ntoo, may stay unseen for so long. "
          "Volumes are not meant, read-only ones neither.",
          [](Config& c) -> Ms& { return c.share.cache_read_only; }),
      Duration(
          "share.cache.volume", "0s",
          "The same for volumes, read-only ones too: 0s sees every change on the host at once.",
          [](Config& c) -> Ms& { return c.share.cache_volume; }),
      Choice<Block>("storage.block", "auto",
                    "A container's root that containerd gives as a block device or an image file "
                    "(blockfile, devmapper): auto gives it to the guest\nas a disk, and "
                    "<bundle>/rootfs stays empty on the host, for hooks too; share mounts it there "
                    "and shares the directory.",
                    std::array<std::pair<std::string_view, Block>, 2>(
                        {{{"auto", Block::kAuto}, {"share", Block::kShare}}}),
                    "auto or share", [](Config& c) -> Block& { return c.storage.block; }),
  };
}

std::vector<Key> MakeHostKeys() {
  return {
      Path("paths.vmm", "/usr/libexec/wyvern/wyvern-vmm", "The virtual machine monitor.",
           [](Config& c) -> std::string& { return c.paths.vmm; }),
      Path("paths.fs", "/usr/libexec/wyvern/wyvern-fs", "The file server.",
           [](Config& c) -> std::string& { return c.paths.fs; }),
      Path("paths.anchor", "/usr/libexec/wyvern/wyvern-anchor",
           "The process that stands for a container on the host.",
           [](Config& c) -> std::string& { return c.paths.anchor; }),
      Path("paths.guests", "/var/lib/wyvern/guests", "Where `wyvern guest import` puts guests.",
           [](Config& c) -> std::string& { return c.paths.guests; }),
      Path("paths.passt", "/usr/bin/passt", "passt(1), for `network.host: passt`.",
           [](Config& c) -> std::string& { return c.paths.passt; }),
      Level("log.level", "info",
            "What the shim, `wyvern run`, VMM, file server and agent log: debug, info, warn or "
            "error. With containerd in debug mode the shim\nlogs everything.",
            [](Config& c) -> LogLevel& { return c.log.level; }),
      Flag("log.journal", "true",
           "The shim's lines go to systemd's journal, too, where there is one, with namespace, "
           "sandbox and container as fields:\n`journalctl WYVERN_SANDBOX=ID`. What containerd "
           "copies of them to its own log stays.",
           [](Config& c) -> bool& { return c.log.journal; }),
      Duration("timeouts.boot", "60s",
               "From the start of the VMM until the agent in the guest answers.",
               [](Config& c) -> Ms& { return c.timeouts.boot; }),
      Duration("timeouts.agent_call", "60s",
               "One call to the agent; waiting for processes to exit has no limit.",
               [](Config& c) -> Ms& { return c.timeouts.agent_call; }),
      Duration("timeouts.resize", "30s",
               "For the guest to take up or let go of vCPUs, and the same again for memory, when "
               "its sandbox is resized.",
               [](Config& c) -> Ms& { return c.timeouts.resize; }),
      Duration("timeouts.shutdown", "3s",
               "For the guest to write its file systems back to the host, at most: before a "
               "container's exit is told, and before a sandbox ends,\nwhich is that its machine is "
               "killed. What takes longer may be lost.",
               [](Config& c) -> Ms& { return c.timeouts.shutdown; }),
      Size(
          "overhead.memory", "64MiB",
          "Host memory that the sandbox's own processes may use beside the guest's (cgroup limit). "
          "What the kernel needs to map guest memory is\nadded: a 64th of it.",
          16U << 20U, 4096, [](Config& c) -> uint64_t& { return c.overhead.memory; }),
      Count("overhead.cpu_percent", "50",
            "Host CPU that the sandbox's own work may use beside its containers' quotas, where all "
            "of "
            "them have one, in hundredths of a CPU (cgroup\nlimit).",
            1, 100000, [](Config& c) -> uint32_t& { return c.overhead.cpu_percent; }),
      KeyList("annotations.allow",
              "[sandbox.vcpus, sandbox.memory, network.rx_rate, network.tx_rate, "
              "sockets.proxy]",
              "Keys that annotations io.wyvern.<key> of a container may set.",
              [](Config& c) -> std::vector<std::string>& { return c.annotations.allow; }),
      Path(
          "state_dir", "/run/wyvern", "Where sandboxes keep their state; a tmpfs.",
          [](Config& c) -> std::string& { return c.state_dir; }, true),
      Path(
          "cgroup_root", "/sys/fs/cgroup", "Where the host's cgroup v2 hierarchy is mounted.",
          [](Config& c) -> std::string& { return c.cgroup_root; }, true),
  };
}

}  // namespace

Result<uint64_t> ParseSize(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, uint64_t>, 5> kUnits = {
      {{"", 1}, {"B", 1}, {"KiB", 1ULL << 10U}, {"MiB", 1ULL << 20U}, {"GiB", 1ULL << 30U}}};
  return ParseWithUnit(text, kUnits, "512MiB or 2GiB");
}

Result<uint64_t> ParseRate(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, uint64_t>, 9> kUnits = {
      {{"", 1},
       {"k", 1'000},
       {"M", 1'000'000},
       {"G", 1'000'000'000},
       {"T", 1'000'000'000'000},
       {"Ki", 1ULL << 10U},
       {"Mi", 1ULL << 20U},
       {"Gi", 1ULL << 30U},
       {"Ti", 1ULL << 40U}}};
  WV_TRY(const uint64_t bits, ParseWithUnit(text, kUnits, "500k, 10M or 1G (bits a second)"));
  if (bits != 0 && (bits < 1'000 || bits > 1'000'000'000'000)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("'{}' is neither 0 nor from 1k to 1T bits a second", text));
  }
  return bits;
}

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, uint64_t>, 4> kUnits = {
      {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}}};
  WV_TRY(const uint64_t value, ParseWithUnit(text, kUnits, "500ms, 30s, 5m or 1h"));
  if (value > 366ULL * 24 * 3600000) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is too long", text));
  }
  return std::chrono::milliseconds(value);
}

std::span<const std::string_view> GuestPermissions() {
  static constexpr std::array<std::string_view, 8> kNames = {
      "exec", "guest_exec", "stdin", "signal", "update", "pause", "port_forward", "files"};
  return kNames;
}

std::span<const Key> Keys() {
  static const auto* const keys = [] {
    auto* all = new std::vector<Key>(MakeSandboxKeys());  // lives as long as the process
    std::ranges::move(MakeMemoryKeys(), std::back_inserter(*all));
    std::ranges::move(MakeNetworkKeys(), std::back_inserter(*all));
    std::ranges::move(MakeShareKeys(), std::back_inserter(*all));
    std::ranges::move(MakeHostKeys(), std::back_inserter(*all));
    return all;
  }();
  return *keys;
}

const Key* FindKey(std::string_view name) {
  const auto keys = Keys();
  const auto it = std::ranges::find(keys, name, &Key::name);
  return it == keys.end() ? nullptr : &*it;
}

bool IsSection(std::string_view prefix) {
  return std::ranges::any_of(Keys(), [&](const Key& key) {
    return key.name.size() > prefix.size() && key.name.starts_with(prefix) &&
           key.name[prefix.size()] == '.';
  });
}

}  // namespace wyvern::runtime
