#include "bench/driven_devices.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <csignal>
#include <cstring>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/unix_socket.h"
#include "storage/exports.h"

namespace wyvern::bench {

namespace pb = wyvern::vmm::v1;
using nlohmann::json;

namespace {

constexpr char kTap[] = "tap0";
constexpr uint32_t kNetQueue = 256;
constexpr uint32_t kFsQueue = 128;
constexpr size_t kMacDigits = 12;

template <typename T>
void SetAddress(T& request, in_addr address) {
  sockaddr_in value{};
  value.sin_family = AF_INET;
  value.sin_addr = address;
  std::memcpy(&request.ifr_addr, &value, sizeof(value));
}

// Of the calling thread's network namespace.
Result<> ConfigureTap(in_addr host) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, kTap, sizeof(kTap));
  SetAddress(request, host);
  if (ioctl(socket.get(), SIOCSIFADDR, &request) != 0) {
    return SysError("ioctl(SIOCSIFADDR)");
  }
  SetAddress(request, in_addr{htonl(0xffffff00U)});
  if (ioctl(socket.get(), SIOCSIFNETMASK, &request) != 0) {
    return SysError("ioctl(SIOCSIFNETMASK)");
  }
  request.ifr_flags = IFF_UP;
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return SysError("ioctl(SIOCSIFFLAGS)");
  }
  return {};
}

Result<UniqueFd> OpenTapOfThread(in_addr host) {
  if (unshare(CLONE_NEWNET) != 0) {
    return SysError("unshare(CLONE_NEWNET)");
  }
  WV_TRY(UniqueFd tap, Open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  std::memcpy(request.ifr_name, kTap, sizeof(kTap));
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    return SysError("ioctl(TUNSETIFF)");
  }
  WV_TRY_VOID(ConfigureTap(host));
  return tap;
}

// The namespace lives as long as its tap.
Result<UniqueFd> MakeTap(const std::string& host) {
  in_addr address{};
  if (inet_pton(AF_INET, host.c_str(), &address) != 1) {
    return Fail(Code::kInvalidArgument, "net needs \"host\", an IPv4 address");
  }
  Result<UniqueFd> tap = UniqueFd();
  std::thread([&] { tap = OpenTapOfThread(address); }).join();
  return tap;
}

Result<std::string> Text(const json& words, const char* name) {
  const auto found = words.find(name);
  if (found == words.end() || !found->is_string()) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is missing, or no text", name));
  }
  return found->get<std::string>();
}

bool Flag(const json& words, const char* name) {
  const auto found = words.find(name);
  return found != words.end() && found->is_boolean() && found->get<bool>();
}

Result<> Disk(VmmProcess& vmm, const json& words, pb::Blk& blk) {
  const bool read_only = Flag(words, "read_only");
  WV_TRY(const std::string path, Text(words, "path"));
  WV_TRY(const UniqueFd disk, Open(path, read_only ? O_RDONLY : O_RDWR));
  WV_TRY(*blk.mutable_fd(), vmm.Donate(api::DonationKind::kBlock, disk));
  blk.set_read_only(read_only);
  blk.set_serial(words.contains("serial") ? Text(words, "serial").value_or("") : "");
  return {};
}

Result<> Image(VmmProcess& vmm, const json& words, pb::Pmem& pmem) {
  WV_TRY(const std::string path, Text(words, "path"));
  WV_TRY(const UniqueFd image, Open(path, O_RDONLY));
  WV_TRY(*pmem.add_fd(), vmm.Donate(api::DonationKind::kImage, image));
  return {};
}

