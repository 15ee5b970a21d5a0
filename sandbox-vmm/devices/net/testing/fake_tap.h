// net/testing/fake_tap.h — a tap that is a socket per queue pair: the test holds the other ends.
// Threads: the device's worker on one side, a test on the other.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "net/net_abi.h"
#include "net/tap_backend.h"

namespace wyvern::devices::testing {

class FakeTap final : public TapBackend {
 public:
  static constexpr uint32_t kAll = kTunCsum | kTunTso4 | kTunTso6 | kTunEcn | kTunUso;

  explicit FakeTap(uint16_t pairs, uint32_t offloads = kAll);

  uint16_t pairs() const override { return static_cast<uint16_t>(queues_.size()); }

  FdRef fd(uint16_t pair) const override { return queues_.at(pair).device; }

  uint32_t offloads() const override { return offered_; }

  Result<> SetOffloads(uint32_t tun_offloads) override;
  Result<> SetActive(uint16_t pair, bool active) override;

  void SetCarrier(bool up) override { carrier_ = up; }

  ssize_t Receive(uint16_t pair, std::span<const iovec> parts) override;
  ssize_t Send(uint16_t pair, std::span<const iovec> parts) override;

  // The test's side.
  FdRef host(uint16_t pair) const { return queues_.at(pair).host; }

  // The next `times` calls of Send or Receive fail.
  void FailSend(int error, int times) { Fail(send_error_, send_failures_, error, times); }

  void FailReceive(int error, int times) { Fail(receive_error_, receive_failures_, error, times); }

  // Nothing fails any more, and no packet is left in either direction. While no queue runs.
  void Clear();

  void RefuseChanges(bool refuse) { refuse_ = refuse; }

  // Only that a pair is put into use.
  void RefusePairs(bool refuse) { refuse_pairs_ = refuse; }

  uint32_t current_offloads() const { return current_; }

  bool active(uint16_t pair) const { return queues_.at(pair).active; }

  bool carrier() const { return carrier_; }

  // Bytes of the first packet that waits for the device or the host, 0 if there is none.
  size_t waiting(uint16_t pair) const;

  uint64_t receives() const { return receives_; }

  // Most parts that one call was given.
  size_t most_parts() const { return most_parts_; }

 private:
  struct TapQueue {
    UniqueFd device;
    UniqueFd host;
    std::atomic<bool> active{true};
  };

  static void Fail(std::atomic<int>& error, std::atomic<int>& left, int number, int times) {
    error = number;
    left = times;
  }

  static bool Fails(std::atomic<int>& left);
  void NoteParts(size_t parts);

  std::vector<TapQueue> queues_;
  const uint32_t offered_;
  std::atomic<uint32_t> current_{0};
  std::atomic<bool> carrier_{true};
  std::atomic<bool> refuse_{false};
  std::atomic<bool> refuse_pairs_{false};
  std::atomic<int> send_error_{0};
  std::atomic<int> send_failures_{0};
  std::atomic<int> receive_error_{0};
  std::atomic<int> receive_failures_{0};
  std::atomic<uint64_t> receives_{0};
  std::atomic<size_t> most_parts_{0};
};

}  // namespace wyvern::devices::testing
