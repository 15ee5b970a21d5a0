// balloon/balloon_device.h — virtio memory balloon: a guest gives pages back, and tells of its
// memory.
// Spec:    VIRTIO 1.4 §5.5.
// Shape:   queues: 0 inflate, 1 deflate, 2 statistics, 3 free page hints, 4 free page reports. The
//          first four always exist: drivers that count only the queues they use (Linux over PCI)
//          and those that follow the specification's numbers then mean the same ones.
//          Inflated and reported pages go back to the host before they are acknowledged
//          (GuestMemory::FreeRange), in ranges; deflating needs nothing of us. Hinted pages are
//          only told to the owner: the guest may write to them again at any time.
// Bounds:  kMaxPagesPerChain pages of a chain are looked at; at most one host call for each page or
//          buffer, and after kHostCallsPerTurn of them others of the worker have their turn.
// Errors:  pages that are not RAM are refused and counted; a broken ring needs a reset.
// Threads: one worker, the owner's callbacks too. The owner's calls: any thread.
// Trust:   page numbers, hints, statistics, `actual` and `poison_val` are the guest's.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "balloon/balloon_stats.h"
#include "balloon/balloon_wire.h"
#include "balloon/page_ranges.h"
#include "base/endian.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/config_change.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

// What a balloon is beyond its rings.
struct BalloonState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  uint32_t target_pages = 0;
  uint32_t actual_pages = 0;
  uint32_t hint_command = 0;         // as the driver reads it
  uint32_t last_hint_command = 0;    // the last that was given out
  bool hint_round_open = false;      // the driver has not said STOP since then
  uint32_t driver_hint_command = 0;  // what the driver's hints belong to
  uint32_t poison = 0;
};

struct HintedRange {
  mem::Gpa start{};
  uint64_t length = 0;
};

struct BalloonOptions {
  WorkerOptions worker;
  bool deflate_on_oom = true;
  bool page_reporting = true;
  // Pages that the guest does not need as of command `command`; on the worker, in batches.
  std::function<void(uint32_t command, std::span<const HintedRange> pages)> on_hints{};
  // The guest has no more hints for `command`.
  std::function<void(uint32_t command)> on_hints_end{};
  std::optional<BalloonState> resume{};
};

class BalloonDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint32_t kMaxPagesPerChain = 4096;
  static constexpr uint64_t kHostCallsPerTurn = 1024;

  // INVALID_ARGUMENT: a state that is none of ours.
  static Result<std::unique_ptr<BalloonDevice>> Create(BalloonOptions options);
  ~BalloonDevice() override;
  BalloonDevice(const BalloonDevice&) = delete;
  BalloonDevice& operator=(const BalloonDevice&) = delete;

  // How much the guest shall give up, in bytes: a multiple of 4096, below 16 TiB, else
  // INVALID_ARGUMENT. The guest follows as well as it can.
  Result<> SetTarget(uint64_t bytes);
  // What the guest says it has given up, in bytes.
  uint64_t actual() const;

  // The guest is asked each `interval`; zero: no more.
  void SetStatsInterval(std::chrono::milliseconds interval);
  // Asks once. The answer is in stats() when its `updates` has grown; a guest may never answer.
  void RequestStats();
  BalloonStats stats() const;

  // Free page hinting (VIRTIO §5.5.6.5). Start asks for hints and returns the command id that they
  // come with; Stop: no more of them are wanted for now, but they are still of use; Finish: they are
  // no longer needed, the guest may use the pages. A hint says that the page's content was not needed
  // when Start was called: whoever leaves such pages out of a copy must take those that have been
  // written to since, as the dirty log tells.
  // FAILED_PRECONDITION: every id has been used and the driver has not ended its round.
  Result<uint32_t> StartHinting();
  void StopHinting();
  void FinishHinting();

  // Preconditions: the queues are stopped.
  BalloonState state() const;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) override;
  std::vector<virtio::CounterValue> counters() const override;

 private:
  enum Index : uint16_t { kInflate, kDeflate, kStats, kHints, kReports, kQueueCount };

  struct Queue {
    std::unique_ptr<ActiveQueue> active;
    std::shared_ptr<const mem::GuestMemory> memory;
  };

  BalloonDevice(BalloonOptions options, std::unique_ptr<LoopThread> worker);
  void OnKick(uint16_t index);
  template <typename F>
  void ServePages(Queue& queue, F handle);
  uint64_t Inflate(const mem::GuestMemory& memory, const virtio::Chain& chain);
  uint64_t Report(const mem::GuestMemory& memory, const virtio::Chain& chain);
  void TakeDeflated();
  void TakeStats();
  virtio::Chain TakeStatsChain();
  void AskForStats();
  void ArmStatsTimer();
  void TakeHints();
  void OnHintChain(const mem::GuestMemory& memory, const virtio::Chain& chain);
  void OnHintCommand(uint32_t command);
  void DeliverHints();
  void SetHintCommand(uint32_t command);
  void Account(const FreedPages& freed);

  bool Negotiated(uint64_t bit) const { return (features_ & bit) != 0; }

  static void Count(std::atomic<uint64_t>& counter, uint64_t add = 1) {
    counter.fetch_add(add, std::memory_order_relaxed);
  }

  BalloonOptions options_;
  virtio::DeviceTraits traits_;

  ConfigChange config_change_;
  // Under config_change_'s lock:
  BalloonConfig config_;
  uint32_t last_hint_command_ = kHintDone;
  bool hint_round_open_ = false;
  BalloonStats stats_;

  // All below: worker's thread, except the counters.
  uint64_t features_ = 0;
  std::array<Queue, kQueueCount> queues_;
  std::array<Le32, kMaxPagesPerChain> wire_pages_{};
  std::vector<uint32_t> pages_;
  std::optional<virtio::Chain> stats_chain_;  // the buffer by which the guest is asked
  bool stats_undone_ = false;                 // it went back at a pause, and has been read before
  std::chrono::milliseconds stats_interval_{0};
  EventLoop::Token stats_timer_ = EventLoop::Token::kNone;
  uint32_t driver_hint_command_ = kHintStop;  // what the driver's hints belong to
  std::vector<HintedRange> hints_;
  std::vector<HintedRange> reports_;

  struct Counters {
    std::atomic<uint64_t> inflated_pages{0};
    std::atomic<uint64_t> deflated_pages{0};
    std::atomic<uint64_t> reported_pages{0};
    std::atomic<uint64_t> reports_kept{0};
    std::atomic<uint64_t> hinted_pages{0};
    std::atomic<uint64_t> hints_ignored{0};
    std::atomic<uint64_t> freed_pages{0};
    std::atomic<uint64_t> refused_pages{0};
    std::atomic<uint64_t> pages_over_limit{0};
    std::atomic<uint64_t> host_calls{0};
    std::atomic<uint64_t> host_failures{0};
    std::atomic<uint64_t> stats_updates{0};
    std::atomic<uint64_t> stats_ignored{0};
    std::atomic<uint64_t> bad_requests{0};
    std::atomic<uint64_t> faults{0};
  };

  Counters counters_;
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
