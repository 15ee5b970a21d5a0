// fs/differential/host_target.h — a directory, by system calls.
// Shape:   paths are walked by descriptors, one name at a time, without following links.
// Threads: one; what a user makes is made with the file system identity of the calling thread.
#pragma once

#include "base/fd.h"
#include "fs/differential/target.h"

namespace wyvern::fs::differential {

class HostTarget : public Target {
 public:
  // `directory` is empty and the script's own; /proc is mounted.
  explicit HostTarget(UniqueFd directory);

  NodeRef Root() override { return root_; }

  int LookUp(const NodeRef& directory, const std::string& name, NodeRef* out) override;
  int GetAttributes(const NodeRef& node, Attributes* out) override;
  int Open(const NodeRef& directory, const std::string& name, const NodeRef& existing,
           const Step& step, FileRef* out) override;
  int MakeTemporary(const NodeRef& directory, const Step& step, FileRef* out) override;
  int LinkFile(File& file, const NodeRef& directory, const std::string& name) override;
  int MakeDirectory(const NodeRef& directory, const std::string& name, const Step& step) override;
  int MakeNode(const NodeRef& directory, const std::string& name, const Step& step) override;
  int MakeSymlink(const NodeRef& directory, const std::string& name, const Step& step) override;
  int Remove(const NodeRef& directory, const std::string& name, bool is_directory) override;
  int Rename(const NodeRef& from, const std::string& name, const NodeRef& to,
             const std::string& new_name, uint32_t flags) override;
  int Link(const NodeRef& node, const NodeRef& directory, const std::string& name) override;
  int ReadLink(const NodeRef& node, std::string* out) override;
  int Truncate(const NodeRef& node, uint64_t size) override;
  int ChangeMode(const NodeRef& node, uint32_t mode) override;
  int ChangeOwner(const NodeRef& node, const User& owner) override;
  int SetTimes(const NodeRef& node, const TimeValue& atime, const TimeValue& mtime) override;
  int SetXattr(const NodeRef& node, const std::string& name, const std::string& value,
               uint32_t flags) override;
  int GetXattr(const NodeRef& node, const std::string& name, std::string* value) override;
  int ListXattrs(const NodeRef& node, std::vector<std::string>* names) override;
  int RemoveXattr(const NodeRef& node, const std::string& name) override;
  int List(const NodeRef& directory, size_t buffer, std::vector<DirectoryItem>* out) override;
  int GetFileSystem(const NodeRef& node, FileSystemInfo* out) override;

 private:
  NodeRef root_;
};

}  // namespace wyvern::fs::differential
