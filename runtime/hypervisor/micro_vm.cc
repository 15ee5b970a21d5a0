// The machine of the product: wyvern-vmm and wyvern-fs, started and held by pidfd.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <csignal>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "api/console_ring.h"
#include "api/host_probe.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "base/worker_thread.h"
#include "hypervisor/command_lines.h"
#include "hypervisor/file_server.h"
#include "hypervisor/machine.h"
#include "hypervisor/passt.h"
#include "hypervisor/size_check.h"
#include "hypervisor/vmm_client.h"

namespace wyvern::runtime {
namespace {

constexpr int kGrpcFd = 3;
constexpr int kDonationFd = 4;

void WaitForExit(const Subprocess& process, std::chrono::milliseconds limit) {
  pollfd wait = {process.pid_fd().fd().get(), POLLIN, 0};
  if (poll(&wait, 1, static_cast<int>(limit.count())) <= 0) {
    WV_ERROR("process {} does not end within {} ms after SIGKILL", process.pid(), limit.count());
    return;
  }
  static_cast<void>(process.Wait());
}

class MicroVm final : public Machine {
 public:
  explicit MicroVm(MachineOptions options) : options_(std::move(options)) {}

  ~MicroVm() override { End(); }

  MicroVm(const MicroVm&) = delete;
  MicroVm& operator=(const MicroVm&) = delete;

  Result<> Start(const SpawnHook& spawned) override;
  Result<> Boot(EventCallback events) override;
  Result<UniqueFd> ConnectVsock(uint32_t port) override;
  Result<> AttachExport(const std::string& name, FdRef tree, const ExportPolicy& policy) override;
  Result<> DetachExport(const std::string& name) override;
  Result<> AttachDisk(const std::string& id, FdRef file, bool read_only) override;
  Result<> AttachNetwork(const std::string& id, const std::vector<UniqueFd>& taps,
                         const NetworkDevice& device) override;
  Result<> DetachDevice(const std::string& id, bool force) override;

  Result<> ResizeDisk(const std::string& id) override { return client_->ResizeDisk(id); }

  Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) override;
  Result<ResizedMemory> ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience) override;
  Result<MachineSize> Size() override;
  Result<observe::VmmUsage> Usage(std::chrono::milliseconds limit) override;
  api::ConsoleText Console() override;
  void End() override;

 private:
  Result<> SpawnVmm(const SpawnHook& spawned);
  Result<> Configure();
  Result<> CheckKvm();
  void Watch(const EventFd& stop);

  const MachineOptions options_;
  std::unique_ptr<FileServerProcess> fs_;
  std::optional<Subprocess> vmm_;
  std::optional<Subprocess> passt_;
  std::unique_ptr<VmmClient> client_;
  UniqueFd vhost_socket_;
  UniqueFd passt_socket_;  // until the VMM has it
  UniqueFd console_;
  UniqueFd kvm_device_;  // until the VMM has it
  EventCallback events_;
  std::unique_ptr<WorkerThread> event_thread_;  // reads the VMM's events
  std::unique_ptr<WorkerThread> watch_thread_;  // waits for the processes
  std::thread probe_;
  api::KvmAnswer kvm_;
  std::mutex end_mu_;
  bool ended_ = false;  // guarded by end_mu_
};

Result<> MicroVm::SpawnVmm(const SpawnHook& spawned) {
  WV_TRY(SocketPair grpc, MakeSocketPair(SOCK_STREAM));
  WV_TRY(SocketPair donation, MakeSocketPair(SOCK_SEQPACKET));
  SpawnOptions spawn;
  spawn.argv = VmmArguments(options_);
  spawn.fds = {{2, FdRef(2)}, {kGrpcFd, grpc.second}, {kDonationFd, donation.second}};
  spawn.new_process_group = true;
  auto process = Subprocess::Spawn(spawn);
  if (!process.has_value()) {
    return tl::unexpected(std::move(process).error().WithContext("starting the VMM"));
  }
  vmm_.emplace(std::move(*process));
  WV_TRY_VOID(spawned({"vmm", vmm_->pid()}));
  client_ = std::make_unique<VmmClient>(std::move(grpc.first), std::move(donation.first),
                                        options_.call_timeout);
  return {};
}

