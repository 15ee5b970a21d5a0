// The front-end against a back-end that answers and asks what it likes. First byte even: the bytes
// that answer it, as they come. Odd: an honest back-end's replies, each spoilt by the input's next
// bytes (zeros leave it as it is): longer, with other descriptors, another header, four bytes of the
// payload changed; then requests of its own from the rest: {request, descriptors, flags, size,
// payload}.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "base/testing/fuzz_input.h"
#include "base/unix_socket.h"
#include "vhost_user/frontend.h"
#include "virtio/feature_bits.h"
#include "virtio/testing/fake_interrupt.h"
#include "virtio/testing/guest_ram.h"

namespace wyvern::vhost_user {
namespace {

constexpr size_t kMaxInput = 4096;

class NoWindow final : public SharedMemoryWindow {
 public:
  Result<> Map(uint8_t, uint64_t, uint64_t, UniqueFd, uint64_t, bool) override { return {}; }

  Result<> Unmap(uint8_t, uint64_t, uint64_t) override { return {}; }
};

class ReplyFuzzer {
 public:
  explicit ReplyFuzzer(FuzzInput input) : input_(input) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(pair.has_value());
    ours_ = std::move(pair->first);
    theirs_ = std::move(pair->second);
  }

  void Run() {
    const bool honest = (input_.Byte() & 1U) != 0;
    if (honest) {
      WriteSession();
    } else {
      SendSome(std::as_bytes(input_.Take(kMaxInput)), 0);
      ::shutdown(theirs_.get(), SHUT_WR);
    }
    FrontendOptions options;
    options.device_id = virtio::kDeviceFs;
    options.features = virtio::kRingFeatures;
    options.queue_sizes = {64, 64};
    options.backend_config = 16;
    options.track_inflight = true;
    options.mtu = 1500;
    options.window = std::make_shared<NoWindow>();
    // Replies are there already: whoever waits waits in vain.
    options.timeout = std::chrono::milliseconds(2);
    options.drain_timeout = options.timeout;
    auto device = Frontend::Create(std::move(ours_), std::move(options));
    if (device) {
      Drive(**device);
    }
  }

 private:
  void SendSome(std::span<const std::byte> bytes, size_t fds) {
    static const UniqueFd file = *MakeMemfd("fuzz", 1 << 16);
    // What the socket does not take now is not said.
    if (!bytes.empty() && bytes.size() < (64U << 10U)) {
      static_cast<void>(SendMessage(theirs_, bytes, std::vector<FdRef>(fds, FdRef(file))));
    }
  }

  // One reply, spoilt by the next bytes of the input.
  void Spoilt(Request request, std::span<const std::byte> payload, size_t fds = 0) {
    const uint8_t longer = input_.Byte() % 32U == 1 ? input_.Byte() : 0;
    const uint8_t fd_byte = input_.Byte();
    fds = fd_byte % 32U == 1 ? fd_byte / 32U : fds;
    Header header{static_cast<uint32_t>(request), kVersion | kFlagReply,
                  static_cast<uint32_t>(payload.size() + longer)};
    std::vector<std::byte> bytes(sizeof(header) + payload.size() + longer);
    std::copy(payload.begin(), payload.end(), bytes.begin() + sizeof(header));
    const uint8_t where = input_.Byte();
    header.request ^= where == 255 ? input_.Byte() : 0U;
    header.flags ^= where == 254 ? input_.Byte() : 0U;
    std::memcpy(bytes.data(), &header, sizeof(header));
    for (int i = 0; i < 4 && !payload.empty(); ++i) {
      bytes[sizeof(header) + (where + static_cast<size_t>(i)) % payload.size()] ^=
          std::byte{input_.Byte()};
    }
    SendSome(bytes, fds);
  }

  template <typename T>
  void Value(Request request, const T& value, size_t fds = 0) {
    Spoilt(request, std::as_bytes(std::span(&value, 1)), fds);
  }

  void Acks(std::initializer_list<Request> requests) {
    for (const Request request : requests) {
      Value(request, uint64_t{0});
    }
  }

