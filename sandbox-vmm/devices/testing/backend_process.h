// testing/backend_process.h — our vhost-user back-end around a device, as a thread that stands for its
// process: it ends with the connection.
// Threads: one of its own, which is the device's transport.
#pragma once

#include <poll.h>

#include <memory>
#include <thread>
#include <utility>

#include "vhost_user/backend.h"

namespace wyvern::devices::testing {

class BackendProcess {
 public:
  BackendProcess(UniqueFd socket, std::unique_ptr<virtio::VirtioDevice> device,
                 vhost_user::BackendOptions options = {})
      : backend_(std::make_unique<vhost_user::Backend>(std::move(socket), std::move(device),
                                                       std::move(options))),
        thread_([this] { Serve(); }) {}

  // Preconditions: the other end of the socket is closed.
  ~BackendProcess() { thread_.join(); }

  BackendProcess(const BackendProcess&) = delete;
  BackendProcess& operator=(const BackendProcess&) = delete;

 private:
  void Serve() {
    for (;;) {
      pollfd poll{.fd = backend_->fd().get(), .events = POLLIN, .revents = 0};
      if (::poll(&poll, 1, -1) == 1 && !backend_->Serve().has_value()) {
        break;
      }
    }
    backend_.reset();
  }

  std::unique_ptr<vhost_user::Backend> backend_;
  std::thread thread_;
};

}  // namespace wyvern::devices::testing
