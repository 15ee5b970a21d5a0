// agent/guest_device.h — a virtio device as the guest's kernel shows it: its driver, its node, and whether it is the one that was meant.
// Spec:    VIRTIO 1.4 §5 (device ids). sysfs: Documentation/ABI/testing/sysfs-class-net, sysfs-fs-virtiofs; the attributes of
//          drivers/block/virtio_blk.c and drivers/char/virtio_console.c.
// Errors:  ALREADY_EXISTS for another device than was meant, UNIMPLEMENTED and UNAVAILABLE for drivers (upcall.proto).
// Threads: any. A call may block while a device does not answer (the serial of a disk is a request to it).
#pragma once

#include <optional>
#include <string>

#include "agent/kernel_files.h"
#include "proto/upcall.pb.h"

namespace wyvern::agent {

struct DeviceNode {
  std::string name;  // PciRescanResponse.node
  uint32_t major = 0;
  uint32_t minor = 0;
};

// INVALID_ARGUMENT for what breaks the bounds of upcall.proto.
Result<> CheckIdentity(const v1::DeviceIdentity& identity);

// The virtio device below a PCI function's directory: "/sys/…/virtio5"; nothing while there is none.
std::optional<std::string> VirtioBelow(const KernelFiles& files, const std::string& function);

// Has the driver that `identity` needs at work on the device `virtio`. False: not yet, ask again. The kernel binds drivers by itself;
// where it did not, it is asked to, because only that tells why it would not.
Result<bool> DriveVirtio(const KernelFiles& files, const std::string& virtio,
                         const v1::DeviceIdentity& identity);

// The node of a device that is driven; nothing: not yet.
Result<std::optional<DeviceNode>> FindNode(const KernelFiles& files, const std::string& virtio,
                                           const v1::DeviceIdentity& identity);

// Why taking the device away would hurt: "vda is mounted, or …"; nothing: it would not.
std::optional<std::string> InUse(const KernelFiles& files, const std::string& virtio);

// Asks a bus's driver to take a device. UNAVAILABLE has the kernel's errno; bound meanwhile is no error.
Result<> Bind(const KernelFiles& files, const std::string& bus, const std::string& driver,
              const std::string& device);

}  // namespace wyvern::agent
