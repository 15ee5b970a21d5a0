#include "agent/pod.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <utility>

#include "agent/crun.h"
#include "agent/pod_init.h"
#include "agent/reaper.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

Result<> MakeDirectory(const std::string& path, mode_t mode) {
  return mkdir(path.c_str(), mode) == 0 || errno == EEXIST ? Result<>() : SysError("mkdir " + path);
}

std::string NamespaceOf(pid_t pid, const std::string& type) {
  return "/proc/" + std::to_string(pid) + "/ns/" + type;
}

std::vector<IdRange> ToRanges(const google::protobuf::RepeatedPtrField<v1::IdRange>& ranges) {
  std::vector<IdRange> out;
  for (const v1::IdRange& range : ranges) {
    out.push_back({range.first(), range.outside(), range.size()});
  }
  return out;
}

// A link that is there already is of a process that has ended.
Result<> PlaceLink(const std::string& target, const std::string& path) {
  (void)unlink(path.c_str());
  return symlink(target.c_str(), path.c_str()) == 0 ? Result<>() : SysError("symlink " + path);
}

}  // namespace

Pod::Pod(Crun& crun, Reaper& reaper, std::string directory)
    : crun_(crun), reaper_(reaper), directory_(std::move(directory)) {}

Result<> Pod::Create(const v1::Pod& request) {
  const std::string shm = directory_ + "/shm";
  IdMap ids{ToRanges(request.users()), ToRanges(request.groups())};
  if (!ids.empty()) {
    WV_TRY_VOID_CONTEXT(CheckIdMap(ids), "the pod's user namespace");
  }
  WV_TRY_VOID(MakeDirectory(directory_, 0755));
  WV_TRY_VOID(MakeDirectory(directory_ + "/pids", 0700));
  WV_TRY_VOID(MakeDirectory(shm, 0755));
  std::string options = "mode=1777";
  if (request.shm_bytes() > 0) {
    options += ",size=" + std::to_string(request.shm_bytes());
  }
  if (mount("shm", shm.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0) {
    return SysError("mount the pod's /dev/shm");
  }
  ids_ = std::move(ids);
  created_ = true;
  return {};
}

void Pod::SharePids(Done done) {
  if (!created_) {
    done(Fail(Code::kFailedPrecondition, "the sandbox is no pod"));
    return;
  }
  if (init_ != 0) {
    done({});
    return;
  }
  waiting_.push_back(std::move(done));
  if (waiting_.size() > 1) {
    return;
  }
  std::vector<std::string> self = {kPodInitArgument, directory_};
  if (!ids_.empty()) {
    self.insert(self.end(), {FormatIdRanges(ids_.users), FormatIdRanges(ids_.groups)});
  }
  crun_.AskSelf(
      std::move(self), [this, expectation = reaper_.Expect()](Result<std::string> answer) {
        const auto started =
            answer ? Started(*answer) : Result<>(tl::unexpected(std::move(answer).error()));
        for (const Done& waiting : std::exchange(waiting_, {})) {
          waiting(started ? Result<>() : Fail(started.error().code(), started.error().message()));
        }
      });
}

Result<> Pod::Started(const std::string& pid) {
  pid_t init = 0;
  const auto parsed = std::from_chars(pid.data(), pid.data() + pid.size(), init);
  if (parsed.ec != std::errc() || init <= 1) {
    return Fail(Code::kInternal, "no process id of the pod's first process");
  }
  init_ = init;
  reaper_.Watch(init_, [this](ExitStatus status) {
    WV_WARN("the pod's first process has ended with status {}: who shares processes has, too",
            status.AsShell());
    init_ = 0;
    for (const char* type : {"pid", "user", "ipc"}) {
      (void)unlink((directory_ + "/" + type).c_str());
    }
  });
  if (!ids_.empty()) {
    for (const char* type : {"user", "ipc"}) {
      WV_TRY_VOID(PlaceLink(NamespaceOf(init_, type), directory_ + "/" + type));
    }
  }
  return PlaceLink(NamespaceOf(init_, "pid"), directory_ + "/pid");
}

void Pod::Add(const std::string& id, pid_t init) {
  if (!created_) {
    return;
  }
  if (auto linked = PlaceLink(NamespaceOf(init, "pid"), directory_ + "/pids/" + id); !linked) {
    WV_WARN("container {}: no other can share its processes: {}", id, linked.error().message());
  }
}

void Pod::Remove(const std::string& id) {
  if (created_) {
    (void)unlink((directory_ + "/pids/" + id).c_str());
  }
}

void Pod::KillAll() {
  if (init_ != 0) {
    (void)kill(init_, SIGKILL);  // not waited for yet: the number is still its own
  }
}

}  // namespace wyvern::agent
