// Devices come and go; while the guest runs, its agent is asked to take up a new one and to let go of one that leaves.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "vmm/assembly.h"

namespace wyvern::vmm {

namespace {

using agent::v1::DeviceIdentity;
using std::chrono::steady_clock;

// To undo what did not come up.
constexpr std::chrono::seconds kUndoPatience(2);
constexpr size_t kMaxNode = 64;

struct Identify {
  DeviceIdentity& identity;

  void operator()(const api::PmemSpec& /*spec*/) const { identity.mutable_pmem(); }

  void operator()(const api::RngSpec& /*spec*/) const { identity.mutable_rng(); }

  void operator()(const api::VsockSpec& spec) const {
    identity.mutable_vsock()->set_guest_cid(spec.guest_cid);
  }

  void operator()(const api::BlkSpec& spec) const {
    identity.mutable_blk()->set_serial(spec.serial);
  }

  void operator()(const api::VhostUserFsSpec& spec) const {
    identity.mutable_fs()->set_tag(spec.tag);
  }
};

bool IsWord(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNode && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.';
  });
}

// Behind a port the guest has numbered the bus itself.
bool IsPlaceOf(const std::string& request, const std::string& answer) {
  constexpr std::string_view kBehind = "0000:xx:00.0";
  return request.find('/') == std::string::npos
             ? answer == request
             : answer.size() == kBehind.size() && answer.starts_with(kBehind.substr(0, 5)) &&
                   answer.ends_with(kBehind.substr(7)) && std::isxdigit(answer[5]) != 0 &&
                   std::isxdigit(answer[6]) != 0;
}

// What the guest claims is no more than what it calls the device that was asked for.
bool IsAnswerTo(const agent::v1::PciRescanRequest& request,
                const agent::v1::PciRescanResponse& answer) {
  const DeviceIdentity& identity = request.identity();
  return IsPlaceOf(request.address(), answer.pci_address()) &&
         (identity.has_fs() ? answer.node() == identity.fs().tag() : IsWord(answer.node()));
}

}  // namespace

Result<api::AttachedDevice> Assembly::Attach(const std::string& id, api::DeviceSpec spec,
                                             std::chrono::milliseconds patience) {
  const upcall::Deadline deadline = steady_clock::now() + patience;
  agent::v1::PciRescanRequest request;
  {
    const std::lock_guard lock(mu_);
    WV_TRY_VOID(CheckAttach(id, spec));
    std::visit(Identify{*request.mutable_identity()}, spec);
    WV_TRY_VOID_CONTEXT(Plug(id, std::move(spec)), "device " + id);
    Device& device = devices_.at(id);
    request.set_address(device.place.Text());
    if (!booted_) {
      return api::AttachedDevice{.pci_address = request.address(), .node = ""};
    }
    if (device.images) {
      request.mutable_identity()->mutable_pmem()->set_size(device.images->size);
    }
    device.changing = true;
  }
  auto attached = TakenUp(request, deadline);
  if (attached) {
    const std::lock_guard lock(mu_);
    devices_.at(id).changing = false;
    return attached;
  }
  const bool gone = LetGo(request.address(), true, steady_clock::now() + kUndoPatience).has_value();
  WV_TRY_VOID(Unplug(id, gone ? Consent::kGiven : Consent::kMissing));
  return tl::unexpected(std::move(attached).error().WithContext("device " + id));
}

Result<> Assembly::CheckAttach(const std::string& id, const api::DeviceSpec& spec) const {
  if (!machine_) {
    return Fail(Code::kFailedPrecondition, "devices are attached after Create");
  }
  if (devices_.contains(id)) {
    return Fail(Code::kAlreadyExists, "a device " + id + " is already here");
  }
  if (!booted_) {
    return {};
  }
  if (vsock_ == nullptr) {
    return Fail(
        Code::kFailedPrecondition,
        "a device that comes after Boot needs the guest's agent, which is asked over a vsock "
        "device: attach one before Boot");
  }
  const auto* fs = std::get_if<api::VhostUserFsSpec>(&spec);
  if (fs != nullptr && fs->dax_window > 0) {
    return Fail(
        Code::kFailedPrecondition,
        "a device with a DAX window is attached before Boot: the vCPUs' filters depend on it");
  }
  return {};
}

