// fs/differential/fuse_target.h — a file server, by the requests that a guest's kernel makes of system
// calls, with the checks that it makes itself (who may create where, what a file was opened for).
// Shape:   the names looked up last stay known to the server as in a guest's cache; the rest is
//          forgotten.
// Threads: one.
#pragma once

#include <deque>

#include "fs/differential/target.h"
#include "fs/testing/fuse_client.h"

namespace wyvern::fs::differential {

class FuseTarget final : public Target {
 public:
  // To a server that is fresh and shares the directory; INIT is sent here.
  explicit FuseTarget(testing::Carrier carrier);

  // The server offered POSIX ACLs: they count in what this target allows.
  bool acls() const { return acls_; }

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
  // Calls as the step's user, if it may make something here. EACCES, EEXIST.
  int MayMake(const NodeRef& directory, const std::string* name, const User& user);
  bool Permits(const NodeRef& directory, const Attributes& attributes, const User& user,
               uint32_t wanted);

  // What of the step's mode a request carries.
  uint32_t ModeOf(const NodeRef& directory, const Step& step);
  // A reply with a fuse_entry_out becomes a node.
  NodeRef Adopt(const NodeRef& directory, const fuse_entry_out& entry);
  int MakeEntry(uint32_t opcode, const NodeRef& directory, const testing::Body& body,
                const User& user);
  int SetAttr(const NodeRef& node, const fuse_setattr_in& in);

  testing::FuseClient client_;
  bool acls_ = false;
  NodeRef root_;
  std::deque<NodeRef> cache_;
};

}  // namespace wyvern::fs::differential