// The file system that the guest's kernel will mount as its root: said here, not by a panic in the guest.
Result<> CheckImage(FdRef image, const std::string& path) {
  constexpr off_t kSuperblock = 1024;
  constexpr uint32_t kErofsMagic = 0xe0f5e1e2;  // EROFS_SUPER_MAGIC_V1, linux/magic.h
  Le32 magic;
  if (pread(image.get(), &magic, sizeof(magic), kSuperblock) != sizeof(magic) ||
      magic != kErofsMagic) {
    return Fail(
        Code::kInvalidArgument,
        "guest image (sandbox.image) " + path +
            " is damaged or no EROFS image; build it again with deploy/guest/build-image.sh");
  }
  return {};
}

Result<> MicroVm::Start(const SpawnHook& spawned) {
  WV_TRY_CONTEXT(kvm_device_, Open("/dev/kvm", O_RDWR),
                 "KVM is needed (enable virtualization; `wyvern check` says more)");
  probe_ = std::thread([this] { kvm_ = api::ProbeKvm(); });
  WV_TRY(console_, api::MakeConsoleRing());
  WV_TRY(auto fs, FileServerProcess::Spawn(options_));
  fs_ = std::move(fs.first);
  vhost_socket_ = std::move(fs.second);
  WV_TRY_VOID(spawned({"fs", fs_->process().pid()}));
  if (options_.user_network.has_value()) {
    WV_TRY_CONTEXT(auto passt, SpawnPasst(*options_.user_network), "network.host");
    passt_.emplace(std::move(passt.first));
    passt_socket_ = std::move(passt.second);
    WV_TRY_VOID(spawned({"passt", passt_->pid()}));
  }
  return SpawnVmm(spawned);
}

Result<> MicroVm::CheckKvm() {
  probe_.join();
  if (kvm_.state != api::KvmState::kWorks) {
    return Fail(Code::kFailedPrecondition, "/dev/kvm: " + kvm_.Line());
  }
  return {};
}

Result<> MicroVm::Configure() {
  WV_TRY_CONTEXT(
      const UniqueFd kernel, Open(options_.kernel, O_RDONLY),
      "guest kernel (build it with deploy/guest/build-kernel.sh, or set sandbox.kernel)");
  UniqueFd initrd;
  if (!options_.initrd.empty()) {
    WV_TRY_CONTEXT(initrd, Open(options_.initrd, O_RDONLY), "initial RAM disk (sandbox.initrd)");
  }
  WV_TRY_CONTEXT(const UniqueFd image, Open(options_.image, O_RDONLY),
                 "guest image (build it with deploy/guest/build-image.sh, or set sandbox.image)");
  WV_TRY_VOID(CheckImage(image, options_.image));
  CreateVm vm;
  vm.vcpus = options_.vcpus;
  vm.max_vcpus = options_.max_vcpus;
  vm.memory_bytes = options_.memory_bytes;
  vm.ram_pages = options_.ram_pages;
  vm.hotplug_memory_bytes = options_.hotplug_memory_bytes;
  vm.kvm = kvm_device_;
  vm.kernel = kernel;
  vm.initrd = initrd;
  vm.console = console_;
  vm.cmdline = KernelCommandLine(options_);
  WV_TRY_VOID_CONTEXT(client_->Create(vm), "machine with the guest kernel " + options_.kernel);
  kvm_device_.Reset();
  WV_TRY_VOID(client_->AttachPmem("root", image));
  WV_TRY_VOID(client_->AttachRng("rng"));
  WV_TRY_VOID(client_->AttachBalloon("balloon", options_.page_reporting));
  WV_TRY_VOID(client_->AttachVsock("vsock", options_.guest_cid));
  WV_TRY_VOID(client_->AttachFs("share", vhost_socket_, options_.share_tag, options_.share_queues));
  vhost_socket_.Reset();
  if (passt_.has_value()) {
    WV_TRY_VOID_CONTEXT(client_->AttachUserNet("passt", passt_socket_),
                        "passt (paths.passt), whose own words are in the log");
    passt_socket_.Reset();
  }
  return options_.hotplug_memory_bytes > 0 ? client_->AttachMem("mem") : Result<>();
}

Result<> MicroVm::Boot(EventCallback events) {
  WV_TRY_VOID(CheckKvm());
  WV_TRY_VOID(Configure());
  events_ = std::move(events);
  WV_TRY(event_thread_, WorkerThread::Start("vmm-events", [this](const EventFd&) {
           client_->WatchEvents(events_);
         }));
  WV_TRY(watch_thread_,
         WorkerThread::Start("vmm-watch", [this](const EventFd& stop) { Watch(stop); }));
  return client_->Boot();
}