Result<> Assembly::Plug(const std::string& id, api::DeviceSpec spec) {
  const bool is_vsock = std::holds_alternative<api::VsockSpec>(spec);
  auto made = MakeDevice(id, std::move(spec));
  if (!made) {
    Forget(id);
    return tl::unexpected(std::move(made).error());
  }
  virtio::VirtioDevice* const borrowed = made->get();
  Device& device = devices_[id];
  auto place = machine_->AttachDevice(*std::move(made), device.window);
  if (!place) {
    Forget(id);
    return tl::unexpected(std::move(place).error());
  }
  device.device = borrowed;
  device.place = *place;
  if (is_vsock) {
    vsock_ = static_cast<devices::VsockDevice*>(borrowed);
  }
  return {};
}

// What was made for a device that is not in the machine.
void Assembly::Forget(const std::string& id) {
  const auto found = devices_.find(id);
  if (found == devices_.end()) {
    return;
  }
  if (const auto& images = found->second.images; images.has_value()) {
    if (auto unmapped = machine_->UnmapReadOnlyImages(*images); !unmapped) {
      WV_WARN("images of {} stay mapped: {}", id, unmapped.error().DebugString());
    }
  }
  devices_.erase(found);
}

Result<api::AttachedDevice> Assembly::TakenUp(const agent::v1::PciRescanRequest& request,
                                              upcall::Deadline deadline) {
  WV_TRY(const agent::v1::PciRescanResponse answer, channel_.PciRescan(request, deadline));
  if (!IsAnswerTo(request, answer)) {
    return Fail(Code::kDataLoss,
                "the guest's agent answered for another device than was asked for");
  }
  return api::AttachedDevice{.pci_address = request.address(),
                             .node = answer.node(),
                             .major = answer.major(),
                             .minor = answer.minor()};
}

Result<> Assembly::LetGo(const std::string& address, bool force, upcall::Deadline deadline) {
  agent::v1::PciRemoveRequest request;
  request.set_address(address);
  request.set_force(force);
  return channel_.PciRemove(std::move(request), deadline);
}

Result<> Assembly::Detach(const api::DetachOptions& options) {
  const upcall::Deadline deadline = steady_clock::now() + options.patience;
  std::string address;
  {
    const std::lock_guard lock(mu_);
    const auto found = devices_.find(options.id);
    if (found == devices_.end()) {
      return Fail(Code::kNotFound, "no device " + options.id);
    }
    Device& device = found->second;
    if (device.changing) {
      return Fail(Code::kFailedPrecondition,
                  "device " + options.id + " is being attached or detached");
    }
    if (booted_ && device.device == vsock_) {
      return Fail(Code::kFailedPrecondition,
                  "device " + options.id + " stays: the guest's agent is asked over it");
    }
    device.changing = true;
    if (booted_) {
      address = device.place.Text();
    }
  }
  if (address.empty()) {
    return Unplug(options.id, Consent::kGiven);
  }
  auto gone = LetGo(address, options.force, deadline);
  if (!gone && !options.force) {
    const std::lock_guard lock(mu_);
    devices_.at(options.id).changing = false;
    return tl::unexpected(std::move(gone).error().WithContext("device " + options.id));
  }
  if (!gone) {
    WV_WARN("device {} goes all the same: {}", options.id, gone.error().message());
  }
  return Unplug(options.id, gone ? Consent::kGiven : Consent::kMissing);
}

// Only who has marked the device as changing comes here. Its end may take a while, others go on meanwhile.
Result<> Assembly::Unplug(const std::string& id, Consent consent) {
  Device device;
  {
    const std::lock_guard lock(mu_);
    device = std::move(devices_.extract(id).mapped());
    if (device.device == vsock_) {
      vsock_ = nullptr;
    }
  }
  WV_TRY_VOID(consent == Consent::kGiven ? machine_->DetachDevice(device.place)
                                         : machine_->FailDevice(device.place, WorkerFor(id)));
  if (const auto& images = device.images; images.has_value()) {
    WV_TRY_VOID(machine_->UnmapReadOnlyImages(*images));
  }
  return {};
}

}  // namespace wyvern::vmm
