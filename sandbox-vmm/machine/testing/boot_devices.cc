#include "machine/testing/boot_devices.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "base/fd.h"
#include "jail/filter.h"
#include "machine/testing/split_device.h"
#include "net/kernel_tap.h"
#include "net/net_device.h"
#include "net/vhost_net_device.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "virtio_mem/chunked_backing.h"

namespace wyvern::machine {

namespace {

// As wyvern-vmm does: the filter of its control thread, which its other threads inherit, then that of the kind.
devices::WorkerOptions Confined(std::string name,
                                jail::ThreadKind kind = jail::ThreadKind::kDevice) {
  return {.name = std::move(name), .on_thread_start = [kind](const char* /*thread*/) {
            for (const auto each : {jail::ThreadKind::kControl, kind}) {
              if (const auto installed = jail::InstallFilter(each); !installed) {
                fmt::print(stderr, "filter: {}\n", installed.error().message());
                _exit(2);
              }
            }
          }};
}

Result<UniqueFd> OpenTap(const std::string& name, bool multi_queue) {
  WV_TRY(UniqueFd tap, Open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  request.ifr_flags =
      static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
  if (name.size() >= sizeof(request.ifr_name)) {
    return Fail(Code::kInvalidArgument, "the tap's name is too long");
  }
  std::memcpy(request.ifr_name, name.data(), name.size());
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    return SysError("ioctl(TUNSETIFF) " + name);
  }
  return tap;
}

}  // namespace

Result<> BootDevices::AttachAll(const BootOptions& options) {
  split_ = options.split;
  WV_TRY(auto rng, devices::RngDevice::Create(Confined("rng")));
  WV_TRY_VOID(Attach("rng", std::move(rng)));
  WV_TRY_VOID(AttachDisks(options));
  for (const std::vector<std::string>& paths : options.images) {
    WV_TRY_VOID(AttachImages(paths));
  }
  if (options.balloon) {
    WV_TRY(auto balloon, devices::BalloonDevice::Create(
                             {.worker = Confined("balloon"), .page_reporting = options.reporting}));
    balloon_ = balloon.get();
    WV_TRY_VOID(Attach("balloon", std::move(balloon)));
  }
  if (options.hotplug_mib != 0) {
    WV_TRY_VOID(AttachMemory(options.hotplug_mib));
  }
  if (!options.tap.empty()) {
    WV_TRY_VOID(AttachTap(options));
  }
  return options.ports.empty() ? Result<>() : AttachPorts(options.ports);
}

Result<> BootDevices::Attach(std::string name, std::unique_ptr<virtio::VirtioDevice> device) {
  devices_.emplace_back(std::move(name), device.get());
  if (split_) {
    device = std::make_unique<SplitDevice>(std::move(device));
  }
  WV_TRY_VOID(machine_.AttachDevice(std::move(device)));
  return {};
}

Result<> BootDevices::AttachDisks(const BootOptions& options) {
  for (size_t i = 0; i < options.disks.size(); ++i) {
    const BootDisk& disk = options.disks[i];
    const std::string serial = fmt::format("disk{}", i);
    WV_TRY(UniqueFd file, Open(disk.path, disk.read_only ? O_RDONLY : O_RDWR));
    devices::BlkOptions blk{.worker = Confined(serial),
                            .file = std::move(file),
                            .read_only = disk.read_only,
                            .serial = serial,
                            .queues = static_cast<uint16_t>(options.queues),
                            .lanes = static_cast<uint16_t>(options.lanes)};
    if (!options.pool) {
      WV_TRY(blk.ring, devices::IoRing::Create());
      for (uint32_t lane = 1; lane < options.lanes; ++lane) {
        WV_TRY(blk.more_rings.emplace_back(), devices::IoRing::Create());
      }
    }
    WV_TRY(auto device, devices::BlkDevice::Create(std::move(blk)));
    disks_.push_back({.device = device.get(), .path = disk.path});
    WV_TRY_VOID(Attach(serial, std::move(device)));
  }
  return {};
}

Result<> BootDevices::AttachImages(const std::vector<std::string>& paths) {
  std::vector<UniqueFd> files;
  for (const std::string& path : paths) {
    WV_TRY(files.emplace_back(), Open(path, O_RDONLY));
  }
  WV_TRY(const arch::AddressRange range, machine_.MapReadOnlyImages(std::move(files)));
  const devices::PmemRange pmem{.start = mem::Gpa{range.start}, .size = range.size};
  WV_TRY(auto device, devices::PmemDevice::Create(Confined("pmem"), pmem));
  const size_t before = std::ranges::count_if(
      devices_, [](const auto& each) { return each.first.starts_with("pmem"); });
  return Attach(fmt::format("pmem{}", before), std::move(device));
}

Result<> BootDevices::AttachMemory(uint64_t mib) {
  const uint64_t block = devices::MemDevice::BlockSizeFor(mib * kMiB);
  const arch::AddressRange window = machine_.hotplug_window();
  const devices::MemoryRange region{.start = mem::Gpa{window.start}, .size = window.size};
  WV_TRY(auto slots, machine_.MakeMemorySlots(block));
  auto backing = std::make_unique<devices::ChunkedBacking>(
      devices::ChunkLayout{.region = region, .block_size = block, .chunk_size = block},
      std::move(slots));
  WV_TRY(auto device,
         devices::MemDevice::Create({.worker = Confined("mem", jail::ThreadKind::kMemory),
                                     .region = region,
                                     .block_size = block,
                                     .backing = std::move(backing)}));
  memory_ = device.get();
  return Attach("mem", std::move(device));
}

Result<> BootDevices::AttachTap(const BootOptions& options) {
  std::vector<UniqueFd> queues;
  std::vector<UniqueFd> vhost;
  for (uint32_t i = 0; i < options.pairs; ++i) {
    WV_TRY(queues.emplace_back(), OpenTap(options.tap, options.pairs > 1));
    if (options.vhost_net) {
      WV_TRY(vhost.emplace_back(), Open("/dev/vhost-net", O_RDWR));
    }
  }
  WV_TRY(auto tap, devices::KernelTap::Create(std::move(queues)));
  const devices::NetInterface interface {
    .mac = {0x02, 0, 0, 0, 0, 0x01}, .mtu = 1500
  };
  if (options.vhost_net) {
    WV_TRY(auto device,
           devices::VhostNetDevice::Create({.worker = Confined("net", jail::ThreadKind::kVhostNet),
                                            .tap = std::move(tap),
                                            .vhost = std::move(vhost),
                                            .interface = interface}));
    set_link_up_ = [raw = device.get()](bool up) { raw->SetLinkUp(up); };
    return Attach("net", std::move(device));
  }
  WV_TRY(auto device, devices::NetDevice::Create({.worker = Confined("net", jail::ThreadKind::kNet),
                                                  .tap = std::move(tap),
                                                  .interface = interface}));
  set_link_up_ = [raw = device.get()](bool up) { raw->SetLinkUp(up); };
  return Attach("net", std::move(device));
}

Result<> BootDevices::AttachPorts(const std::vector<BootPort>& ports) {
  devices::ConsoleOptions options{.worker = Confined("console"),
                                  .max_ports = static_cast<uint32_t>(ports.size()) + 1};
  options.ports.push_back(
      {.name = "console", .console = true, .overflow = devices::ConsoleOverflow::kDrop});
  for (const BootPort& port : ports) {
    options.ports.push_back({.name = port.name});
  }
  WV_TRY(auto device, devices::ConsoleDevice::Create(std::move(options)));
  for (uint32_t i = 0; i < ports.size(); ++i) {
    devices::ConsoleEnds ends;
    // For writing too: a fifo without a writer would be at its end.
    WV_TRY(ends.in, Open(ports[i].in, O_RDWR | O_NONBLOCK));
    WV_TRY(ends.out, Open(ports[i].out, O_WRONLY));
    WV_TRY_VOID(device->Attach(i + 1, std::move(ends)));
  }
  console_ = device.get();
  return Attach("console", std::move(device));
}

std::string BootDevices::Counters() const {
  std::string text;
  for (const auto& [name, device] : devices_) {
    text += fmt::format("{}{}:", text.empty() ? "" : "\n", name);
    for (const virtio::CounterValue& counter : device->counters()) {
      text += fmt::format(" {}={}", counter.name, counter.value);
    }
  }
  return text;
}

}  // namespace wyvern::machine
