#include "hypervisor/vmm_client.h"

#include <fmt/format.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>

#include "base/plain_text.h"
#include "hypervisor/passt.h"
#include "proto/vmm.grpc.pb.h"

namespace wyvern::runtime {

namespace pb = wyvern::vmm::v1;

struct VmmClient::Rep {
  explicit Rep(UniqueFd donation_socket) : donation(std::move(donation_socket)) {}

  api::DonationClient donation;
  std::chrono::milliseconds timeout{};
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<pb::Vmm::Stub> stub;
  std::atomic<uint64_t> next_name{0};
  grpc::ClientContext events;
};

namespace {

// Beyond what the guest has: the VMM takes back what the guest has taken up half, and answers.
constexpr std::chrono::milliseconds kTakeBackTime(5000);
constexpr uint32_t kNetQueueSize = 256;  // QEMU's, and what a stream of 64 KiB segments fills
constexpr size_t kMaxWhy = 2 * kMaxGuestError;

// vmm.proto, AttachDeviceRequest.deadline_ms; 0 would be the VMM's own limit.
constexpr std::chrono::milliseconds kLongestPatience(600'000);

std::chrono::milliseconds Bounded(std::chrono::milliseconds patience) {
  return std::clamp(patience, std::chrono::milliseconds(1), kLongestPatience);
}

using Method = grpc::Status (pb::Vmm::Stub::*)(grpc::ClientContext*, const pb::Empty&, pb::Empty*);

Result<> FromStatus(const grpc::Status& status, const char* call) {
  if (status.ok()) {
    return {};
  }
  return Fail(static_cast<Code>(status.error_code()),
              fmt::format("VMM: {}: {}", call, status.error_message()));
}

// One unary call with a deadline.
template <typename Request, typename Response, typename Call>
Result<> Invoke(const char* name, std::chrono::milliseconds timeout, const Request& request,
                Response* response, Call call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  return FromStatus(call(&context, request, response), name);
}

pb::RamPages ToProto(RamPages pages) {
  switch (pages) {
    case RamPages::kTransparent:
      break;
    case RamPages::kSmall:
      return pb::RAM_PAGES_SMALL;
    case RamPages::k2MiB:
      return pb::RAM_PAGES_2MIB;
    case RamPages::k1GiB:
      return pb::RAM_PAGES_1GIB;
  }
  return pb::RAM_PAGES_TRANSPARENT;
}

MachineEvent FromProto(const pb::Event& event) {
  using Kind = MachineEvent::Kind;
  switch (event.kind()) {
    case pb::Event::GUEST_PANIC:
      return {Kind::kGuestPanic,
              "the guest kernel panicked" + (event.text().empty() ? "" : ": " + event.text())};
    case pb::Event::GUEST_SHUTDOWN:
      return {Kind::kGuestShutdown, "the guest powered off"};
    case pb::Event::BACKEND_LOST:
      return {Kind::kBackendLost, event.text().starts_with("the back-end of passt ")
                                      ? "passt, its network, is gone"
                                      : "the file server is gone"};
    case pb::Event::RESIZED:
      return {Kind::kResized, event.text()};
    case pb::Event::HOTPLUG_FAILED:
      return {Kind::kHotplugFailed, event.text()};
    default:
      return {Kind::kVmmFault, "the VMM cannot go on: " + event.text()};
  }
}

}  // namespace

VmmClient::VmmClient(UniqueFd grpc_socket, UniqueFd donation_socket,
                     std::chrono::milliseconds call_timeout)
    : rep_(std::make_unique<Rep>(std::move(donation_socket))) {
  rep_->timeout = call_timeout;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // gRPC owns the descriptor from here on, and wants it non-blocking.
  static_cast<void>(SetNonBlocking(grpc_socket, true));
  rep_->channel =
      grpc::CreateCustomInsecureChannelFromFd("wyvern-vmm", grpc_socket.Release(), arguments);
  rep_->stub = pb::Vmm::NewStub(rep_->channel);
}

VmmClient::~VmmClient() = default;

Result<std::string> VmmClient::Donate(api::DonationKind kind, const char* prefix, FdRef fd) {
  std::string name = fmt::format("{}-{}", prefix, rep_->next_name++);
  WV_TRY_VOID_CONTEXT(rep_->donation.Donate(kind, name, fd),
                      fmt::format("giving {} to the VMM", prefix));
  return name;
}

Result<> VmmClient::Create(const CreateVm& vm) {
  pb::CreateRequest request;
  request.set_vcpus(vm.vcpus);
  request.set_max_vcpus(vm.max_vcpus);
  request.set_memory_bytes(vm.memory_bytes);
  request.set_hotplug_memory_bytes(vm.hotplug_memory_bytes);
  request.set_shared_memory(true);
  request.set_ram_pages(ToProto(vm.ram_pages));
  request.set_cmdline(vm.cmdline);
  WV_TRY(*request.mutable_kvm_fd(), Donate(api::DonationKind::kKvm, "kvm", vm.kvm));
  WV_TRY(*request.mutable_kernel_fd(), Donate(api::DonationKind::kKernel, "kernel", vm.kernel));
  if (vm.initrd.valid()) {
    WV_TRY(*request.mutable_initrd_fd(), Donate(api::DonationKind::kInitrd, "initrd", vm.initrd));
  }
  if (vm.console.valid()) {
    WV_TRY(*request.mutable_console_fd(),
           Donate(api::DonationKind::kConsoleRing, "console", vm.console));
  }
  pb::CreateResponse response;
  return Invoke("Create", rep_->timeout, request, &response,
                [this](auto* c, const auto& q, auto* r) { return rep_->stub->Create(c, q, r); });
}

namespace {

template <typename Stub>
Result<> Attach(Stub& stub, std::chrono::milliseconds timeout,
                const pb::AttachDeviceRequest& request) {
  pb::AttachDeviceResponse response;
  return Invoke("AttachDevice", timeout, request, &response,
                [&stub](auto* c, const auto& q, auto* r) { return stub.AttachDevice(c, q, r); });
}

}  // namespace

Result<> VmmClient::AttachPmem(const std::string& id, FdRef image) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  WV_TRY(*request.mutable_pmem()->add_fd(), Donate(api::DonationKind::kImage, "image", image));
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachRng(const std::string& id) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  request.mutable_rng();
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachBalloon(const std::string& id, bool page_reporting) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  request.mutable_balloon()->set_deflate_on_oom(true);
  request.mutable_balloon()->set_page_reporting(page_reporting);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachVsock(const std::string& id, uint64_t guest_cid) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  request.mutable_vsock()->set_guest_cid(guest_cid);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachFs(const std::string& id, FdRef vhost_user_socket, const std::string& tag,
                             uint32_t queues) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  auto* fs = request.mutable_vhost_user_fs();
  WV_TRY(*fs->mutable_socket_fd(), Donate(api::DonationKind::kVhostUser, "fs", vhost_user_socket));
  fs->set_tag(tag);
  fs->set_request_queues(queues);
  fs->set_queue_size(1024);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachBlk(const std::string& id, FdRef file, bool read_only) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  auto* blk = request.mutable_blk();
  WV_TRY(*blk->mutable_fd(), Donate(api::DonationKind::kBlock, "disk", file));
  blk->set_read_only(read_only);
  blk->set_serial(id);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachNet(const std::string& id, const std::vector<UniqueFd>& taps,
                              const NetworkDevice& device) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  auto* net = request.mutable_net();
  for (const UniqueFd& tap : taps) {
    WV_TRY(*net->add_fd(), Donate(api::DonationKind::kTap, "tap", tap));
  }
  net->set_mac(device.mac.data(), device.mac.size());
  net->set_mtu(device.mtu);
  net->set_queue_size(kNetQueueSize);
  net->set_receive_rate(device.receive_rate);
  net->set_transmit_rate(device.transmit_rate);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::AttachUserNet(const std::string& id, FdRef vhost_user_socket) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  auto* net = request.mutable_vhost_user_net();
  WV_TRY(*net->mutable_socket_fd(),
         Donate(api::DonationKind::kVhostUser, "user-net", vhost_user_socket));
  net->set_mac(kUserMac.data(), kUserMac.size());
  net->set_mtu(kUserMtu);
  net->set_queue_size(kNetQueueSize);
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<> VmmClient::DetachDevice(const std::string& id, bool force) {
  pb::DetachDeviceRequest request;
  request.set_id(id);
  request.set_force(force);
  pb::Empty response;
  return Invoke(
      "DetachDevice", rep_->timeout, request, &response,
      [this](auto* c, const auto& q, auto* r) { return rep_->stub->DetachDevice(c, q, r); });
}

Result<> VmmClient::ResizeDisk(const std::string& id) {
  pb::ResizeDiskRequest request;
  request.set_id(id);
  pb::Empty response;
  return Invoke(
      "ResizeDisk", rep_->timeout, request, &response,
      [this](auto* c, const auto& q, auto* r) { return rep_->stub->ResizeDisk(c, q, r); });
}

Result<> VmmClient::AttachMem(const std::string& id) {
  pb::AttachDeviceRequest request;
  request.set_id(id);
  request.mutable_mem();
  return Attach(*rep_->stub, rep_->timeout, request);
}

Result<ResizedVcpus> VmmClient::ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) {
  pb::ResizeVcpusRequest request;
  request.set_vcpus(vcpus);
  request.set_deadline_ms(static_cast<uint32_t>(Bounded(patience).count()));
  pb::ResizeVcpusResponse response;
  WV_TRY_VOID(
      Invoke("ResizeVcpus", Bounded(patience) + kTakeBackTime, request, &response,
             [this](auto* c, const auto& q, auto* r) { return rep_->stub->ResizeVcpus(c, q, r); }));
  return ResizedVcpus{response.vcpus(), PlainText(response.why(), kMaxWhy)};
}

Result<ResizedMemory> VmmClient::ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience) {
  pb::ResizeMemoryRequest request;
  request.set_memory_bytes(bytes);
  request.set_deadline_ms(static_cast<uint32_t>(Bounded(patience).count()));
  pb::ResizeMemoryResponse response;
  WV_TRY_VOID(Invoke(
      "ResizeMemory", Bounded(patience) + kTakeBackTime, request, &response,
      [this](auto* c, const auto& q, auto* r) { return rep_->stub->ResizeMemory(c, q, r); }));
  return ResizedMemory{response.memory_bytes(), PlainText(response.why(), kMaxWhy)};
}

