#include "api/requests.h"

#include <algorithm>
#include <bit>
#include <set>

namespace wyvern::api {

namespace {

constexpr uint64_t kFirstGuestCid = 3;          // VIRTIO §5.10.4: 0, 1, 2 are reserved
constexpr uint64_t kLastGuestCid = 0xfffffffe;  // the upper half is reserved, 2^32 - 1 is any
constexpr size_t kMaxTag = 36;                  // VIRTIO §5.11.4
constexpr size_t kMaxSerial = 20;               // VIRTIO §5.2.6: VIRTIO_BLK_T_GET_ID
constexpr uint32_t kMaxRequestQueues = 16;
constexpr uint32_t kMaxQueueSize = 1024;
constexpr int kMaxTaps = 8;
constexpr uint32_t kMinMtu = 68;  // VIRTIO §5.1.4.1
constexpr int kMaxPorts = 16;
constexpr size_t kMaxPortName = 63;

Result<UniqueFd> TakeOptional(DonationStore& store, DonationKind kind, const std::string& name) {
  if (name.empty()) {
    return UniqueFd();
  }
  return store.Take(kind, name);
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

Result<DeviceSpec> ParsePmem(const vmm::v1::Pmem& pmem, DonationStore& store) {
  if (pmem.fd().empty() || static_cast<size_t>(pmem.fd_size()) > kMaxImages) {
    return Fail(Code::kInvalidArgument, "pmem.fd must name 1 to 16 images");
  }
  PmemSpec spec;
  for (const std::string& name : pmem.fd()) {
    WV_TRY(spec.images.emplace_back(), store.Take(DonationKind::kImage, name));
  }
  return spec;
}

Result<DeviceSpec> ParseVsock(const vmm::v1::Vsock& vsock) {
  if (vsock.guest_cid() < kFirstGuestCid || vsock.guest_cid() > kLastGuestCid) {
    return Fail(Code::kInvalidArgument, "vsock.guest_cid must be 3 to 4294967294");
  }
  return VsockSpec{vsock.guest_cid()};
}

Result<DeviceSpec> ParseBlk(const vmm::v1::Blk& blk, DonationStore& store) {
  if (blk.serial().size() > kMaxSerial || !IsPrintable(blk.serial())) {
    return Fail(Code::kInvalidArgument, "blk.serial is at most 20 printable ASCII characters");
  }
  WV_TRY(UniqueFd file, store.Take(DonationKind::kBlock, blk.fd()));
  return BlkSpec{std::move(file), blk.read_only(), blk.serial()};
}

Result<DeviceSpec> ParseFs(const vmm::v1::VhostUserFs& fs, DonationStore& store) {
  if (fs.tag().empty() || fs.tag().size() > kMaxTag || fs.tag().find('\0') != std::string::npos) {
    return Fail(Code::kInvalidArgument, "vhost_user_fs.tag is 1 to 36 bytes");
  }
  if (fs.request_queues() < 1 || fs.request_queues() > kMaxRequestQueues) {
    return Fail(Code::kInvalidArgument, "vhost_user_fs.request_queues must be 1 to 16");
  }
  const uint32_t size = fs.queue_size();
  if (size < 2 || size > kMaxQueueSize || (size & (size - 1)) != 0) {
    return Fail(Code::kInvalidArgument,
                "vhost_user_fs.queue_size must be a power of two from 2 to 1024");
  }
  const uint64_t window = fs.dax_window_bytes();
  if (window != 0 &&
      (window < kMinDaxWindow || window > kMaxDaxWindow || !std::has_single_bit(window))) {
    return Fail(Code::kInvalidArgument,
                "vhost_user_fs.dax_window_bytes must be 0 or a power of two from 2 MiB to 16 GiB");
  }
  WV_TRY(UniqueFd socket, store.Take(DonationKind::kVhostUser, fs.socket_fd()));
  return VhostUserFsSpec{std::move(socket), fs.tag(), fs.request_queues(), size, window};
}

// What Net and VhostUserNet have in common; `kind` is for messages.
template <typename Message, typename Spec>
Result<> ParseInterface(const Message& net, const std::string& kind, Spec& spec) {
  if (net.mac().size() != spec.mac.size()) {
    return Fail(Code::kInvalidArgument, kind + ".mac is 6 bytes");
  }
  std::ranges::copy(net.mac(), spec.mac.begin());
  if (net.mtu() != 0 && (net.mtu() < kMinMtu || net.mtu() > UINT16_MAX)) {
    return Fail(Code::kInvalidArgument, kind + ".mtu must be 0 or 68 to 65535");
  }
  if (net.queue_size() < 2 || net.queue_size() > kMaxQueueSize ||
      !std::has_single_bit(net.queue_size())) {
    return Fail(Code::kInvalidArgument, kind + ".queue_size must be a power of two from 2 to 1024");
  }
  spec.mtu = static_cast<uint16_t>(net.mtu());
  spec.queue_size = static_cast<uint16_t>(net.queue_size());
  return {};
}

Result<DeviceSpec> ParseVhostUserNet(const vmm::v1::VhostUserNet& net, DonationStore& store) {
  VhostUserNetSpec spec;
  WV_TRY_VOID(ParseInterface(net, "vhost_user_net", spec));
  WV_TRY(spec.socket, store.Take(DonationKind::kVhostUser, net.socket_fd()));
  return spec;
}

Result<DeviceSpec> ParseNet(const vmm::v1::Net& net, DonationStore& store) {
  if (net.fd().empty() || net.fd_size() > kMaxTaps) {
    return Fail(Code::kInvalidArgument, "net.fd must name 1 to 8 taps");
  }
  NetSpec spec;
  WV_TRY_VOID(ParseInterface(net, "net", spec));
  spec.receive_rate = net.receive_rate();
  spec.transmit_rate = net.transmit_rate();
  for (const std::string& name : net.fd()) {
    WV_TRY(spec.taps.emplace_back(), store.Take(DonationKind::kTap, name));
  }
  return spec;
}

bool IsPortName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxPortName && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

Result<DeviceSpec> ParseConsole(const vmm::v1::Console& console, DonationStore& store) {
  if (console.port().empty() || console.port_size() > kMaxPorts) {
    return Fail(Code::kInvalidArgument, "console.port must have 1 to 16 ports");
  }
  ConsoleSpec spec;
  std::set<std::string> names;
  for (const auto& port : console.port()) {
    if (!IsPortName(port.name()) || !names.insert(port.name()).second) {
      return Fail(Code::kInvalidArgument,
                  "console.port.name is 1 to 63 of [a-z0-9._-], another for each port");
    }
    if ((port.name() == kUpcallPortName) != port.fd().empty()) {
      return Fail(
          Code::kInvalidArgument,
          "console.port.fd must name a socket, but for wyvern.upcall, which is the VMM's own");
    }
    WV_TRY(UniqueFd socket, TakeOptional(store, DonationKind::kStream, port.fd()));
    spec.ports.push_back({port.name(), std::move(socket)});
  }
  return spec;
}

}  // namespace

Result<> CheckDeviceId(const std::string& id) {
  if (id.empty() || id.size() > kMaxIdLength || !IsPrintable(id)) {
    return Fail(Code::kInvalidArgument, "a device's id is 1 to 63 printable ASCII characters");
  }
  return {};
}

Result<MachineSpec> ParseCreate(const vmm::v1::CreateRequest& request, DonationStore& store) {
  if (request.vcpus() < 1 || request.vcpus() > kMaxVcpus) {
    return Fail(Code::kInvalidArgument, "vcpus must be 1 to 8");
  }
  if (request.memory_bytes() < kMinMemory || request.memory_bytes() > kMaxMemory ||
      request.memory_bytes() % kMemoryGranule != 0) {
    return Fail(Code::kInvalidArgument,
                "memory_bytes must be a multiple of 2 MiB from 32 MiB to 1 TiB");
  }
  if (request.cmdline().size() > kMaxCmdline || !IsPrintable(request.cmdline())) {
    return Fail(Code::kInvalidArgument, "cmdline is at most 2000 printable ASCII characters");
  }
  if (request.hotplug_memory_bytes() > kMaxMemory ||
      request.hotplug_memory_bytes() % kMemoryGranule != 0) {
    return Fail(Code::kInvalidArgument,
                "hotplug_memory_bytes must be a multiple of 2 MiB, at most 1 TiB");
  }
  if (request.max_vcpus() != 0 &&
      (request.max_vcpus() < request.vcpus() || request.max_vcpus() > kMaxPlannedVcpus)) {
    return Fail(Code::kInvalidArgument, "max_vcpus must be 0, or from vcpus to 32");
  }
  if (request.ram_pages() < vmm::v1::RAM_PAGES_TRANSPARENT ||
      request.ram_pages() > vmm::v1::RAM_PAGES_1GIB) {
    return Fail(Code::kInvalidArgument, "ram_pages is none that is known");
  }
  MachineSpec spec;
  spec.ram_pages = static_cast<RamPages>(request.ram_pages());
  spec.max_vcpus = request.max_vcpus();
  spec.hotplug_memory_bytes = request.hotplug_memory_bytes();
  spec.vcpus = request.vcpus();
  spec.memory_bytes = request.memory_bytes();
  spec.shared_memory = request.shared_memory();
  spec.cmdline = request.cmdline();
  WV_TRY(spec.kvm, store.Take(DonationKind::kKvm, request.kvm_fd()));
  WV_TRY(spec.kernel, store.Take(DonationKind::kKernel, request.kernel_fd()));
  WV_TRY(spec.initrd, TakeOptional(store, DonationKind::kInitrd, request.initrd_fd()));
  WV_TRY(spec.console, TakeOptional(store, DonationKind::kConsoleRing, request.console_fd()));
  return spec;
}

Result<DeviceSpec> ParseDevice(const vmm::v1::AttachDeviceRequest& request, DonationStore& store) {
  WV_TRY_VOID(CheckDeviceId(request.id()));
  switch (request.device_case()) {
    case vmm::v1::AttachDeviceRequest::kPmem:
      return ParsePmem(request.pmem(), store);
    case vmm::v1::AttachDeviceRequest::kRng:
      return RngSpec{};
    case vmm::v1::AttachDeviceRequest::kVsock:
      return ParseVsock(request.vsock());
    case vmm::v1::AttachDeviceRequest::kBlk:
      return ParseBlk(request.blk(), store);
    case vmm::v1::AttachDeviceRequest::kVhostUserFs:
      return ParseFs(request.vhost_user_fs(), store);
    case vmm::v1::AttachDeviceRequest::kNet:
      return ParseNet(request.net(), store);
    case vmm::v1::AttachDeviceRequest::kBalloon:
      return BalloonSpec{request.balloon().deflate_on_oom(), request.balloon().page_reporting()};
    case vmm::v1::AttachDeviceRequest::kMem:
      return MemSpec{};
    case vmm::v1::AttachDeviceRequest::kConsole:
      return ParseConsole(request.console(), store);
    case vmm::v1::AttachDeviceRequest::kVhostUserNet:
      return ParseVhostUserNet(request.vhost_user_net(), store);
    case vmm::v1::AttachDeviceRequest::DEVICE_NOT_SET:
      break;
  }
  return Fail(Code::kInvalidArgument, "the request names no device of a kind that this VMM has");
}

Result<std::chrono::milliseconds> ParsePatience(uint32_t deadline_ms) {
  const std::chrono::milliseconds patience(deadline_ms);
  if (patience > kMaxPatience) {
    return Fail(Code::kInvalidArgument, "deadline_ms must be 0 to 600000");
  }
  return deadline_ms == 0 ? kDefaultPatience : patience;
}

Result<DetachOptions> ParseDetach(const vmm::v1::DetachDeviceRequest& request) {
  WV_TRY_VOID(CheckDeviceId(request.id()));
  WV_TRY(const std::chrono::milliseconds patience, ParsePatience(request.deadline_ms()));
  return DetachOptions{.id = request.id(), .force = request.force(), .patience = patience};
}

}  // namespace wyvern::api
