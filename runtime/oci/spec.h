// oci/spec.h — an OCI bundle's config.json: checked, and translated from the host's view to the guest's.
// Spec:    OCI runtime specification 1.2; FIELDS.md says what becomes of each field.
// Trust:   config.json is untrusted input: bounded in size and depth, every known field type-checked; unknown ones are left out with a note.
// Errors:  INVALID_ARGUMENT, the message begins with the field: "mounts[3].type: …".
// Threads: a Spec is immutable after Parse.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/user_namespace.h"
#include "cgroup/limits.h"

namespace wyvern::oci {

inline constexpr size_t kMaxConfigBytes =
    3U << 20U;  // an agent message, with its other fields, must stay below 4 MiB
inline constexpr std::string_view kGuestShare = "/run/wyvern/share";
inline constexpr std::string_view kGuestDisks = "/run/wyvern/disks";
inline constexpr std::string_view kGuestPodShm = "/run/wyvern/pod/shm";  // agent.proto, Pod
inline constexpr std::string_view kGuestVolumes = "/run/wyvern/volumes";
inline constexpr std::string_view kGuestSockets = "/run/wyvern/sockets";
inline constexpr size_t kMaxDisks = 64;  // of a container

struct Hook {
  std::string path;
  std::vector<std::string> args;  // argv, its first element included; empty: the path alone
  std::optional<std::vector<std::string>> env;  // none: that of the runtime, as runc and crun do it
  int timeout_seconds = 0;                      // 0: the caller's own bound
};

// Those that run on the host.
struct HostHooks {
  std::vector<Hook> prestart, create_runtime, create_container, poststart, poststop;
};

// A program of the guest's that every container has as a hook, in the guest.
struct GuestHook {
  std::string kind;  // "prestart", "poststart", "poststop"
  std::string path;  // absolute, UTF-8
};

// That a guest may be given on a disk, in mounts[] or as a root.
inline constexpr std::array<std::string_view, 6> kDiskFilesystems = {"ext2", "ext3",  "ext4",
                                                                     "xfs",  "erofs", "squashfs"};

// Which nobody can write, so that many guests may have one.
constexpr bool IsReadOnlyFilesystem(std::string_view name) {
  return name == "erofs" || name == "squashfs";
}

struct DeviceNumber {
  uint32_t major = 0, minor = 0;

