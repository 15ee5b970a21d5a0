// hypervisor/passt.h — a guest's network by sockets of the host instead of its interfaces: passt(1), Debian's, which serves the guest's network
//                      device over vhost-user.
// Shape:   one interface with the addresses below, as QEMU's user network has them. What the guest sends comes from the host's own addresses; the
//          guest is reached at published ports only. IPv4: a route of IPv6 that may lead nowhere would make programs wait.
// Life:    it gets one end of a socket pair and ends when that is closed: with the VMM, or with us while we have the VMM's end.
// Trust:   it is a stranger's program with the guest's memory and the host's network, and confines itself: user nobody, namespaces of its own,
//          an empty root, no capability, a seccomp filter.
// Errors:  FAILED_PRECONDITION: there is no passt, or one without vhost-user (Debian 12's). INVALID_ARGUMENT: a port twice.
// Threads: as Subprocess.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/subprocess.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

inline constexpr std::array<uint8_t, 6> kUserMac = {0x02, 0x77, 0x76, 0, 0, 0x15};
inline constexpr uint32_t kUserMtu = 65520;  // passt's most
inline constexpr std::string_view kUserAddress = "10.0.2.15";
inline constexpr unsigned kUserPrefix = 24;
// With UserNetwork::host_loopback the host's 127.0.0.1, too.
inline constexpr std::string_view kUserGateway = "10.0.2.2";
inline constexpr std::string_view kUserNameServer = "10.0.2.3";  // passes queries on to the host's

inline constexpr size_t kMaxPublished = 64;

// Program and words for a socket that it has as descriptor `socket`.
std::vector<std::string> PasstArguments(const UserNetwork& network, int socket);

// The second is the front-end's end.
Result<std::pair<Subprocess, UniqueFd>> SpawnPasst(const UserNetwork& network);

}  // namespace wyvern::runtime