Result<MachineSize> VmmClient::Size() {
  pb::SizeResponse response;
  WV_TRY_VOID(
      Invoke("Size", rep_->timeout, pb::Empty(), &response,
             [this](auto* c, const auto& q, auto* r) { return rep_->stub->Size(c, q, r); }));
  MachineSize size;
  size.memory_bytes = response.memory_bytes();
  for (const pb::VcpuThread& each : response.vcpu()) {
    size.vcpus.push_back({each.vcpu(), static_cast<pid_t>(each.thread())});
  }
  return size;
}

Result<> VmmClient::Boot() {
  pb::Empty response;
  return Invoke("Boot", rep_->timeout, pb::Empty(), &response,
                [this](auto* c, const auto& q, auto* r) { return rep_->stub->Boot(c, q, r); });
}

Result<> VmmClient::ConnectVsock(uint32_t port, FdRef stream) {
  pb::ConnectVsockRequest request;
  request.set_port(port);
  WV_TRY(*request.mutable_fd(), Donate(api::DonationKind::kStream, "stream", stream));
  pb::Empty response;
  return Invoke(
      "ConnectVsock", rep_->timeout, request, &response,
      [this](auto* c, const auto& q, auto* r) { return rep_->stub->ConnectVsock(c, q, r); });
}

