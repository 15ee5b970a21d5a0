// Front-ends of the device types: which features they want, and who answers for which part of the
// configuration.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/endian.h"
#include "vhost_user/frontend.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t Bit(unsigned number) {
  return uint64_t{1} << number;
}

// VIRTIO §5.2.3, those that Linux has a use for; no SCSI passthrough.
constexpr uint64_t kBlkMq = Bit(12);
constexpr uint64_t kBlkFeatures =
    Bit(1) /* SIZE_MAX */ | Bit(2) /* SEG_MAX */ | Bit(4) /* GEOMETRY */ | Bit(5) /* RO */ |
    Bit(6) /* BLK_SIZE */ | Bit(9) /* FLUSH */ | Bit(10) /* TOPOLOGY */ | Bit(11) /* CONFIG_WCE */ |
    Bit(13) /* DISCARD */ | Bit(14) /* WRITE_ZEROES */;
// VIRTIO §5.2.4: up to write_zeroes_may_unmap and its padding, which every back-end has.
constexpr uint32_t kBlkConfig = 60;
constexpr uint32_t kBlkNumQueues = 34;

constexpr uint64_t kVsockFeatures = Bit(0) /* STREAM */ | Bit(1) /* SEQPACKET */;
constexpr uint32_t kVsockConfig = 8;  // VIRTIO §5.10.4: guest_cid
constexpr uint16_t kVsockServed = 2;  // receive and transmit; events are the transport's
constexpr uint16_t kVsockQueues = 3;

constexpr uint8_t kDaxRegion = 0;  // VIRTIO §5.11.6.4: VIRTIO_FS_SHMCAP_ID_CACHE

// That region in a window of the machine's. What comes before the back-end was found to have no
// other one is refused here.
class DaxRegion final : public SharedMemoryWindow {
 public:
  explicit DaxRegion(std::shared_ptr<mem::FileWindow> window) : window_(std::move(window)) {}

  Result<> Map(uint8_t id, uint64_t offset, uint64_t length, UniqueFd fd, uint64_t fd_offset,
               bool writable) override {
    WV_TRY_VOID(CheckRegion(id));
    return window_->Map(offset, length, fd, fd_offset, writable);
  }

  Result<> Unmap(uint8_t id, uint64_t offset, uint64_t length) override {
    WV_TRY_VOID(CheckRegion(id));
    return window_->Unmap(offset, length);
  }

 private:
  static Result<> CheckRegion(uint8_t id) {
    if (id != kDaxRegion) {
      return Fail(Code::kInvalidArgument, fmt::format("shared-memory region {} has no window", id));
    }
    return {};
  }

  const std::shared_ptr<mem::FileWindow> window_;
};

Result<> CheckDaxWindow(const std::vector<virtio::SharedMemoryRegion>& regions, uint64_t size) {
  if (regions.size() == 1 && regions[0].id == kDaxRegion && regions[0].length == size) {
    return {};
  }
  const uint64_t theirs = regions.empty() ? 0 : regions[0].length;
  return Fail(
      Code::kFailedPrecondition,
      fmt::format("a DAX window of {} bytes was asked for, and the back-end has {} region(s) "
                  "of shared memory, the first of {} bytes",
                  size, regions.size(), theirs));
}

template <typename T>
std::vector<std::byte> ToBytes(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Result<std::unique_ptr<Frontend>> Frontend::CreateFs(
    UniqueFd socket, const std::string& tag, uint16_t request_queues, uint16_t queue_size,
    std::function<void()> on_thread_start, const std::shared_ptr<mem::FileWindow>& dax_window) {
  constexpr size_t kTagSize = 36;  // VIRTIO §5.11.4
  if (tag.empty() || tag.size() > kTagSize || request_queues == 0) {
    return Fail(Code::kInvalidArgument,
                "a virtio-fs device has a tag of 1 to 36 bytes and a queue");
  }
  FrontendOptions options;
  options.device_id = virtio::kDeviceFs;
  options.name = "fs";
  options.on_thread_start = std::move(on_thread_start);
  options.features = virtio::kRingFeatures;
  options.queue_sizes.assign(size_t{request_queues} + 1, queue_size);
  options.config.resize(kTagSize + sizeof(Le32));
  std::memcpy(options.config.data(), tag.data(), tag.size());
  const Le32 queues = uint32_t{request_queues};
  std::memcpy(options.config.data() + kTagSize, &queues, sizeof(queues));
  if (dax_window == nullptr) {
    return Create(std::move(socket), std::move(options));
  }
  options.window = std::make_shared<DaxRegion>(dax_window);
  WV_TRY(auto device, Create(std::move(socket), std::move(options)));
  WV_TRY_VOID(CheckDaxWindow(device->traits().shared_memory, dax_window->size()));
  return device;
}

Result<std::unique_ptr<Frontend>> Frontend::CreateBlk(UniqueFd socket, uint16_t queues,
                                                      uint16_t queue_size,
                                                      FrontendOptions options) {
  if (queues == 0) {
    return Fail(Code::kInvalidArgument, "a block device has a queue");
  }
  options.device_id = virtio::kDeviceBlock;
  options.name = "blk";
  options.features = virtio::kRingFeatures | kBlkFeatures | (queues > 1 ? kBlkMq : 0);
  options.queue_sizes.assign(queues, queue_size);
  options.backend_config = kBlkConfig;
  // A back-end says how many it could serve.
  options.config = ToBytes(Le16(queues));
  options.config_offset = kBlkNumQueues;
  return Create(std::move(socket), std::move(options));
}

Result<std::unique_ptr<Frontend>> Frontend::CreateVsock(UniqueFd socket, uint16_t queue_size,
                                                        FrontendOptions options) {
  options.device_id = virtio::kDeviceVsock;
  options.name = "vsock";
  options.features = virtio::kRingFeatures | kVsockFeatures;
  options.queue_sizes.assign(kVsockQueues, queue_size);
  options.backend_queues = kVsockServed;
  options.backend_config = kVsockConfig;
  return Create(std::move(socket), std::move(options));
}

}  // namespace wyvern::vhost_user
