// fs/differential/fuse_file.h — nodes, open files and mappings of a FuseTarget.
// Threads: one.
#pragma once

#include <string>
#include <utility>

#include "fs/differential/target.h"
#include "fs/testing/fuse_client.h"

namespace wyvern::fs::differential {

// As a guest's dentry: it keeps the directory that it was found in.
struct FuseNode : Node {
  FuseNode(testing::FuseClient& fuse_client, uint64_t node_id, NodeRef directory)
      : client(fuse_client), id(node_id), parent(std::move(directory)) {}

  ~FuseNode() override {
    if (id != FUSE_ROOT_ID) {
      client.Forget(id);
    }
  }

  FuseNode(const FuseNode&) = delete;
  FuseNode& operator=(const FuseNode&) = delete;

  testing::FuseClient& client;
  const uint64_t id;
  const NodeRef parent;
};

inline uint64_t IdOf(const NodeRef& node) {
  return static_cast<const FuseNode&>(*node).id;
}

Attributes ToAttributes(const fuse_attr& attr);

class FuseFile final : public File {
 public:
  FuseFile(testing::FuseClient& client, NodeRef node, const fuse_open_out& open, uint32_t flags)
      : client_(client), node_(std::move(node)), open_(open), flags_(flags) {}

  // close(2): a FLUSH unless the server wants none, and when the last reference goes a RELEASE.
  ~FuseFile() override;
  FuseFile(const FuseFile&) = delete;
  FuseFile& operator=(const FuseFile&) = delete;

  const NodeRef& node() const { return node_; }

  int Read(uint64_t offset, size_t length, std::string* out) override;
  int Write(uint64_t offset, const std::string& data, size_t* written) override;
  int Truncate(uint64_t size) override;
  int Allocate(uint32_t mode, uint64_t offset, uint64_t length) override;
  int Map(const MapRange& range, MappingRef* out) override;
  int Seek(uint32_t whence, uint64_t offset, uint64_t* out) override;
  int CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
             uint64_t* done) override;
  int Sync() override;
  int GetAttributes(Attributes* out) override;
  int SetLock(const LockRange& range) override;
  int GetLock(LockRange* range) override;
  int Flock(uint32_t operation) override;

  // What the guest's page cache asks for, whatever the file was opened for: whole pages, and dirty
  // ones up to the file's end.
  int ReadPages(uint64_t offset, size_t length, std::string* out);
  int WritePages(uint64_t offset, const std::string& data, size_t* written);
  int SyncData();

 private:
  uint64_t id() const { return IdOf(node_); }

  bool Readable() const;
  bool Writable() const;
  fuse_lk_in ToLock(const LockRange& range) const;

  testing::FuseClient& client_;
  const NodeRef node_;
  const fuse_open_out open_;
  const uint32_t flags_;
  bool flocked_ = false;
};

}  // namespace wyvern::fs::differential
