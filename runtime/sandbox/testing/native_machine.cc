#include "sandbox/testing/native_machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "base/worker_thread.h"
#include "storage/loop.h"

namespace wyvern::runtime {
namespace {

constexpr const char* kShare = "/run/wyvern/share";
constexpr const char* kPod = "/run/wyvern/pod";

std::string Prepare() {
  signal(SIGPIPE, SIG_IGN);
  if (geteuid() != 0) {
    return "not root";
  }
  for (const char* program : {"/usr/bin/crun", "/bin/busybox"}) {
    if (access(program, X_OK) != 0) {
      return std::string("no ") + program;
    }
  }
  if (unshare(CLONE_NEWNS) != 0 ||
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return "no mount namespace for the tests";
  }
  std::error_code error;
  std::filesystem::create_directories("/run/wyvern", error);
  if (mount("tmpfs", "/run/wyvern", "tmpfs", 0, nullptr) != 0 || mkdir(kShare, 0755) != 0) {
    return "no tmpfs on /run/wyvern";
  }
  struct statfs info = {};
  if (statfs("/sys/fs/cgroup", &info) != 0 ||
      (info.f_type != CGROUP2_SUPER_MAGIC &&
       mount("none", "/sys/fs/cgroup", "cgroup2", 0, nullptr) != 0)) {
    return "no cgroup v2";
  }
  return {};
}

// Processes held by a socket: they end when we do.
class TwoProcesses : public Machine {
 public:
  explicit TwoProcesses(std::shared_ptr<SizeWatch> sizes)
      : sizes_(sizes == nullptr ? std::make_shared<SizeWatch>() : std::move(sizes)) {}

  ~TwoProcesses() override { EndProcesses(); }

  TwoProcesses(const TwoProcesses&) = delete;
  TwoProcesses& operator=(const TwoProcesses&) = delete;

  Result<> Boot(EventCallback events) override {
    events_ = std::move(events);
    WV_TRY(watch_,
           WorkerThread::Start("native-watch", [this](const EventFd& stop) { Watch(stop); }));
    return {};
  }

  Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus,
                                   std::chrono::milliseconds /*patience*/) override {
    WV_TRY_VOID(Resizing(fmt::format("vcpus {}", vcpus)));
    const std::lock_guard lock(sizes_->mu);
    sizes_->vcpus = std::min(vcpus, sizes_->most_vcpus);
    return ResizedVcpus{sizes_->vcpus, sizes_->vcpus == vcpus ? "" : "the guest takes no more"};
  }

  Result<ResizedMemory> ResizeMemory(uint64_t bytes,
                                     std::chrono::milliseconds /*patience*/) override {
    WV_TRY_VOID(Resizing(fmt::format("memory {}", bytes >> 20U)));
    const std::lock_guard lock(sizes_->mu);
    sizes_->memory = std::max(std::min(bytes, sizes_->most_memory), sizes_->least_memory);
    return ResizedMemory{sizes_->memory, sizes_->memory == bytes ? "" : "the guest keeps some"};
  }

  Result<> ResizeDisk(const std::string& /*id*/) override {
    return Fail(Code::kUnimplemented, "no disk here changes its size");
  }

  Result<MachineSize> Size() override {
    const std::lock_guard lock(sizes_->mu);
    MachineSize size;
    size.memory_bytes = sizes_->memory;
    for (uint32_t i = 0; i < sizes_->vcpus; ++i) {
      size.vcpus.push_back({i, static_cast<pid_t>(1000 + i)});
    }
    return size;
  }

  Result<> AttachNetwork(const std::string& /*id*/, const std::vector<UniqueFd>& /*taps*/,
                         const NetworkDevice& /*device*/) override {
    return {};
  }

  Result<observe::VmmUsage> Usage(std::chrono::milliseconds /*limit*/) override {
    return observe::VmmUsage{.counters = {{"vcpus.running", 1}}, .devices = {}, .vcpus = {}};
  }

  api::ConsoleText Console() override { return {"no console", 0}; }

  void End() override {
    const std::lock_guard lock(mu_);
    EndProcesses();
    OnEnd();
  }

 protected:
  virtual void OnEnd() {}