Result<> VmmClient::Shutdown(std::chrono::milliseconds timeout) {
  pb::Empty response;
  return Invoke("Shutdown", timeout, pb::Empty(), &response,
                [this](auto* c, const auto& q, auto* r) { return rep_->stub->Shutdown(c, q, r); });
}

Result<observe::VmmUsage> VmmClient::Metrics(std::chrono::milliseconds timeout) {
  pb::MetricsResponse response;
  WV_TRY_VOID(
      Invoke("Metrics", timeout, pb::Empty(), &response,
             [this](auto* c, const auto& q, auto* r) { return rep_->stub->Metrics(c, q, r); }));
  observe::VmmUsage usage;
  usage.counters.insert(response.counters().begin(), response.counters().end());
  for (const pb::DeviceMetrics& device : response.device()) {
    auto& out = usage.devices.emplace_back();
    out.id = device.id();
    out.kind = device.kind();
    out.counters.insert(device.counters().begin(), device.counters().end());
    for (const auto& [name, value] : out.counters) {
      usage.counters.erase(out.id + "." + name);  // said twice, for who asks for one by name
    }
  }
  for (const pb::VcpuMetrics& vcpu : response.vcpu()) {
    auto& out = usage.vcpus.emplace_back();
    out.id = vcpu.id();
    out.exits.insert(vcpu.exits().begin(), vcpu.exits().end());
  }
  return usage;
}

void VmmClient::WatchEvents(const std::function<void(MachineEvent)>& callback) {
  const auto reader = rep_->stub->WatchEvents(&rep_->events, pb::Empty());
  pb::Event event;
  while (reader->Read(&event)) {
    callback(FromProto(event));
  }
  static_cast<void>(reader->Finish());
}

void VmmClient::StopEvents() {
  rep_->events.TryCancel();
}

}  // namespace wyvern::runtime
