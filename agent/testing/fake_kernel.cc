#include "agent/testing/fake_kernel.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <utility>

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kPci[] = "/sys/bus/pci/devices/";

std::string TemporaryDirectory() {
  std::string name = testing::TempDir() + "fake-kernel-XXXXXX";
  return mkdtemp(name.data());
}

}  // namespace

FakeKernel::FakeKernel() : KernelFiles(TemporaryDirectory()) {
  AddDriver("pci", "virtio-pci");
  for (const char* driver :
       {"virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon",
        "vmw_vsock_virtio_transport", "virtio_mem", "virtiofs", "virtio_pmem"}) {
    AddDriver("virtio", driver);
  }
  Put("/sys/class/pci_bus/0000:00/rescan", "");
  Put("/proc/self/mountinfo", "");
  Put("/proc/sys/kernel/random/boot_id", "01234567-89ab-cdef-0123-456789abcdef\n");
  OnWrite("/sys/class/pci_bus/0000:00/rescan", [this](const std::string&) -> Result<> {
    Rescan();
    return {};
  });
}

FakeKernel::~FakeKernel() {
  fs::remove_all(At(""));
}

void FakeKernel::Put(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(At(path)).parent_path());
  // As sysfs has it: a reader sees the old text or the new one.
  const std::string fresh = At(path) + "~";
  std::ofstream(fresh) << text;
  fs::rename(fresh, At(path));
}

void FakeKernel::Link(const std::string& path, const std::string& target) {
  fs::create_directories(fs::path(At(path)).parent_path());
  fs::remove(At(path));
  fs::create_symlink(target, At(path));
}

void FakeKernel::Delete(const std::string& path) {
  fs::remove_all(At(path));
}

void FakeKernel::OnWrite(const std::string& path, Hook hook) {
  const std::lock_guard lock(mu_);
  hooks_[path] = std::move(hook);
}

std::vector<std::string> FakeKernel::Writes(const std::string& path) const {
  const std::lock_guard lock(mu_);
  const auto found = writes_.find(path);
  return found == writes_.end() ? std::vector<std::string>() : found->second;
}

void FakeKernel::AddPort(const std::string& address, const std::string& bus) {
  const std::string rescan = kPci + address + "/pci_bus/" + bus + "/rescan";
  Put(rescan, "");
  OnWrite(rescan, [this](const std::string&) -> Result<> {
    Rescan();
    return {};
  });
}

void FakeKernel::AddDriver(const std::string& bus, const std::string& driver) {
  const std::string bind = "/sys/bus/" + bus + "/drivers/" + driver + "/bind";
  Put(bind, "");
  OnWrite(bind, [](const std::string&) { return SysErrorFrom(ENODEV, "bind"); });
}

void FakeKernel::Plug(Device device) {
  const std::lock_guard lock(mu_);
  const std::string address = device.address;
  plugged_.insert_or_assign(address, std::move(device));
}

void FakeKernel::Unplug(const std::string& address) {
  const std::lock_guard lock(mu_);
  plugged_.erase(address);
}

size_t FakeKernel::FunctionCount() const {
  size_t count = 0;
  for (const std::string& name : List(kPci)) {
    count += Exists(kPci + name + "/remove") ? 1 : 0;
  }
  return count;
}

void FakeKernel::Rescan() {
  std::vector<Device> found;
  {
    const std::lock_guard lock(mu_);
    for (const auto& [address, device] : plugged_) {
      found.push_back(device);
    }
  }
  for (const Device& device : found) {
    if (!Exists(kPci + device.address)) {
      Appear(device);
    }
  }
}

void FakeKernel::Appear(const Device& device) {
  std::string function = kPci + device.address;
  if (!device.port.empty()) {
    function = kPci + device.port + "/" + device.address;
    fs::create_directories(At(function));
    Link(kPci + device.address, device.port + "/" + device.address);
  }
  int number = 0;
  {
    const std::lock_guard lock(mu_);
    number = next_virtio_++;
  }
  const std::string name = "virtio" + std::to_string(number);
  const std::string virtio = function + "/" + name;
  Put(virtio + "/device", device.id + "\n");
  Put(virtio + "/status", device.driver.empty() ? "0x00000001\n" : "0x0000000f\n");
  Link("/sys/bus/virtio/devices/" + name, At(virtio));
  Link(function + "/driver", "../../drivers/virtio-pci");
  if (!device.driver.empty()) {
    Bound(name, device.driver);
  }
  if (device.nodes) {
    device.nodes(*this, virtio);
  }
  Put(function + "/remove", "");
  OnWrite(function + "/remove", [this, function, name, device](const std::string&) -> Result<> {
    Delete("/sys/bus/virtio/drivers/" + device.driver + "/" + name);
    Delete("/sys/bus/virtio/devices/" + name);
    Delete(function);
    Delete(kPci + device.address);
    return {};
  });
}

void FakeKernel::Bound(const std::string& name, const std::string& driver) {
  Link("/sys/bus/virtio/devices/" + name + "/driver", "../../../bus/virtio/drivers/" + driver);
  Link("/sys/bus/virtio/drivers/" + driver + "/" + name, "../../devices/" + name);
}

FakeKernel::Device FakeKernel::Disk(const std::string& address, const std::string& name,
                                    const std::string& serial) {
  return {.address = address, .nodes = [=](FakeKernel& kernel, const std::string& virtio) {
            kernel.Put(virtio + "/block/" + name + "/serial", serial + "\n");
            kernel.Put(virtio + "/block/" + name + "/dev", "254:16\n");
            kernel.Put("/dev/" + name, "");
          }};
}

Result<> FakeKernel::Write(const std::string& path, const std::string& value) const {
  Hook hook;
  {
    const std::lock_guard lock(mu_);
    writes_[path].push_back(value);
    const auto found = hooks_.find(path);
    if (found != hooks_.end()) {
      hook = found->second;
    }
  }
  if (!Exists(path)) {
    return SysErrorFrom(ENOENT, "open " + path);
  }
  return hook ? hook(value) : KernelFiles::Write(path, value);
}

std::optional<uint64_t> FakeKernel::VsockCid() const {
  const std::lock_guard lock(mu_);
  return cid_;
}

bool FakeKernel::IsClaimed(const std::string& block_device) const {
  const std::lock_guard lock(mu_);
  return claimed_.contains(block_device);
}

void FakeKernel::SetCid(std::optional<uint64_t> cid) {
  const std::lock_guard lock(mu_);
  cid_ = cid;
}

void FakeKernel::SetClaimed(const std::string& block_device, bool claimed) {
  const std::lock_guard lock(mu_);
  if (claimed) {
    claimed_.insert(block_device);
  } else {
    claimed_.erase(block_device);
  }
}

}  // namespace wyvern::agent