Result<> Network(VmmProcess& vmm, const json& words, pb::Net& net) {
  WV_TRY(const std::string digits, Text(words, "mac"));
  WV_TRY(const std::string host, Text(words, "host"));
  if (digits.size() != kMacDigits ||
      digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return Fail(Code::kInvalidArgument, "\"mac\" has 12 hexadecimal digits");
  }
  for (size_t at = 0; at < kMacDigits; at += 2) {
    net.mutable_mac()->push_back(static_cast<char>(std::stoi(digits.substr(at, 2), nullptr, 16)));
  }
  WV_TRY(const UniqueFd tap, MakeTap(host));
  WV_TRY(*net.add_fd(), vmm.Donate(api::DonationKind::kTap, tap));
  net.set_queue_size(kNetQueue);
  return {};
}

Result<std::unique_ptr<Behind>> Share(VmmProcess& vmm, const json& words,
                                      const std::string& fs_binary, pb::VhostUserFs& fs) {
  WV_TRY(const std::string tag, Text(words, "tag"));
  WV_TRY(const std::string directory, Text(words, "directory"));
  runtime::MachineOptions machine;
  machine.fs_binary = fs_binary;
  machine.share_tag = tag;
  WV_TRY(auto spawned, runtime::FileServerProcess::Spawn(machine));
  auto behind = std::make_unique<Behind>();
  behind->fs = std::move(spawned.first);
  WV_TRY(const UniqueFd tree, runtime::CloneTree(directory, {.recursive = true}));
  WV_TRY_VOID(behind->fs->Attach("x", tree, {}));
  WV_TRY(*fs.mutable_socket_fd(), vmm.Donate(api::DonationKind::kVhostUser, spawned.second));
  fs.set_tag(tag);
  fs.set_request_queues(1);
  fs.set_queue_size(kFsQueue);
  return behind;
}

Result<> Ports(VmmProcess& vmm, const json& words, pb::Console& console) {
  for (const json& each : words.value("ports", json::array())) {
    pb::ConsolePort& port = *console.add_port();
    WV_TRY(*port.mutable_name(), Text(each, "name"));
    if (each.contains("socket")) {
      WV_TRY(const std::string path, Text(each, "socket"));
      WV_TRY(const UniqueFd socket, ConnectUnix(path));
      WV_TRY(*port.mutable_fd(), vmm.Donate(api::DonationKind::kStream, socket));
    }
  }
  return {};
}

}  // namespace

Behind::~Behind() {
  if (fs != nullptr) {
    static_cast<void>(fs->process().Kill(SIGKILL));
    static_cast<void>(fs->process().Wait());
  }
}

Result<DrivenDevice> MakeDevice(VmmProcess& vmm, const json& words, const std::string& fs_binary) {
  DrivenDevice device;
  pb::AttachDeviceRequest& request = device.request;
  WV_TRY(*request.mutable_id(), Text(words, "id"));
  WV_TRY(const std::string kind, Text(words, "kind"));
  request.set_deadline_ms(words.value("deadline_ms", 0U));
  if (kind == "blk") {
    WV_TRY_VOID(Disk(vmm, words, *request.mutable_blk()));
  } else if (kind == "pmem") {
    WV_TRY_VOID(Image(vmm, words, *request.mutable_pmem()));
  } else if (kind == "net") {
    WV_TRY_VOID(Network(vmm, words, *request.mutable_net()));
  } else if (kind == "fs") {
    WV_TRY(device.behind, Share(vmm, words, fs_binary, *request.mutable_vhost_user_fs()));
  } else if (kind == "console") {
    WV_TRY_VOID(Ports(vmm, words, *request.mutable_console()));
  } else if (kind == "vsock") {
    request.mutable_vsock()->set_guest_cid(words.value("cid", uint64_t{3}));
  } else if (kind == "balloon") {
    request.mutable_balloon()->set_page_reporting(Flag(words, "page_reporting"));
    request.mutable_balloon()->set_deflate_on_oom(Flag(words, "deflate_on_oom"));
  } else if (kind == "rng") {
    request.mutable_rng();
  } else if (kind == "mem") {
    request.mutable_mem();
  } else {
    return Fail(Code::kInvalidArgument, "no kind of device: " + kind);
  }
  return device;
}

}  // namespace wyvern::bench
