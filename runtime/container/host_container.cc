#include "container/host_container.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/log.h"
#include "network/netns.h"
#include "storage/block_source.h"
#include "storage/exports.h"
#include "volume/direct_volumes.h"

namespace wyvern::runtime {
namespace {

Result<oci::Spec> ReadSpec(const std::string& bundle) {
  WV_TRY_CONTEXT(const std::string text, ReadFile(bundle + "/config.json", oci::kMaxConfigBytes),
                 "bundle");
  return oci::Spec::Parse(text);
}

// In the guest a device's number is that of the guest's own.
Result<> CheckBindSource(const std::string& source) {
  struct stat info = {};
  if (stat(source.c_str(), &info) != 0) {
    return SysError(source);
  }
  const oci::DeviceNumber number{major(info.st_rdev), minor(info.st_rdev)};
  if (S_ISCHR(info.st_mode) && !oci::IsGuestDevice(number)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: character devices of the host ({}:{}) cannot be had in a virtual "
                            "machine, which has its own: only null, zero, full, random, urandom, "
                            "tty, console, ptmx, net/tun, fuse and loop-control are the same",
                            source, number.major, number.minor));
  }
  if (S_ISBLK(info.st_mode)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: a block device is not bind-mounted: name it in linux.devices "
                            "(--device, volumeDevices), and it becomes a disk of the guest",
                            source));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<HostContainer>> HostContainer::Prepare(const HostEnvironment& environment,
                                                              Options options) {
  WV_TRY_VOID(oci::CheckId(options.id));
  WV_TRY(oci::Spec spec, ReadSpec(options.bundle));
  std::unique_ptr<HostContainer> container(
      new HostContainer(environment, std::move(options), std::move(spec)));
  auto made = container->Make();
  if (!made.has_value()) {
    static_cast<void>(container->Release(GuestState::kObeys));
    return tl::unexpected(std::move(made).error());
  }
  return container;
}

HostContainer::HostContainer(const HostEnvironment& environment, Options options, oci::Spec spec)
    : environment_(environment),
      options_(std::move(options)),
      spec_(std::move(spec)),
      disks_(options_.id, *environment.machine, *environment.agent, [this](const DiskRecord& disk) {
        return Record("disk", [&](ContainerRecord& record) { record.disks.push_back(disk); });
      }) {}

HostContainer::~HostContainer() {
  if (anchor_.has_value()) {
    anchor_->End();
  }
}

Result<> HostContainer::Record(const std::string& step,
                               const std::function<void(ContainerRecord&)>& change) {
  return environment_.state->Update(
      step, [&](SandboxRecord& record) { change(record.containers[options_.id]); });
}

bool HostContainer::HasOwnNetwork() const {
  const oci::Facts& facts = spec_.facts();
  return facts.network_namespace && facts.network_namespace_path.empty() &&
         options_.bundle != environment_.sandbox_bundle;
}

Result<> HostContainer::CheckNetwork() const {
  const std::string& path = spec_.facts().network_namespace_path;
  if (path.empty()) {
    return {};
  }
  WV_TRY_CONTEXT(const UniqueFd named, OpenNetworkNamespace(path), "linux.namespaces");
  WV_TRY(const struct stat theirs, Fstat(named));
  WV_TRY(const struct stat ours, Fstat(environment_.network_namespace));
  if (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino) {
    return Fail(Code::kInvalidArgument,
                "linux.namespaces: " + path +
                    " is not the sandbox's network namespace: the containers of a sandbox are in "
                    "one virtual machine, which has the network of the sandbox only");
  }
  return {};
}

// The paths of a pause itself name nothing that is there before it.
Result<> HostContainer::ShareInPod() {
  if (environment_.pod == nullptr || options_.stands_for_pod) {
    return {};
  }
  WV_TRY(shared_, environment_.pod->Find(spec_.facts().namespace_paths));
  if (shared_.shared_users && spec_.facts().ids != *environment_.pod_ids) {
    return Fail(
        Code::kInvalidArgument,
        "linux.uidMappings, gidMappings: are not those of the pod, whose user namespace the "
        "container is to be in");
  }
  return shared_.shared_pids ? environment_.agent->SharePids() : Result<>();
}

