// wyvern-vmm — one sandbox's virtual machine monitor. Started by the runtime: fd 3 is the gRPC socket, fd 4 the donation socket, fd 2
// the log. Not for people: `wyvern run` is.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
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
    "usage: wyvern-vmm [--id ID] [--uid N --gid N] (started by the Wyvern runtime, with its "
    "sockets at "
    "fds 3 and 4)\n";

struct Arguments {
  std::string id;
  uid_t uid = 0;
  gid_t gid = 0;
};

bool ParseNumber(const char* text, uint32_t* out) {
  const char* end = text + strlen(text);
  const auto [at, error] = std::from_chars(text, end, *out);
  return error == std::errc() && at == end;
}

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--id") {
      arguments->id = argv[i + 1];
    } else if (name == "--uid") {
      if (!ParseNumber(argv[i + 1], &arguments->uid)) {
        return false;
      }
    } else if (name == "--gid") {
      if (!ParseNumber(argv[i + 1], &arguments->gid)) {
        return false;
      }
    } else {
      return false;
    }
  }
  if (arguments->uid == 0 && arguments->gid == 0) {
    // One uid per living VMM on the host, since pids are: two sandboxes can neither signal nor trace each other.
    arguments->uid = kUidBase + static_cast<uid_t>(getpid());
    arguments->gid = arguments->uid;
  }
  return argc % 2 == 1 && arguments->uid != 0 && arguments->gid != 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    printf("wyvern-vmm %s\n", wyvern::vmm::kVersion);
    return 0;
  }
  Arguments arguments;
  if (!ParseArguments(argc, argv, &arguments)) {
    fputs(kUsage, stderr);
    return 2;
  }
  wyvern::SetLogComponent(arguments.id.empty() ? "vmm" : "vmm " + arguments.id.substr(0, 24));
  signal(SIGPIPE, SIG_IGN);
  wyvern::vmm::ServeOptions options{
      .grpc_socket = wyvern::UniqueFd(kGrpcFd),
      .donation_socket = wyvern::UniqueFd(kDonationFd),
      .uid = arguments.uid,
      .gid = arguments.gid,
      .make_machine = [] { return std::make_unique<wyvern::vmm::Assembly>(); },
  };
  const auto served = wyvern::vmm::ServeJailed(std::move(options));
  if (!served) {
    WV_ERROR("{}", served.error().DebugString());
    return 1;
  }
  return 0;
}
