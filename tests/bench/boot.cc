// Guests from the VMM's exec on: ours, and others that AF_VSOCK reaches.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <string_view>
#include <thread>

#include "api/console_ring.h"
#include "base/unix_socket.h"
#include "bench/guest_streams.h"
#include "bench/measurements.h"
#include "bench/vmm_process.h"
#include "hypervisor/file_server.h"
#include "storage/exports.h"

namespace wyvern::bench {

namespace pb = wyvern::vmm::v1;

namespace {

void PrintMs(const char* name, int64_t start) {
  fmt::print("{{\"{}\": {:.3f}}}\n", name, static_cast<double>(NowNs() - start) / 1e6);
  fflush(stdout);
}

void WaitForStdinsEnd() {
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

Result<> DoExercise(const Exercise& exercise, const Connector& connector,
                    const std::function<bool()>& give_up, int64_t start) {
  if (exercise.agent) {
    WV_TRY_VOID(WaitForAgent(connector, give_up, start));
  }
  for (const auto& [kind, count] : exercise.streams) {
    WV_TRY_VOID(RunStream(connector, kind, count));
  }
  return {};
}

bool HasExited(const Subprocess& process) {
  pollfd wait = {process.pid_fd().fd().get(), POLLIN, 0};
  return poll(&wait, 1, 0) != 0;
}

constexpr std::string_view kDone = "BENCH done";

class Guest {
 public:
  explicit Guest(const BootOptions& options) : options_(options) {}

  Result<> Run();

 private:
  Result<> Create();
  Result<> AttachImage();
  Result<> AttachDisk();
  Result<> AttachShare();

  Result<UniqueFd> BackEnd();
  Result<> WaitForDone();

  const BootOptions& options_;
  std::unique_ptr<runtime::FileServerProcess> fs_;
  std::unique_ptr<VmmProcess> vmm_;
  UniqueFd console_;
};

Result<> Guest::Create() {
  pb::CreateRequest request;
  request.set_vcpus(options_.vcpus);
  request.set_memory_bytes(options_.memory);
  request.set_shared_memory(options_.shared_memory || !options_.fs_binary.empty() ||
                            !options_.vhost_user_socket.empty());
  request.set_cmdline(options_.cmdline);
  WV_TRY(console_, vmm_->Create(std::move(request), options_.kernel, options_.initrd));
  return {};
}

Result<> Guest::AttachImage() {
  pb::AttachDeviceRequest request;
  request.set_id("root");
  WV_TRY(const UniqueFd image, Open(options_.image, O_RDONLY));
  WV_TRY(*request.mutable_pmem()->add_fd(), vmm_->Donate(api::DonationKind::kImage, image));
  return vmm_->Attach(request).map([](const auto& /*attached*/) {});
}

Result<> Guest::AttachDisk() {
  pb::AttachDeviceRequest request;
  request.set_id("disk");
  WV_TRY(const UniqueFd disk, Open(options_.disk, O_RDWR | O_DIRECT));
  WV_TRY(*request.mutable_blk()->mutable_fd(), vmm_->Donate(api::DonationKind::kBlock, disk));
  return vmm_->Attach(request).map([](const auto& /*attached*/) {});
}

Result<UniqueFd> Guest::BackEnd() {
  if (options_.fs_binary.empty()) {
    return ConnectUnix(options_.vhost_user_socket);
  }
  runtime::MachineOptions machine;
  machine.fs_binary = options_.fs_binary;
  WV_TRY(auto spawned, runtime::FileServerProcess::Spawn(machine));
  fs_ = std::move(spawned.first);
  WV_TRY(const UniqueFd tree, runtime::CloneTree(options_.export_directory, {.recursive = true}));
  // As the root of a container; the peer is told the same.
  WV_TRY_VOID(fs_->Attach("x", tree, {.cache = std::chrono::seconds(1)}));
  return std::move(spawned.second);
}

Result<> Guest::AttachShare() {
  WV_TRY(const UniqueFd socket, BackEnd());
  pb::AttachDeviceRequest request;
  request.set_id("share");
  auto* fs = request.mutable_vhost_user_fs();
  WV_TRY(*fs->mutable_socket_fd(), vmm_->Donate(api::DonationKind::kVhostUser, socket));
  fs->set_tag("wyvern");
  fs->set_request_queues(1);
  fs->set_queue_size(1024);
  fs->set_dax_window_bytes(options_.dax_window);
  return vmm_->Attach(request).map([](const auto& /*attached*/) {});
}

Result<> Guest::WaitForDone() {
  for (;;) {
    WV_TRY(const auto console, api::ReadConsoleRing(console_));
    if (console.text.find(kDone) != std::string::npos) {
      return {};
    }
    if (HasExited(vmm_->process())) {
      return Fail(Code::kUnavailable, "the VMM ended");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<> Guest::Run() {
  const int64_t start = NowNs();
  WV_TRY(vmm_, VmmProcess::Spawn(options_.vmm));
  WV_TRY_VOID(vmm_->Metrics());
  PrintMs("answered_ms", start);
  WV_TRY_VOID(Create());
  PrintMs("created_ms", start);
  pb::AttachDeviceRequest request;
  request.set_id("rng");
  request.mutable_rng();
  WV_TRY_VOID(vmm_->Attach(request));
  request.set_id("vsock");
  request.mutable_vsock()->set_guest_cid(3);
  WV_TRY_VOID(vmm_->Attach(request));
  if (!options_.image.empty()) {
    WV_TRY_VOID(AttachImage());
  }
  if (!options_.disk.empty()) {
    WV_TRY_VOID(AttachDisk());
  }
  if (!options_.fs_binary.empty() || !options_.vhost_user_socket.empty()) {
    WV_TRY_VOID(AttachShare());
  }
  WV_TRY_VOID(vmm_->Boot());
  PrintMs("booted_ms", start);
  const Exercise& exercise = options_.exercise;
  auto done = DoExercise(
      exercise, [this](uint32_t port) { return vmm_->ConnectVsock(port); },
      [this] { return HasExited(vmm_->process()); }, start);
  if (done.has_value() && exercise.done) {
    done = WaitForDone();
  }
  if (auto metrics = vmm_->Metrics(); metrics.has_value()) {
    std::string text;
    for (const auto& [name, value] : *metrics) {
      text += fmt::format("{}\"{}\": {}", text.empty() ? "" : ", ", name, value);
    }
    fmt::print("{{{}}}\n", text);
  }
  fmt::print("pid {}\n", vmm_->process().pid());
  fflush(stdout);
  if (exercise.hold) {
    WaitForStdinsEnd();
  }
  if (auto console = api::ReadConsoleRing(console_); console.has_value()) {
    fmt::print("{}\n", console->text);
  }
  return done;
}

}  // namespace

Result<> Boot(const BootOptions& options) {
  return Guest(options).Run();
}

Result<> BootPeer(const std::vector<std::string>& argv, uint32_t guest_cid,
                  const Exercise& exercise) {
  WV_TRY(PipePair console, MakePipe());
  SpawnOptions spawn;
  spawn.argv = argv;
  spawn.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  spawn.fds = {{1, console.write}, {2, FdRef(2)}};
  const int64_t start = NowNs();
  WV_TRY(const Subprocess process, Subprocess::Spawn(spawn));
  console.write.Reset();
  std::atomic<bool> said_done = false;
  // Its end is the end of the process.
  std::thread reader([&] {
    std::string text;
    std::array<std::byte, 4096> buffer;
    while (const auto got = ReadSome(console.read, buffer)) {
      if (*got == 0) {
        break;
      }
      text.append(reinterpret_cast<const char*>(buffer.data()), *got);
      said_done = text.find(kDone) != std::string::npos;
    }
    fmt::print("{}\n", text);
    fflush(stdout);
  });
  auto done = DoExercise(
      exercise, [guest_cid](uint32_t port) { return ConnectHostVsock(guest_cid, port); },
      [&process] { return HasExited(process); }, start);
  while (done.has_value() && exercise.done && !said_done && !HasExited(process)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  fmt::print("pid {}\n", process.pid());
  fflush(stdout);
  if (exercise.hold) {
    WaitForStdinsEnd();
  }
  static_cast<void>(process.Kill(SIGKILL));
  static_cast<void>(process.Wait());
  reader.join();
  return done;
}

}  // namespace wyvern::bench