Result<> HostContainer::Translate() {
  oci::TranslateOptions translate;
  translate.container_id = options_.id;
  translate.bundle = options_.bundle;
  translate.share_prefix = fmt::format("c{}", options_.index);
  translate.terminal = options_.terminal;
  translate.root_on_disk = root_on_disk_;
  translate.disk_filesystems = environment_.disk_filesystems;
  translate.devices = devices_;
  translate.guest_sources = guest_sources_;
  translate.own_network = HasOwnNetwork();
  translate.namespaces = shared_.namespaces;
  translate.shm_source = environment_.shm_source;
  if (environment_.guest_hooks != nullptr) {
    translate.guest_hooks = *environment_.guest_hooks;
  }
  if (environment_.pod != nullptr && !options_.stands_for_pod) {
    translate.shm_is_pods = environment_.shm_source.empty() && shared_.namespaces.contains("ipc");
    translate.pod_files = *environment_.pod_files;
  }
  WV_TRY(guest_, spec_.Translate(translate));
  return {};
}

Result<> HostContainer::Make() {
  WV_TRY_VOID(ShareInPod());
  WV_TRY_VOID(Translate());  // what cannot be is refused before anything is made
  WV_TRY_VOID(CheckNetwork());
  recorded_ = true;
  WV_TRY_VOID(Record("container", [&](ContainerRecord& record) {
    record.bundle = options_.bundle;
    record.index = options_.index;
  }));
  if (options_.stands_for_pod) {
    return StartAnchor();
  }
  WV_TRY_VOID(MakeRoot());
  WV_TRY_VOID(AttachDevices());
  WV_TRY_VOID(ShareRoot());
  WV_TRY_VOID(TakeVolumes());
  if (root_on_disk_ || !devices_.empty() || !guest_sources_.empty()) {
    WV_TRY_VOID(Translate());
  }
  for (const std::string& note : guest_.notes) {
    WV_INFO("container {}: {}", options_.id, note);
  }
  WV_TRY_VOID(AttachVolumes());
  return StartAnchor();
}

std::string HostContainer::RootPath() const {
  if (!options_.rootfs.empty()) {
    return options_.bundle + "/rootfs";
  }
  const std::string& path = spec_.facts().root_path;
  return path.starts_with('/') ? path : options_.bundle + "/" + path;
}

// Only what the host finds out itself makes it mount the root: see disks.h.
Result<> HostContainer::MakeRoot() {
  const MountEntry* mount = DiskMountOf(options_.rootfs, environment_.disk_filesystems);
  if (mount == nullptr || environment_.config->storage.block == Config::BlockStorage::kShare) {
    return MountRoot();
  }
  if (!spec_.facts().hooks.create_container.empty()) {
    return Fail(Code::kFailedPrecondition,
                "hooks.createContainer: they work on the container's root, which would be a disk "
                "of the guest (storage.block: share has the host mount it)");
  }
  const ParsedOptions parsed = ParseMountOptions(mount->options, /*overlay=*/false);
  if (!parsed.users.empty() || !parsed.groups.empty()) {
    return MountRoot();  // the host maps ids
  }
  const bool read_only = (parsed.flags & MS_RDONLY) != 0 || oci::IsReadOnlyFilesystem(mount->type);
  const auto file = OpenBlockSource(mount->source, read_only);
  if (!file.has_value()) {
    WV_WARN("container {}: its root cannot be a disk of the guest, the host mounts it: {}",
            options_.id, file.error().message());
    return MountRoot();
  }
  ContainerDisks::Disk disk{fmt::format("c{}-root", options_.index), mount->source, *file};
  disk.read_only = read_only;
  disk.filesystem = mount->type;
  disk.flags = parsed.flags | (read_only ? MS_RDONLY : 0);
  disk.options = parsed.data;
  WV_TRY_VOID_CONTEXT(disks_.Attach(disk),
                      "container root (storage.block: share has the host mount it)");
  root_on_disk_ = true;
  return {};
}

Result<> HostContainer::AttachDevices() {
  for (const oci::BlockDevice& device : spec_.facts().block_devices) {
    WV_TRY_CONTEXT(
        const UniqueFd file,
        OpenBlockDevice(makedev(device.number.major, device.number.minor), !device.writable),
        device.field);
    ContainerDisks::Disk disk{fmt::format("c{}-d{}", options_.index, devices_.size()), device.path,
                              file};
    disk.read_only = !device.writable;
    WV_TRY_CONTEXT(devices_[device.number], disks_.Attach(disk), device.field);
  }
  return {};
}

Result<> HostContainer::AttachVolumes() {
  for (const oci::DiskMount& mount : guest_.disks) {
    WV_TRY_CONTEXT(const UniqueFd file, OpenBlockSource(mount.source, mount.read_only),
                   mount.field + ".source");
    ContainerDisks::Disk disk{mount.name, mount.source, file};
    disk.read_only = mount.read_only;
    disk.filesystem = mount.filesystem;
    disk.flags = mount.read_only ? MS_RDONLY : 0;
    disk.options = fmt::format("{}", fmt::join(mount.options, ","));
    WV_TRY_VOID_CONTEXT(disks_.Attach(disk), mount.field);
  }
  return {};
}