  Result<> SpawnFs(const SpawnHook& spawned) {
    WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
    SpawnOptions options;
    options.argv = {"/bin/busybox", "cat"};
    options.fds = {{0, pair.second}};
    auto process = Subprocess::Spawn(options);
    if (!process.has_value()) {
      return tl::unexpected(std::move(process).error());
    }
    fs_ = std::move(*process);
    life_ = std::move(pair.first);
    return spawned({"fs", fs_->pid()});
  }

  std::optional<Subprocess> vmm_, fs_;
  UniqueFd life_;

 private:
  Result<> Resizing(const std::string& call) {
    if (sizes_->before) {
      sizes_->before(call);
    }
    const std::lock_guard lock(sizes_->mu);
    sizes_->calls.push_back(call);
    const auto it = sizes_->refused.find(call);
    return it == sizes_->refused.end() || it->second == Code::kOk
               ? Result<>()
               : Fail(it->second, "the VMM refuses");
  }

  void EndProcesses() {
    if (watch_ != nullptr) {
      watch_->Join();
    }
    for (std::optional<Subprocess>* process : {&vmm_, &fs_}) {
      if (process->has_value()) {
        static_cast<void>((*process)->Kill(SIGKILL));
        static_cast<void>((*process)->Wait());
        process->reset();
      }
    }
  }

  void Watch(const EventFd& stop) {
    WV_CHECK(vmm_.has_value() && fs_.has_value());
    pollfd waits[] = {{stop.fd().get(), POLLIN, 0},
                      {vmm_->pid_fd().fd().get(), POLLIN, 0},
                      {fs_->pid_fd().fd().get(), POLLIN, 0}};
    while (poll(waits, 3, -1) < 0) {
    }
    if (waits[0].revents == 0) {
      events_({MachineEvent::Kind::kProcessDied,
               waits[1].revents != 0 ? "the VMM died" : "the file server died"});
    }
  }

  const std::shared_ptr<SizeWatch> sizes_;
  std::mutex mu_;
  EventCallback events_;
  std::unique_ptr<WorkerThread> watch_;
};

class NativeMachine final : public TwoProcesses {
 public:
  NativeMachine(std::shared_ptr<ExportWatch> watch, std::shared_ptr<SizeWatch> sizes)
      : TwoProcesses(std::move(sizes)), watch_(std::move(watch)) {}

  ~NativeMachine() override { End(); }

  NativeMachine(const NativeMachine&) = delete;
  NativeMachine& operator=(const NativeMachine&) = delete;

  Result<> Start(const SpawnHook& spawned) override {
    WV_TRY_VOID(SpawnFs(spawned));
    std::string name = "/run/wyvern/agent-XXXXXX";
    dir_ = mkdtemp(name.data());
    // The agent's own, which the guest's paths name.
    static_cast<void>(unlink(kPod));
    if (symlink((dir_ + "/pod").c_str(), kPod) != 0) {
      return SysError("symlink /run/wyvern/pod");
    }
    SpawnOptions options;
    options.argv = {WYVERN_AGENT_BINARY, "--test-unix", dir_};
    if (prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE) == 0) {
      options.env = {"WYVERN_TEST_CRUN_PRELOAD=" WYVERN_MEMLOCK_PRELOAD};
    }
    options.fds = {{2, FdRef(2)}};
    auto process = Subprocess::Spawn(options);
    if (!process.has_value()) {
      return tl::unexpected(std::move(process).error());
    }
    vmm_ = std::move(*process);
    return spawned({"vmm", vmm_->pid()});
  }

  Result<UniqueFd> ConnectVsock(uint32_t port) override {
    auto stream = ConnectUnix(dir_ + (port == 100 ? "/api.sock" : "/stdio.sock"));
    if (!stream.has_value()) {
      return tl::unexpected(std::move(stream).error().WithCode(Code::kUnavailable));
    }
    return stream;
  }

