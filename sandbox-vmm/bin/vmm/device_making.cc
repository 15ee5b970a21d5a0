// Devices out of what was donated for them.
#include <fcntl.h>
#include <fmt/format.h>

#include <utility>

#include "balloon/balloon_device.h"
#include "base/log.h"
#include "blk/blk_device.h"
#include "console/console_device.h"
#include "net/kernel_tap.h"
#include "net/net_device.h"
#include "pmem/image_layout.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "upcall/preamble.h"
#include "vhost_user/frontend.h"
#include "vhost_user_net/vhost_user_net_device.h"
#include "virtio_mem/chunked_backing.h"
#include "virtio_mem/mem_device.h"
#include "vmm/assembly.h"
#include "vmm/confine.h"
#include "vsock/vsock_device.h"

namespace wyvern::vmm {

namespace {

using agent::v1::DeviceIdentity;

// Each takes up to 16,385 of the 65,530 mappings that a process has (SharedMappings::kMaxMappings).
constexpr size_t kMaxWindows = 2;

// An image is what other sandboxes boot from, too: whoever takes over this process must not be able
// to change it either (CVE-2020-2025).
Result<> CheckReadOnly(std::span<const UniqueFd> images) {
  for (size_t i = 0; i < images.size(); ++i) {
    const int flags = fcntl(images[i].get(), F_GETFL);
    if (flags < 0) {
      return SysError("fcntl(F_GETFL)");
    }
    if ((flags & O_ACCMODE) != O_RDONLY) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("image {} of {} is open for writing: open it with O_RDONLY", i + 1,
                              images.size()));
    }
  }
  return {};
}

}  // namespace

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::PmemSpec spec) {
  static_assert(api::kMaxImages == devices::kMaxImages);
  WV_TRY_VOID(CheckReadOnly(spec.images));
  WV_TRY(const arch::AddressRange range, machine_->MapReadOnlyImages(std::move(spec.images)));
  const auto release = [this, id, range] {
    if (auto unmapped = machine_->UnmapReadOnlyImages(range); !unmapped) {
      WV_WARN("images of {} stay mapped: {}", id, unmapped.error().DebugString());
    }
  };
  auto device = devices::PmemDevice::Create(WorkerFor(id),
                                            {.start = mem::Gpa{range.start}, .size = range.size});
  if (!device) {
    release();
    return tl::unexpected(std::move(device).error());
  }
  DeviceIdentity identity;
  identity.mutable_pmem()->set_size(range.size);
  return hotplug::NewDevice{.device = *std::move(device), .identity = identity, .release = release};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::RngSpec /*spec*/) {
  WV_TRY(auto device, devices::RngDevice::Create(WorkerFor(id)));
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::VsockSpec spec) {
  if (devices_.Count(DeviceIdentity::kVsock) > 0) {
    return Fail(Code::kFailedPrecondition, "the guest's driver can use one vsock device only");
  }
  WV_TRY(auto device,
         devices::VsockDevice::Create({.worker = WorkerFor(id), .guest_cid = spec.guest_cid}));
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::BlkSpec spec) {
  std::shared_ptr<devices::IoRing> ring;
  {
    const std::lock_guard lock(mu_);
    if (!rings_.empty()) {
      ring = std::move(rings_.back());
      rings_.pop_back();
    }
  }
  const auto release = [this, id, ring] {
    if (ring == nullptr) {
      return;
    }
    if (auto cleared = ring->ClearFile(); !cleared) {
      WV_WARN("the ring of {} is not used again: {}", id, cleared.error().DebugString());
      return;
    }
    const std::lock_guard lock(mu_);
    rings_.push_back(ring);
  };
  auto device = devices::BlkDevice::Create({.worker = WorkerFor(id),
                                            .file = std::move(spec.file),
                                            .read_only = spec.read_only,
                                            .serial = std::move(spec.serial),
                                            .ring = ring});
  if (!device) {
    release();
    return tl::unexpected(std::move(device).error());
  }
  return hotplug::NewDevice{.device = *std::move(device), .release = release};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::VhostUserFsSpec spec) {
  std::shared_ptr<mem::FileWindow> window;
  if (spec.dax_window > 0) {
    WV_TRY(window, MakeWindow(id, spec.dax_window));
  }
  const auto release = [this, id] {
    const std::lock_guard lock(mu_);
    windows_.erase(id);
  };
  const auto kind = window ? jail::ThreadKind::kWindow : jail::ThreadKind::kDevice;
  auto device = vhost_user::Frontend::CreateFs(
      std::move(spec.socket), spec.tag, static_cast<uint16_t>(spec.request_queues),
      static_cast<uint16_t>(spec.queue_size), [kind] { Confine(kind); }, window);
  if (!device) {
    release();
    return tl::unexpected(std::move(device).error());
  }
  (*device)->set_lost_callback([this, id](const std::string& why) {
    Publish({api::EventKind::kBackendLost, "the back-end of " + id + " is gone: " + why});
  });
  return hotplug::NewDevice{
      .device = *std::move(device), .window = std::move(window), .release = release};
}

