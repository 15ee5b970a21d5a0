#include "fs/inode_table.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace wyvern::fs {

namespace {

// Deeper trees than this are not opened again component by component.
constexpr size_t kMaxReopenDepth = 4096;

}  // namespace

FsResult<struct statx> StatAt(FdRef directory, const char* name, unsigned mask) {
  struct statx stat {};

  if (::statx(directory.get(), name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, mask,
              &stat) != 0) {
    return LastErrno();
  }
  return stat;
}

InodeKey KeyOf(const struct statx& stat) {
  return {stat.stx_mnt_id, makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino};
}

void InodeTable::SetRoot(const InodeKey& key, UniqueFd fd, std::shared_ptr<Export> share) {
  auto root = std::make_shared<Inode>(kRootNode, key, uint32_t{S_IFDIR}, std::move(share));
  root->fd_ = Hold(std::move(fd));
  root->lookups_ = 1;
  const std::unique_lock lock(mu_);
  nodes_[kRootNode] = root;
  keys_[key] = root;
}

FsResult<InodeRef> InodeTable::Find(uint64_t node) {
  const std::shared_lock lock(mu_);
  const auto it = nodes_.find(node);
  if (it == nodes_.end() || it->second->share->detached.load()) {
    return FsError(ESTALE);
  }
  return it->second;
}

InodeRef InodeTable::FindKey(const InodeKey& key) {
  const std::shared_lock lock(mu_);
  const auto it = keys_.find(key);
  return it == keys_.end() ? nullptr : it->second;
}

InodeRef InodeTable::CountKnownLocked(const Found& found) {
  const auto it = keys_.find(found.key);
  if (it == keys_.end() || it->second->share->detached.load()) {
    return nullptr;
  }
  if (it->second->file_type != found.file_type) {
    // The host reused the number of a file that the guest still knows without a descriptor.
    keys_.erase(it);
    return nullptr;
  }
  if (it->second->node != kRootNode) {
    ++it->second->lookups_;
  }
  return it->second;
}

FsResult<InodeRef> InodeTable::Remember(const Found& found, UniqueFd fd) {
  InodeRef inode;
  {
    const std::unique_lock lock(mu_);
    if (found.share->detached.load()) {
      return FsError(ESTALE);
    }
    inode = CountKnownLocked(found);
    if (inode == nullptr) {
      FS_TRY(inode, AddLocked(next_node_, found, &fd));
      ++next_node_;
      inode->lookups_ = 1;
    }
  }
  Refresh(inode, found, std::move(fd));
  Evict();
  return inode;
}

// Takes the descriptor where it is to stay.
FsResult<InodeRef> InodeTable::AddLocked(uint64_t node, const Found& found, UniqueFd* fd) {
  if (nodes_.size() >= limits_.inodes) {
    return FsError(ENFILE);
  }
  auto inode = std::make_shared<Inode>(node, found.key, found.file_type, found.share);
  if (found.nameless && !PinLocked(*inode)) {
    return FsError(ENFILE);
  }
  if (found.keep_resident) {
    inode->fd_ = Hold(std::exchange(*fd, UniqueFd()));
  }
  nodes_[node] = inode;
  keys_[found.key] = inode;
  return inode;
}

FsResult<> InodeTable::Restore(uint64_t node, uint64_t lookups, const Found& found, UniqueFd fd) {
  InodeRef inode;
  {
    const std::unique_lock lock(mu_);
    if (found.share->detached.load()) {
      return FsError(ESTALE);
    }
    if (nodes_.contains(node) || keys_.contains(found.key)) {
      return FsError(EEXIST);
    }
    FS_TRY(inode, AddLocked(node, found, &fd));
    inode->lookups_ = lookups;
  }
  Refresh(inode, found, std::move(fd));
  Evict();
  return {};
}

std::vector<InodeTable::Listed> InodeTable::List() {
  std::vector<Listed> listed;
  {
    const std::shared_lock lock(mu_);
    listed.reserve(nodes_.size());
    for (const auto& [node, inode] : nodes_) {
      if (node != kRootNode) {
        listed.push_back({inode, inode->lookups_, 0, {}});
      }
    }
  }
  for (Listed& one : listed) {
    const std::lock_guard lock(ShardOf(*one.inode));
    one.parent = one.inode->parent_;
    one.name = one.inode->name_;
  }
  std::ranges::sort(listed, {}, [](const Listed& one) { return one.inode->node; });
  return listed;
}

uint64_t InodeTable::next_node() const {
  const std::shared_lock lock(mu_);
  return next_node_;
}

void InodeTable::AdvanceNextNode(uint64_t node) {
  const std::unique_lock lock(mu_);
  next_node_ = std::max(next_node_, node);
}

