// bench/vmm_process.h — one wyvern-vmm, asked for by its API only: what the runtime does, with the devices that a measurement needs.
// Threads: any, once it is spawned.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "api/donation.h"
#include "base/fd.h"
#include "base/subprocess.h"
#include "proto/vmm.grpc.pb.h"

namespace wyvern::bench {

// CLOCK_MONOTONIC
int64_t NowNs();

class VmmProcess {
 public:
  // The process exists; nothing of it was waited for.
  static Result<std::unique_ptr<VmmProcess>> Spawn(const std::string& binary);
  VmmProcess(const VmmProcess&) = delete;
  VmmProcess& operator=(const VmmProcess&) = delete;
  ~VmmProcess();  // kills it

  const Subprocess& process() const { return *process_; }

  // Answered by the thread that main() ends in: gRPC has started.
  Result<std::string> Donate(api::DonationKind kind, FdRef fd);
  Result<std::map<std::string, uint64_t>> Metrics();
  // Completes `request` with /dev/kvm, the files and a console, which is returned. `initrd` may be empty.
  Result<UniqueFd> Create(vmm::v1::CreateRequest request, const std::string& kernel,
                          const std::string& initrd);
  Result<vmm::v1::AttachDeviceResponse> Attach(const vmm::v1::AttachDeviceRequest& request);
  Result<> Detach(const vmm::v1::DetachDeviceRequest& request);
  Result<> Boot();
  Result<vmm::v1::ResizeVcpusResponse> ResizeVcpus(const vmm::v1::ResizeVcpusRequest& request);
  Result<vmm::v1::ResizeMemoryResponse> ResizeMemory(const vmm::v1::ResizeMemoryRequest& request);
  Result<UniqueFd> ConnectVsock(uint32_t port);

 private:
  VmmProcess() = default;

  std::unique_ptr<Subprocess> process_;
  std::unique_ptr<api::DonationClient> donation_;
  std::unique_ptr<vmm::v1::Vmm::Stub> stub_;
  std::atomic<uint64_t> next_name_{0};
};

}  // namespace wyvern::bench
