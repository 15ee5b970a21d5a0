// The container that only stands for a pod (a pause): on the host it is an anchor, in the guest nothing. See README.md, "Pods".
#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <csignal>

#include "base/log.h"
#include "base/unix_socket.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

constexpr uint64_t kNoLimit = ~uint64_t{0};
constexpr uint64_t kShmBytes = 64ULL << 20U;  // where no host has a say: containerd's, docker's

// As large as the one that the host has prepared. The host's own (hostIPC) says nothing of a guest.
Result<uint64_t> ShmBytes(const std::string& source) {
  if (source == "/dev/shm") {
    return 0;
  }
  if (source.empty()) {
    return kShmBytes;
  }
  struct statvfs info = {};
  if (statvfs(source.c_str(), &info) != 0) {
    return SysError("the pod's /dev/shm, " + source);
  }
  return uint64_t{info.f_blocks} * info.f_frsize;
}

// Ended from the start: nobody is behind it.
Result<UniqueFd> EndedStream() {
  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
  return std::move(pair.first);
}

}  // namespace

Result<agent_pb::CreateSandboxRequest> SandboxImpl::GuestSandbox() const {
  agent_pb::CreateSandboxRequest request;
  request.set_hostname(facts_.hostname);
  request.set_share_tag("wyvern");
  request.mutable_sysctls()->Add(facts_.sandbox_sysctls.begin(), facts_.sandbox_sysctls.end());
  request.set_cache_reclaim(GuestReclaim(config_.memory.reclaim));
  request.set_hooks(config_.guest.hooks);
  if (facts_.stands_for_pod) {
    WV_TRY(const uint64_t bytes, ShmBytes(facts_.shm_source));
    request.mutable_pod()->set_shm_bytes(bytes);
    const auto add = [](const IdRange& range, agent_pb::IdRange* out) {
      out->set_first(range.first);
      out->set_outside(range.outside);
      out->set_size(range.size);
    };
    for (const IdRange& range : facts_.ids.users) {
      add(range, request.mutable_pod()->add_users());
    }
    for (const IdRange& range : facts_.ids.groups) {
      add(range, request.mutable_pod()->add_groups());
    }
  }
  return request;
}

Result<> SandboxImpl::CheckPod() {
  const std::lock_guard lock(mu_);
  return pod_ends_ ? Fail(Code::kFailedPrecondition,
                          "the pod has ended: the container that stands for it was ended")
                   : Result<>();
}

Result<StdioStreams> SandboxImpl::PauseStreams(const IoWanted& io) {
  StdioStreams streams;
  if (io.stdin_stream) {
    WV_TRY(streams.in, EndedStream());
  }
  if (io.stdout_stream) {
    WV_TRY(streams.out, EndedStream());
  }
  if (io.stderr_stream) {
    WV_TRY(streams.err, EndedStream());
  }
  return streams;
}

// As a pause takes them: it ends well by TERM and INT once it runs, and as the first process of its pid namespace it is not reached by others.
Result<> SandboxImpl::SignalPause(const ContainerPtr& pause, const ProcessPtr& init, int signal) {
  bool runs = false;
  {
    const std::lock_guard lock(mu_);
    runs = init->status == ProcessStatus::kRunning;
  }
  if (signal == SIGKILL) {
    EndPod(pause, init, 128 + SIGKILL);
  } else if (signal == SIGTERM || signal == SIGINT) {
    EndPod(pause, init, runs ? 0 : 128 + static_cast<uint32_t>(signal));
  }
  return {};
}

std::vector<std::pair<SandboxImpl::ContainerPtr, SandboxImpl::ProcessPtr>> SandboxImpl::OthersAlive(
    const ContainerPtr& pause) const {
  std::vector<std::pair<ContainerPtr, ProcessPtr>> alive;
  for (const auto& [id, container] : containers_) {
    if (container != pause && container->created && !container->Stopped()) {
      alive.emplace_back(container, container->processes.at(""));
    }
  }
  return alive;
}

// The others first, as nobody else would end those of a pod whose pause died by itself. They end, or the machine does (KillInit).
void SandboxImpl::EndPod(const ContainerPtr& pause, const ProcessPtr& init, uint32_t status) {
  {
    const std::lock_guard lock(mu_);
    if (std::exchange(pod_ends_, true)) {
      return;
    }
  }
  pool_->Run([this, pause, init, status] {
    std::vector<std::pair<ContainerPtr, ProcessPtr>> others;
    {
      const std::lock_guard lock(mu_);
      others = OthersAlive(pause);
    }
    for (const auto& [container, other] : others) {
      static_cast<void>(KillInit(container, other, /*all=*/true));
    }
    {
      std::unique_lock lock(mu_);
      changed_.wait(lock,
                    [&] { return death_.has_value() || stopping_ || OthersAlive(pause).empty(); });
    }
    EndAnchor(pause);
    TellExited(pause->id, init, status);
    SetExited(init, status);
  });
}

ContainerStats SandboxImpl::PauseStats() {
  ContainerStats stats;
  stats.memory_limit = kNoLimit;
  stats.swap_limit = kNoLimit;
  stats.pids_limit = kNoLimit;
  return stats;
}

}  // namespace wyvern::runtime
