#include "agent/guest_volumes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "agent/volume_files.h"
#include "base/cleanup.h"
#include "base/fd.h"

namespace wyvern::agent {
namespace {

constexpr std::chrono::seconds kVolumeDeadline(10);
constexpr size_t kMaxVolumes = 256;
// Two versions of 1024 files, of a page at least each, and links to them.
constexpr char kFilesOptions[] = "mode=0700,size=16m,nr_inodes=8k";

class VolumeJob final : public Job {
 public:
  VolumeJob(std::function<Result<>()> work, ttrpc::Responder<v1::Empty> responder)
      : work_(std::move(work)), responder_(std::move(responder)) {}

  Progress Step() override {
    responder_.Answer(work_().map([] { return v1::Empty(); }));
    return Progress::kDone;
  }

  void Expire() override {
    responder_.Fail(
        Error(Code::kDeadlineExceeded, "the guest's kernel is not done with a volume within 10 s"));
  }

 private:
  const std::function<Result<>()> work_;
  const ttrpc::Responder<v1::Empty> responder_;
};

Result<> MakeDirectory(const std::string& path, mode_t mode) {
  return mkdir(path.c_str(), mode) == 0 || errno == EEXIST ? Result<>() : SysError("mkdir " + path);
}

Result<> MountOn(const std::string& type, const std::string& target, const std::string& options) {
  if (mount(type.c_str(), target.c_str(), type.c_str(), 0, options.c_str()) != 0) {
    return SysError("mount a " + type + " with " + options);
  }
  return {};
}

// A directory below `top`, however containers change it meanwhile; links that stay within the volume are followed.
Result<UniqueFd> OpenBeneath(FdRef top, const std::string& path) {
  open_how how = {};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  // EAGAIN: somebody renames directories just now, and the kernel cannot be sure.
  for (int i = 0; i < 100; ++i) {
    const long fd = syscall(SYS_openat2, top.get(), path.c_str(), &how, sizeof(how));
    if (fd >= 0) {
      return UniqueFd(static_cast<int>(fd));
    }
    if (errno != EAGAIN && errno != EINTR) {
      return SysError("opening '" + path + "' in the volume");
    }
  }
  return Fail(Code::kAborted, "containers keep moving '" + path + "' of the volume");
}

// One directory beneath `top`, made in `parent`, the one before it, if it is not there.
Result<UniqueFd> MakeStep(FdRef top, const std::string& path, FdRef parent, const std::string& step,
                          const VolumeOwner& owner) {
  auto there = OpenBeneath(top, path);
  if (there || there.error().sys_errno() != ENOENT) {
    return there;
  }
  if (mkdirat(parent.get(), step.c_str(), 0700) != 0) {
    // Somebody else has made it, or a link that leads nowhere is there.
    return errno == EEXIST ? OpenBeneath(top, path)
                           : Result<UniqueFd>(SysError("mkdir '" + path + "' in the volume"));
  }
  WV_TRY(UniqueFd made, OpenBeneath(top, path));
  // By its descriptor: a container may have put something else there.
  WV_TRY_VOID(SetOwner(fmt::format("/proc/self/fd/{}/.", made.get()), owner));
  return made;
}

// mkdir -p beneath `top`.
Result<UniqueFd> MakeBeneath(FdRef top, const std::string& path, const VolumeOwner& owner) {
  UniqueFd at;
  size_t begin = 0;
  while (true) {
    const size_t slash = path.find('/', begin);
    const std::string so_far = path.substr(0, slash);
    WV_TRY(at, MakeStep(top, so_far, at.valid() ? FdRef(at) : top, so_far.substr(begin), owner));
    if (slash == std::string::npos) {
      return at;
    }
    begin = slash + 1;
  }
}

}  // namespace

Result<> VolumeTable::CheckHugePages(const WantedHugePages& wanted) const {
  const uint64_t kilobytes = wanted.page_bytes >> 10U;
  const std::string pool = fmt::format("{}/hugepages-{}kB/", options_.huge_pages, kilobytes);
  const auto reserved = ReadFile(pool + "nr_hugepages", 64);
  if (!reserved) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the guest's kernel has no huge pages of {} kB", kilobytes));
  }
  const std::string more = ReadFile(pool + "nr_overcommit_hugepages", 64).value_or("0\n");
  if (*reserved == "0\n" && more == "0\n") {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the guest has no huge pages of {} kB: have it reserve some at its "
                            "start (sandbox.kernel_cmdline: hugepagesz={}K hugepages=NUMBER)",
                            kilobytes, kilobytes));
  }
  return {};
}

