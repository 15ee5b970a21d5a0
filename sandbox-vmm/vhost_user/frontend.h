// vhost_user/frontend.h — a virtio device whose queues are served by another process over
// vhost-user.
// State:   Create negotiates; the first StartQueue sends features and the memory table. Queues go
//          to the back-end one by one; kicks and calls then pass between guest and back-end without
//          us. Once the back-end is lost it stays lost.
// Errors:  every call ends within the timeout; a back-end that hangs up, stalls or lies makes the
//          call fail, closes the connection, sets NEEDS_RESET and calls the lost callback, once.
// Threads: VirtioDevice's rule for its methods. One thread of its own watches for a hang-up, and
//          carries calls for interrupts without an eventfd. The callbacks come from that thread.
// Trust:   replies are the back-end's, checked for size, id and range. What the guest has written
//          goes to the back-end unseen.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/worker_thread.h"
#include "vhost_user/frontend_channel.h"
#include "virtio/device.h"

namespace wyvern::vhost_user {

struct FrontendOptions {
  uint16_t device_id = 0;
  const char* name = "vhost-user";
  uint64_t features = 0;              // device features wanted, of those the back-end offers
  std::vector<uint16_t> queue_sizes;  // one per queue
  std::vector<std::byte> config;      // the device's configuration space, answered by us
  std::chrono::milliseconds timeout{5000};
  // Regions that the guest may only read (pmem) have read-only descriptors, which only back-ends
  // like ours can map.
  bool share_read_only_memory = true;
  std::function<void()> on_thread_start;  // first thing its thread does: confines it
};

class Frontend final : public virtio::VirtioDevice {
 public:
  // UNAVAILABLE: the back-end does not answer; FAILED_PRECONDITION: it lacks queues or VERSION_1.
  static Result<std::unique_ptr<Frontend>> Create(UniqueFd socket, FrontendOptions options);
  // A virtio-fs device: queue 0 is hiprio.
  static Result<std::unique_ptr<Frontend>> CreateFs(UniqueFd socket, const std::string& tag,
                                                    uint16_t request_queues, uint16_t queue_size,
                                                    std::function<void()> on_thread_start = {});
  ~Frontend() override;
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Set before the first StartQueue.
  void set_lost_callback(std::function<void(std::string text)> callback);

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;

  void WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;

  bool lost() const;

 private:
  struct Queue {
    bool running = false;
    std::shared_ptr<const mem::GuestMemory> memory;
    virtio::QueueConfig config;
    // When the interrupt has no eventfd: ours, signalled by the back-end and carried on by the
    // watching thread. Never read, written or waited for but by epoll: its flags are the back-end's.
    std::optional<EventFd> relay;
    std::shared_ptr<virtio::Interrupt> interrupt;
  };

  Frontend(UniqueFd socket, FrontendOptions options);
  Result<> Negotiate();
  Result<> Configure(const std::shared_ptr<const mem::GuestMemory>& memory, uint64_t features);
  Result<> SendMemory(const mem::GuestMemory& memory);
  Result<> SendSlots(const std::vector<mem::RegionInfo>& regions);
  Result<> SendQueue(uint16_t index, const virtio::QueueResources& resources, uint16_t base);
  Result<FdRef> CallFd(uint16_t index, const virtio::QueueResources& resources);

  void Watch(const EventFd& stop);
  void Relay(uint16_t index);
  void OnHangUp();

  const FrontendOptions options_;
  FrontendChannel channel_;
  virtio::DeviceTraits traits_;
  UniqueFd epoll_;
  uint64_t backend_features_ = 0;
  uint64_t protocol_features_ = 0;
  std::vector<Queue> queues_;                       // `relay` and `interrupt` guarded by mu_
  std::shared_ptr<const mem::GuestMemory> memory_;  // what the back-end has
  std::vector<mem::RegionInfo> slots_;              // the same, if it was sent by slots
  uint64_t sent_features_ = 0;

  mutable std::mutex mu_;
  bool lost_ = false;                         // guarded by mu_
  std::function<void(std::string)> on_lost_;  // guarded by mu_
  std::unique_ptr<WorkerThread> watcher_;
};

}  // namespace wyvern::vhost_user
