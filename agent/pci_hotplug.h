// agent/pci_hotplug.h — finds devices that the VMM has put on a PCI bus, and lets go of those that it takes away.
// Shape:   addresses as upcall.proto has them. What PciRemove took away and the VMM has not taken off the bus yet is taken away again when
//          a rescan for another device finds it.
// Errors:  those of upcall.proto.
// Threads: the two functions on the loop's thread; the jobs are for one lane, so that what they share needs no lock.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "agent/kernel_files.h"
#include "agent/lane.h"
#include "proto/upcall.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

struct PciPlace {
  std::string port;      // "0000:00:1e.3", or empty: on bus 0
  std::string function;  // "0000:00:05.0"; behind a port: "00.1", slot and function
};

// INVALID_ARGUMENT for what is no address.
Result<PciPlace> ParsePciPlace(const std::string& address);

class PciHotplug {
 public:
  // `files` outlives all jobs, and so does this.
  explicit PciHotplug(const KernelFiles& files) : files_(files) {}

  ~PciHotplug() = default;
  PciHotplug(const PciHotplug&) = delete;
  PciHotplug& operator=(const PciHotplug&) = delete;

  Result<std::shared_ptr<Job>> Rescan(v1::PciRescanRequest request,
                                      ttrpc::Responder<v1::PciRescanResponse> responder);
  Result<std::shared_ptr<Job>> Remove(v1::PciRemoveRequest request,
                                      ttrpc::Responder<v1::PciRemoveResponse> responder);

 private:
  class RescanJob;
  class RemoveJob;

  // What follows: on the lane's thread.
  // The directory of the function in /sys, if the kernel knows it.
  std::optional<std::string> Find(const PciPlace& place) const;
  Result<> RescanBus(const PciPlace& place);
  Result<> RemoveFunction(const std::string& directory) const;

  const KernelFiles& files_;
  std::set<std::string> removed_;  // addresses
};

}  // namespace wyvern::agent
