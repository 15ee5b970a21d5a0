// server/host.h — what the server does to itself and to what it leaves behind on the host.
#pragma once

#include <sys/types.h>

#include <string>

namespace wyvern::shim {

// The file of a socket we listen on; removed only while it still is that file.
class SocketFile {
 public:
  SocketFile() = default;
  explicit SocketFile(std::string path);
  void Remove() const;

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// One more than containerd's (which we inherited): it survives us.
void RaiseOomScore();

// A core scheduling cookie of our own, for us and what we start.
void JoinSchedCore();

// Waits for children that are ending by themselves: logging programs, which have Logger::kTermGrace for that; then kills them.
void EndChildren();

}  // namespace wyvern::shim
