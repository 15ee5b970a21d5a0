#include "container/disks.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/plain_text.h"

namespace wyvern::runtime {
namespace {

std::string Plain(std::string_view text) {
  return PlainText(text, kMaxGuestError);
}

}  // namespace

Result<oci::DeviceNumber> ContainerDisks::Attach(const Disk& disk) {
  const std::string what = fmt::format("disk {} ({})", disk.name, disk.source);
  WV_TRY_VOID(record_({disk.name, disk.source}));
  names_.push_back(disk.name);
  WV_TRY_VOID_CONTEXT(machine_.AttachDisk(disk.name, disk.file, disk.read_only), what);
  agent_pb::AddDiskRequest request;
  request.set_serial(disk.name);
  request.set_filesystem(disk.filesystem);
  request.set_flags(disk.flags);
  request.set_options(disk.options);
  auto added = agent_.AddDisk(request);
  if (!added.has_value()) {
    return Fail(added.error().code(), what + ": " + Plain(added.error().message()));
  }
  if (added->journal_ignored()) {
    WV_WARN(
        "container {}: {} is read-only and was not unmounted cleanly: it is shown without what its "
        "journal has",
        id_, what);
  }
  return oci::DeviceNumber{added->major(), added->minor()};
}

bool ContainerDisks::RemoveInGuest(const std::string& name, GuestState& guest) {
  auto removed = agent_.RemoveDisk(name);
  if (!removed.has_value()) {
    WV_WARN("container {}: disk {}: the guest does not let go of it: {}", id_, name,
            Plain(removed.error().message()));
    if (removed.error().code() == Code::kDeadlineExceeded) {
      guest = GuestState::kDisobeys;  // the others would take as long
    }
    return false;
  }
  if (!removed->lost().empty()) {
    WV_ERROR("container {}: disk {}: what was written last may be lost: {}", id_, name,
             Plain(removed->lost()));
  }
  if (removed->in_use()) {
    WV_WARN("container {}: disk {}: something else in the guest uses it still: it is taken away",
            id_, name);
  }
  return !removed->in_use();
}

Result<> ContainerDisks::Release(GuestState guest) {
  if (guest == GuestState::kGone) {
    names_.clear();
    return {};
  }
  Result<> first;
  std::vector<std::string> left;
  for (auto it = names_.rbegin(); it != names_.rend(); ++it) {
    const bool free = guest == GuestState::kObeys && RemoveInGuest(*it, guest);
    auto detached = machine_.DetachDevice(*it, /*force=*/!free);
    if (!detached.has_value() && free) {
      WV_WARN("container {}: disk {}: {}; it is taken away", id_, *it,
              Plain(detached.error().message()));
      detached = machine_.DetachDevice(*it, /*force=*/true);
    }
    if (!detached.has_value()) {
      left.insert(left.begin(), *it);
      if (first.has_value()) {
        first = tl::unexpected(std::move(detached).error().WithContext("disk " + *it));
      }
    }
  }
  names_ = std::move(left);
  return first;
}

}  // namespace wyvern::runtime
