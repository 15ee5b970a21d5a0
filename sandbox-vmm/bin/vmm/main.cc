// wyvern-vmm — one sandbox's virtual machine monitor. Started by the runtime: fd 3 is the gRPC socket, fd 4 the donation socket, fd 2
// the log. Not for people: `wyvern run` is.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "vmm/assembly.h"
#include "vmm/serve.h"
#include "vmm/version.h"

namespace {

constexpr int kGrpcFd = 3;
constexpr int kDonationFd = 4;
// Above what distributions, systemd (dynamic users end at 65519, containers at 1879048191) and newuidmap hand out; pids have 22 bits.
constexpr uid_t kUidBase = 0x70000000;
constexpr const char* kUsage =
    "usage: wyvern-vmm [--id ID] (started by the Wyvern runtime, with its sockets at fds 3 and "
    "4)\n";

// The sandbox's id for the log, or empty; nothing: wrong usage.
std::optional<std::string> ParseId(int argc, char** argv) {
  if (argc == 1) {
    return std::string();
  }
  if (argc == 3 && std::string_view(argv[1]) == "--id") {
    return std::string(argv[2]);
  }
  return std::nullopt;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    printf("wyvern-vmm %s\n", wyvern::vmm::kVersion);
    return 0;
  }
  const std::optional<std::string> id = ParseId(argc, argv);
  if (!id) {
    fputs(kUsage, stderr);
    return 2;
  }
  wyvern::SetLogComponent(id->empty() ? "vmm" : "vmm " + id->substr(0, 24));
  // One uid per living VMM on the host, since pids are: two sandboxes can neither signal nor trace each other.
  const uid_t uid = kUidBase + static_cast<uid_t>(getpid());
  signal(SIGPIPE, SIG_IGN);
  wyvern::vmm::ServeOptions options{
      .grpc_socket = wyvern::UniqueFd(kGrpcFd),
      .donation_socket = wyvern::UniqueFd(kDonationFd),
      .uid = uid,
      .gid = uid,
      .make_machine = [] { return std::make_unique<wyvern::vmm::Assembly>(); },
  };
  const auto served = wyvern::vmm::ServeJailed(std::move(options));
  if (!served) {
    WV_ERROR("{}", served.error().DebugString());
    return 1;
  }
  return 0;
}
