#include "hypervisor/passt.h"

#include <fmt/format.h>
#include <unistd.h>

#include <set>
#include <tuple>

#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

constexpr int kSocketFd = 3;
constexpr int kHelpTimeoutMs = 5000;

Result<> CheckPublished(const std::vector<PublishedPort>& ports) {
  if (ports.size() > kMaxPublished) {
    return Fail(Code::kInvalidArgument, fmt::format("{} ports are published; at most {} can be",
                                                    ports.size(), kMaxPublished));
  }
  std::set<std::tuple<std::string, uint16_t, bool>> seen;
  for (const PublishedPort& port : ports) {
    if (!seen.emplace(port.address, port.host, port.udp).second) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("port {} of the host is published twice", port.host));
    }
  }
  return {};
}

Result<> CheckProgram(const std::string& program) {
  if (access(program.c_str(), X_OK) != 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the host's network needs passt, and {} cannot be run: install "
                            "Debian's package passt (13 or later), or set paths.passt",
                            program));
  }
  SpawnOptions spawn;
  spawn.argv = {program, "--help"};
  WV_TRY_CONTEXT(const CommandOutput said, RunCommand(spawn, kHelpTimeoutMs), program);
  if (said.out.find("--vhost-user") == std::string::npos &&
      said.err.find("--vhost-user") == std::string::npos) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} has no option --vhost-user, as Debian 12's: it needs passt of "
                            "Debian 13 or later (2024_11_27)",
                            program));
  }
  return {};
}

// "127.0.0.1/8080:80": what passt calls a port specification.
void AddPorts(std::vector<std::string>& words, const char* option, bool udp,
              const std::vector<PublishedPort>& ports) {
  const size_t before = words.size();
  for (const PublishedPort& port : ports) {
    if (port.udp == udp) {
      words.emplace_back(option);
      words.push_back(fmt::format("{}{}{}:{}", port.address, port.address.empty() ? "" : "/",
                                  port.host, port.guest));
    }
  }
  if (words.size() == before) {
    words.insert(words.end(), {option, "none"});
  }
}

}  // namespace

// With lo as the interface that it would take addresses from, those named here hold whatever interfaces and routes the host has.
std::vector<std::string> PasstArguments(const UserNetwork& network, int socket) {
  std::vector<std::string> words = {network.passt,
                                    "--foreground",
                                    "--quiet",
                                    "--vhost-user",
                                    "--fd",
                                    fmt::format("{}", socket),
                                    "--ipv4-only",
                                    "--interface",
                                    "lo",
                                    "--address",
                                    std::string(kUserAddress),
                                    "--netmask",
                                    fmt::format("{}", kUserPrefix),
                                    "--gateway",
                                    std::string(kUserGateway),
                                    "--mtu",
                                    fmt::format("{}", kUserMtu),
                                    "--dns-forward",
                                    std::string(kUserNameServer)};
  if (network.host_loopback) {
    words.insert(words.end(), {"--map-host-loopback", std::string(kUserGateway)});
  } else {
    words.emplace_back("--no-map-gw");
  }
  AddPorts(words, "--tcp-ports", /*udp=*/false, network.published);
  AddPorts(words, "--udp-ports", /*udp=*/true, network.published);
  return words;
}

Result<std::pair<Subprocess, UniqueFd>> SpawnPasst(const UserNetwork& network) {
  WV_TRY_VOID(CheckPublished(network.published));
  WV_TRY_VOID(CheckProgram(network.passt));
  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
  SpawnOptions spawn;
  spawn.argv = PasstArguments(network, kSocketFd);
  spawn.fds = {{2, FdRef(2)}, {kSocketFd, pair.second}};
  spawn.new_process_group = true;
  WV_TRY_CONTEXT(Subprocess process, Subprocess::Spawn(spawn), "starting passt");
  return std::pair(std::move(process), std::move(pair.first));
}

}  // namespace wyvern::runtime
