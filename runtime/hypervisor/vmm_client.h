// hypervisor/vmm_client.h — wyvern-vmm's gRPC API and donation socket, as Results. gRPC's headers and exceptions end in vmm_client.cc.
// Errors:  the VMM's status with its code; UNAVAILABLE when the VMM is gone.
// Threads: any.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "api/donation.h"
#include "base/fd.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

struct CreateVm {
  uint32_t vcpus = 1;
  uint32_t max_vcpus = 0;  // 0: as many as `vcpus`
  uint64_t memory_bytes = 0;
  RamPages ram_pages = RamPages::kTransparent;
  uint64_t hotplug_memory_bytes = 0;
  FdRef kvm{-1}, kernel{-1}, initrd{-1}, console{-1};
  std::string cmdline;
};

class VmmClient {
 public:
  VmmClient(UniqueFd grpc_socket, UniqueFd donation_socket, std::chrono::milliseconds call_timeout);
  ~VmmClient();
  VmmClient(const VmmClient&) = delete;
  VmmClient& operator=(const VmmClient&) = delete;

  Result<> Create(const CreateVm& vm);  // shared memory: the file server maps it
  Result<> AttachPmem(const std::string& id, FdRef image);
  Result<> AttachRng(const std::string& id);
  // It gives its memory back before a program of the guest is killed for want of memory.
  Result<> AttachBalloon(const std::string& id, bool page_reporting);
  Result<> AttachVsock(const std::string& id, uint64_t guest_cid);
  Result<> AttachFs(const std::string& id, FdRef vhost_user_socket, const std::string& tag,
                    uint32_t queues);
  // The serial is the id. After Boot, too: then it returns when the guest drives it.
  Result<> AttachBlk(const std::string& id, FdRef file, bool read_only);
  Result<> AttachNet(const std::string& id, const std::vector<UniqueFd>& taps,
                     const NetworkDevice& device);
  // The interface of hypervisor/passt.h, which is at the socket's other end.
  Result<> AttachUserNet(const std::string& id, FdRef vhost_user_socket);
  Result<> AttachMem(const std::string& id);
  Result<> DetachDevice(const std::string& id, bool force);
  Result<> ResizeDisk(const std::string& id);
  // The guest has `patience`, 10 minutes at most; the VMM a little more. `why` of an answer is plain text.
  Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience);
  Result<ResizedMemory> ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience);
  Result<MachineSize> Size();
  Result<> Boot();
  Result<> ConnectVsock(uint32_t port, FdRef stream);
  Result<> Shutdown(std::chrono::milliseconds timeout);
  // What the VMM counts; the answer's size is gRPC's limit, 4 MiB.
  Result<observe::VmmUsage> Metrics(std::chrono::milliseconds timeout);

  // Reads events until the VMM ends or StopEvents; blocks.
  void WatchEvents(const std::function<void(MachineEvent)>& callback);
  void StopEvents();

 private:
  struct Rep;
  Result<std::string> Donate(api::DonationKind kind, const char* prefix, FdRef fd);
  std::unique_ptr<Rep> rep_;
};

}  // namespace wyvern::runtime