  // In the order in which the front-end asks.
  void WriteSession() {
    Value(Request::kGetFeatures,
          virtio::kVersion1 | virtio::kRingFeatures | kFeatureProtocol | kFeatureLogAll);
    Value(Request::kGetProtocolFeatures, ~uint64_t{0});
    Value(Request::kGetQueueNum, uint64_t{8});
    Acks({Request::kSetOwner, Request::kSetBackendReqFd});
    ShmemConfig shmem;
    shmem.count = 1;
    shmem.sizes[0] = 1 << 20;
    Value(Request::kGetShmemConfig, shmem);
    const std::array<std::byte, 12 + 16> config{std::byte{0}, std::byte{0}, std::byte{0},
                                                std::byte{0}, std::byte{16}};
    Value(Request::kGetConfig, config);
    Acks({Request::kSetFeatures, Request::kSetStatus});
    Value(Request::kGetStatus, uint64_t{15});
    Acks({Request::kNetSetMtu});
    Value(Request::kGetInflightFd, InflightArea{4096, 0, 2, 64, 0}, 1);
    Acks({Request::kSetInflightFd, Request::kSetMemTable});
    for (uint32_t index = 0; index < 2; ++index) {
      Acks({Request::kSetVringNum, Request::kSetVringBase, Request::kSetVringAddr,
            Request::kSetVringCall, Request::kSetVringErr, Request::kSetVringKick,
            Request::kSetVringEnable});
      if (index == 0) {
        Acks({Request::kSetStatus});
      }
    }
    Value(Request::kSetLogBase, uint64_t{0});
    Acks({Request::kSetFeatures, Request::kSetVringAddr, Request::kSetVringAddr});
    for (uint32_t index = 0; index < 2; ++index) {
      Value(Request::kGetVringBase, VringState{index, 0});
      Acks({Request::kSetVringEnable});
    }
    Value(Request::kSetDeviceStateFd, uint64_t{0}, 1);
    Value(Request::kCheckDeviceState, uint64_t{0});
    Acks({Request::kSendRarp, Request::kResetDevice, Request::kSetStatus});
  }

  void Start(Frontend& device, uint16_t index) {
    static virtio::testing::GuestRam ram(1 << 20);
    static const EventFd kick = *EventFd::Create();
    virtio::QueueResources resources;
    resources.memory = ram.memory();
    const uint64_t base = virtio::testing::GuestRam::kBase + uint64_t{index} * 0x4000;
    resources.config = {64, mem::Gpa{base}, mem::Gpa{base + 0x1000}, mem::Gpa{base + 0x2000}};
    resources.kick = kick.fd();
    resources.interrupt = std::make_shared<virtio::testing::FakeInterrupt>();
    constexpr uint64_t kNetMtu = uint64_t{1} << 3;
    static_cast<void>(
        device.StartQueue(index, std::move(resources), virtio::kVersion1 | kNetMtu, std::nullopt));
  }

  // The channel that the front-end gave away, if it came that far.
  UniqueFd FindChannel() {
    std::array<std::byte, 4096> buffer;
    for (;;) {
      pollfd polled{.fd = theirs_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&polled, 1, 0) != 1) {
        return {};
      }
      auto received = ReceiveMessage(theirs_, buffer, 8);
      if (!received || received->size == 0) {
        return {};
      }
      for (UniqueFd& fd : received->fds) {
        int type = 0;
        socklen_t length = sizeof(type);
        if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0) {
          return std::move(fd);
        }
      }
    }
  }

  void AskSome(FdRef channel) {
    static const UniqueFd file = *MakeMemfd("fuzz", 1 << 16);
    for (int request = 0; request < 64 && !input_.empty(); ++request) {
      const uint32_t id = input_.Byte() % 12U;
      const uint8_t fds = input_.Byte() % 3U;
      Header header{id, kVersion | (input_.Byte() & kFlagNeedReply), input_.Byte() % 64U};
      if (const RequestRule* rule = FindRule(BackendRequestRules(), id);
          rule != nullptr && header.size < 60) {
        header.size = rule->min_size;
      }
      std::vector<std::byte> bytes(sizeof(header) + header.size);
      std::memcpy(bytes.data(), &header, sizeof(header));
      std::ranges::copy(std::as_bytes(input_.Take(header.size)), bytes.begin() + sizeof(header));
      if (!SendMessage(channel, bytes, std::vector<FdRef>(fds, FdRef(file)))) {
        break;
      }
    }
    // Until all of them are answered, and the front-end has closed its end.
    ::shutdown(channel.get(), SHUT_WR);
    std::array<std::byte, 256> answers;
    while (::recv(channel.get(), answers.data(), answers.size(), 0) > 0) {
    }
  }

  void Drive(Frontend& device) {
    Start(device, 0);
    Start(device, 1);
    if (const UniqueFd channel = FindChannel(); channel.valid()) {
      AskSome(channel);
    }
    static const UniqueFd log = *MakeMemfd("log", 1 << 16);
    static_cast<void>(device.StartLog(log, 1 << 16));
    std::array<std::byte, 32> config;
    device.ReadConfig(0, config);
    static_cast<void>(device.StopQueue(0));
    static_cast<void>(device.StopQueue(1));
    static_cast<void>(device.SaveState());
    static_cast<void>(device.SendRarp({}));
    device.Reset();
  }

  FuzzInput input_;
  UniqueFd ours_;
  UniqueFd theirs_;
};

}  // namespace
}  // namespace wyvern::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::SetLogLevel(static_cast<wyvern::LogLevel>(4));
  if (size == 0 || size > wyvern::vhost_user::kMaxInput) {
    return 0;
  }
  wyvern::vhost_user::ReplyFuzzer({data, size}).Run();
  return 0;
}
