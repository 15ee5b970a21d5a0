#include "fs/serve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "base/worker_thread.h"
#include "fs/confine.h"
#include "fs/control.h"
#include "fs/fs_device.h"
#include "fs/shared_dax_window.h"
#include "jail/violation.h"
#include "vhost_user/backend.h"

namespace wyvern::fs_process {

namespace {

constexpr rlim_t kResidentInodes = 8 << 10;
constexpr rlim_t kNamelessInodes = 64 << 10;
constexpr rlim_t kOpenFiles = 128 << 10;
constexpr rlim_t kSpareDescriptors = 1
                                     << 10;  // what requests under way and the process itself need
constexpr unsigned kExitSeconds = 10;

// Shares the descriptors out between inodes and open files: together they never need more.
void ApplyLimit(rlim_t limit, fs::FileServerOptions* options) {
  const rlim_t usable = limit - std::min(limit / 4, kSpareDescriptors);
  options->inodes.resident = std::min(kResidentInodes, usable / 4);
  const rlim_t rest = usable - options->inodes.resident;
  options->inodes.nameless = std::min(kNamelessInodes, rest / 3);
  options->max_handles = std::min(kOpenFiles, rest - options->inodes.nameless);
}

Result<std::unique_ptr<fs::FileServer>> MakeServer(const ServeOptions& options, rlim_t limit,
                                                   fs::DaxWindow* window) {
  fs::FileServerOptions server;
  server.exports = options.shared_dir.empty();
  server.policy.cache = std::chrono::milliseconds(options.cache_ms);
  server.policy.read_only = options.read_only;
  server.features = options.features;
  server.dax_window = window;
  server.descriptor_path = "";  // the working directory is /proc/self/fd
  ApplyLimit(limit, &server);
  WV_TRY(server.root, Open("/", O_RDONLY | O_DIRECTORY));
  return fs::FileServer::Create(std::move(server));
}

// What a front-end takes to the next server when its guest moves, and brings from the last one.
class GuestState final : public vhost_user::DeviceState {
 public:
  GuestState(fs::FileServer& server, fs::OnLoss on_loss) : server_(server), on_loss_(on_loss) {}

  Result<std::vector<std::byte>> Save() override {
    WV_TRY(const fs::FsState state, server_.Save());
    std::vector<std::byte> bytes = fs::EncodeState(state);
    if (bytes.size() > kMaxBytes) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("{} inodes that the guest knows take {} bytes, and {} is the most",
                              state.nodes.size(), bytes.size(), kMaxBytes));
    }
    return bytes;
  }

  Result<> Load(std::span<const std::byte> bytes) override {
    WV_TRY(const fs::FsState state, fs::DecodeState(bytes));
    return server_.Load(state, on_loss_);
  }

 private:
  fs::FileServer& server_;
  const fs::OnLoss on_loss_;
};

// One command. False: the runtime is gone.
bool OnControl(FdRef socket, fs::FileServer& server) {
  std::array<std::byte, kMaxCommand + 1> packet{};  // one that is too long shows
  const auto received = ReceiveMessage(socket, packet, 0);
  if (!received || received->size == 0) {
    return false;
  }
  const std::string_view text(reinterpret_cast<const char*>(packet.data()), received->size);
  const std::string answer = Answer(server, text);
  if (auto sent = SendMessage(socket, std::as_bytes(std::span(answer)), {}); !sent) {
    WV_WARN("answering on the control socket: {}", sent.error().message());
  }
  return true;
}

// True: `fd` is readable. False: to stop.
bool Await(FdRef fd, const EventFd& stop) {
  std::array<pollfd, 2> fds{{{stop.fd().get(), POLLIN, 0}, {fd.get(), POLLIN, 0}}};
  while (::poll(fds.data(), fds.size(), -1) < 0) {
    if (errno != EINTR) {
      WV_ERROR("the control socket is served no longer: {}", strerrordesc_np(errno));
      return false;
    }
  }
  return fds[0].revents == 0;
}

// A thread's body: the front-end, which is not trusted, may keep the other one waiting for the rest of
// a message, or for a queue to stop. Nothing is answered before the process is confined. The runtime's
// end is not ours: the front-end's is.
void ServeControl(FdRef socket, fs::FileServer& server, const EventFd& confined,
                  const EventFd& stop) {
  if (Await(confined.fd(), stop)) {
    while (Await(socket, stop) && OnControl(socket, server)) {
    }
  }
}

}  // namespace

Result<> Serve(ServeOptions options) {
  UniqueFd tree;
  if (!options.shared_dir.empty()) {
    WV_TRY(tree, CloneSharedTree(options.shared_dir, options.read_only));
  }
  WV_TRY(const rlim_t limit,
         Confine({tree, kResidentInodes + kNamelessInodes + kOpenFiles + kSpareDescriptors}));
  tree.Reset();
  SharedDaxWindow window(options.dax_window);
  WV_TRY(auto server, MakeServer(options, limit, options.dax_window > 0 ? &window : nullptr));
  fs::FsDeviceOptions device_options;
  device_options.tag = options.tag;
  device_options.request_queues = static_cast<uint16_t>(options.queues);
  device_options.threads = options.threads;
  WV_TRY(auto device, fs::FsDevice::Create(*server, device_options));
  vhost_user::Backend backend(std::move(options.vhost_socket), std::move(device),
                              {.offer_config = options.offer_config,
                               .state = std::make_shared<GuestState>(*server, options.on_loss)});
  window.Connect(backend.requests());
  WV_TRY(auto loop, EventLoop::Create());
  WV_TRY(const auto vhost, loop->Add(backend.fd(), EPOLLIN, [&](uint32_t /*events*/) {
    if (const auto served = backend.Serve(); !served) {
      if (served.error() != vhost_user::Fault::kClosed) {
        WV_ERROR("vhost-user: {}", vhost_user::FaultName(served.error()));
      }
      window.Disconnect();
      loop->Stop();
    }
  }));
  static_cast<void>(vhost);
  WV_TRY(const EventFd confined, EventFd::Create());
  std::unique_ptr<WorkerThread> control;
  if (options.control_socket.valid()) {
    WV_TRY(control, WorkerThread::Start("fs-control", [&](const EventFd& stop) {
             ServeControl(options.control_socket, *server, confined, stop);
           }));
  }
#ifndef WV_SANITIZED
  // A sanitizer's run time makes calls of its own.
  WV_TRY_VOID(jail::ReportViolations());
  WV_TRY_VOID(InstallFilter(options.features));
#endif
  confined.Signal();
  auto ran = loop->Run();
  ::alarm(kExitSeconds);
  return ran;
}

}  // namespace wyvern::fs_process
