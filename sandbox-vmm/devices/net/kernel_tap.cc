#include "net/kernel_tap.h"

#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "net/net_abi.h"

namespace wyvern::devices {

namespace {

// The interface's name, if it is a tap as we need it.
Result<std::string> TapName(FdRef fd, bool multi_queue) {
  ifreq request{};
  if (ioctl(fd.get(), TUNGETIFF, &request) != 0) {
    return Fail(Code::kInvalidArgument, "a network device needs attached taps");
  }
  const auto flags = static_cast<unsigned>(static_cast<uint16_t>(request.ifr_flags));
  const unsigned needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0U);
  if ((flags & needed) != needed) {
    return Fail(Code::kInvalidArgument,
                "a network device needs taps with IFF_NO_PI and IFF_VNET_HDR, and several of one "
                "interface IFF_MULTI_QUEUE");
  }
  return std::string(request.ifr_name, strnlen(request.ifr_name, sizeof(request.ifr_name)));
}

}  // namespace

Result<std::unique_ptr<KernelTap>> KernelTap::Create(std::vector<UniqueFd> queues) {
  if (queues.empty() || queues.size() > kMaxPairs) {
    return Fail(Code::kInvalidArgument, "a network device has 1 to 256 queue pairs");
  }
  std::string name;
  std::unique_ptr<KernelTap> tap(new KernelTap());
  for (UniqueFd& fd : queues) {
    WV_TRY(std::string own, TapName(fd, queues.size() > 1));
    if (!name.empty() && own != name) {
      return Fail(Code::kInvalidArgument, "the taps of a network device are of one interface");
    }
    name = std::move(own);
    WV_TRY_VOID(SetNonBlocking(fd, true));
    tap->queues_.push_back({.fd = std::move(fd), .active = true});
  }
  // VIRTIO §5.1.9: the header always ends with num_buffers.
  int header = kNetHeaderSize;
  if (ioctl(tap->queues_.front().fd.get(), TUNSETVNETHDRSZ, &header) != 0) {
    return SysError("ioctl(TUNSETVNETHDRSZ)");
  }
  tap->ProbeOffloads();
  WV_TRY_VOID(tap->SetOffloads(0));
  return tap;
}

// The kernel refuses bits that it does not know: USO came with Linux 6.2.
void KernelTap::ProbeOffloads() {
  constexpr uint32_t kOld = kTunCsum | kTunTso4 | kTunTso6 | kTunEcn;
  for (const uint32_t set : {kOld | kTunUso, kOld, kTunCsum}) {
    if (SetOffloads(set)) {
      offloads_ = set;
      return;
    }
  }
}

Result<> KernelTap::SetOffloads(uint32_t tun_offloads) {
  if (ioctl(queues_.front().fd.get(), TUNSETOFFLOAD, static_cast<unsigned long>(tun_offloads)) !=
      0) {
    return SysError("ioctl(TUNSETOFFLOAD)");
  }
  return {};
}

Result<> KernelTap::SetActive(uint16_t pair, bool active) {
  TapQueue& queue = queues_.at(pair);
  if (queue.active == active) {
    return {};
  }
  ifreq request{};
  request.ifr_flags = static_cast<short>(active ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  if (ioctl(queue.fd.get(), TUNSETQUEUE, &request) != 0) {
    return SysError("ioctl(TUNSETQUEUE)");
  }
  queue.active = active;
  return {};
}

void KernelTap::SetCarrier(bool up) {
  int carrier = up ? 1 : 0;
  // Linux 5.0; without it the host's side only does not notice.
  (void)ioctl(queues_.front().fd.get(), TUNSETCARRIER, &carrier);
}

ssize_t KernelTap::Receive(uint16_t pair, std::span<const iovec> parts) {
  const ssize_t moved = readv(queues_[pair].fd.get(), parts.data(), static_cast<int>(parts.size()));
  return moved < 0 ? -errno : moved;
}

ssize_t KernelTap::Send(uint16_t pair, std::span<const iovec> parts) {
  const ssize_t moved =
      writev(queues_[pair].fd.get(), parts.data(), static_cast<int>(parts.size()));
  return moved < 0 ? -errno : moved;
}

}  // namespace wyvern::devices
