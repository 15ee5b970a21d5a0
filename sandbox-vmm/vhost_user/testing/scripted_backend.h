// vhost_user/testing/scripted_backend.h — a back-end of nothing but messages: it answers each
// request as an honest one would, except for one that it answers as the test says.
// Threads: one of its own; ends when the front-end hangs up.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/unix_socket.h"
#include "vhost_user/connection.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user::testing {

class ScriptedBackend {
 public:
  // The bytes of a reply, and how many descriptors go with it; nothing: hang up.
  struct Reply {
    std::vector<std::byte> bytes;
    size_t fds = 0;
    bool hang_up = false;  // after the bytes
    bool silent = false;   // instead of them
  };

  using Twist = std::function<void(Reply* reply)>;

  static constexpr uint64_t kFeatures =
      virtio::kVersion1 | virtio::kRingFeatures | kFeatureProtocol | kFeatureLogAll;
  static constexpr uint64_t kProtocol =
      kProtocolMq | kProtocolLogShmfd | kProtocolReplyAck | kProtocolMtu | kProtocolRarp |
      kProtocolBackendReq | kProtocolConfig | kProtocolBackendSendFd | kProtocolInflightShmfd |
      kProtocolResetDevice | kProtocolConfigureMemSlots | kProtocolStatus | kProtocolDeviceState |
      kProtocolShmem;

  // `twist` changes the answer to `request`, each time.
  explicit ScriptedBackend(std::optional<Request> request = {}, Twist twist = {},
                           uint64_t protocol = kProtocol)
      : request_(request), twist_(std::move(twist)), protocol_(protocol) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(pair.has_value());
    front_end = std::move(pair->first);
    thread_ = std::thread([this, socket = std::make_shared<Connection>(std::move(pair->second))] {
      while (Serve(*socket)) {
      }
    });
  }

  // The front-end has hung up by now, or does when its socket is closed.
  ~ScriptedBackend() {
    front_end.Reset();
    thread_.join();
  }

  ScriptedBackend(const ScriptedBackend&) = delete;
  ScriptedBackend& operator=(const ScriptedBackend&) = delete;

  // What has come, in order.
  std::vector<Request> seen() const {
    const std::lock_guard lock(mu_);
    return seen_;
  }

  // The channel for its own requests, once there is one.
  UniqueFd TakeChannel() {
    for (int i = 0; i < 500; ++i) {
      {
        const std::lock_guard lock(mu_);
        if (channel_.valid()) {
          return std::move(channel_);
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return {};
  }

  UniqueFd front_end;

 private:
  template <typename T>
  static std::vector<std::byte> Bytes(const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    return {bytes.begin(), bytes.end()};
  }

  // The payload of an honest reply; nothing for requests that have none of their own.
  std::optional<std::vector<std::byte>> Honest(const Message& message, size_t* fds) const {
    switch (static_cast<Request>(message.header.request)) {
      case Request::kGetFeatures:
        return Bytes(kFeatures);
      case Request::kGetProtocolFeatures:
        return Bytes(protocol_);
      case Request::kGetQueueNum:
        return Bytes(uint64_t{8});
      case Request::kGetMaxMemSlots:
        return Bytes(uint64_t{64});
      case Request::kGetVringBase:
        return Bytes(VringState{message.As<VringState>().index, 0});
      case Request::kGetConfig:
        return message.payload;
      case Request::kGetInflightFd:
        *fds = 1;
        return Bytes(InflightArea{4096, 0, 2, 64, 0});
      case Request::kGetStatus:
        return Bytes(uint64_t{15});
      case Request::kSetDeviceStateFd:
        return Bytes(kNoFd);
      case Request::kSetLogBase:
      case Request::kCheckDeviceState:
        return Bytes(uint64_t{0});
      case Request::kGetShmemConfig: {
        ShmemConfig config;
        config.count = 1;
        config.sizes[0] = 1 << 20;
        return Bytes(config);
      }
      default:
        return std::nullopt;
    }
  }

  bool Serve(Connection& socket) {
    const auto deadline = Connection::Clock::now() + std::chrono::seconds(20);
    auto message = socket.Receive(deadline);
    if (!message) {
      return false;
    }
    const auto request = static_cast<Request>(message->header.request);
    Reply reply;
    auto payload = Honest(*message, &reply.fds);
    if (!payload && (message->header.flags & kFlagNeedReply) != 0) {
      payload = Bytes(uint64_t{0});
    }
    {
      const std::lock_guard lock(mu_);
      seen_.push_back(request);
      if (request == Request::kSetBackendReqFd) {
        channel_ = std::move(message->fds.at(0));
      }
    }
    if (!payload) {
      return true;
    }
    const Header header{message->header.request, kVersion | kFlagReply,
                        static_cast<uint32_t>(payload->size())};
    reply.bytes.resize(sizeof(header));
    std::memcpy(reply.bytes.data(), &header, sizeof(header));
    reply.bytes.insert(reply.bytes.end(), payload->begin(), payload->end());
    if (request_ == request && twist_) {
      twist_(&reply);
    }
    if (reply.silent) {
      return true;
    }
    const UniqueFd file = *MakeMemfd("scripted", 4096);
    const std::vector<FdRef> fds(reply.fds, FdRef(file));
    return (reply.bytes.empty() || SendMessage(socket.fd(), reply.bytes, fds).has_value()) &&
           !reply.hang_up;
  }

  const std::optional<Request> request_;
  const Twist twist_;
  const uint64_t protocol_;
  mutable std::mutex mu_;
  std::vector<Request> seen_;  // guarded by mu_
  UniqueFd channel_;           // guarded by mu_
  std::thread thread_;
};

}  // namespace wyvern::vhost_user::testing
