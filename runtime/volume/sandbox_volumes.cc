#include "volume/sandbox_volumes.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/plain_text.h"
#include "volume/host_volume.h"

namespace wyvern::runtime {
namespace {

// The agent gives up after ten seconds itself.
constexpr std::chrono::milliseconds kLimit{15000};
constexpr std::chrono::milliseconds kRetry{10000};
constexpr size_t kMaxGuestText = 300;

std::string GuestPath(const std::string& name) {
  return fmt::format("{}/{}", oci::kGuestVolumes, name);
}

void SetOwner(const FileOwner& owner, agent_pb::VolumeOwner& out) {
  out.set_mode(owner.mode);
  out.set_uid(owner.uid);
  out.set_gid(owner.gid);
}

}  // namespace

SandboxVolumes::SandboxVolumes(Options options)
    : options_(std::move(options)), watch_(std::make_unique<VolumeWatch>(*options_.loop, [this] {
        options_.run([this] { Sync(); });
      })) {}

Result<std::optional<oci::GuestSource>> SandboxVolumes::Take(const std::string& container,
                                                             const std::string& source) {
  const HostVolume volume = LookAtVolume(source);
  if (volume.kind == HostVolume::Kind::kShare) {
    return std::nullopt;
  }
  const std::lock_guard lock(mu_);
  if (closed_) {
    return Fail(Code::kUnavailable, "the sandbox is ending");
  }
  if (volume.kind == HostVolume::Kind::kFiles) {
    return TakeFiles(container, source);
  }
  WV_TRY(oci::GuestSource guest, TakeMemory(container, volume));
  return guest;
}

Result<oci::GuestSource> SandboxVolumes::TakeMemory(const std::string& container,
                                                    const HostVolume& volume) {
  auto it = memory_.find(volume.key);
  if (it == memory_.end()) {
    agent_pb::AddVolumeRequest request;
    request.set_name(fmt::format("e{}", next_++));
    SetOwner(volume.top, *request.mutable_owner());
    if (volume.kind == HostVolume::Kind::kMemory) {
      request.mutable_memory()->set_bytes(volume.bytes);
    } else {
      request.mutable_huge_pages()->set_page_bytes(volume.page_bytes);
      request.mutable_huge_pages()->set_bytes(volume.bytes);
    }
    WV_TRY_VOID(options_.agent->AddVolume(request));
    it = memory_.emplace(volume.key, request.name()).first;
  }
  if (volume.part.empty()) {
    return oci::GuestSource{GuestPath(it->second), false};
  }
  agent_pb::AddVolumeRequest request;
  request.set_name(fmt::format("p{}", next_++));
  SetOwner(volume.owner, *request.mutable_owner());
  request.mutable_part()->set_of(it->second);
  request.mutable_part()->set_path(volume.part);
  WV_TRY_VOID(options_.agent->AddVolume(request));
  parts_[container].push_back(request.name());
  return oci::GuestSource{GuestPath(request.name()), false};
}

// `instead_of`: bytes that go.
Result<HostFiles> SandboxVolumes::ReadBounded(const std::string& source, size_t instead_of) const {
  WV_TRY(HostFiles files, ReadHostFiles(source));
  size_t bytes = files.bytes;
  for (const auto& [other, there] : files_) {
    bytes += there.bytes;
  }
  if (bytes - instead_of > kMaxFileVolumesBytes) {
    return Fail(Code::kResourceExhausted,
                fmt::format("the volumes of the sandbox have more than {} bytes together",
                            kMaxFileVolumesBytes));
  }
  return files;
}

Result<std::optional<oci::GuestSource>> SandboxVolumes::TakeFiles(const std::string& container,
                                                                  const std::string& source) {
  auto it = files_.find(source);
  if (it == files_.end()) {
    auto files = files_.size() < kMaxFileVolumes
                     ? ReadBounded(source, 0)
                     : Fail(Code::kResourceExhausted,
                            fmt::format("the sandbox has {} such volumes", kMaxFileVolumes));
    if (!files.has_value()) {
      if (files.error().code() != Code::kNotFound) {  // else sharing it says so
        WV_INFO(
            "container {}: {} is shared, so that nobody who watches it sees the host change it: {}",
            container, source, files.error().message());
      }
      return std::nullopt;
    }
    Files added;
    added.name = fmt::format("f{}", next_++);
    added.version = files->version;
    added.bytes = files->bytes;
    agent_pb::AddVolumeRequest request;
    request.set_name(added.name);
    SetOwner(files->owner, *request.mutable_owner());
    request.mutable_files();
    WV_TRY_VOID(options_.agent->AddVolume(request));
    if (auto sent = SendFiles(added.name, std::move(*files)); !sent.has_value()) {
      Remove(added.name, /*tell_guest=*/true);
      return tl::unexpected(std::move(sent).error());
    }
    it = files_.emplace(source, std::move(added)).first;
    watch_->Add(source);
    // What has changed between the reading and the watch.
    watch_->CallLater(kVolumeSettles);
  }
  it->second.users.insert(container);
  return oci::GuestSource{GuestPath(it->second.name) + "/files", true};
}

Result<> SandboxVolumes::SendFiles(const std::string& name, HostFiles files) {
  agent_pb::SetVolumeFilesRequest request;
  request.set_name(name);
  request.set_version(std::move(files.version));
  SetOwner(files.owner, *request.mutable_owner());
  for (HostFile& file : files.files) {
    agent_pb::VolumeFile* const out = request.add_file();
    out->set_path(std::move(file.path));
    SetOwner(file.owner, *out->mutable_owner());
    if (file.directory) {
      out->mutable_directory();
    } else {
      out->set_content(std::move(file.content));
    }
  }
  return options_.agent->SetVolumeFiles(request, kLimit);
}

void SandboxVolumes::Remove(const std::string& name, bool tell_guest) {
  if (!tell_guest || closed_) {
    return;
  }
  if (auto removed = options_.agent->RemoveVolume(name); !removed.has_value()) {
    WV_WARN("sandbox {}: removing volume {} in the guest: {}", options_.id, name,
            PlainText(removed.error().message(), kMaxGuestText));
  }
}

void SandboxVolumes::Release(const std::string& container, bool tell_guest) {
  const std::lock_guard lock(mu_);
  if (const auto it = parts_.find(container); it != parts_.end()) {
    for (const std::string& name : it->second) {
      Remove(name, tell_guest);
    }
    parts_.erase(it);
  }
  for (auto it = files_.begin(); it != files_.end();) {
    if (it->second.users.erase(container) == 0 || !it->second.users.empty()) {
      ++it;
      continue;
    }
    if (watch_ != nullptr) {
      watch_->Remove(it->first);
    }
    Remove(it->second.name, tell_guest);
    it = files_.erase(it);
  }
}

// False: it could not be done, and is to be tried again.
bool SandboxVolumes::Update(const std::string& source, Files& files) {
  const auto version = ReadVersion(source);
  if (!version.has_value() || *version == files.version) {
    return true;  // one that is gone, or being made: what the guest has stays
  }
  const auto tell = [&](const Error& error) {
    if (files.told != *version && error.code() != Code::kUnavailable) {  // else the guest is going
      files.told = *version;
      WV_WARN("sandbox {}: {} has changed, but its containers keep the old one: {}", options_.id,
              source, PlainText(error.message(), kMaxGuestText));
    }
  };
  auto read = ReadBounded(source, files.bytes);
  if (!read.has_value()) {
    tell(read.error());
    return read.error().code() !=
           Code::kAborted;  // the others are over with the host's next change
  }
  std::string now = read->version;
  const size_t bytes = read->bytes;
  if (auto sent = SendFiles(files.name, std::move(*read)); !sent.has_value()) {
    tell(sent.error());
    return sent.error().code() == Code::kPermissionDenied;  // guest.allow, which stays
  }
  files.version = std::move(now);
  files.bytes = bytes;
  WV_DEBUG("sandbox {}: {} has changed", options_.id, source);
  return true;
}

void SandboxVolumes::Sync() {
  const std::lock_guard lock(mu_);
  bool all = true;
  for (auto& [source, files] : files_) {
    if (closed_) {
      return;
    }
    all = Update(source, files) && all;
  }
  if (!all && watch_ != nullptr) {
    watch_->CallLater(kRetry);
  }
}

void SandboxVolumes::Close() {
  std::unique_ptr<VolumeWatch> watch;
  {
    const std::lock_guard lock(mu_);
    closed_ = true;
    watch = std::move(watch_);
  }
  // Without the lock: its end waits for the loop, which may be starting a Sync.
  watch.reset();
}

}  // namespace wyvern::runtime
