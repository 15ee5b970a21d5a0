// FileServer::Save: how each inode is found again, and how each open file was opened.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <climits>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "fs/file_server.h"

namespace wyvern::fs {

class SessionSave {
 public:
  explicit SessionSave(FileServer& server) : server_(server) {}

  Result<FsState> Run();

 private:
  // kStarted: those it lies in are being saved.
  enum class Progress : uint8_t { kUntouched, kStarted, kSaved, kLost };

  struct Work {
    InodeTable::Listed listed;
    Progress progress = Progress::kUntouched;
  };

  void SaveNodes();
  void SaveWithParents(size_t index);
  bool SaveOne(const InodeTable::Listed& listed);
  bool SaveAt(const InodeTable::Listed& listed, uint64_t base, const std::string& path,
              const FsResult<Identified>& found);
  bool SaveByName(const InodeTable::Listed& listed);
  bool SaveByPath(const InodeTable::Listed& listed);
  void SaveFiles();
  FsResult<std::string> PathOf(const PathFd& fd) const;
  bool IsSaved(uint64_t node) const;

  FileServer& server_;
  FsState state_;
  std::vector<Work> work_;
  std::unordered_map<uint64_t, size_t> places_;  // of a node in work_
  PathFd root_;
  std::string root_path_;  // "" for "/"
};

Result<FsState> SessionSave::Run() {
  const size_t waits = server_.waits_.size();
  const size_t ranges = server_.dax_.mapped_ranges();
  if (waits != 0 || ranges != 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the guest waits for {} locks and has {} ranges of the DAX window "
                            "mapped, which cannot be carried",
                            waits, ranges));
  }
  state_.next_node = server_.inodes_.next_node();
  state_.next_handle = server_.handles_.next();
  if (!server_.initialized_.load()) {
    return std::move(state_);
  }
  state_.minor = kFuseMinor;
  state_.max_write = kMaxIoBytes;
  state_.flags = server_.session_flags_.load();
  SaveNodes();
  SaveFiles();
  return std::move(state_);
}

void SessionSave::SaveNodes() {
  if (const auto root = server_.inodes_.Find(kRootNode); root) {
    root_ = server_.OpenNode(*root).value_or(nullptr);
  }
  if (root_ != nullptr) {
    root_path_ = PathOf(root_).value_or("");
    if (root_path_ == "/") {
      root_path_.clear();
    }
  }
  for (InodeTable::Listed& listed : server_.inodes_.List()) {
    places_.emplace(listed.inode->node, work_.size());
    work_.push_back({std::move(listed)});
  }
  state_.nodes.reserve(work_.size());
  for (size_t i = 0; i < work_.size(); ++i) {
    SaveWithParents(i);
  }
}

// Whoever loads finds a directory before what lies in it. Names that the host has moved may make a
// circle of directories; one of them is then saved before the one it lies in, by its path.
void SessionSave::SaveWithParents(size_t index) {
  std::vector<size_t> stack{index};
  while (!stack.empty()) {
    Work& work = work_[stack.back()];
    if (work.progress == Progress::kUntouched) {
      work.progress = Progress::kStarted;
      const auto parent = places_.find(work.listed.parent);
      if (parent != places_.end() && work_[parent->second].progress == Progress::kUntouched) {
        stack.push_back(parent->second);
        continue;
      }
    }
    if (work.progress == Progress::kStarted) {
      work.progress = SaveOne(work.listed) ? Progress::kSaved : Progress::kLost;
      state_.lost_nodes += work.progress == Progress::kLost ? 1 : 0;
    }
    stack.pop_back();
  }
}

bool SessionSave::SaveOne(const InodeTable::Listed& listed) {
  return SaveByName(listed) || SaveByPath(listed);
}

// The way that was found leads to the very inode.
bool SessionSave::SaveAt(const InodeTable::Listed& listed, uint64_t base, const std::string& path,
                         const FsResult<Identified>& found) {
  const Inode& inode = *listed.inode;
  if (!found || found->key != inode.key || found->identity.file_type != inode.file_type) {
    return false;
  }
  state_.nodes.push_back({inode.node, listed.lookups, base, found->identity, path});
  return true;
}

// As the guest knows it.
bool SessionSave::SaveByName(const InodeTable::Listed& listed) {
  if (listed.parent == 0 || !IsSaved(listed.parent)) {
    return false;
  }
  const auto parent = server_.inodes_.Find(listed.parent);
  const auto directory = parent ? server_.OpenNode(*parent) : tl::unexpected(parent.error());
  return directory && SaveAt(listed, listed.parent, listed.name,
                             Identify(FdRef((*directory)->get()), listed.name.c_str()));
}

// As the host's kernel knows it, where the host has moved it, or the guest has forgotten the
// directory; an export's root, too. What has lost its name leads nowhere, or to something else.
bool SessionSave::SaveByPath(const InodeTable::Listed& listed) {
  const auto fd = server_.OpenNode(listed.inode);
  const auto path = fd ? PathOf(*fd) : tl::unexpected(fd.error());
  if (!path || root_ == nullptr || !path->starts_with(root_path_ + "/")) {
    return false;
  }
  const std::string relative = path->substr(root_path_.size() + 1);
  const auto opened = OpenBeneath(FdRef(root_->get()), relative.c_str());
  return opened && SaveAt(listed, kRootNode, relative, Identify(*opened, ""));
}

void SessionSave::SaveFiles() {
  const std::unordered_set<uint64_t> locked = server_.locks_.nodes();
  for (const auto& [number, handle] : server_.handles_.List()) {
    FsState::OpenFile file{.handle = number};
    if (handle->flocked.load() || locked.contains(handle->node)) {
      ++state_.lost_locked;
    } else if (IsSaved(handle->node)) {
      file.node = handle->node;
      const int flags = handle->directory ? 0 : ::fcntl(handle->fd.get(), F_GETFL);
      file.flags = static_cast<uint32_t>(flags) & kOpenFlags;
    }
    state_.files.push_back(file);
  }
}

FsResult<std::string> SessionSave::PathOf(const PathFd& fd) const {
  std::string path(PATH_MAX, '\0');
  const ssize_t length =
      ::readlinkat(AT_FDCWD, server_.DescriptorPath(fd->get()).c_str(), path.data(), path.size());
  if (length < 0) {
    return LastErrno();
  }
  if (static_cast<size_t>(length) >= path.size()) {
    return FsError(ENAMETOOLONG);
  }
  path.resize(static_cast<size_t>(length));
  return path;
}

bool SessionSave::IsSaved(uint64_t node) const {
  const auto place = places_.find(node);
  return node == kRootNode ||
         (place != places_.end() && work_[place->second].progress == Progress::kSaved);
}

Result<FsState> FileServer::Save() {
  return SessionSave(*this).Run();
}

}  // namespace wyvern::fs