Result<> VolumeTable::MountPart(const WantedPart& part, const VolumeOwner& owner,
                                const std::string& target) {
  if (!names_.contains(part.of) || of_files_.contains(part.of)) {
    return Fail(Code::kNotFound, "no volume '" + part.of + "' that has parts");
  }
  WV_TRY(const UniqueFd top, Open(options_.directory + "/" + part.of, O_PATH | O_DIRECTORY));
  WV_TRY(const UniqueFd found, MakeBeneath(top, part.path, owner));
  const UniqueFd tree(
      open_tree(found.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree.valid()) {
    return SysError("open_tree of '" + part.path + "'");
  }
  if (move_mount(tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return SysError("mounting '" + part.path + "'");
  }
  return {};
}

Result<> VolumeTable::Mount(const WantedVolume& wanted, const std::string& target) {
  if (const auto* part = std::get_if<WantedPart>(&wanted.what)) {
    return MountPart(*part, wanted.owner, target);
  }
  if (std::holds_alternative<WantedFiles>(wanted.what)) {
    WV_TRY_VOID(MountOn("tmpfs", target, kFilesOptions));
    Cleanup unmount([&] { (void)umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW); });
    WV_TRY_VOID(MakeFilesVolume(target, wanted.owner));
    unmount.Cancel();
    // Of others than root nobody has a way in but by a mount.
    return chmod(target.c_str(), 0711) == 0 ? Result<>() : SysError("chmod of the volume");
  }
  std::string type = "tmpfs";
  std::string options = "mode=0700";
  uint64_t bytes = 0;
  if (const auto* pages = std::get_if<WantedHugePages>(&wanted.what)) {
    WV_TRY_VOID(CheckHugePages(*pages));
    type = "hugetlbfs";
    options += fmt::format(",pagesize={}K", pages->page_bytes >> 10U);
    bytes = pages->bytes;
  } else {
    bytes = std::get<WantedMemory>(wanted.what).bytes;
  }
  if (bytes > 0) {
    options += fmt::format(",size={}", bytes);
  }
  WV_TRY_VOID(MountOn(type, target, options));
  Cleanup unmount([&] { (void)umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW); });
  WV_TRY_VOID(SetOwner(target, wanted.owner));
  unmount.Cancel();
  return {};
}

Result<> VolumeTable::Add(const WantedVolume& wanted) {
  if (names_.contains(wanted.name)) {
    return Fail(Code::kAlreadyExists, "volume " + wanted.name + " was added already");
  }
  if (names_.size() >= kMaxVolumes) {
    return Fail(Code::kResourceExhausted, fmt::format("{} volumes are there", kMaxVolumes));
  }
  // Reachable for containers with user namespaces.
  WV_TRY_VOID(MakeDirectory(options_.directory, 0711));
  const std::string target = options_.directory + "/" + wanted.name;
  WV_TRY_VOID(MakeDirectory(target, 0700));
  if (auto mounted = Mount(wanted, target); !mounted) {
    (void)rmdir(target.c_str());
    const bool told = mounted.error().sys_errno() == 0;
    return tl::unexpected(told ? std::move(mounted).error()
                               : std::move(mounted).error().WithCode(Code::kFailedPrecondition));
  }
  names_.insert(wanted.name);
  if (std::holds_alternative<WantedFiles>(wanted.what)) {
    of_files_.emplace(wanted.name, false);
  }
  return {};
}

Result<> VolumeTable::Replace(const VolumeContent& content) {
  const auto volume = of_files_.find(content.name);
  if (volume == of_files_.end()) {
    return Fail(Code::kNotFound, "no volume of files '" + content.name + "'");
  }
  if (volume->second) {
    WV_TRY_VOID(policy_.Check(Policy::What::kFiles));
  }
  auto replaced = ReplaceVolumeFiles(options_.directory + "/" + content.name, content);
  if (!replaced && replaced.error().sys_errno() == ENOSPC) {
    return tl::unexpected(std::move(replaced).error().WithCode(Code::kResourceExhausted));
  }
  volume->second = volume->second || replaced.has_value();
  return replaced;
}

Result<> VolumeTable::Remove(const std::string& name) {
  if (names_.erase(name) == 0) {
    return {};
  }
  of_files_.erase(name);
  const std::string target = options_.directory + "/" + name;
  // Lazily: a container that is being deleted may have it, and keeps it.
  if (umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL) {
    return SysError("unmount " + target);
  }
  return rmdir(target.c_str()) == 0 ? Result<>() : SysError("rmdir " + target);
}

void GuestVolumes::Register(ttrpc::Server& server, const char* service) {
  const auto add = [&]<typename Req>(const char* name, std::in_place_type_t<Req>, auto parse,
                                     auto call) {
    server.RegisterUnary<Req, v1::Empty>(
        service, name,
        [this, parse, call](const Req& request, const ttrpc::CallContext&,
                            const ttrpc::Responder<v1::Empty>& responder) {
          auto submitted = parse(request).and_then([&](auto parsed) {
            return lane_.Submit(
                std::make_shared<VolumeJob>(
                    [this, call, parsed = std::move(parsed)] { return call(table_, parsed); },
                    responder),
                std::chrono::steady_clock::now() + kVolumeDeadline);
          });
          if (!submitted) {
            responder.Fail(std::move(submitted).error());
          }
        });
  };
  add("AddVolume", std::in_place_type<v1::AddVolumeRequest>, ParseVolume,
      [](VolumeTable& table, const WantedVolume& wanted) { return table.Add(wanted); });
  add("SetVolumeFiles", std::in_place_type<v1::SetVolumeFilesRequest>, ParseVolumeFiles,
      [](VolumeTable& table, const VolumeContent& content) { return table.Replace(content); });
  add(
      "RemoveVolume", std::in_place_type<v1::RemoveVolumeRequest>,
      [](const v1::RemoveVolumeRequest& request) -> Result<std::string> {
        return IsVolumeName(request.name())
                   ? Result<std::string>(request.name())
                   : Fail(Code::kInvalidArgument, "name: bad name of a volume");
      },
      [](VolumeTable& table, const std::string& name) { return table.Remove(name); });
}

}  // namespace wyvern::agent
