// fs/differential/target.h — what a script is run on: a directory by system calls, or a FileServer by
// a guest's requests.
// Errors:  every call gives a positive errno, 0 for success.
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fs/differential/step.h"

namespace wyvern::fs::differential {

struct Attributes {
  uint32_t mode = 0;
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t blksize = 0;
  uint64_t size = 0;
  uint64_t inode = 0;  // never shown: which names are one file is
  uint32_t major = 0;
  uint32_t minor = 0;
  TimeValue atime;
  TimeValue mtime;
};

struct DirectoryItem {
  std::string name;
  uint8_t type = 0;  // DT_…
};

struct FileSystemInfo {
  uint64_t block_size = 0;
  uint64_t fragment_size = 0;
  uint64_t name_length = 0;
  uint64_t blocks = 0;
  uint64_t files = 0;
};

struct LockRange {
  uint32_t type = 0;  // F_RDLCK, F_WRLCK, F_UNLCK
  uint64_t start = 0;
  uint64_t length = 0;       // 0: to the end
  bool of_the_file = false;  // the owner: the open file; else the process
};

// Something that has been looked up; it stays what it is whatever happens to its name.
class Node {
 public:
  Node() = default;
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  uint32_t type = 0;  // S_IFMT bits
};

using NodeRef = std::shared_ptr<Node>;

// What of a file is mapped, in whole pages.
struct MapRange {
  bool shared = false;
  bool writable = false;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Part of a file in memory (mmap); unmapped by its destructor. The file must stay open.
class Mapping {
 public:
  Mapping() = default;
  virtual ~Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // The whole of it, or what lies before the page that is SIGBUS.
  virtual int Look(std::string* out) = 0;
  // The bytes stored: fewer where a page is SIGBUS.
  virtual int Store(uint64_t offset, const std::string& data, size_t* stored) = 0;
  virtual int Sync() = 0;
};

using MappingRef = std::unique_ptr<Mapping>;

// An open regular file; closed by its destructor.
class File {
 public:
  File() = default;
  virtual ~File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  virtual int Read(uint64_t offset, size_t length, std::string* out) = 0;
  virtual int Write(uint64_t offset, const std::string& data, size_t* written) = 0;
  virtual int Truncate(uint64_t size) = 0;
  virtual int Allocate(uint32_t mode, uint64_t offset, uint64_t length) = 0;
  virtual int Seek(uint32_t whence, uint64_t offset, uint64_t* out) = 0;
  virtual int Map(const MapRange& range, MappingRef* out) = 0;
  virtual int CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
                     uint64_t* done) = 0;
  virtual int Sync() = 0;
  virtual int GetAttributes(Attributes* out) = 0;
  virtual int SetLock(const LockRange& range) = 0;
  virtual int GetLock(LockRange* range) = 0;
  virtual int Flock(uint32_t operation) = 0;

  bool direct = false;    // O_DIRECT: offsets and lengths must be aligned
  bool writable = false;  // opened for writing
};

using FileRef = std::unique_ptr<File>;

class Target {
 public:
  Target() = default;
  virtual ~Target() = default;
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  virtual NodeRef Root() = 0;
  virtual int LookUp(const NodeRef& directory, const std::string& name, NodeRef* out) = 0;
  virtual int GetAttributes(const NodeRef& node, Attributes* out) = 0;

  // `existing`: what has the name, if something has.
  virtual int Open(const NodeRef& directory, const std::string& name, const NodeRef& existing,
                   const Step& step, FileRef* out) = 0;
  virtual int MakeTemporary(const NodeRef& directory, const Step& step, FileRef* out) = 0;
  virtual int LinkFile(File& file, const NodeRef& directory, const std::string& name) = 0;

  virtual int MakeDirectory(const NodeRef& directory, const std::string& name,
                            const Step& step) = 0;
  virtual int MakeNode(const NodeRef& directory, const std::string& name, const Step& step) = 0;
  virtual int MakeSymlink(const NodeRef& directory, const std::string& name, const Step& step) = 0;
  virtual int Remove(const NodeRef& directory, const std::string& name, bool is_directory) = 0;
  virtual int Rename(const NodeRef& from, const std::string& name, const NodeRef& to,
                     const std::string& new_name, uint32_t flags) = 0;
  virtual int Link(const NodeRef& node, const NodeRef& directory, const std::string& name) = 0;

  virtual int ReadLink(const NodeRef& node, std::string* out) = 0;
  virtual int Truncate(const NodeRef& node, uint64_t size) = 0;
  virtual int ChangeMode(const NodeRef& node, uint32_t mode) = 0;
  virtual int ChangeOwner(const NodeRef& node, const User& owner) = 0;
  virtual int SetTimes(const NodeRef& node, const TimeValue& atime, const TimeValue& mtime) = 0;
  virtual int SetXattr(const NodeRef& node, const std::string& name, const std::string& value,
                       uint32_t flags) = 0;
  virtual int GetXattr(const NodeRef& node, const std::string& name, std::string* value) = 0;
  virtual int ListXattrs(const NodeRef& node, std::vector<std::string>* names) = 0;
  virtual int RemoveXattr(const NodeRef& node, const std::string& name) = 0;
  virtual int List(const NodeRef& directory, size_t buffer, std::vector<DirectoryItem>* out) = 0;
  virtual int GetFileSystem(const NodeRef& node, FileSystemInfo* out) = 0;
};

}  // namespace wyvern::fs::differential
