// A device of ours as a vhost-user back-end, for other people's front-ends (tests/interop):
//   vhost_user_serve blk SOCKET FILE [untracked] | net SOCKET TAP [PAIRS] | rng SOCKET |
//                    vsock SOCKET CID PORT
// Listens, serves one front-end after the other, ends by SIGTERM; what a device counted is in the log
// when its front-end has left. blk: untracked has packed rings, which in-flight memory hides. net:
// TAP is an interface of the network namespace that this is started in; with PAIRS it is one of several
// queues. vsock: connects to PORT in
// each guest, says "ping from the host", and prints the first line of the answer.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/unix_socket.h"
#include "blk/blk_device.h"
#include "net/kernel_tap.h"
#include "net/net_device.h"
#include "rng/rng_device.h"
#include "vhost_user/backend.h"
#include "vhost_user_net/net_backend.h"
#include "vsock/vsock_device.h"

namespace wyvern::vhost_user {
namespace {

struct Served {
  std::unique_ptr<virtio::VirtioDevice> device;
  BackendOptions options;
  // Runs beside the session, until its argument says that it is over.
  std::function<void(const std::atomic<bool>& over)> beside;
};

// A stream to the guest, as soon as somebody listens there.
void Converse(devices::VsockDevice& device, uint32_t port, const std::atomic<bool>& over) {
  while (!over) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    if (!pair || !device.ConnectStream(port, std::move(pair->second), [](auto&&...) {})) {
      return;
    }
    static_cast<void>(WriteAll(pair->first, std::string_view("ping from the host\n")));
    std::string answer;
    char piece[256];
    for (ssize_t got = 1; got > 0 && answer.find('\n') == std::string::npos && !over;) {
      pollfd polled{.fd = pair->first.get(), .events = POLLIN, .revents = 0};
      got = ::poll(&polled, 1, 100) == 1 ? ::read(pair->first.get(), piece, sizeof(piece)) : 1;
      answer.append(piece, polled.revents != 0 && got > 0 ? static_cast<size_t>(got) : 0);
    }
    if (!answer.empty()) {
      std::printf("%s", answer.c_str());
      std::fflush(stdout);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

Result<UniqueFd> OpenTap(const std::string& name, bool one_of_several) {
  WV_TRY(UniqueFd tap, Open("/dev/net/tun", O_RDWR));
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                         (one_of_several ? IFF_MULTI_QUEUE : 0));
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    return SysError("ioctl(TUNSETIFF) of " + name);
  }
  return tap;
}

Result<Served> MakeNet(devices::WorkerOptions worker, const std::string& tap, unsigned long pairs) {
  devices::NetOptions options;
  options.worker = std::move(worker);
  std::vector<UniqueFd> taps;
  for (unsigned long i = 0; i < pairs; ++i) {
    WV_TRY(UniqueFd opened, OpenTap(tap, pairs > 1));
    taps.push_back(std::move(opened));
  }
  WV_TRY(options.tap, devices::KernelTap::Create(std::move(taps)));
  options.interface.mac = {0x52, 0x54, 0, 0x12, 0x34, 0x57};
  options.queue_size = devices::kNetMaxQueueSize;
  WV_TRY(auto device, devices::NetDevice::Create(std::move(options)));
  Served served;
  served.options = devices::NetBackendOptions(*device);
  served.device = std::move(device);
  return served;
}

Result<Served> Make(std::span<const std::string> words) {
  Served served;
  devices::WorkerOptions worker;
  worker.name = words[0];
  if (words[0] == "blk" && (words.size() == 3 || (words.size() == 4 && words[3] == "untracked"))) {
    devices::BlkOptions options;
    options.worker = worker;
    WV_TRY(options.file, Open(words[2], O_RDWR));
    options.serial = "wyvern-interop";
    options.queue_size = devices::BlkDevice::kMaxQueueSize;  // of QEMU 10, unasked
    WV_TRY(served.device, devices::BlkDevice::Create(std::move(options)));
    served.options.offer_config = true;
    served.options.track_inflight = words.size() == 3;
    served.options.state = NoDeviceState();
    return served;
  }
  if (words[0] == "net" && (words.size() == 3 || words.size() == 4)) {
    return MakeNet(std::move(worker), words[2],
                   words.size() == 3 ? 1 : std::strtoul(words[3].c_str(), nullptr, 10));
  }
  if (words[0] == "rng" && words.size() == 2) {
    WV_TRY(served.device, devices::RngDevice::Create(worker));
    served.options.state = NoDeviceState();
    return served;
  }
  if (words[0] == "vsock" && words.size() == 4) {
    devices::VsockOptions options;
    options.worker = worker;
    options.guest_cid = std::strtoul(words[2].c_str(), nullptr, 10);
    const auto port = static_cast<uint32_t>(std::strtoul(words[3].c_str(), nullptr, 10));
    WV_TRY(auto device, devices::VsockDevice::Create(options));
    served.beside = [device = device.get(), port](const std::atomic<bool>& over) {
      Converse(*device, port, over);
    };
    served.device = std::move(device);
    served.options.offer_config = true;
    return served;
  }
  return Fail(Code::kInvalidArgument, "not a device of this program, or other words are missing");
}

Result<> ServeOne(UniqueFd socket, std::span<const std::string> words) {
  WV_TRY(Served served, Make(words));
  const virtio::VirtioDevice& device = *served.device;  // the back-end's from the next line on
  Backend backend(std::move(socket), std::move(served.device), std::move(served.options));
  std::atomic<bool> over{false};
  std::thread beside([&] {
    if (served.beside) {
      served.beside(over);
    }
  });
  for (;;) {
    pollfd polled{.fd = backend.fd().get(), .events = POLLIN, .revents = 0};
    if (::poll(&polled, 1, -1) != 1) {
      continue;
    }
    if (auto done = backend.Serve(); !done) {
      WV_INFO("the session is over: {}; {} requests refused", FaultName(done.error()),
              backend.refused());
      for (const virtio::CounterValue& counter : device.counters()) {
        if (counter.value != 0) {
          WV_INFO("counted {} {}", counter.name, counter.value);
        }
      }
      break;
    }
  }
  over = true;
  beside.join();
  return {};
}

Result<> Run(std::span<const std::string> words) {
  if (words.size() < 2) {
    return Fail(Code::kInvalidArgument,
                "blk SOCKET FILE [untracked] | net SOCKET TAP [PAIRS] | rng SOCKET | vsock SOCKET "
                "CID PORT");
  }
  ::unlink(words[1].c_str());
  WV_TRY(const UniqueFd listener, ListenUnix(words[1], 0600));
  for (;;) {
    WV_TRY(UniqueFd socket, Accept(listener));
    WV_TRY_VOID(ServeOne(std::move(socket), words));
  }
}

}  // namespace
}  // namespace wyvern::vhost_user

int main(int argc, char** argv) {
  wyvern::SetLogComponent("vhost-user-serve");
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto done = wyvern::vhost_user::Run(words);
  std::fprintf(stderr, "%s\n", done.error().message().c_str());
  return 1;
}
