// Both ends of vhost-user against a peer that writes what it likes. First byte even: messages to
// the back-end, each {descriptors, request, flags, size (2 bytes), payload}; odd: the bytes that
// answer a front-end.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"
#include "virtio/feature_bits.h"
#include "virtio/testing/fake_interrupt.h"
#include "virtio/testing/guest_ram.h"

namespace wyvern::vhost_user {
namespace {

// Keeps its queues as a device does, without looking into them.
class QuietDevice final : public virtio::VirtioDevice {
 public:
  QuietDevice() {
    traits_.features = virtio::kRingFeatures;
    traits_.queue_sizes = {256, 256};
    traits_.config_length = 64;
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
    queues_[index] = std::move(*queue);
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

 private:
  virtio::DeviceTraits traits_;
  std::unique_ptr<virtio::Queue> queues_[2];
};

void FuzzBackend(const uint8_t* data, size_t size) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  WV_CHECK(pair.has_value());
  Backend backend(std::move(pair->second), std::make_unique<QuietDevice>(),
                  {.offer_config = true, .timeout = std::chrono::milliseconds(0)});
  static const UniqueFd memory = *MakeMemfd("fuzz", 1 << 20);
  std::vector<std::byte> sink(8192);
  while (size >= 5) {
    const size_t fd_count = data[0] % 10;
    const Header header{data[1], data[2], data[3] | (uint32_t{data[4]} << 8U)};
    data += 5;
    size -= 5;
    const size_t length = std::min<size_t>(size, header.size);
    std::vector<std::byte> message(sizeof(header) + length);
    std::memcpy(message.data(), &header, sizeof(header));
    std::memcpy(message.data() + sizeof(header), data, length);
    data += length;
    size -= length;
    const std::vector<FdRef> fds(fd_count, memory);
    if (!SendMessage(pair->first, message, fds) || !backend.Serve()) {
      return;
    }
    // What it answers must not fill the socket.
    static_cast<void>(::recv(pair->first.get(), sink.data(), sink.size(), MSG_DONTWAIT));
  }
}

void FuzzFrontend(const uint8_t* data, size_t size) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  WV_CHECK(pair.has_value());
  if (size > 0 && ::write(pair->second.get(), data, size) < 0) {
    return;
  }
  ::shutdown(pair->second.get(), SHUT_WR);
  auto device = Frontend::CreateFs(std::move(pair->first), "fuzz", 1, 64);
  if (!device) {
    return;
  }
  static virtio::testing::GuestRam ram(1 << 20);
  auto kick = EventFd::Create();
  for (uint16_t index = 0; index < 2; ++index) {
    virtio::QueueResources resources;
    resources.memory = ram.memory();
    const uint64_t base = virtio::testing::GuestRam::kBase + uint64_t{index} * 0x4000;
    resources.config = {64, mem::Gpa{base}, mem::Gpa{base + 0x1000}, mem::Gpa{base + 0x2000}};
    resources.kick = kick->fd();
    resources.interrupt = std::make_shared<virtio::testing::FakeInterrupt>();
    static_cast<void>(
        (*device)->StartQueue(index, std::move(resources), virtio::kVersion1, std::nullopt));
  }
  static_cast<void>((*device)->StopQueue(1));
}

}  // namespace
}  // namespace wyvern::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::SetLogLevel(static_cast<wyvern::LogLevel>(4));
  if (size == 0 || size > 8192) {
    return 0;
  }
  if (data[0] % 2 == 0) {
    wyvern::vhost_user::FuzzBackend(data + 1, size - 1);
  } else {
    wyvern::vhost_user::FuzzFrontend(data + 1, size - 1);
  }
  return 0;
}
