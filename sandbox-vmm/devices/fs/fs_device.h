// fs/fs_device.h — the virtio-fs device: FUSE requests from virtqueues, served by a pool of
// threads.
// Spec:    VIRTIO 1.4 §5.11. Queue 0 is hiprio (FORGET), 1… are request queues; no notification
//          queue.
// State:   a queue runs from StartQueue until StopQueue, which waits for the requests under way. Those
//          that wait for a lock are kept, untried, and go on waiting when the queue resumes where it
//          stopped, in whatever memory; Reset and any other beginning forget them.
// Threads: the pool waits on one epoll set of kicks; whoever gets an event takes one chain, tells
//          another thread when there are more, and serves its own. Threads start in Create and end
//          in the destructor. A request that waits for a lock is parked beside its queue, without
//          a thread; a timer and every lock given up bring it back.
// Trust:   rings and requests are the guest's: a broken ring stops its queue (NEEDS_RESET), a
//          broken request is answered or dropped.
#pragma once

#include <atomic>
#include <condition_variable>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "base/worker_thread.h"
#include "fs/file_server.h"
#include "virtio/device.h"

namespace wyvern::fs {

struct FsDeviceOptions {
  std::string tag;              // at most 36 bytes (VIRTIO §5.11.4)
  uint16_t request_queues = 1;  // 1..64
  unsigned threads = 4;         // 1..64
};

class FsDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 1024;

  // `server` must outlive the device.
  static Result<std::unique_ptr<FsDevice>> Create(FileServer& server, FsDeviceOptions options);
  ~FsDevice() override;
  FsDevice(const FsDevice&) = delete;
  FsDevice& operator=(const FsDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;

  // Nothing in the configuration can be written.
  void WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  // Ends the FUSE session.
  void Reset() override;
  // requests, faults, inodes, descriptors, …: of the server, which this device may share.
  std::vector<virtio::CounterValue> counters() const override;

 private:
  // A request that waits for a lock.
  struct Parked {
    virtio::Chain chain;
    std::vector<iovec> out;
    uint64_t unique;
  };

  // A queue that has stopped.
  struct Left {
    virtio::QueueState state;
    uint64_t features = 0;
    uint16_t size = 0;
  };

  // One virtqueue and what its users share.
  struct Slot {
    explicit Slot(EventFd event) : more(std::move(event)) {}

    std::mutex mu;  // the members up to `in_flight`
    std::condition_variable idle;
    std::unique_ptr<virtio::Queue> queue;  // null: stopped
    std::shared_ptr<virtio::Interrupt> interrupt;
    FdRef kick{-1};
    bool broken =
        false;  // takes no more chains: by what the driver wrote, or as it is being stopped
    bool report = false;  // NEEDS_RESET is still to be told
    size_t in_flight = 0;
    uint64_t features = 0;
    std::map<uint64_t, Parked> parked;  // by ticket
    std::optional<Left> left;           // where `parked` wait for the queue to resume
    const EventFd more;                 // chains are waiting: for another thread of the pool
    std::atomic<bool> more_pending{false};
  };

  // What who gives a chain back does with the queue then.
  enum class Next : uint8_t { kTake, kNothing };

  struct Buffers {
    std::vector<iovec> in;
    std::vector<iovec> out;
    Scratch scratch;
  };

  FsDevice(FileServer& server, FsDeviceOptions options, TimerFd retry);
  Result<> Watch(FdRef fd, uint64_t token) const;
  void Work(const EventFd& stop);
  void Serve(uint16_t index, Buffers* buffers);
  std::optional<virtio::Chain> Take(Slot& slot, uint16_t index);
  std::optional<uint32_t> Answer(virtio::Chain& chain, Buffers* buffers, LockWaits::Request* wait);
  std::optional<uint32_t> ParkLocked(Slot& slot, uint16_t index, virtio::Chain* chain,
                                     Buffers* buffers, const LockWaits::Request& wait);
  void PushLocked(Slot& slot, uint16_t index, virtio::Chain chain, uint32_t written, Next next,
                  std::unique_lock<std::mutex>* lock);
  void EndWaits();
  void ArmRetry();
  bool HoldParkedLocked(Slot& slot);
  void ResumeParkedLocked(Slot& slot, const std::optional<virtio::QueueState>& resume);
  void ForgetParkedLocked(Slot& slot);

  FileServer& server_;
  const FsDeviceOptions options_;
  virtio::DeviceTraits traits_;
  UniqueFd epoll_;
  const TimerFd retry_;  // of requests that wait
  std::atomic<uint64_t> tickets_{0};
  std::vector<std::unique_ptr<Slot>> slots_;
  std::latch started_;  // every thread of the pool runs Work
  std::vector<std::unique_ptr<WorkerThread>> threads_;
};

// The configuration of a virtio-fs device, also for a front-end that answers for it: tag[36],
// num_request_queues.
std::array<std::byte, 40> MakeFsConfig(std::string_view tag, uint32_t request_queues);

}  // namespace wyvern::fs
