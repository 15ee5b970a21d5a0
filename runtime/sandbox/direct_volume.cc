// Volumes that are disks of the guest by the host's word (volume/direct_volumes.h): how full they are, and that they grow.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/plain_text.h"
#include "sandbox/sandbox_impl.h"
#include "volume/direct_volumes.h"

namespace wyvern::runtime {
namespace {

constexpr std::chrono::minutes kGrow(2);

// Somebody made it larger, on the host or behind it: otherwise nothing is to be had.
Result<> CheckDevice(const std::string& state_dir, const std::string& path, uint64_t wanted) {
  WV_TRY(const auto volume, DirectVolumes(state_dir).Find(path));
  if (!volume.has_value()) {
    return Fail(Code::kFailedPrecondition, path + " is no direct volume any more");
  }
  WV_TRY(const UniqueFd device, Open(volume->device, O_RDONLY | O_NONBLOCK));
  const off_t bytes = lseek(device.get(), 0, SEEK_END);
  if (bytes < 0) {
    return SysError("lseek " + volume->device);
  }
  if (static_cast<uint64_t>(bytes) < wanted) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{}: {} has {} bytes: make the device larger first", path,
                            volume->device, bytes));
  }
  return {};
}

}  // namespace

Result<VolumeUsage> SandboxImpl::DirectVolume(const std::string& path, uint64_t grow_to) {
  const Busy busy(*this);
  WV_TRY_VOID(CheckAlive());
  std::string disk;
  {
    const std::lock_guard lock(mu_);
    for (const auto& [id, container] : containers_) {
      if (!container->created) {
        continue;
      }
      const auto& volumes = container->host->direct_volumes();
      if (const auto it = volumes.find(path); it != volumes.end()) {
        disk = it->second;
      }
    }
  }
  if (disk.empty()) {
    return Fail(Code::kNotFound, path + " is no direct volume of this sandbox");
  }
  if (grow_to > 0) {
    WV_TRY_VOID(CheckDevice(config_.state_dir, path, grow_to));
    WV_TRY_VOID_CONTEXT(machine_->ResizeDisk(disk), path);
  }
  auto usage = agent_->DiskUsage(
      disk, grow_to > 0,
      grow_to > 0 ? std::chrono::milliseconds(kGrow) : config_.timeouts.agent_call);
  if (!usage.has_value()) {
    // What the guest says of itself is no answer to whether there is such a volume.
    const Code code =
        usage.error().code() == Code::kNotFound ? Code::kUnavailable : usage.error().code();
    return Fail(code, path + ": " + PlainText(usage.error().message(), kMaxGuestError));
  }
  return VolumeUsage{usage->bytes(),  usage->bytes_available(),  usage->bytes_used(),
                     usage->inodes(), usage->inodes_available(), usage->inodes_used()};
}

}  // namespace wyvern::runtime
