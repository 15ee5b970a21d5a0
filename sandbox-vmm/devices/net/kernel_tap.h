// net/kernel_tap.h — Linux taps, opened and named by somebody else.
// Errors:  INVALID_ARGUMENT: not taps with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, not queues of one
//          interface (IFF_MULTI_QUEUE), or not attached.
// Calls:   creation: fcntl, ioctl TUNGETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD. Later: readv, writev,
//          ioctl TUNSETOFFLOAD, TUNSETQUEUE, TUNSETCARRIER. None of them needs a capability.
#pragma once

#include <memory>
#include <vector>

#include "net/tap_backend.h"

namespace wyvern::devices {

class KernelTap final : public TapBackend {
 public:
  static constexpr size_t kMaxPairs = 256;  // Linux: MAX_TAP_QUEUES

  // One descriptor per queue pair.
  static Result<std::unique_ptr<KernelTap>> Create(std::vector<UniqueFd> queues);

  uint16_t pairs() const override { return static_cast<uint16_t>(queues_.size()); }

  FdRef fd(uint16_t pair) const override { return queues_.at(pair).fd; }

  uint32_t offloads() const override { return offloads_; }

  Result<> SetOffloads(uint32_t tun_offloads) override;
  Result<> SetActive(uint16_t pair, bool active) override;
  void SetCarrier(bool up) override;
  ssize_t Receive(uint16_t pair, std::span<const iovec> parts) override;
  ssize_t Send(uint16_t pair, std::span<const iovec> parts) override;

 private:
  struct TapQueue {
    UniqueFd fd;
    bool active = true;
  };

  KernelTap() = default;
  void ProbeOffloads();

  std::vector<TapQueue> queues_;
  uint32_t offloads_ = 0;
};

}  // namespace wyvern::devices
