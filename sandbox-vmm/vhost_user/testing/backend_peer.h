// vhost_user/testing/backend_peer.h — our back-end over a RecordingDevice, in a thread, for tests of the
// front-end.
// Threads: one of its own; the test looks at the device's state when nothing is asked.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/unix_socket.h"
#include "vhost_user/backend.h"
#include "vhost_user/testing/recording_device.h"

namespace wyvern::vhost_user::testing {

class Peer {
 public:
  // `pairs`: of a network device; 0: it is none.
  explicit Peer(BackendOptions options = {}, uint64_t features = 0,
                std::vector<virtio::SharedMemoryRegion> shared = {}, uint16_t pairs = 0) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(pair.has_value());
    front_end = std::move(pair->first);
    ours_ = *pair->second.Duplicate();
    state->open_rings = true;
    options.timeout = std::chrono::seconds(20);
    auto device = std::make_unique<RecordingDevice>(state, features, std::move(shared));
    device_ = device.get();
    if (pairs > 0) {
      device_->set_pairs(pairs, uint64_t{1} << 17);
    }
    backend_ =
        std::make_unique<Backend>(std::move(pair->second), std::move(device), std::move(options));
    requests = backend_->requests();
    thread_ = std::thread([this] {
      while (backend_->Serve().has_value()) {
      }
    });
  }

  ~Peer() { Kill(); }

  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // As a process that ends: its rings go with it.
  void Kill() {
    if (backend_ != nullptr) {
      ::shutdown(ours_.get(), SHUT_RDWR);
      thread_.join();
      backend_.reset();
      ours_.Reset();
    }
  }

  void BreakDevice() { device_->Break(); }

  UniqueFd front_end;
  std::shared_ptr<RecordingDevice::State> state = std::make_shared<RecordingDevice::State>();
  std::shared_ptr<BackendRequests> requests;

 private:
  UniqueFd ours_;
  RecordingDevice* device_ = nullptr;
  std::unique_ptr<Backend> backend_;
  std::thread thread_;
};

}  // namespace wyvern::vhost_user::testing
