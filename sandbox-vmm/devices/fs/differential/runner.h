// fs/differential/runner.h — runs a script on a target and says what came out of each step.
// Shape:   one line per step. Lines of two targets are equal unless the targets differ: times that the
//          clock gave are "now", inode and device numbers and change times are left out (README.md).
// Threads: one.
#pragma once

#include <array>
#include <string>

#include "fs/differential/target.h"

namespace wyvern::fs::differential {

struct RunnerOptions {
  bool access_times = true;  // a guest that reads from its cache does not move them
  bool acls = true;          // a guest's kernel refuses them on a share that was mounted without
  bool beside =
      false;  // the directory that a share is compared with: what a share refuses by design
              // is refused without asking
  bool trusted_xattrs = true;  // the host wants CAP_SYS_ADMIN, which wyvern-fs does not have
};

class Runner {
 public:
  explicit Runner(Target& target, RunnerOptions options = {})
      : target_(target), options_(options) {}

  std::string Run(const Step& step);
  // Its attributes, as a step shows them.
  std::string ShowNode(const NodeRef& node);
  // Closes the open files.
  void CloseAll();

 private:
  int Walk(const std::vector<std::string>& path, NodeRef* directory);
  int Find(const std::vector<std::string>& path, NodeRef* directory, NodeRef* node);

  std::string Allocate(const Step& step, File& file, uint64_t offset, uint64_t length);
  std::string RunOnFile(const Step& step);
  std::string RunOnNode(const Step& step, const NodeRef& node);
  std::string RunOnName(const Step& step, const NodeRef& directory);
  std::string Open(const Step& step, const NodeRef& directory);
  std::string RunXattr(const Step& step, const NodeRef& node);
  std::string RunLock(const Step& step, File& file);
  std::string Show(const Attributes& attributes) const;

  Target& target_;
  const RunnerOptions options_;
  std::array<FileRef, kSlots> slots_;
};

// The name of an error number, or what came out.
std::string ErrorOr(int error, const std::string& result = "ok");
// The xattrs of a node with their values' hashes.
std::string ShowXattrs(Target& target, const NodeRef& node);

}  // namespace wyvern::fs::differential