  Result<> AttachExport(const std::string& name, FdRef tree, const ExportPolicy& policy) override {
    const std::string path = std::string(kShare) + "/" + name;
    WV_TRY(const struct stat info, Fstat(tree));
    if (S_ISDIR(info.st_mode)) {
      mkdir(path.c_str(), 0755);
    } else {
      WV_TRY_VOID(WriteFile(path, ""));
    }
    if (move_mount(tree.get(), "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return SysError("move_mount " + path);
    }
    const std::lock_guard lock(watch_->mu);
    watch_->attached[name] = policy;
    return {};
  }

  // A loop device for the VMM's, in a sysfs of the agent's own.
  Result<> AttachDisk(const std::string& id, FdRef file, bool read_only) override {
    WV_TRY(LoopDevice loop,
           LoopDevice::Attach("/proc/self/fd/" + std::to_string(file.get()), read_only));
    UniqueFd held(fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
    const std::string node = loop.path().substr(std::string("/dev/").size());
    const std::string directory = dir_ + "/sys/block/" + node;
    std::filesystem::create_directories(directory);
    for (const char* name : {"dev", "size", "ro"}) {
      WV_TRY(const std::string text, ReadFile("/sys/block/" + node + "/" + name, 64));
      WV_TRY_VOID(WriteFile(directory + "/" + name, text));
    }
    WV_TRY_VOID(WriteFile(directory + "/serial", id + "\n"));
    const std::lock_guard lock(watch_->mu);
    watch_->disks[id] = read_only;
    disks_.emplace(id, Disk{std::move(loop), std::move(held), directory});
    return {};
  }

  Result<> DetachDevice(const std::string& id, bool force) override {
    const std::lock_guard lock(watch_->mu);
    const auto it = disks_.find(id);
    if (it == disks_.end()) {
      return {};
    }
    if (!force && !Open(it->second.loop.path(), O_RDONLY | O_EXCL).has_value()) {
      return Fail(Code::kFailedPrecondition, "the guest uses " + id);
    }
    if (force) {
      watch_->forced.push_back(id);
    }
    watch_->disks.erase(id);
    std::filesystem::remove_all(it->second.directory);
    disks_.erase(it);
    return {};
  }

  Result<> DetachExport(const std::string& name) override {
    const std::lock_guard lock(watch_->mu);
    if (watch_->busy.contains(name)) {
      return Fail(Code::kUnavailable, "requests still use descriptors of " + name);
    }
    watch_->attached.erase(name);
    Unmount(std::string(kShare) + "/" + name);
    return {};
  }

 private:
  static void Unmount(const std::string& path) {
    while (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
    std::error_code error;
    std::filesystem::remove(path, error);
  }

  // crun's containers, one directory each, are in the agent's cgroup of their name.
  void KillContainers() const {
    std::error_code error;
    for (const auto& container : std::filesystem::directory_iterator(dir_ + "/crun", error)) {
      const std::string cgroup = "/sys/fs/cgroup/wyvern/" + container.path().filename().string();
      static_cast<void>(WriteFile(cgroup + "/cgroup.kill", "1"));
      for (int i = 0; i < 200 && rmdir(cgroup.c_str()) != 0 && errno == EBUSY; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }

  // What a guest's end does by itself.
  void OnEnd() override {
    KillContainers();
    for (const auto& entry : std::filesystem::directory_iterator(kShare)) {
      Unmount(entry.path().string());
    }
    std::error_code error;
    for (const char* directory : {"/run/wyvern/disks", "/run/wyvern/volumes"}) {
      for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
           it.increment(error)) {
        Unmount(it->path().string());
      }
    }
    {
      const std::lock_guard lock(watch_->mu);
      disks_.clear();
      watch_->disks.clear();
    }
    if (!dir_.empty()) {
      EndPod();
    }
    std::filesystem::remove_all(dir_, error);
  }

  // The agent is dead: what it left is ours.
  void EndPod() const {
    const std::string link = dir_ + "/pod/pid";
    std::error_code none;
    const std::string target = std::filesystem::read_symlink(link, none).string();
    int pid = 0;
    if (std::sscanf(target.c_str(), "/proc/%d/ns/pid", &pid) == 1 && pid > 1) {
      kill(pid, SIGKILL);
    }
    Unmount(dir_ + "/pod/shm");
  }

  struct Disk {
    LoopDevice loop;
    UniqueFd file;  // as the VMM holds it
    std::string directory;
  };

  const std::shared_ptr<ExportWatch> watch_;
  std::string dir_;
  std::map<std::string, Disk> disks_;  // guarded by watch_->mu
};

class HollowMachine final : public TwoProcesses {
 public:
  HollowMachine(GuestConnector agent, std::shared_ptr<DiskWatch> disks,
                std::shared_ptr<SizeWatch> sizes)
      : TwoProcesses(std::move(sizes)), agent_(std::move(agent)), disks_(std::move(disks)) {}

  ~HollowMachine() override { End(); }

  HollowMachine(const HollowMachine&) = delete;
  HollowMachine& operator=(const HollowMachine&) = delete;

  Result<> Start(const SpawnHook& spawned) override {
    WV_TRY_VOID(SpawnFs(spawned));
    vmm_ = std::move(fs_);
    vmm_life_ = std::move(life_);
    WV_CHECK(vmm_.has_value());
    WV_TRY_VOID(spawned({"vmm", vmm_->pid()}));
    return SpawnFs(spawned);
  }

  Result<> Boot(EventCallback events) override {
    {
      const std::lock_guard lock(disks_->mu);
      disks_->events = events;
    }
    return TwoProcesses::Boot(std::move(events));
  }

  Result<UniqueFd> ConnectVsock(uint32_t port) override {
    return agent_ ? agent_(port) : Fail(Code::kUnavailable, "nobody listens");
  }

  Result<> AttachExport(const std::string&, FdRef, const ExportPolicy&) override { return {}; }

  Result<> DetachExport(const std::string&) override { return {}; }

  Result<> AttachDisk(const std::string& id, FdRef file, bool /*read_only*/) override {
    const std::lock_guard lock(disks_->mu);
    WV_TRY_VOID(Called("attach " + id));
    disks_->attached[id].Reset(fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
    return {};
  }

  Result<> AttachNetwork(const std::string& id, const std::vector<UniqueFd>& taps,
                         const NetworkDevice& device) override {
    const std::lock_guard lock(disks_->mu);
    WV_TRY_VOID(Called(
        fmt::format("attach {} {:02x} mtu {}{}", id, fmt::join(device.mac, ":"), device.mtu,
                    device.receive_rate + device.transmit_rate == 0
                        ? ""
                        : fmt::format(" rates {} {}", device.receive_rate, device.transmit_rate))));
    if (disks_->refuse_networks) {
      return Fail(Code::kResourceExhausted, "the VMM refuses");
    }
    for (const UniqueFd& tap : taps) {
      disks_->taps[id].emplace_back(fcntl(tap.get(), F_DUPFD_CLOEXEC, 0));
    }
    return {};
  }

  Result<> DetachDevice(const std::string& id, bool force) override {
    const std::lock_guard lock(disks_->mu);
    WV_TRY_VOID(Called("detach " + id + (force ? " force" : "")));
    disks_->attached.erase(id);
    disks_->taps.erase(id);
    return {};
  }

 private:
  void OnEnd() override {
    const std::lock_guard lock(disks_->mu);
    disks_->attached.clear();
    disks_->taps.clear();
  }

  // With disks_->mu held.
  Result<> Called(const std::string& call) {
    disks_->calls.push_back(call);
    const auto it = disks_->refused.find(call);
    return it == disks_->refused.end() ? Result<>() : Fail(it->second, "the VMM refuses");
  }

  const GuestConnector agent_;
  const std::shared_ptr<DiskWatch> disks_;
  UniqueFd vmm_life_;
};

}  // namespace

const std::string& WhyNoNativeMachines() {
  static const std::string why = Prepare();
  return why;
}

std::unique_ptr<Machine> MakeNativeMachine(const MachineOptions& /*options*/) {
  return MakeWatchedNativeMachine(std::make_shared<ExportWatch>());
}

std::unique_ptr<Machine> MakeWatchedNativeMachine(std::shared_ptr<ExportWatch> watch,
                                                  std::shared_ptr<SizeWatch> sizes) {
  return std::make_unique<NativeMachine>(std::move(watch), std::move(sizes));
}

std::unique_ptr<Machine> MakeHollowMachine(const MachineOptions& /*options*/) {
  return MakeHollowMachineWithAgent(nullptr);
}

std::unique_ptr<Machine> MakeHollowMachineWithAgent(GuestConnector agent,
                                                    std::shared_ptr<DiskWatch> disks,
                                                    std::shared_ptr<SizeWatch> sizes) {
  return std::make_unique<HollowMachine>(
      std::move(agent), disks == nullptr ? std::make_shared<DiskWatch>() : std::move(disks),
      std::move(sizes));
}

}  // namespace wyvern::runtime