// The device that it stands for, if it does.
Result<std::optional<oci::GuestSource>> HostContainer::TakeDirect(const oci::Export& item) {
  WV_TRY(const auto volume, DirectVolumes(environment_.config->state_dir).Find(item.source));
  if (!volume.has_value()) {
    return std::nullopt;
  }
  const auto& filesystems = environment_.disk_filesystems;
  if (std::ranges::find(filesystems, volume->filesystem) == filesystems.end()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{}: the guest's kernel has no {}", item.source, volume->filesystem));
  }
  const bool read_only = volume->read_only || item.read_only;
  WV_TRY_CONTEXT(const UniqueFd file, OpenBlockSource(volume->device, read_only), item.source);
  const ParsedOptions parsed = ParseMountOptions(volume->options, /*overlay=*/false);
  ContainerDisks::Disk disk{fmt::format("c{}-p{}", options_.index, direct_volumes_.size()),
                            volume->device, file};
  disk.read_only = read_only;
  disk.filesystem = volume->filesystem;
  disk.flags = parsed.flags | (read_only ? MS_RDONLY : 0);
  disk.options = parsed.data;
  WV_TRY_VOID_CONTEXT(disks_.Attach(disk), item.source);
  direct_volumes_.emplace(item.source, disk.name);
  return oci::GuestSource{fmt::format("{}/{}", oci::kGuestDisks, disk.name), read_only};
}

// Where the guest has what is bind-mounted: a socket that stands for the host's, in its own memory, or on an export.
Result<> HostContainer::TakeVolumes() {
  for (const oci::Export& item : guest_.volumes) {
    const std::string field = item.field + ".source";
    WV_TRY_VOID_CONTEXT(CheckBindSource(item.source), field);
    WV_TRY_CONTEXT(auto served, TakeDirect(item), field);
    if (!served.has_value()) {
      WV_TRY_CONTEXT(served, environment_.sockets->Take(item.source), field);
    }
    if (!served.has_value()) {
      WV_TRY_CONTEXT(served, environment_.volumes->Take(options_.id, item.source),
                     field + ": " + item.source);
    }
    if (!served.has_value()) {
      WV_TRY_CONTEXT(std::string name, ShareVolume(item), field);
      served = oci::GuestSource{fmt::format("{}/{}", oci::kGuestShare, name), false, true};
      shared_exports_.push_back(std::move(name));
    }
    guest_sources_.emplace(item.source, std::move(*served));
  }
  return {};
}

Result<> HostContainer::MountRoot() {
  if (options_.rootfs.empty()) {
    return {};
  }
  mounted_ = true;
  return MountRootfs(options_.rootfs, RootPath(), [this](const std::string& mount_point) {
    return Record("mount", [&](ContainerRecord& record) { record.mounts.push_back(mount_point); });
  });
}

Result<> HostContainer::ShareTree(const std::string& name, FdRef tree, const ExportPolicy& policy) {
  WV_TRY_VOID(Record("export", [&](ContainerRecord& record) { record.exports.push_back(name); }));
  return environment_.machine->AttachExport(name, tree, policy);
}

Result<> HostContainer::ShareRoot() {
  if (root_on_disk_) {
    return {};
  }
  const Config::Share& share = environment_.config->share;
  TreeOptions root;
  root.recursive = true;  // mounts[] of the list may have targets below it
  root.for_guest = true;
  WV_TRY_CONTEXT(const UniqueFd tree, CloneTree(RootPath(), root), "container root");
  // Also a read-only root is attached for writing: crun makes mount points in it before the container sees it.
  const auto cache = spec_.facts().root_readonly ? share.cache_read_only : share.cache_root;
  const std::string name = fmt::format("c{}-root", options_.index);
  exports_.push_back(name);
  return ShareTree(name, tree, {cache, false});
}

// Its name.
Result<std::string> HostContainer::ShareVolume(const oci::Export& item) {
  return environment_.exports->Acquire(item, [&]() -> Result<> {
    TreeOptions options;
    options.recursive = item.recursive;
    options.read_only = item.read_only;
    options.follow_host_mounts = item.follow_host_mounts;
    options.for_guest = true;
    options.ids = item.ids;
    options.map_recursively = item.map_recursively;
    WV_TRY(const UniqueFd volume, CloneTree(item.source, options));
    // A read-only one, too: the host may change it at any time.
    auto attached =
        ShareTree(item.name, volume, {environment_.config->share.cache_volume, item.read_only});
    if (!attached.has_value()) {
      exports_.push_back(item.name);  // it may be there all the same
    }
    return attached;
  });
}

