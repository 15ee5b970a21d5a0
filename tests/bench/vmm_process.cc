#include "bench/vmm_process.h"

#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>

#include "api/console_ring.h"
#include "base/unix_socket.h"

namespace wyvern::bench {

namespace pb = wyvern::vmm::v1;

namespace {

constexpr int kGrpcFd = 3;
constexpr int kDonationFd = 4;
constexpr std::chrono::seconds kTimeout(60);

Result<> FromStatus(const grpc::Status& status, const char* call) {
  if (status.ok()) {
    return {};
  }
  return Fail(static_cast<Code>(status.error_code()),
              std::string(call) + ": " + status.error_message());
}

template <typename Call>
Result<> Invoke(const char* name, Call call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  return FromStatus(call(&context), name);
}

}  // namespace

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Result<std::unique_ptr<VmmProcess>> VmmProcess::Spawn(const std::string& binary) {
  WV_TRY(SocketPair grpc, MakeSocketPair(SOCK_STREAM));
  WV_TRY(SocketPair donation, MakeSocketPair(SOCK_SEQPACKET));
  SpawnOptions spawn;
  spawn.argv = {binary, "--id", "bench"};
  spawn.fds = {{2, FdRef(2)}, {kGrpcFd, grpc.second}, {kDonationFd, donation.second}};
  std::unique_ptr<VmmProcess> vmm(new VmmProcess());
  WV_TRY(Subprocess process, Subprocess::Spawn(spawn));
  vmm->process_ = std::make_unique<Subprocess>(std::move(process));
  vmm->donation_ = std::make_unique<api::DonationClient>(std::move(donation.first));
  WV_TRY_VOID(SetNonBlocking(grpc.first, true));
  vmm->stub_ = pb::Vmm::NewStub(
      grpc::CreateCustomInsecureChannelFromFd("wyvern-vmm", grpc.first.Release(), {}));
  return vmm;
}

VmmProcess::~VmmProcess() {
  if (process_ != nullptr) {
    static_cast<void>(process_->Kill(SIGKILL));
    static_cast<void>(process_->Wait());
  }
}

Result<std::string> VmmProcess::Donate(api::DonationKind kind, FdRef fd) {
  std::string name = "fd-" + std::to_string(next_name_++);
  WV_TRY_VOID(donation_->Donate(kind, name, fd));
  return name;
}

Result<std::map<std::string, uint64_t>> VmmProcess::Metrics() {
  pb::MetricsResponse response;
  WV_TRY_VOID(Invoke("Metrics", [&](auto* c) { return stub_->Metrics(c, {}, &response); }));
  return std::map<std::string, uint64_t>(response.counters().begin(), response.counters().end());
}

Result<UniqueFd> VmmProcess::Create(pb::CreateRequest request, const std::string& kernel,
                                    const std::string& initrd) {
  WV_TRY(const UniqueFd kvm, Open("/dev/kvm", O_RDWR));
  WV_TRY(*request.mutable_kvm_fd(), Donate(api::DonationKind::kKvm, kvm));
  WV_TRY(const UniqueFd kernel_file, Open(kernel, O_RDONLY));
  WV_TRY(*request.mutable_kernel_fd(), Donate(api::DonationKind::kKernel, kernel_file));
  if (!initrd.empty()) {
    WV_TRY(const UniqueFd initrd_file, Open(initrd, O_RDONLY));
    WV_TRY(*request.mutable_initrd_fd(), Donate(api::DonationKind::kInitrd, initrd_file));
  }
  WV_TRY(UniqueFd console, api::MakeConsoleRing());
  WV_TRY(*request.mutable_console_fd(), Donate(api::DonationKind::kConsoleRing, console));
  pb::CreateResponse response;
  WV_TRY_VOID(Invoke("Create", [&](auto* c) { return stub_->Create(c, request, &response); }));
  return console;
}

Result<pb::AttachDeviceResponse> VmmProcess::Attach(const pb::AttachDeviceRequest& request) {
  pb::AttachDeviceResponse response;
  WV_TRY_VOID(
      Invoke("AttachDevice", [&](auto* c) { return stub_->AttachDevice(c, request, &response); }));
  return response;
}

Result<> VmmProcess::Detach(const pb::DetachDeviceRequest& request) {
  pb::Empty response;
  return Invoke("DetachDevice",
                [&](auto* c) { return stub_->DetachDevice(c, request, &response); });
}

Result<> VmmProcess::Boot() {
  pb::Empty response;
  return Invoke("Boot", [&](auto* c) { return stub_->Boot(c, {}, &response); });
}

Result<pb::ResizeVcpusResponse> VmmProcess::ResizeVcpus(const pb::ResizeVcpusRequest& request) {
  pb::ResizeVcpusResponse response;
  WV_TRY_VOID(
      Invoke("ResizeVcpus", [&](auto* c) { return stub_->ResizeVcpus(c, request, &response); }));
  return response;
}

Result<pb::ResizeMemoryResponse> VmmProcess::ResizeMemory(const pb::ResizeMemoryRequest& request) {
  pb::ResizeMemoryResponse response;
  WV_TRY_VOID(
      Invoke("ResizeMemory", [&](auto* c) { return stub_->ResizeMemory(c, request, &response); }));
  return response;
}

Result<UniqueFd> VmmProcess::ConnectVsock(uint32_t port) {
  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
  pb::ConnectVsockRequest request;
  request.set_port(port);
  WV_TRY(*request.mutable_fd(), Donate(api::DonationKind::kStream, pair.second));
  pb::Empty response;
  WV_TRY_VOID(
      Invoke("ConnectVsock", [&](auto* c) { return stub_->ConnectVsock(c, request, &response); }));
  return std::move(pair.first);
}

}  // namespace wyvern::bench
