#include "agent/guest_device.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "agent/block_disk.h"

namespace wyvern::agent {
namespace {

using Identity = v1::DeviceIdentity;

constexpr size_t kMaxTag = 36;
constexpr size_t kMaxPort = 120;
constexpr size_t kMac = 6;
constexpr uint64_t kSector = 512;
constexpr char kVirtioPorts[] = "/virtio-ports";

struct Kind {
  Identity::KindCase identity;
  std::string_view device_id;  // of the virtio bus
  std::string_view driver;     // in /sys/bus/virtio/drivers
  std::string_view option;     // of the kernel's configuration
};

constexpr std::array<Kind, 9> kKinds = {{
    {Identity::kNet, "0x0001", "virtio_net", "CONFIG_VIRTIO_NET"},
    {Identity::kBlk, "0x0002", "virtio_blk", "CONFIG_VIRTIO_BLK"},
    {Identity::kConsole, "0x0003", "virtio_console", "CONFIG_VIRTIO_CONSOLE"},
    {Identity::kRng, "0x0004", "virtio_rng", "CONFIG_HW_RANDOM_VIRTIO"},
    {Identity::kBalloon, "0x0005", "virtio_balloon", "CONFIG_VIRTIO_BALLOON"},
    {Identity::kVsock, "0x0013", "vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"},
    {Identity::kMem, "0x0018", "virtio_mem", "CONFIG_VIRTIO_MEM"},
    {Identity::kFs, "0x001a", "virtiofs", "CONFIG_VIRTIO_FS"},
    {Identity::kPmem, "0x001b", "virtio_pmem", "CONFIG_VIRTIO_PMEM"},
}};

const Kind* KindOf(const Identity& identity) {
  for (const Kind& kind : kKinds) {
    if (kind.identity == identity.kind_case()) {
      return &kind;
    }
  }
  return nullptr;
}

// The first entry of a directory whose name begins so.
std::optional<std::string> ChildOf(const KernelFiles& files, const std::string& directory,
                                   std::string_view prefix) {
  for (const std::string& name : files.List(directory)) {
    if (name.starts_with(prefix)) {
      return fmt::format("{}/{}", directory, name);
    }
  }
  return std::nullopt;
}

tl::unexpected<Error> Another(const std::string& virtio, const char* what, std::string_view found,
                              std::string_view wanted) {
  return Fail(Code::kAlreadyExists, fmt::format("{}: its {} is \"{}\", not \"{}\": another device "
                                                "is there; remove it first",
                                                BaseName(virtio), what, found, wanted));
}

// With its file in /dev, which comes a moment later than the directory in /sys.
std::optional<DeviceNode> NodeAt(const KernelFiles& files, const std::string& device) {
  DeviceNode node{.name = BaseName(device)};
  const auto number = files.Read(device + "/dev");
  if (!number || !files.Exists("/dev/" + node.name)) {
    return std::nullopt;
  }
  const char* const end = number->data() + number->size();
  const auto major = std::from_chars(number->data(), end, node.major);
  if (major.ec != std::errc() || major.ptr == end || *major.ptr != ':' ||
      std::from_chars(major.ptr + 1, end, node.minor).ec != std::errc()) {
    return std::nullopt;
  }
  return node;
}

std::optional<std::string> BlockOf(const KernelFiles& files, const std::string& virtio) {
  return ChildOf(files, virtio + "/block", "");
}

// …/virtio0/ndbus0/region0/namespace0.0/block/pmem0
std::optional<std::string> PmemOf(const KernelFiles& files, const std::string& virtio) {
  std::optional<std::string> at = virtio;
  for (const char* level : {"ndbus", "region", "namespace"}) {
    if (at) {
      at = ChildOf(files, *at, level);
    }
  }
  return at ? ChildOf(files, *at + "/block", "pmem") : std::nullopt;
}

// Linux shows tags since 6.9.
std::optional<std::string> TagOf(const KernelFiles& files, const std::string& virtio) {
  const std::string all = "/sys/fs/virtiofs";
  for (const std::string& name : files.List(all)) {
    const std::string instance = fmt::format("{}/{}", all, name);
    if (files.LinkName(instance + "/device") == BaseName(virtio)) {
      return files.Read(instance + "/tag");
    }
  }
  return std::nullopt;
}

Result<std::optional<DeviceNode>> FindBlk(const KernelFiles& files, const std::string& virtio,
                                          const std::string& serial) {
  const auto disk = BlockOf(files, virtio);
  const auto node = disk ? NodeAt(files, *disk) : std::nullopt;
  if (!disk || !node) {
    return std::nullopt;
  }
  const auto found = files.Read(*disk + "/serial");
  if (found != serial) {
    return Another(virtio, "serial", found.value_or(""), serial);
  }
  return node;
}

Result<std::optional<DeviceNode>> FindFs(const KernelFiles& files, const std::string& virtio,
                                         const std::string& tag) {
  const auto found = TagOf(files, virtio);
  if (found && *found != tag) {
    return Another(virtio, "tag", *found, tag);
  }
  if (!found && files.Exists("/sys/fs/virtiofs")) {
    return std::nullopt;
  }
  return DeviceNode{.name = tag};
}

Result<std::optional<DeviceNode>> FindNet(const KernelFiles& files, const std::string& virtio,
                                          const std::string& mac) {
  const auto interface = ChildOf(files, virtio + "/net", "");
  const auto found = interface ? files.Read(*interface + "/address") : std::nullopt;
  if (!interface || !found) {
    return std::nullopt;
  }
  std::string wanted;
  for (const char byte : mac) {
    wanted += fmt::format("{}{:02x}", wanted.empty() ? "" : ":", static_cast<uint8_t>(byte));
  }
  if (*found != wanted) {
    return Another(virtio, "address", *found, wanted);
  }
  return DeviceNode{.name = BaseName(*interface)};
}

Result<std::optional<DeviceNode>> FindVsock(const KernelFiles& files, const std::string& virtio,
                                            uint64_t wanted) {
  const auto cid = files.VsockCid();
  if (!cid) {
    return std::nullopt;
  }
  if (*cid != wanted) {
    return Another(virtio, "CID", std::to_string(*cid), std::to_string(wanted));
  }
  return DeviceNode{.name = BaseName(virtio)};
}

Result<std::optional<DeviceNode>> FindPmem(const KernelFiles& files, const std::string& virtio,
                                           uint64_t size) {
  const auto disk = PmemOf(files, virtio);
  const auto node = disk ? NodeAt(files, *disk) : std::nullopt;
  const auto sectors = disk && node ? files.Read(*disk + "/size") : std::nullopt;
  if (!sectors) {
    return std::nullopt;
  }
  if (size % kSector != 0 || *sectors != std::to_string(size / kSector)) {
    return Another(virtio, "size in sectors", *sectors, std::to_string(size / kSector));
  }
  return node;
}

// Ports come one after the other, when the device tells of them: one with another name is no contradiction.
Result<std::optional<DeviceNode>> FindConsole(const KernelFiles& files, const std::string& virtio,
                                              const std::string& port) {
  if (port.empty()) {
    return DeviceNode();
  }
  for (const std::string& name : files.List(virtio + kVirtioPorts)) {
    const std::string at = fmt::format("{}{}/{}", virtio, kVirtioPorts, name);
    if (files.Read(at + "/name") == port) {
      return NodeAt(files, at);
    }
  }
  return std::nullopt;
}

// The device that the kernel drives in this one's stead: of these it takes one.
std::optional<std::string> RivalOf(const KernelFiles& files, const std::string& device,
                                   const Identity& identity) {
  const std::string driver(KindOf(identity)->driver);
  for (const std::string& other : files.List("/sys/bus/virtio/drivers/" + driver)) {
    if (!other.starts_with("virtio") || other == device) {
      continue;
    }
    if (identity.has_vsock()) {
      return "Linux drives one vsock device at a time, and " + other +
             " is there: detach that first";
    }
    if (identity.has_fs() &&
        TagOf(files, "/sys/bus/virtio/devices/" + other) == identity.fs().tag()) {
      return "the tag " + identity.fs().tag() + " is that of " + other + " already";
    }
  }
  return std::nullopt;
}

// The driver gave up while it probed the device, which then wants a reset (VIRTIO 1.4 §2.1.1): it is not to be bound anew.
bool HasFailed(const KernelFiles& files, const std::string& virtio) {
  constexpr uint32_t kStatusFailed = 0x80;
  const std::string text = files.Read(virtio + "/status").value_or("");
  uint32_t status = 0;
  return text.starts_with("0x") &&
         std::from_chars(text.data() + 2, text.data() + text.size(), status, 16).ec ==
             std::errc() &&
         (status & kStatusFailed) != 0;
}

}  // namespace

Result<> CheckIdentity(const Identity& identity) {
  const auto refuse = [](const char* text) { return Fail(Code::kInvalidArgument, text); };
  if (KindOf(identity) == nullptr) {
    return refuse("identity: a kind is missing");
  }
  if (identity.has_blk() && identity.blk().serial().size() > kMaxSerial) {
    return refuse("identity.blk.serial: at most 20 bytes");
  }
  if (identity.has_fs() && (identity.fs().tag().empty() || identity.fs().tag().size() > kMaxTag)) {
    return refuse("identity.fs.tag: 1 to 36 bytes");
  }
  if (identity.has_net() && identity.net().mac().size() != kMac) {
    return refuse("identity.net.mac: 6 bytes");
  }
  if (identity.has_console() && identity.console().port().size() > kMaxPort) {
    return refuse("identity.console.port: at most 120 bytes");
  }
  return {};
}

std::optional<std::string> VirtioBelow(const KernelFiles& files, const std::string& function) {
  return ChildOf(files, function, "virtio");
}

Result<> Bind(const KernelFiles& files, const std::string& bus, const std::string& driver,
              const std::string& device) {
  const std::string at = "/sys/bus/" + bus;
  auto bound = files.Write(at + "/drivers/" + driver + "/bind", device);
  if (bound || files.LinkName(at + "/devices/" + device + "/driver") == driver) {
    return {};
  }
  const int number = bound.error().sys_errno();
  return Fail(Code::kUnavailable,
              fmt::format("{}: the guest's driver {} refused it: {} (errno {})", device, driver,
                          std::generic_category().message(number), number));
}

Result<bool> DriveVirtio(const KernelFiles& files, const std::string& virtio,
                         const Identity& identity) {
  const Kind& kind = *KindOf(identity);
  const std::string device = BaseName(virtio);
  const auto id = files.Read(virtio + "/device");
  if (!id) {
    return false;
  }
  if (*id != kind.device_id) {
    return Another(virtio, "device id", *id, kind.device_id);
  }
  const std::string driver(kind.driver);
  if (files.LinkName(virtio + "/driver") == driver) {
    return true;
  }
  if (!files.Exists("/sys/bus/virtio/drivers/" + driver)) {
    return Fail(Code::kUnimplemented,
                fmt::format("the guest's kernel has no driver {} ({}): take a kernel that has it "
                            "built in, or `wyvern guest import` one that has it as a module",
                            driver, kind.option));
  }
  if (const auto rival = RivalOf(files, device, identity)) {
    return Fail(Code::kAlreadyExists, fmt::format("{}: {}", device, *rival));
  }
  const bool failed = HasFailed(files, virtio);
  WV_TRY_VOID(Bind(files, "virtio", driver, device));
  if (failed) {
    return Fail(Code::kUnavailable,
                fmt::format("{}: the guest's driver {} refused it first and took it then; the "
                            "device is unusable until it is added anew",
                            device, driver));
  }
  return files.LinkName(virtio + "/driver") == driver;
}

Result<std::optional<DeviceNode>> FindNode(const KernelFiles& files, const std::string& virtio,
                                           const Identity& identity) {
  switch (identity.kind_case()) {
    case Identity::kBlk:
      return FindBlk(files, virtio, identity.blk().serial());
    case Identity::kFs:
      return FindFs(files, virtio, identity.fs().tag());
    case Identity::kNet:
      return FindNet(files, virtio, identity.net().mac());
    case Identity::kVsock:
      return FindVsock(files, virtio, identity.vsock().guest_cid());
    case Identity::kPmem:
      return FindPmem(files, virtio, identity.pmem().size());
    case Identity::kConsole:
      return FindConsole(files, virtio, identity.console().port());
    case Identity::kRng:
    case Identity::kBalloon:
    case Identity::kMem:
    case Identity::KIND_NOT_SET:
      break;
  }
  return DeviceNode{.name = BaseName(virtio)};
}

std::optional<std::string> InUse(const KernelFiles& files, const std::string& virtio) {
  for (const auto& disk : {BlockOf(files, virtio), PmemOf(files, virtio)}) {
    if (disk && files.IsClaimed("/dev/" + BaseName(*disk))) {
      return BaseName(*disk) + " is mounted, or another driver holds it";
    }
  }
  // Its driver goes without them, and then refuses the next device: the blocks stay the kernel's.
  if (files.LinkName(virtio + "/driver") == "virtio_mem" &&
      files.Read("/proc/iomem").value_or("").find("System RAM (virtio_mem)") != std::string::npos) {
    return "the kernel still has memory of it";
  }
  const auto tag = TagOf(files, virtio);
  if (!tag) {
    return std::nullopt;
  }
  // "… - virtiofs TAG …" (proc_pid_mountinfo(5)); a tag with spaces, which are escaped there, is not found.
  const auto mounts = files.Read("/proc/self/mountinfo");
  if (!mounts || mounts->find(" - virtiofs " + *tag + " ") != std::string::npos) {
    return "the share " + *tag +
           (mounts ? " is mounted" : " may be mounted: mountinfo cannot be read");
  }
  return std::nullopt;
}

}  // namespace wyvern::agent