const std::vector<std::string>& HostContainer::TakeExportNames() {
  for (std::string& name : shared_exports_) {
    if (environment_.exports->Release(name)) {
      exports_.push_back(std::move(name));
    }
  }
  shared_exports_.clear();
  return exports_;
}

Result<> HostContainer::StartAnchor() {
  const Config& config = *environment_.config;
  WV_TRY(const CgroupPlace place, ParseCgroupsPath(spec_.facts().cgroups_path, options_.id));
  WV_TRY_VOID(Cgroup::CheckUnused(config.cgroup_root, place.path));
  WV_TRY_VOID(Record(
      "cgroup", [&](ContainerRecord& record) { record.cgroup = config.cgroup_root + place.path; }));
  WV_TRY(Cgroup group, Cgroup::Make(config.cgroup_root, place, options_.id));
  cgroup_.emplace(std::move(group));
  WV_TRY(const UniqueFd procs, cgroup_->OpenProcs());
  // Who copies into a running container by its pid (`nerdctl cp`) writes here; an empty stand-in takes nothing.
  TreeOptions root;
  root.read_only = root_on_disk_ || spec_.facts().root_readonly;
  WV_TRY_CONTEXT(const UniqueFd tree, CloneTree(RootPath(), root), "container root");
  AnchorOptions options;
  options.binary = config.paths.anchor;
  options.program = environment_.anchor;
  options.cgroup_procs = procs;
  UniqueFd own;  // the anchor keeps it
  if (HasOwnNetwork()) {
    WV_TRY(own, MakeNetworkNamespace());
  }
  options.network_namespace = own.valid() ? FdRef(own) : environment_.network_namespace;
  options.root_tree = tree;
  WV_TRY(AnchorProcess anchor, AnchorProcess::Start(options));
  anchor_.emplace(std::move(anchor));
  if (!procs.valid()) {
    WV_TRY_VOID(cgroup_->Add(anchor_->pid()));
  }
  WV_TRY(const ProcessRecord process, RecordProcess("anchor", anchor_->pid()));
  return Record("anchor", [&](ContainerRecord& record) { record.processes.push_back(process); });
}

void HostContainer::EndAnchor() {
  const std::lock_guard lock(anchor_mu_);
  if (anchor_.has_value()) {
    anchor_->End();
  }
}

Result<> HostContainer::ShowMemoryLimit(const Limits& limits) {
  constexpr int64_t kAnchorNeeds = 4 << 20;  // bytes; it uses a tenth of it
  const int64_t memory = limits.memory_limit.value_or(0), swap = limits.memory_swap.value_or(0);
  if (memory == 0 || !cgroup_ || !cgroup_->Controllers().contains("memory")) {
    return {};
  }
  Limits shown;
  shown.memory_limit = memory < 0 ? memory : std::max(memory, kAnchorNeeds);
  shown.swap_alone = memory > 0 && swap >= memory ? swap - memory : -1;
  WV_TRY_VOID_CONTEXT(cgroup_->Apply(shown), "the container's cgroup on the host");
  return {};
}

Result<> HostContainer::Release(GuestState guest) {
  Result<> first;
  const auto keep = [&](Result<> result) {
    if (!result.has_value()) {
      WV_WARN("container {}: {}", options_.id, result.error().message());
      if (first.has_value()) {
        first = std::move(result);
      }
    }
  };
  keep(disks_.Release(guest));
  environment_.volumes->Release(options_.id, guest == GuestState::kObeys);
  TakeExportNames();
  // What cannot be detached, since requests still use it, is for the next try: its device would stay busy.
  std::vector<std::string> attached;
  for (auto it = exports_.rbegin(); guest != GuestState::kGone && it != exports_.rend(); ++it) {
    auto detached = environment_.machine->DetachExport(*it);
    if (!detached.has_value()) {
      attached.insert(attached.begin(), *it);
    }
    keep(std::move(detached));
  }
  exports_ = std::move(attached);
  // The anchor's root is a clone of the mount: it ends first, so that the device below is free when we are done.
  EndAnchor();
  if (mounted_) {
    keep(UnmountTree(RootPath()));
  }
  if (cgroup_.has_value()) {
    keep(RemoveCgroup(environment_.config->cgroup_root, cgroup_->directory()));
  }
  if (recorded_ && first.has_value()) {
    keep(environment_.state->Update(
        "container-gone", [&](SandboxRecord& record) { record.containers.erase(options_.id); }));
    recorded_ = false;
  }
  return first;
}

}  // namespace wyvern::runtime