void InodeTable::Refresh(const InodeRef& inode, const Found& found, UniqueFd fd) {
  if (found.keep_resident || inode->node == kRootNode) {
    return;
  }
  const std::lock_guard lock(ShardOf(*inode));
  const bool was_nameless = inode->parent_ == 0;
  if (inode->parent_ != found.parent || inode->name_ != found.name) {
    inode->parent_ = found.parent;
    inode->name_ = found.name;
  }
  const bool adopt = inode->fd_ == nullptr && fd.valid();
  if (adopt) {
    inode->fd_ = Hold(std::move(fd));
  }
  if (adopt || (was_nameless && inode->fd_ != nullptr)) {
    AddEvictable(inode);
  }
}

void InodeTable::UnlistLocked(Inode& inode) {
  if (inode.listed_) {
    evictable_.erase(inode.position_);
    inode.listed_ = false;
  }
}

bool InodeTable::PinLocked(Inode& inode) {
  if (inode.pinned_) {
    return true;
  }
  if (!MayTakeOneMore(limits_.nameless, nameless_, inode.share->nameless)) {
    return false;
  }
  inode.pinned_ = true;
  ++nameless_;
  ++inode.share->nameless;
  return true;
}

void InodeTable::UnpinLocked(Inode& inode) {
  if (inode.pinned_) {
    inode.pinned_ = false;
    --nameless_;
    --inode.share->nameless;
  }
}

void InodeTable::EraseLocked(const InodeRef& inode) {
  const auto key = keys_.find(inode->key);
  if (key != keys_.end() && key->second == inode) {
    keys_.erase(key);
  }
  UnlistLocked(*inode);
  UnpinLocked(*inode);
  nodes_.erase(inode->node);
}

bool InodeTable::Forget(uint64_t node, uint64_t count) {
  InodeRef gone;
  {
    const std::unique_lock lock(mu_);
    const auto it = nodes_.find(node);
    if (it == nodes_.end() || node == kRootNode) {
      return false;
    }
    it->second->lookups_ -= std::min(count, it->second->lookups_);
    if (it->second->lookups_ > 0) {
      return false;
    }
    gone = it->second;
    EraseLocked(gone);
  }
  const std::lock_guard lock(ShardOf(*gone));
  gone->fd_.reset();
  return true;
}

PathFd InodeTable::ResidentFd(const InodeRef& inode) {
  const std::lock_guard lock(ShardOf(*inode));
  if (inode->fd_ != nullptr) {
    inode->referenced_.store(true, std::memory_order_relaxed);
  }
  return inode->fd_;
}

FsResult<PathFd> InodeTable::Open(const InodeRef& inode) {
  if (inode->share->detached.load()) {
    return FsError(ESTALE);
  }
  if (PathFd fd = ResidentFd(inode); fd != nullptr) {
    return fd;
  }
  return OpenByName(inode);
}

PathFd InodeTable::Adopt(const InodeRef& inode, UniqueFd fd) {
  PathFd adopted;
  {
    const std::lock_guard lock(ShardOf(*inode));
    if (inode->fd_ == nullptr) {
      inode->fd_ = Hold(std::move(fd));
      inode->referenced_.store(true, std::memory_order_relaxed);
      AddEvictable(inode);
    }
    adopted = inode->fd_;
  }
  Evict();
  return adopted;
}

FsResult<PathFd> InodeTable::OpenByName(const InodeRef& inode) {
  std::vector<InodeRef> chain{inode};
  PathFd fd;
  while (fd == nullptr) {
    uint64_t parent = 0;
    {
      const std::lock_guard lock(ShardOf(*chain.back()));
      parent = chain.back()->parent_;
    }
    if (parent == 0 || chain.size() > kMaxReopenDepth) {
      return FsError(ESTALE);
    }
    FS_TRY(InodeRef next, Find(parent));
    fd = ResidentFd(next);
    if (fd == nullptr) {
      chain.push_back(std::move(next));
    }
  }
  while (!chain.empty()) {
    FS_TRY(fd, OpenStep(chain.back(), fd));
    chain.pop_back();
  }
  Evict();
  return fd;
}

