// api/vmm_service.h — the RPCs; see agent-proto/proto/vmm.proto.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

#include "api/donation.h"
#include "api/virtual_machine.h"
#include "proto/vmm.grpc.pb.h"

namespace wyvern::api {

// Events not yet read by WatchEvents. A machine makes few; more than this many are dropped, the first ones are kept.
inline constexpr size_t kMaxPendingEvents = 64;
// Of these, what news may take: a machine's end is told however often it was resized before.
inline constexpr size_t kMaxPendingNews = 32;

class VmmService final : public vmm::v1::Vmm::Service {
 public:
  // `on_shutdown` is called from an RPC's thread after its answer was decided; it must not block.
  VmmService(VirtualMachine& machine, DonationStore& store, std::string version,
             std::function<void()> on_shutdown);
  ~VmmService() override;
  VmmService(const VmmService&) = delete;
  VmmService& operator=(const VmmService&) = delete;

  // Ends WatchEvents; before the server is shut down.
  void EndStreams();

  grpc::Status Create(grpc::ServerContext* context, const vmm::v1::CreateRequest* request,
                      vmm::v1::CreateResponse* response) override;
  grpc::Status AttachDevice(grpc::ServerContext* context,
                            const vmm::v1::AttachDeviceRequest* request,
                            vmm::v1::AttachDeviceResponse* response) override;
  grpc::Status DetachDevice(grpc::ServerContext* context,
                            const vmm::v1::DetachDeviceRequest* request,
                            vmm::v1::Empty* response) override;
  grpc::Status ResizeDisk(grpc::ServerContext* context, const vmm::v1::ResizeDiskRequest* request,
                          vmm::v1::Empty* response) override;
  grpc::Status Boot(grpc::ServerContext* context, const vmm::v1::Empty* request,
                    vmm::v1::Empty* response) override;
  grpc::Status ConnectVsock(grpc::ServerContext* context,
                            const vmm::v1::ConnectVsockRequest* request,
                            vmm::v1::Empty* response) override;
  grpc::Status ResizeVcpus(grpc::ServerContext* context, const vmm::v1::ResizeVcpusRequest* request,
                           vmm::v1::ResizeVcpusResponse* response) override;
  grpc::Status ResizeMemory(grpc::ServerContext* context,
                            const vmm::v1::ResizeMemoryRequest* request,
                            vmm::v1::ResizeMemoryResponse* response) override;
  grpc::Status Size(grpc::ServerContext* context, const vmm::v1::Empty* request,
                    vmm::v1::SizeResponse* response) override;
  grpc::Status Pause(grpc::ServerContext* context, const vmm::v1::Empty* request,
                     vmm::v1::Empty* response) override;
  grpc::Status Resume(grpc::ServerContext* context, const vmm::v1::Empty* request,
                      vmm::v1::Empty* response) override;
  grpc::Status Metrics(grpc::ServerContext* context, const vmm::v1::Empty* request,
                       vmm::v1::MetricsResponse* response) override;
  grpc::Status WatchEvents(grpc::ServerContext* context, const vmm::v1::Empty* request,
                           grpc::ServerWriter<vmm::v1::Event>* writer) override;
  grpc::Status Shutdown(grpc::ServerContext* context, const vmm::v1::Empty* request,
                        vmm::v1::Empty* response) override;

 private:
  VirtualMachine& machine_;
  DonationStore& store_;
  const std::string version_;
  const std::function<void()> on_shutdown_;
  std::mutex mu_;  // guards what follows
  std::condition_variable changed_;
  std::deque<MachineEvent> events_;
  bool ended_ = false;
};

}  // namespace wyvern::api
