// The back-end against a front-end that writes what it likes. First byte: what the back-end offers,
// and whether the fuzzer keeps to the lengths and descriptors of the table (structure), so that what
// follows is about meaning. Then requests, each {request, descriptors and their kind, flags,
// size (2 bytes), payload}; between them a byte of the device's own life.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "base/check.h"
#include "base/log.h"
#include "base/testing/fuzz_input.h"
#include "base/unix_socket.h"
#include "vhost_user/backend.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {
namespace {

// Keeps its queues as a device does; takes and gives back chains when told to.
class QuietDevice final : public virtio::VirtioDevice {
 public:
  QuietDevice(bool shares, bool network) {
    traits_.features = virtio::kRingFeatures;
    traits_.queue_sizes = {256, 256};
    if (network) {  // with a control queue, which never starts
      traits_.device_id = virtio::kDeviceNet;
      traits_.queue_sizes.push_back(64);
      traits_.control_features = uint64_t{1} << 17;
      traits_.features |= traits_.control_features;
      traits_.runs_disabled = true;
    }
    traits_.config_length = 64;
    if (shares) {
      traits_.shared_memory = {{.id = 0, .length = 1 << 20}};
    }
  }

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t /*offset*/, std::span<std::byte> out) override {
    std::fill(out.begin(), out.end(), std::byte{0});
  }

  void WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override {
    auto queue = virtio::Queue::Create(resources.memory, resources.config, features, resume);
    if (!queue) {
      return Fail(Code::kInvalidArgument, "bad ring");
    }
    WV_CHECK(index < std::size(queues_));
    queues_[index] = std::move(*queue);
    interrupt_ = resources.interrupt;
    return {};
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    if (queues_[index] == nullptr) {
      return std::nullopt;
    }
    const auto state = queues_[index]->state();
    queues_[index].reset();
    return state;
  }

  void Reset() override {}

  // A few chains of each queue.
  void Work() {
    for (const auto& queue : queues_) {
      for (int i = 0; queue != nullptr && i < 4; ++i) {
        auto popped = queue->Pop();
        if (!popped) {
          NeedsReset();
          break;
        }
        std::optional<virtio::Chain>& chain = *popped;
        if (!chain) {
          break;
        }
        queue->Push(*std::move(chain), 0);
        static_cast<void>(queue->NeedsInterrupt());
      }
    }
    if (interrupt_ != nullptr) {
      interrupt_->SignalConfig();
      interrupt_->SignalQueue(0);
    }
  }

 private:
  virtio::DeviceTraits traits_;
  std::unique_ptr<virtio::Queue> queues_[2];
  std::shared_ptr<virtio::Interrupt> interrupt_;
};

// Files that stay the same over all runs: guest memory, an eventfd, a socket.
UniqueFd MakeGuestMemory() {
  UniqueFd memory = *MakeMemfd("fuzz", 1 << 20, MFD_ALLOW_SEALING);
  // Who signals it as an eventfd must not make it grow.
  WV_CHECK(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0);
  return memory;
}

FdRef FileOf(uint8_t kind) {
  static const UniqueFd memory = MakeGuestMemory();
  static const EventFd event = *EventFd::Create();
  static const SocketPair pair = *MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
  switch (kind % 4) {
    case 0:
    case 1:
      return memory;
    case 2:
      return event.fd();
    default:
      return pair.first;
  }
}

BackendOptions Offers(uint8_t how) {
  BackendOptions options;
  options.timeout = std::chrono::milliseconds(0);
  options.offer_config = (how & 2U) != 0;
  options.track_inflight = (how & 4U) != 0;
  options.offer_status = (how & 8U) != 0;
  if ((how & 16U) != 0) {
    options.state = NoDeviceState();
    options.set_mtu = [](uint16_t) { return Result<>(); };
    options.send_rarp = [](std::array<uint8_t, 6>) { return Result<>(); };
  }
  return options;
}

// False when the session is over.
bool SendOne(FuzzInput& input, bool structured, FdRef socket) {
  const uint8_t id = input.Byte();
  const uint8_t fd_byte = input.Byte();
  Header header{id, uint32_t{input.Byte()} | (structured ? kVersion : 0), 0};
  header.flags = structured ? (header.flags & ~2U) : header.flags;
  header.size = input.Word();
  size_t fd_count = fd_byte % 10U;
  if (const RequestRule* rule = FindRule(RequestRules(), id); structured && rule != nullptr) {
    header.size = rule->min_size + header.size % (rule->max_size - rule->min_size + 1);
    fd_count = rule->min_fds + fd_count % (rule->max_fds - rule->min_fds + 1);
  }
  const size_t length = std::min<size_t>(header.size, 8192);
  const auto payload = std::as_bytes(input.Take(length));
  std::vector<std::byte> message(sizeof(header) + (structured ? length : payload.size()));
  std::memcpy(message.data(), &header, sizeof(header));
  std::ranges::copy(payload, message.begin() + sizeof(header));
  const std::vector<FdRef> fds(fd_count, FileOf(fd_byte / 10U));
  return SendMessage(socket, message, fds).has_value();
}

void Fuzz(FuzzInput input) {
  const uint8_t how = input.Byte();
  auto pair = MakeSocketPair(SOCK_STREAM);
  WV_CHECK(pair.has_value());
  auto device = std::make_unique<QuietDevice>((how & 32U) != 0, (how & 64U) != 0);
  QuietDevice* quiet = device.get();
  Backend backend(std::move(pair->second), std::move(device), Offers(how));
  std::vector<std::byte> sink(8192);
  while (!input.empty()) {
    if (!SendOne(input, (how & 1U) != 0, pair->first) || !backend.Serve()) {
      return;
    }
    // What it answers must not fill the socket; its descriptors are closed.
    static_cast<void>(::recv(pair->first.get(), sink.data(), sink.size(), MSG_DONTWAIT));
    if ((input.Byte() & 1U) != 0) {
      quiet->Work();
    }
  }
}

}  // namespace
}  // namespace wyvern::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::SetLogLevel(static_cast<wyvern::LogLevel>(4));
  if (size == 0 || size > 8192) {
    return 0;
  }
  wyvern::vhost_user::Fuzz({data, size});
  return 0;
}
