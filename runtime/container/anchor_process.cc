#include "container/anchor_process.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <utility>

#include "anchor/protocol.h"
#include "base/cleanup.h"
#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

constexpr int kStartTimeoutMs = 5000;

Result<> AwaitAnswer(FdRef life) {
  pollfd wait = {life.get(), POLLIN, 0};
  if (poll(&wait, 1, kStartTimeoutMs) <= 0) {
    return Fail(Code::kDeadlineExceeded, "the anchor does not answer");
  }
  std::array<std::byte, 256> buffer;
  WV_TRY(const size_t size, ReadSome(life, buffer));
  if (size == 1 && buffer[0] == std::byte{0}) {
    return {};
  }
  const std::string_view text(reinterpret_cast<const char*>(buffer.data()), size);
  return Fail(Code::kInternal,
              fmt::format("the anchor failed: {}", text.empty() ? "it ended" : text));
}

}  // namespace

Result<AnchorProcess> AnchorProcess::Start(const AnchorOptions& options) {
  WV_TRY(SocketPair life, MakeSocketPair(SOCK_STREAM));
  SpawnOptions spawn;
  std::string letters;
  spawn.fds.emplace_back(kAnchorLifeFd, life.second);
  for (const auto& [letter, number, fd] :
       {std::tuple('c', kAnchorCgroupFd, options.cgroup_procs),
        std::tuple('n', kAnchorNetworkFd, options.network_namespace),
        std::tuple('r', kAnchorRootFd, options.root_tree)}) {
    if (fd.valid()) {
      letters += letter;
      spawn.fds.emplace_back(number, fd);
    }
  }
  spawn.argv = {options.binary, letters};
  // Our own number of it: the child closes what it is not given before it runs the program.
  spawn.path = fmt::format("/proc/{}/fd/{}", getpid(), options.program.get());
  WV_TRY_CONTEXT(Subprocess process, Subprocess::Spawn(spawn), "starting the anchor");
  life.second.Reset();
  AnchorProcess anchor(std::move(process), std::move(life.first));
  auto answered = AwaitAnswer(anchor.life_);
  if (!answered.has_value()) {
    anchor.End();
    return tl::unexpected(std::move(answered).error());
  }
  return anchor;
}

void AnchorProcess::End() {
  if (std::exchange(ended_, true)) {
    return;
  }
  life_.Reset();
  static_cast<void>(process_.Kill(SIGKILL));
  static_cast<void>(process_.Wait());
}

}  // namespace wyvern::runtime
