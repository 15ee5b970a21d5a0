#include "fs/lock_table.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <optional>

namespace wyvern::fs {

namespace {

constexpr auto kLastByte = static_cast<uint64_t>(INT64_MAX);  // OFFSET_MAX: to the end of the file

bool IsWholeFile(const struct flock& lock) {
  return lock.l_start == 0 && lock.l_len == 0;
}

// The range of a FUSE lock as fcntl(2) has it. EINVAL: not a range of a file, or no type of lock.
FsResult<struct flock> ToHostLock(const fuse_file_lock& lock) {
  if (lock.type != F_RDLCK && lock.type != F_WRLCK && lock.type != F_UNLCK) {
    return FsError(EINVAL);
  }
  if (lock.start > lock.end || lock.end > kLastByte) {
    return FsError(EINVAL);
  }

  struct flock host {};

  host.l_type = static_cast<short>(lock.type);
  host.l_whence = SEEK_SET;
  host.l_start = static_cast<off_t>(lock.start);
  host.l_len = lock.end == kLastByte ? 0 : static_cast<off_t>(lock.end - lock.start + 1);
  return host;
}

}  // namespace

std::shared_ptr<const LockTable::Entry> LockTable::Find(const Key& key) const {
  const std::lock_guard lock(mu_);
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : it->second;
}

FsResult<std::shared_ptr<const LockTable::Entry>> LockTable::FindOrAdd(
    const Key& key, const HandleRef& handle, uint64_t fh,
    const std::function<FsResult<UniqueFd>()>& open) {
  if (auto known = Find(key); known != nullptr) {
    return known;
  }
  if (!handles_.Reserve(*handle->share)) {
    return FsError(ENOLCK);
  }
  auto fd = open();
  if (!fd) {
    handles_.Unreserve(*handle->share);
    return tl::unexpected(fd.error());
  }
  auto entry = std::make_shared<const Entry>(Entry{handle->share, std::move(*fd), fh});
  const std::lock_guard lock(mu_);
  const auto [it, added] = entries_.try_emplace(key, std::move(entry));
  if (!added) {
    handles_.Unreserve(*handle->share);  // another thread of the owner was faster
  }
  return it->second;
}

FsResult<> LockTable::Set(const HandleRef& handle, uint64_t fh, const fuse_lk_in& args,
                          const std::function<FsResult<UniqueFd>()>& open) {
  FS_TRY(struct flock host, ToHostLock(args.lk));
  const Key key{handle->node, args.owner};
  std::shared_ptr<const Entry> entry;
  if (host.l_type == F_UNLCK) {
    entry = Find(key);
    if (entry == nullptr) {
      return {};  // holds nothing
    }
  } else {
    FS_TRY(entry, FindOrAdd(key, handle, fh, open));
  }
  if (::fcntl(entry->fd.get(), F_OFD_SETLK, &host) != 0) {
    return errno == EACCES ? FsError(EAGAIN) : LastErrno();
  }
  if (host.l_type == F_UNLCK && IsWholeFile(host)) {
    DropOwner(key.first, key.second);
  }
  return {};
}

FsResult<fuse_file_lock> LockTable::Get(const HandleRef& handle, const fuse_lk_in& args) const {
  FS_TRY(struct flock host, ToHostLock(args.lk));
  if (host.l_type == F_UNLCK) {
    return FsError(EINVAL);
  }
  // The guest's own file holds no record locks: to it, everyone's are in the way.
  const std::shared_ptr<const Entry> entry = Find({handle->node, args.owner});
  const int fd = entry != nullptr ? entry->fd.get() : handle->fd.get();
  if (::fcntl(fd, F_OFD_GETLK, &host) != 0) {
    return LastErrno();
  }
  fuse_file_lock out{};
  out.type = static_cast<uint32_t>(host.l_type);
  if (host.l_type != F_UNLCK) {
    out.start = static_cast<uint64_t>(host.l_start);
    out.end = host.l_len == 0 ? kLastByte : out.start + static_cast<uint64_t>(host.l_len) - 1;
  }
  return out;  // pid 0: the host's numbers mean nothing in the guest
}

std::shared_ptr<const LockTable::Entry> LockTable::EraseLocked(Entries::iterator it) {
  std::shared_ptr<const Entry> gone = std::move(it->second);
  entries_.erase(it);
  handles_.Unreserve(*gone->share);
  return gone;
}

bool LockTable::DropOwner(uint64_t node, uint64_t owner) {
  std::shared_ptr<const Entry> gone;
  const std::lock_guard lock(mu_);
  const auto it = entries_.find({node, owner});
  if (it != entries_.end()) {
    gone = EraseLocked(it);
  }
  return gone != nullptr;
}

bool LockTable::DropHandle(uint64_t node, uint64_t fh) {
  std::vector<std::shared_ptr<const Entry>> gone;
  const std::lock_guard lock(mu_);
  auto it = entries_.lower_bound({node, 0});
  while (it != entries_.end() && it->first.first == node) {
    const auto next = std::next(it);
    if (it->second->fh == fh) {
      gone.push_back(EraseLocked(it));
    }
    it = next;
  }
  return !gone.empty();
}

void LockTable::DropExport(const Export* share) {
  std::vector<std::shared_ptr<const Entry>> gone;
  const std::lock_guard lock(mu_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto next = std::next(it);
    if (it->second->share.get() == share) {
      gone.push_back(EraseLocked(it));
    }
    it = next;
  }
}

void LockTable::Clear() {
  Entries gone;
  const std::lock_guard lock(mu_);
  gone.swap(entries_);
  for (const auto& [key, entry] : gone) {
    handles_.Unreserve(*entry->share);
  }
}

size_t LockTable::size() const {
  const std::lock_guard lock(mu_);
  return entries_.size();
}

std::unordered_set<uint64_t> LockTable::nodes() const {
  std::unordered_set<uint64_t> nodes;
  const std::lock_guard lock(mu_);
  for (const auto& [key, entry] : entries_) {
    nodes.insert(key.first);
  }
  return nodes;
}

bool LockWaits::Add(uint64_t ticket, const Request& request) {
  const std::lock_guard lock(mu_);
  if (waits_.size() >= limit_) {
    return false;
  }
  waits_.push_back({.ticket = ticket, .request = request, .due = Clock::now() + kFirstRetry});
  count_.store(waits_.size());
  return true;
}

bool LockWaits::Drop(uint64_t ticket) {
  const std::lock_guard lock(mu_);
  const bool there =
      std::erase_if(waits_, [ticket](const Wait& wait) { return wait.ticket == ticket; }) != 0;
  count_.store(waits_.size());
  return there;
}

LockWaits::Wait* LockWaits::FindLocked(uint64_t ticket) {
  const auto found = std::ranges::find(waits_, ticket, &Wait::ticket);
  return found == waits_.end() ? nullptr : &*found;
}

bool LockWaits::Hold(uint64_t ticket) {
  const std::lock_guard lock(mu_);
  Wait* const wait = FindLocked(ticket);
  if (wait == nullptr) {
    return false;
  }
  wait->held = true;
  return true;
}

void LockWaits::Resume(uint64_t ticket) {
  const std::lock_guard lock(mu_);
  if (Wait* const wait = FindLocked(ticket); wait != nullptr) {
    wait->held = false;
    wait->due = Clock::now();
  }
}

void LockWaits::Interrupt(uint64_t unique) {
  const std::lock_guard lock(mu_);
  for (Wait& wait : waits_) {
    if (wait.request.unique == unique) {
      wait.interrupted = true;
      changed_.store(true);
    }
  }
}

std::vector<LockWaits::Ended> LockWaits::Retry(
    const std::function<FsResult<>(const Request&)>& attempt) {
  std::vector<Ended> ended;
  const std::lock_guard lock(mu_);
  const bool all = changed_.exchange(false);
  const auto now = Clock::now();
  std::unordered_set<uint64_t>
      due;  // nodes: who came first is tried first, whose turn it is or not
  for (const Wait& wait : waits_) {
    if (!wait.held && wait.due <= now) {
      due.insert(wait.request.node);
    }
  }
  std::erase_if(waits_, [&](Wait& wait) {
    if (wait.held || (!wait.interrupted && !all && !due.contains(wait.request.node))) {
      return false;
    }
    const FsResult<> result = wait.interrupted ? FsError(EINTR) : attempt(wait.request);
    if (!result && result.error().value == EAGAIN) {
      wait.interval = std::min(wait.interval * 2, kLastRetry);
      wait.due = now + wait.interval;
      return false;
    }
    ended.push_back({wait.ticket, wait.request.unique, result ? 0 : result.error().value});
    return true;
  });
  count_.store(waits_.size());
  return ended;
}

void LockWaits::ArmNext(const std::function<void(std::chrono::milliseconds)>& arm) const {
  const std::lock_guard lock(mu_);
  std::optional<Clock::time_point> first;
  for (const Wait& wait : waits_) {
    if (!wait.held && (!first || wait.due < *first)) {
      first = wait.due;
    }
  }
  if (first) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*first - Clock::now());
    arm(std::max(left, std::chrono::milliseconds(1)));
  }
}

}  // namespace wyvern::fs