void MicroVm::Watch(const EventFd& stop) {
  WV_CHECK(vmm_.has_value());  // Boot comes after Start
  // poll() passes over a number that is none.
  pollfd waits[] = {{stop.fd().get(), POLLIN, 0},
                    {vmm_->pid_fd().fd().get(), POLLIN, 0},
                    {fs_->process().pid_fd().fd().get(), POLLIN, 0},
                    {passt_.has_value() ? passt_->pid_fd().fd().get() : -1, POLLIN, 0}};
  while (poll(waits, 4, -1) < 0) {
  }
  if (waits[0].revents == 0) {
    // File server and passt end with the VMM, whose descriptors are closed before its end is told.
    constexpr int kVmmsEndMs = 100;
    if (waits[1].revents == 0) {
      poll(&waits[1], 1, kVmmsEndMs);
    }
    events_({MachineEvent::Kind::kProcessDied, waits[1].revents != 0 ? "the VMM died"
                                               : waits[2].revents != 0
                                                   ? "the file server died"
                                                   : "passt, its network, died"});
  }
}

Result<UniqueFd> MicroVm::ConnectVsock(uint32_t port) {
  WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
  WV_TRY_VOID(client_->ConnectVsock(port, pair.second));
  return std::move(pair.first);
}

Result<> MicroVm::AttachExport(const std::string& name, FdRef tree, const ExportPolicy& policy) {
  return fs_->Attach(name, tree, policy);
}

Result<> MicroVm::DetachExport(const std::string& name) {
  return fs_->Detach(name);
}

Result<> MicroVm::AttachDisk(const std::string& id, FdRef file, bool read_only) {
  return client_->AttachBlk(id, file, read_only);
}

Result<> MicroVm::AttachNetwork(const std::string& id, const std::vector<UniqueFd>& taps,
                                const NetworkDevice& device) {
  return client_->AttachNet(id, taps, device);
}

Result<> MicroVm::DetachDevice(const std::string& id, bool force) {
  auto detached = client_->DetachDevice(id, force);
  if (!detached.has_value() && detached.error().code() == Code::kNotFound) {
    return {};
  }
  return detached;
}

Result<ResizedVcpus> MicroVm::ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) {
  WV_TRY(ResizedVcpus resized, client_->ResizeVcpus(vcpus, patience));
  WV_TRY_VOID(CheckVcpus(resized.vcpus, options_));
  return resized;
}

Result<ResizedMemory> MicroVm::ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience) {
  WV_TRY(ResizedMemory resized, client_->ResizeMemory(bytes, patience));
  WV_TRY_VOID(CheckMemory(resized.bytes, options_));
  return resized;
}

Result<MachineSize> MicroVm::Size() {
  WV_TRY(MachineSize size, client_->Size());
  WV_CHECK(vmm_.has_value());  // Start came before
  WV_TRY_VOID(CheckSize(size, options_, vmm_->pid()));
  return size;
}

Result<observe::VmmUsage> MicroVm::Usage(std::chrono::milliseconds limit) {
  return client_->Metrics(limit);
}

api::ConsoleText MicroVm::Console() {
  if (!console_.valid()) {
    return {};
  }
  auto text = api::ReadConsoleRing(console_);
  return text.has_value() ? *std::move(text) : api::ConsoleText();
}

void MicroVm::End() {
  const std::lock_guard lock(end_mu_);
  if (std::exchange(ended_, true)) {
    return;
  }
  if (probe_.joinable()) {
    probe_.join();
  }
  if (watch_thread_ != nullptr) {
    watch_thread_->Join();  // before the kill: this end is no death to report
  }
  if (vmm_.has_value()) {
    static_cast<void>(vmm_->Kill(SIGKILL));
  }
  if (fs_ != nullptr) {
    static_cast<void>(fs_->process().Kill(SIGKILL));
  }
  if (passt_.has_value()) {
    static_cast<void>(passt_->Kill(SIGKILL));
  }
  const auto limit = EndLimit(options_.memory_bytes + options_.hotplug_memory_bytes);
  if (vmm_.has_value()) {
    WaitForExit(*vmm_, limit);
  }
  if (fs_ != nullptr) {
    WaitForExit(fs_->process(), limit);
  }
  if (passt_.has_value()) {
    WaitForExit(*passt_, limit);
  }
  if (event_thread_ != nullptr) {
    client_->StopEvents();
    event_thread_->Join();
  }
  // Client and file server stay as objects: calls of other threads may be on their way and fail by themselves.
}

}  // namespace

std::unique_ptr<Machine> MakeMicroVm(MachineOptions options) {
  return std::make_unique<MicroVm>(std::move(options));
}

}  // namespace wyvern::runtime
