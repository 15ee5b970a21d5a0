#include "server/host.h"

#include <dirent.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "stdio/logger.h"

namespace wyvern::shim {

namespace {

constexpr int kMaxOomScoreAdj = 1000;  // proc(5)

std::vector<pid_t> Children() {
  std::vector<pid_t> children;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    const auto text = ReadFile(task.path() / "children");
    if (!text) {
      continue;
    }
    std::istringstream words(*text);
    for (pid_t pid = 0; words >> pid;) {
      children.push_back(pid);
    }
  }
  return children;
}

}  // namespace

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat info {};

  if (!path_.empty() && stat(path_.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
}

void SocketFile::Remove() const {
  struct stat info {};

  if (!path_.empty() && stat(path_.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

void RaiseOomScore() {
  const auto text = ReadFile("/proc/self/oom_score_adj");
  if (!text) {
    return;
  }
  const int score = static_cast<int>(strtol(text->c_str(), nullptr, 10));
  const int raised = std::min(score + 1, kMaxOomScoreAdj);
  if (auto written = WriteFile("/proc/self/oom_score_adj", std::to_string(raised)); !written) {
    WV_WARN("oom_score_adj: {}", written.error().message());
  }
}

void JoinSchedCore() {
  constexpr unsigned long kThreadGroup = 1;  // PIDTYPE_TGID: PR_SCHED_CORE_SCOPE_THREAD_GROUP
  if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, kThreadGroup, 0) != 0) {
    WV_WARN("SCHED_CORE is set, but the kernel refuses a cookie: {}", strerrordesc_np(errno));
  }
}

void EndChildren() {
  const auto deadline = std::chrono::steady_clock::now() + Logger::kTermGrace;
  while (std::chrono::steady_clock::now() < deadline) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (Children().empty()) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  for (const pid_t pid : Children()) {
    WV_WARN("child {} did not end: killed", pid);
    kill(pid, SIGKILL);
  }
}

}  // namespace wyvern::shim
