// hotplug/device_set.h — the devices of a machine by their ids, and how they come and go while the guest runs.
// Shape:   attach = make, put on the bus, PciRescan, committed; whatever fails takes back what was done before it: PciRemove by force, off the
//          bus, device destroyed. detach = PciRemove, off the bus, device destroyed. Before the guest runs nobody is told.
// Rule:    an address that the guest was not told is free (a roll-back or a forced detach that it did not answer) is told first by whatever
//          attaches next, which fails where the guest is silent still: no device comes where the guest sees another.
// Errors:  those of the maker, of the bus, and of upcall/session.h; ALREADY_EXISTS, NOT_FOUND: the id. After an error of Attach, or of
//          Detach, the set is what it was.
// Threads: any. A call that waits for the guest holds no lock that another needs: others attach and detach meanwhile. Makers and the bus are
//          called by one thread at a time. Order: settle_, plug_mu_, mu_.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "hotplug/turn.h"
#include "mem/file_window.h"
#include "proto/upcall.pb.h"
#include "upcall/session.h"
#include "virtio/device.h"

namespace wyvern::hotplug {

using upcall::Clock;
using upcall::Time;

// Where devices are put: the machine.
class Bus {
 public:
  virtual ~Bus() = default;
  // The address by which the upcall names the device (upcall.proto).
  virtual Result<std::string> Add(std::unique_ptr<virtio::VirtioDevice> device,
                                  std::shared_ptr<mem::FileWindow> window) = 0;
  // The guest has let go of it. The device is destroyed and its descriptors are closed, if Abandon has not done that before.
  virtual Result<> Remove(const std::string& address) = 0;
  // The guest has not: the device is destroyed and its descriptors are closed all the same; what the guest sees of it fails every request,
  // those in flight first. The address is nobody else's until Remove, if ever.
  virtual Result<> Abandon(const std::string& address) = 0;
};

struct NewDevice {
  std::unique_ptr<virtio::VirtioDevice> device;
  std::shared_ptr<mem::FileWindow> window{};  // of a device with one
  // What the guest finds it by, where that is known only now (the size of persistent memory); else what Attach was told.
  std::optional<agent::v1::DeviceIdentity> identity{};
  // Once, after the device is gone: gives back what was made for it.
  std::function<void()> release{};
};

struct Attached {
  std::string address;  // as the upcall names it
  std::string
      pci_address;  // as the guest numbers it, and what it calls the device; before Boot as ours, and empty
  std::string node;
  uint32_t major = 0;
  uint32_t minor = 0;
};

struct Detached {
  bool surprise = false;  // the guest did not let it go: it was taken all the same
};

class DeviceSet {
 public:
  using Make = std::function<Result<NewDevice>()>;

  // Both outlive it.
  DeviceSet(Bus& bus, upcall::Session& upcall) : bus_(bus), upcall_(upcall) {}

  DeviceSet(const DeviceSet&) = delete;
  DeviceSet& operator=(const DeviceSet&) = delete;

  // Runs `boot` while nothing is attached or detached; from its success on the guest is told of what is.
  Result<> Boot(const std::function<Result<>()>& boot);

  // `identity`: what the guest finds it by. `make` may be called or not.
  // At the deadline at the latest the answer is decided; a roll-back may then take a second more.
  Result<Attached> Attach(const std::string& id, const agent::v1::DeviceIdentity& identity,
                          const Make& make, Time deadline);
  // Waits for an Attach or Detach of the same id that is under way. `force`: also what the guest uses, and when the guest does not answer.
  // Without it, an error leaves the device where it is.
  Result<Detached> Detach(const std::string& id, bool force, Time deadline);

  // Calls `act` for each device on the bus; it must not block, nor call this.
  void ForEach(const std::function<void(const std::string& id, virtio::VirtioDevice&)>& act) const;
  // For one of which `which` is true and that is neither on its way in nor out, with the same rule. NOT_FOUND: there is none.
  Result<> WithUsable(const std::function<bool(const agent::v1::DeviceIdentity&)>& which,
                      const std::function<Result<>(virtio::VirtioDevice&)>& act) const;
  // How many of this kind are on the bus.
  size_t Count(agent::v1::DeviceIdentity::KindCase kind) const;

  // "hotplug.attached", "hotplug.rolled_back" and so on.
  std::map<std::string, uint64_t> counters() const;

 private:
  enum class State : uint8_t { kComing, kThere, kGoing };

  struct Entry {
    State state = State::kComing;
    agent::v1::DeviceIdentity identity;
    std::string address;  // empty: not on the bus yet
    // The bus has it; null: none, or not to be called any more.
    virtio::VirtioDevice* device = nullptr;
    std::function<void()> release;
  };

  Result<Attached> Plug(const std::string& id, const Make& make, Time deadline);
  Result<> MakeAndAdd(Entry& entry, const Make& make);
  // Tells the guest of addresses that it was not told are free.
  Result<> Settle(Time deadline);
  void RollBack(const std::string& id);
  // Off the bus. `told`: the guest knows.
  Result<> Unplug(Entry& entry, bool told);
  Result<Detached> LetGo(const std::string& id, bool force, Time deadline);
  Entry& At(const std::string& id);
  void Count(const char* what);

  Bus& bus_;
  upcall::Session& upcall_;
  Turn settle_;
  std::mutex plug_mu_;
  bool guest_runs_ = false;  // written with plug_mu_ and mu_ held

  mutable std::mutex mu_;  // guards what follows
  std::condition_variable changed_;
  // An entry that is coming or going is its thread's but for `device` and `state`; nodes do not move.
  std::map<std::string, Entry> entries_;
  std::set<std::string> unsettled_;
  std::map<std::string, uint64_t> counters_;
};

}  // namespace wyvern::hotplug