Result<std::shared_ptr<mem::FileWindow>> Assembly::MakeWindow(const std::string& id,
                                                              uint64_t size) {
  const std::lock_guard lock(mu_);
  if (windows_.size() >= kMaxWindows) {
    return Fail(Code::kResourceExhausted,
                fmt::format("a machine has {} DAX windows at most", kMaxWindows));
  }
  WV_TRY(auto window, mem::FileWindow::Create(size));
  windows_.insert(id);
  return window;
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::NetSpec spec) {
  WV_TRY(auto tap, devices::KernelTap::Create(std::move(spec.taps)));
  WV_TRY(auto device,
         devices::NetDevice::Create({.worker = WorkerFor(id, jail::ThreadKind::kNet),
                                     .tap = std::move(tap),
                                     .interface = {.mac = spec.mac, .mtu = spec.mtu},
                                     .queue_size = spec.queue_size,
                                     .receive = devices::EvenBandwidth(spec.receive_rate),
                                     .transmit = devices::EvenBandwidth(spec.transmit_rate)}));
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::VhostUserNetSpec spec) {
  vhost_user::FrontendOptions frontend;
  frontend.share_read_only_memory = false;  // others' back-ends map all of it for writing
  frontend.on_thread_start = [] { Confine(jail::ThreadKind::kDevice); };
  WV_TRY(auto device,
         devices::VhostUserNetDevice::Create({.worker = WorkerFor(id),
                                              .socket = std::move(spec.socket),
                                              .interface = {.mac = spec.mac, .mtu = spec.mtu},
                                              .queue_size = spec.queue_size,
                                              .frontend = std::move(frontend)}));
  device->frontend().set_lost_callback([this, id](const std::string& why) {
    Publish({api::EventKind::kBackendLost, "the back-end of " + id + " is gone: " + why});
  });
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::BalloonSpec spec) {
  // What is reserved for the guest would be lost to it.
  const bool reporting = spec.page_reporting && !keeps_ram_;
  WV_TRY(auto device, devices::BalloonDevice::Create({.worker = WorkerFor(id),
                                                      .deflate_on_oom = spec.deflate_on_oom,
                                                      .page_reporting = reporting}));
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::MemSpec /*spec*/) {
  const arch::AddressRange window = machine_->hotplug_window();
  if (window.size == 0) {
    return Fail(Code::kFailedPrecondition,
                "the machine was made without memory to plug: hotplug_memory_bytes of Create");
  }
  const uint64_t block = devices::MemDevice::BlockSizeFor(window.size);
  const devices::MemoryRange region{.start = mem::Gpa{window.start}, .size = window.size};
  WV_TRY(auto slots, machine_->MakeMemorySlots(block));
  auto backing = std::make_unique<devices::ChunkedBacking>(
      devices::ChunkLayout{.region = region, .block_size = block, .chunk_size = block},
      std::move(slots));
  WV_TRY(auto device,
         devices::MemDevice::Create({.worker = WorkerFor(id, jail::ThreadKind::kMemory),
                                     .region = region,
                                     .block_size = block,
                                     .backing = std::move(backing)}));
  return hotplug::NewDevice{.device = std::move(device)};
}

Result<hotplug::NewDevice> Assembly::Make(const std::string& id, api::ConsoleSpec spec) {
  devices::ConsoleOptions options{.worker = WorkerFor(id),
                                  .max_ports = static_cast<uint32_t>(spec.ports.size())};
  for (const api::ConsolePortSpec& port : spec.ports) {
    options.ports.push_back({.name = port.name});
  }
  WV_TRY(auto device, devices::ConsoleDevice::Create(std::move(options)));
  for (uint32_t i = 0; i < spec.ports.size(); ++i) {
    if (spec.ports[i].socket.valid()) {
      WV_TRY_VOID(device->Attach(
          i, {.in = std::move(spec.ports[i].socket), .out = UniqueFd(), .in_is_out = true}));
    } else if (devices_.WithUsable(
                   [](const DeviceIdentity& other) {
                     return other.console().port() == upcall::kConsolePortName;
                   },
                   [](auto&) { return Result<>(); })) {
      return Fail(Code::kFailedPrecondition, "the machine has the port wyvern.upcall already");
    } else {
      upcall_port_ = i;
    }
  }
  return hotplug::NewDevice{.device = std::move(device)};
}

}  // namespace wyvern::vmm
