#include "api/vmm_service.h"

#include <chrono>
#include <utility>

#include "api/requests.h"

namespace wyvern::api {

namespace {

grpc::Status ToStatus(const Error& error) {
  // The codes are the same numbers (base/error.h).
  return {static_cast<grpc::StatusCode>(error.code()), error.message()};
}

grpc::Status ToStatus(const Result<>& result) {
  return result ? grpc::Status::OK : ToStatus(result.error());
}

}  // namespace

VmmService::VmmService(VirtualMachine& machine, DonationStore& store, std::string version,
                       std::function<void()> on_shutdown)
    : machine_(machine),
      store_(store),
      version_(std::move(version)),
      on_shutdown_(std::move(on_shutdown)) {
  machine_.SetEventListener([this](MachineEvent event) {
    const std::lock_guard lock(mu_);
    if (events_.size() < (IsNews(event.kind) ? kMaxPendingNews : kMaxPendingEvents)) {
      events_.push_back(std::move(event));
      changed_.notify_all();
    }
  });
}

VmmService::~VmmService() {
  machine_.SetEventListener({});
}

void VmmService::EndStreams() {
  const std::lock_guard lock(mu_);
  ended_ = true;
  changed_.notify_all();
}

grpc::Status VmmService::Create(grpc::ServerContext* /*context*/,
                                const vmm::v1::CreateRequest* request,
                                vmm::v1::CreateResponse* response) {
  auto spec = ParseCreate(*request, store_);
  if (!spec) {
    return ToStatus(spec.error());
  }
  response->set_version(version_);
  return ToStatus(machine_.Create(*std::move(spec)));
}

grpc::Status VmmService::AttachDevice(grpc::ServerContext* /*context*/,
                                      const vmm::v1::AttachDeviceRequest* request,
                                      vmm::v1::AttachDeviceResponse* response) {
  auto spec = ParseDevice(*request, store_);
  if (!spec) {
    return ToStatus(spec.error());
  }
  const auto patience = ParsePatience(request->deadline_ms());
  if (!patience) {
    return ToStatus(patience.error());
  }
  const auto attached = machine_.Attach(request->id(), *std::move(spec), *patience);
  if (!attached) {
    return ToStatus(attached.error());
  }
  response->set_pci_address(attached->pci_address);
  response->set_node(attached->node);
  response->set_major(attached->major);
  response->set_minor(attached->minor);
  return grpc::Status::OK;
}

grpc::Status VmmService::DetachDevice(grpc::ServerContext* /*context*/,
                                      const vmm::v1::DetachDeviceRequest* request,
                                      vmm::v1::Empty* /*response*/) {
  const auto options = ParseDetach(*request);
  if (!options) {
    return ToStatus(options.error());
  }
  return ToStatus(machine_.Detach(*options));
}

grpc::Status VmmService::ResizeDisk(grpc::ServerContext* /*context*/,
                                    const vmm::v1::ResizeDiskRequest* request,
                                    vmm::v1::Empty* /*response*/) {
  if (const auto checked = CheckDeviceId(request->id()); !checked) {
    return ToStatus(checked.error());
  }
  return ToStatus(machine_.ResizeDisk(request->id()));
}

grpc::Status VmmService::Boot(grpc::ServerContext* /*context*/, const vmm::v1::Empty* /*request*/,
                              vmm::v1::Empty* /*response*/) {
  return ToStatus(machine_.Boot());
}

grpc::Status VmmService::ConnectVsock(grpc::ServerContext* /*context*/,
                                      const vmm::v1::ConnectVsockRequest* request,
                                      vmm::v1::Empty* /*response*/) {
  auto socket = store_.Take(DonationKind::kStream, request->fd());
  if (!socket) {
    return ToStatus(socket.error());
  }
  return ToStatus(machine_.ConnectVsock(request->port(), *std::move(socket)));
}

grpc::Status VmmService::ResizeVcpus(grpc::ServerContext* /*context*/,
                                     const vmm::v1::ResizeVcpusRequest* request,
                                     vmm::v1::ResizeVcpusResponse* response) {
  const auto patience = ParsePatience(request->deadline_ms());
  if (!patience) {
    return ToStatus(patience.error());
  }
  const auto resized = machine_.ResizeVcpus(request->vcpus(), *patience);
  if (!resized) {
    return ToStatus(resized.error());
  }
  response->set_vcpus(resized->vcpus);
  response->set_why(resized->why);
  return grpc::Status::OK;
}

grpc::Status VmmService::ResizeMemory(grpc::ServerContext* /*context*/,
                                      const vmm::v1::ResizeMemoryRequest* request,
                                      vmm::v1::ResizeMemoryResponse* response) {
  const auto patience = ParsePatience(request->deadline_ms());
  if (!patience) {
    return ToStatus(patience.error());
  }
  const auto resized = machine_.ResizeMemory(request->memory_bytes(), *patience);
  if (!resized) {
    return ToStatus(resized.error());
  }
  response->set_memory_bytes(resized->memory_bytes);
  response->set_online_bytes(resized->online_bytes);
  response->set_why(resized->why);
  return grpc::Status::OK;
}

grpc::Status VmmService::Size(grpc::ServerContext* /*context*/, const vmm::v1::Empty* /*request*/,
                              vmm::v1::SizeResponse* response) {
  const auto size = machine_.Size();
  if (!size) {
    return ToStatus(size.error());
  }
  response->set_memory_bytes(size->memory_bytes);
  for (const VcpuThread& each : size->vcpus) {
    auto* vcpu = response->add_vcpu();
    vcpu->set_vcpu(each.vcpu);
    vcpu->set_thread(static_cast<uint32_t>(each.thread));
  }
  return grpc::Status::OK;
}

grpc::Status VmmService::Pause(grpc::ServerContext* /*context*/, const vmm::v1::Empty* /*request*/,
                               vmm::v1::Empty* /*response*/) {
  return ToStatus(machine_.Pause());
}

grpc::Status VmmService::Resume(grpc::ServerContext* /*context*/, const vmm::v1::Empty* /*request*/,
                                vmm::v1::Empty* /*response*/) {
  return ToStatus(machine_.Resume());
}

grpc::Status VmmService::Metrics(grpc::ServerContext* /*context*/,
                                 const vmm::v1::Empty* /*request*/,
                                 vmm::v1::MetricsResponse* response) {
  MachineMetrics metrics = machine_.Metrics();
  response->mutable_counters()->insert(metrics.counters.begin(), metrics.counters.end());
  for (DeviceMetrics& device : metrics.devices) {
    for (const auto& [name, value] : device.counters) {
      (*response->mutable_counters())[device.id + "." + name] = value;
    }
    auto& out = *response->add_device();
    out.set_id(std::move(device.id));
    out.set_kind(std::move(device.kind));
    out.mutable_counters()->insert(device.counters.begin(), device.counters.end());
  }
  for (const VcpuMetrics& vcpu : metrics.vcpus) {
    auto& out = *response->add_vcpu();
    out.set_id(vcpu.id);
    out.mutable_exits()->insert(vcpu.exits.begin(), vcpu.exits.end());
  }
  return grpc::Status::OK;
}

grpc::Status VmmService::WatchEvents(grpc::ServerContext* context,
                                     const vmm::v1::Empty* /*request*/,
                                     grpc::ServerWriter<vmm::v1::Event>* writer) {
  std::unique_lock lock(mu_);
  while (!ended_ && !context->IsCancelled()) {
    if (events_.empty()) {
      // A cancelled call is noticed within a second; there is one client, so this costs one wake-up a second while it watches.
      changed_.wait_for(lock, std::chrono::seconds(1));
      continue;
    }
    const MachineEvent event = std::move(events_.front());
    events_.pop_front();
    lock.unlock();
    vmm::v1::Event message;
    message.set_kind(static_cast<vmm::v1::Event::Kind>(event.kind));
    message.set_text(event.text);
    const bool sent = writer->Write(message);
    lock.lock();
    if (!sent) {
      break;
    }
  }
  return grpc::Status::OK;
}

grpc::Status VmmService::Shutdown(grpc::ServerContext* /*context*/,
                                  const vmm::v1::Empty* /*request*/, vmm::v1::Empty* /*response*/) {
  on_shutdown_();
  return grpc::Status::OK;
}

}  // namespace wyvern::api
