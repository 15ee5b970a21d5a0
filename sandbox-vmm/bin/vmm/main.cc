// wyvern-vmm — one sandbox's virtual machine monitor. Started by the runtime: fd 3 is the gRPC socket, fd 4 the donation socket, fd 2
// the log. Not for people: `wyvern run` is.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
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
    "usage: wyvern-vmm [--id ID] [--log-level debug|info|warn|error]\n"
    "It is started by the Wyvern runtime, with its sockets at fds 3 and 4.\n";

struct Arguments {
  std::string id;
  wyvern::LogLevel log_level = wyvern::LogLevel::kInfo;
};

bool ParseLevel(std::string_view text, wyvern::LogLevel* out) {
  const auto level = wyvern::ParseLogLevel(text);
  if (!level) {
    fmt::print(stderr, "wyvern-vmm: --log-level: \"{}\" is not debug, info, warn or error\n", text);
    return false;
  }
  *out = *level;
  return true;
}

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--id") {
      arguments->id = argv[i + 1];
    } else if (name == "--log-level") {
      if (!ParseLevel(argv[i + 1], &arguments->log_level)) {
        return false;
      }
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
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
  wyvern::SetLogComponent("vmm");
  if (!arguments.id.empty()) {
    wyvern::SetLogFields({{"sandbox", arguments.id}});
  }
  wyvern::SetLogLevel(arguments.log_level);
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
