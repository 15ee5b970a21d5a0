// How many vCPUs run and how much memory there is, and how both change while the guest runs.
#include <fmt/format.h>

#include <utility>

#include "blk/blk_device.h"
#include "hotplug/memory_size.h"
#include "virtio_mem/mem_device.h"
#include "vmm/assembly.h"

namespace wyvern::vmm {

namespace {

using agent::v1::DeviceIdentity;

bool IsMem(const DeviceIdentity& identity) {
  return identity.has_mem();
}

// "2 vCPUs: the guest keeps one"
std::string News(std::string reached, const std::string& why) {
  return why.empty() ? reached : std::move(reached) + ": " + why;
}

}  // namespace

Result<api::ResizedVcpus> Assembly::ResizeVcpus(uint32_t vcpus,
                                                std::chrono::milliseconds patience) {
  const upcall::Time deadline = upcall::Clock::now() + patience;
  {
    const std::lock_guard lock(mu_);
    if (!booted_ || paused_) {
      return Fail(Code::kFailedPrecondition, "the machine does not run");
    }
  }
  WV_TRY_VOID(CheckUpcall());
  auto reached = vcpus_->Resize(vcpus, deadline);
  if (!reached) {
    TellFailure(fmt::format("{} vCPUs", vcpus), reached.error());
    return tl::unexpected(std::move(reached).error());
  }
  Publish({api::EventKind::kResized, News(fmt::format("{} vCPUs", reached->vcpus), reached->why)});
  return api::ResizedVcpus{.vcpus = reached->vcpus, .why = std::move(reached->why)};
}

class Assembly::MemDeviceSize final : public hotplug::PluggableMemory {
 public:
  MemDeviceSize(const hotplug::DeviceSet& devices, arch::AddressRange region)
      : devices_(devices), region_(region) {}

  uint64_t start() const override { return region_.start; }

  uint64_t size() const override { return region_.size; }

  Result<uint64_t> plugged() const override {
    uint64_t bytes = 0;
    WV_TRY_VOID(With([&bytes](devices::MemDevice& device) -> Result<> {
      bytes = device.plugged_size();
      return {};
    }));
    return bytes;
  }

  Result<> Request(uint64_t bytes) override {
    return With([bytes](devices::MemDevice& device) { return device.SetRequestedSize(bytes); });
  }

 private:
  Result<> With(const std::function<Result<>(devices::MemDevice&)>& act) const {
    auto done = devices_.WithUsable(IsMem, [&act](virtio::VirtioDevice& device) {
      return act(static_cast<devices::MemDevice&>(device));
    });
    if (!done && done.error().code() == Code::kNotFound) {
      return Fail(Code::kFailedPrecondition,
                  "the machine has no device of the kind mem: attach one");
    }
    return done;
  }

  const hotplug::DeviceSet& devices_;
  const arch::AddressRange region_;
};

Result<> Assembly::ResizeDisk(const std::string& id) {
  // In a sandbox a disk's serial is its id.
  const auto is_it = [&](const agent::v1::DeviceIdentity& identity) {
    return identity.has_blk() && identity.blk().serial() == id;
  };
  return devices_.WithUsable(is_it, [](virtio::VirtioDevice& device) {
    return static_cast<devices::BlkDevice&>(device).ResizeToFile();
  });
}

Result<api::ResizedMemory> Assembly::ResizeMemory(uint64_t bytes,
                                                  std::chrono::milliseconds patience) {
  const upcall::Time deadline = upcall::Clock::now() + patience;
  arch::AddressRange region;
  {
    const std::lock_guard lock(mu_);
    if (!booted_ || paused_) {
      return Fail(Code::kFailedPrecondition, "the machine does not run");
    }
    region = machine_->hotplug_window();
  }
  if (bytes < boot_memory_ || bytes - boot_memory_ > region.size) {
    return Fail(Code::kInvalidArgument,
                fmt::format("memory_bytes must be {} MiB, which the machine boots with, to {} MiB",
                            boot_memory_ >> 20U, (boot_memory_ + region.size) >> 20U));
  }
  const hotplug::Turn::Taken turn(resize_, deadline);
  if (!turn) {
    return Fail(Code::kDeadlineExceeded, "another change of the memory is under way");
  }
  MemDeviceSize memory(devices_, region);
  // Beyond the region it does not come: that is whole blocks, or there would be no device.
  const uint64_t block = devices::MemDevice::BlockSizeFor(region.size);
  const uint64_t plugged = (bytes - boot_memory_ + block - 1) / block * block;
  auto reached = hotplug::ResizeMemory(memory, upcall_, plugged, deadline);
  if (!reached) {
    TellFailure(fmt::format("{} MiB of memory", bytes >> 20U), reached.error());
    return tl::unexpected(std::move(reached).error());
  }
  const uint64_t total = boot_memory_ + reached->plugged;
  Publish({api::EventKind::kResized,
           News(fmt::format("{} MiB of memory", total >> 20U), reached->why)});
  return api::ResizedMemory{
      .memory_bytes = total, .online_bytes = reached->online, .why = std::move(reached->why)};
}

Result<api::MachineSize> Assembly::Size() {
  api::MachineSize size;
  arch::AddressRange region;
  {
    const std::lock_guard lock(mu_);
    if (!machine_) {
      return Fail(Code::kFailedPrecondition, "there is no machine before Create");
    }
    size.memory_bytes = boot_memory_;
    region = machine_->hotplug_window();
    for (const machine::VcpuThreadId& each : machine_->vcpu_threads()) {
      size.vcpus.push_back({.vcpu = each.vcpu, .thread = each.thread});
    }
  }
  const auto plugged = MemDeviceSize(devices_, region).plugged();
  size.memory_bytes += plugged.value_or(0);  // without a device nothing is
  return size;
}

}  // namespace wyvern::vmm
