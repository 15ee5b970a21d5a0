#include "fs/handle_table.h"

#include <algorithm>
#include <cerrno>

namespace wyvern::fs {

FsResult<uint64_t> HandleTable::Add(HandleRef handle) {
  const std::unique_lock lock(mu_);
  Export& share = *handle->share;
  if (!MayTakeOneMore(limit_, handles_.size() + reserved_, share.handles)) {
    return FsError(ENFILE);
  }
  if (share.detached.load()) {
    return FsError(ESTALE);
  }
  ++share.handles;
  const uint64_t fh = next_++;
  handles_.emplace(fh, std::move(handle));
  return fh;
}

FsResult<HandleRef> HandleTable::Find(uint64_t fh, bool directory) const {
  const std::shared_lock lock(mu_);
  const auto it = handles_.find(fh);
  if (it == handles_.end() || it->second->directory != directory) {
    return FsError(lost_.contains(fh) ? EIO : EBADF);
  }
  if (it->second->share->detached.load()) {
    return FsError(ESTALE);
  }
  return it->second;
}

HandleRef HandleTable::FindFor(uint64_t fh, uint64_t node) const {
  const std::shared_lock lock(mu_);
  const auto it = handles_.find(fh);
  if (it == handles_.end() || it->second->node != node || it->second->share->detached.load()) {
    return nullptr;
  }
  return it->second;
}

HandleRef HandleTable::FindAny(uint64_t node) const {
  const std::shared_lock lock(mu_);
  for (const auto& [fh, handle] : handles_) {
    if (handle->node == node && !handle->share->detached.load()) {
      return handle;
    }
  }
  return nullptr;
}

HandleRef HandleTable::Remove(uint64_t fh) {
  HandleRef gone;
  const std::unique_lock lock(mu_);
  const auto it = handles_.find(fh);
  if (it != handles_.end()) {
    gone = std::move(it->second);
    --gone->share->handles;
    handles_.erase(it);
  }
  lost_.erase(fh);
  return gone;
}

FsResult<> HandleTable::Restore(uint64_t fh, HandleRef handle) {
  const std::unique_lock lock(mu_);
  Export& share = *handle->share;
  if (handles_.size() + reserved_ >= limit_) {
    return FsError(ENFILE);
  }
  if (share.detached.load()) {
    return FsError(ESTALE);
  }
  if (!handles_.emplace(fh, std::move(handle)).second) {
    return FsError(EEXIST);
  }
  ++share.handles;
  return {};
}

void HandleTable::RestoreLost(uint64_t fh) {
  const std::unique_lock lock(mu_);
  if (lost_.size() < limit_) {
    lost_.insert(fh);
  }
}

std::vector<std::pair<uint64_t, HandleRef>> HandleTable::List() const {
  std::vector<std::pair<uint64_t, HandleRef>> listed;
  {
    const std::shared_lock lock(mu_);
    listed.assign(handles_.begin(), handles_.end());
  }
  std::ranges::sort(listed, {}, &std::pair<uint64_t, HandleRef>::first);
  return listed;
}

uint64_t HandleTable::next() const {
  const std::shared_lock lock(mu_);
  return next_;
}

void HandleTable::AdvanceNext(uint64_t fh) {
  const std::unique_lock lock(mu_);
  next_ = std::max(next_, fh);
}

bool HandleTable::Reserve(Export& share) {
  const std::unique_lock lock(mu_);
  if (!MayTakeOneMore(limit_, handles_.size() + reserved_, share.handles) ||
      share.detached.load()) {
    return false;
  }
  ++reserved_;
  ++share.handles;
  return true;
}

void HandleTable::Unreserve(Export& share) {
  const std::unique_lock lock(mu_);
  --reserved_;
  --share.handles;
}

void HandleTable::Clear() {
  std::unordered_map<uint64_t, HandleRef> gone;
  const std::unique_lock lock(mu_);
  gone.swap(handles_);
  lost_.clear();
  for (const auto& [fh, handle] : gone) {
    --handle->share->handles;
  }
}

void HandleTable::DropExport(const Export* share, std::vector<std::weak_ptr<Handle>>* in_use) {
  std::vector<HandleRef> gone;
  const std::unique_lock lock(mu_);
  for (auto it = handles_.begin(); it != handles_.end();) {
    if (it->second->share.get() == share) {
      in_use->push_back(it->second);
      --it->second->share->handles;
      gone.push_back(std::move(it->second));
      it = handles_.erase(it);
    } else {
      ++it;
    }
  }
}

size_t HandleTable::size() const {
  const std::shared_lock lock(mu_);
  return handles_.size();
}

}  // namespace wyvern::fs