FsResult<PathFd> InodeTable::OpenStep(const InodeRef& inode, const PathFd& parent) {
  // A rename in another thread gives the inode its new name only after the host has it: one more
  // try finds it there.
  std::string tried;
  for (int attempt = 0; attempt < 3; ++attempt) {
    std::string name;
    {
      const std::lock_guard lock(ShardOf(*inode));
      if (inode->fd_ != nullptr) {
        return inode->fd_;
      }
      name = inode->name_;
    }
    if (attempt > 0 && name == tried) {
      break;
    }
    tried = name;
    UniqueFd fd(::openat(parent->get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.valid() && (errno == EMFILE || errno == ENFILE)) {
      return FsError(ENFILE);
    }
    if (!fd.valid()) {
      continue;
    }
    const auto stat = StatAt(fd, "");
    if (!stat || KeyOf(*stat) != inode->key || (stat->stx_mode & S_IFMT) != inode->file_type) {
      continue;
    }
    const std::lock_guard lock(ShardOf(*inode));
    if (inode->fd_ == nullptr) {
      inode->fd_ = Hold(std::move(fd));
      inode->referenced_.store(true, std::memory_order_relaxed);
      AddEvictable(inode);
    }
    return inode->fd_;
  }
  return FsError(ESTALE);
}

void InodeTable::AddEvictable(const InodeRef& inode) {
  const std::unique_lock lock(mu_);
  const auto it = nodes_.find(inode->node);
  if (it == nodes_.end() || inode->listed_ || inode->parent_ == 0) {
    return;
  }
  UnpinLocked(*inode);
  inode->position_ = evictable_.insert(evictable_.end(), inode);
  inode->listed_ = true;
}

void InodeTable::Evict() {
  while (resident_count_->load(std::memory_order_relaxed) > limits_.resident) {
    InodeRef victim;
    {
      const std::unique_lock lock(mu_);
      if (evictable_.size() <= limits_.resident) {
        return;  // the rest has no name, is in use or is a root: others going would not help
      }
      // Each round either takes the second chance of one inode or finds the victim, so one pass
      // over the list is enough.
      for (size_t left = evictable_.size() + 1; left > 0 && !evictable_.empty(); --left) {
        const InodeRef& oldest = evictable_.front();
        if (left > 1 && oldest->referenced_.exchange(false, std::memory_order_relaxed)) {
          evictable_.splice(evictable_.end(), evictable_, evictable_.begin());
          continue;
        }
        victim = oldest;
        UnlistLocked(*victim);
        break;
      }
    }
    PathFd closing;
    const std::lock_guard lock(ShardOf(*victim));
    if (victim->parent_ != 0 && victim->fd_ != nullptr) {
      closing = std::exchange(victim->fd_, nullptr);
    }
  }
}

FsResult<> InodeTable::LoseName(const InodeRef& inode, uint64_t parent, std::string_view name) {
  FS_TRY(const PathFd fd, Open(inode));
  const std::lock_guard lock(ShardOf(*inode));
  if (inode->parent_ != parent || inode->name_ != name) {
    return {};  // known by another of its names
  }
  {
    const std::unique_lock table(mu_);
    if (nodes_.contains(inode->node) && !PinLocked(*inode)) {
      return FsError(ENFILE);
    }
    UnlistLocked(*inode);
  }
  if (inode->fd_ == nullptr) {
    inode->fd_ = fd;  // evicted in between
  }
  inode->parent_ = 0;
  inode->name_.clear();
  return {};
}

void InodeTable::SetName(const InodeRef& inode, uint64_t parent, std::string_view name) {
  const std::lock_guard lock(ShardOf(*inode));
  inode->parent_ = parent;
  inode->name_ = name;
  if (inode->fd_ != nullptr) {
    AddEvictable(inode);
  }
}

void InodeTable::Clear() {
  std::unordered_map<uint64_t, InodeRef> gone;
  const std::unique_lock lock(mu_);
  evictable_.clear();
  keys_.clear();
  gone.swap(nodes_);
  const auto root = gone.find(kRootNode);
  if (root != gone.end()) {
    keys_[root->second->key] = root->second;
    nodes_[kRootNode] = root->second;
  }
  for (auto& [node, inode] : gone) {
    inode->listed_ = false;
    UnpinLocked(*inode);
  }
}

void InodeTable::DropExport(const Export* share, std::vector<std::weak_ptr<const HeldFd>>* in_use) {
  std::vector<InodeRef> gone;
  {
    const std::unique_lock lock(mu_);
    for (const auto& [node, inode] : nodes_) {
      if (inode->share.get() == share && node != kRootNode) {
        gone.push_back(inode);
      }
    }
    for (const InodeRef& inode : gone) {
      EraseLocked(inode);
    }
  }
  for (const InodeRef& inode : gone) {
    PathFd fd;
    {
      const std::lock_guard lock(ShardOf(*inode));
      fd = std::exchange(inode->fd_, nullptr);
    }
    if (fd != nullptr) {
      in_use->push_back(fd);
    }
  }
}

InodeTable::Counts InodeTable::counts() const {
  const std::shared_lock lock(mu_);
  return {nodes_.size(), resident_count_->load()};
}

}  // namespace wyvern::fs