  auto operator<=>(const DeviceNumber&) const = default;
};

// A block device of the host that linux.devices wants in the container.
struct BlockDevice {
  DeviceNumber number;
  bool writable = false;  // by the rules of linux.resources.devices
  std::string path;       // in the container
  std::string field;      // "linux.devices[3]"
};

// What the host side needs to know of the document.
struct Facts {
  std::string root_path;
  bool root_readonly = false;
  bool terminal = false;
  uint32_t rows = 0, columns = 0;    // process.consoleSize
  std::optional<int> oom_score_adj;  // process.oomScoreAdj, -1000..1000
  std::string hostname;
  std::string cgroups_path;            // linux.cgroupsPath as given
  bool network_namespace = false;      // false: the host's network was asked for
  std::string network_namespace_path;  // empty: a new one
  std::map<std::string, std::string>
      namespace_paths;  // "pid": "/proc/12/ns/pid"; those that name one
  bool stands_for_pod =
      false;  // by its annotations: a pause, which containerd's CRI and CRI-O have one of in each pod
  std::string shm_source;  // of the bind mount on /dev/shm; empty: none
  // Of what stands for a pod: its bind mounts of files that every container has one of (/etc/resolv.conf, /etc/hostname, /etc/hosts), source by
  // destination.
  std::map<std::string, std::string> pod_files;
  std::map<std::string, std::string> annotations;
  std::vector<std::string>
      sandbox_sysctls;     // "net.ipv4.ip_forward=1": for the whole guest; of a pause all
  runtime::Limits limits;  // linux.resources, checked
  IdMap ids;               // of its user namespace; empty: it has none
  HostHooks hooks;
  std::vector<BlockDevice> block_devices;  // each number once
};

// A host path that the guest must see below kGuestShare.
struct Export {
  std::string name;                 // [a-z0-9-]
  std::string source;               // absolute host path
  bool read_only = false;           // no mount of it may write
  bool recursive = false;           // rbind
  bool follow_host_mounts = false;  // rslave or rshared: later mounts of the host appear
  IdMap ids;                        // of its files, to be mapped; empty: as they are
  bool map_recursively = false;     // ridmap
  std::string field;                // "mounts[3]"
};

// A mounts[] of a file system that is on a disk: the guest mounts it at kGuestDisks/<name>.
struct DiskMount {
  std::string name;    // [a-z0-9-], at most 20
  std::string source;  // absolute host path: a block device or an image file
  std::string filesystem;
  bool read_only = false;            // no mount of it may write
  std::vector<std::string> options;  // the file system's own
  std::string field;                 // "mounts[3]"
};

// What serves a bind mount in the guest instead of an export.
struct GuestSource {
  std::string path;        // in the guest
  bool read_only = false;  // whatever the mount says
  bool shared = false;     // it is an Export, whose ids the host maps
};

struct TranslateOptions {
  std::string container_id;
  std::string bundle;        // relative bind sources begin here
  std::string share_prefix;  // "c0": root is c0-root, volumes c0-v<N>, disks c0-b<N>
  bool root_on_disk = false;
  // What the guest mounts from a disk; mounts[] of another file system are refused.
  std::vector<std::string> disk_filesystems = {};
  // The host's block devices as the guest numbers them. Those of Facts that are missing are left out: before they are attached a translation
  // only checks.
  std::map<DeviceNumber, DeviceNumber> devices = {};
  std::map<std::string, GuestSource> guest_sources = {};  // by absolute host path
  bool terminal = false;
  // A network namespace of its own in the guest, which has loopback; otherwise the guest's own, which is the sandbox's.
  bool own_network = false;
  // Of a pod's container, by type ("pid", "ipc", "uts"): the guest's path of the one to join, or empty for the guest's own. Of a type that
  // is not here the container gets what linux.namespaces says, without its path.
  std::map<std::string, std::string> namespaces = {};
  std::string shm_source = {};  // of the pod's /dev/shm, which the guest has; empty: no pod
  // Of a pod without such a source (the Sandbox API's): a tmpfs on /dev/shm is the pod's.
  bool shm_is_pods = false;
  // Facts of the pod: bound where the container mounts nothing.
  std::map<std::string, std::string> pod_files = {};
  std::string arch = "x86_64";  // the guest's
  std::vector<GuestHook> guest_hooks = {};
};

struct GuestSpec {
  std::string config_json;
  std::vector<Export> volumes;     // in order of first use; the root is not among them
  std::vector<DiskMount> disks;    // the same
  std::vector<std::string> notes;  // one line each for the log: what was left out and why
};

class Spec {
 public:
  static Result<Spec> Parse(std::string_view text);
  const Facts& facts() const;
  Result<GuestSpec> Translate(const TranslateOptions& options) const;

 private:
  struct Rep;

  explicit Spec(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}

  std::shared_ptr<const Rep> rep_;
};

// An exec's OCI Process for the guest. Notes are appended.
Result<std::string> TranslateProcess(std::string_view process_json, bool terminal,
                                     std::vector<std::string>* notes);

// An update's OCI LinuxResources: what it gives. Errors begin with the field. To be checked (runtime::CheckLimits) together with what the container
// has already (runtime::Merged).
Result<runtime::Limits> ParseResources(std::string_view resources_json);
// The same for the guest, where `limits`, which CheckLimits passed, take the place of what it says: a guest's crun reads what belongs together only
// together. Rules and throttles for block devices that are not in `devices` are left out: in the guest their numbers are those of others. Notes are
// appended.
Result<std::string> TranslateResources(std::string_view resources_json,
                                       const runtime::Limits& limits,
                                       const std::map<DeviceNumber, DeviceNumber>& devices,
                                       std::vector<std::string>* notes);

// A character device that every Linux has by that number, so that a node of the host's is the guest's own.
bool IsGuestDevice(DeviceNumber number);

// Container and exec ids as the agent accepts them: [A-Za-z0-9][A-Za-z0-9_.-]{0,127}.
Result<> CheckId(std::string_view id);

}  // namespace wyvern::oci
