// vhost_user/frontend.h — a virtio device whose queues are served by another process over
// vhost-user.
// State:   Create negotiates; the first StartQueue sends features and the memory table. Queues go
//          to the back-end one by one; kicks and calls then pass between guest and back-end without
//          us. A back-end that is lost stays lost, or its successor takes over (Reconnect).
// Errors:  every call ends within the timeout for each message (the longer one, for what waits for the
//          guest's own requests); a back-end that hangs up, stalls or lies makes the call fail, closes
//          the connection, sets NEEDS_RESET (unless it may be replaced) and calls the lost callback,
//          once.
// Threads: VirtioDevice's rule for its methods; Reconnect, the log's and the state's from any
//          thread. One thread of its own watches for a hang-up, answers what the back-end asks, and
//          carries calls for interrupts without an eventfd. The callbacks come from that thread.
//          Locks: control_ before mu_; that thread takes only mu_.
// Trust:   replies are the back-end's, checked for size, id and range. What the guest has written
//          goes to the back-end unseen.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/worker_thread.h"
#include "mem/file_window.h"
#include "vhost_user/frontend_channel.h"
#include "vhost_user/shared_regions.h"
#include "vhost_user/shared_window.h"
#include "virtio/device.h"

namespace wyvern::vhost_user {

struct FrontendOptions {
  uint16_t device_id = 0;
  const char* name = "vhost-user";
  uint64_t features = 0;      // device features wanted, of those the back-end offers
  uint64_t own_features = 0;  // offered by us, whatever the back-end has (net: MAC)
  // The back-end does not hear that the driver took them, even if it has them (net: a control queue,
  // which we serve).
  uint64_t kept_features = 0;
  std::vector<uint16_t> queue_sizes;  // one per queue
  // Queues from this one on are not the back-end's: they start, stop and stay idle (events of
  // vsock). 0: all are.
  uint16_t backend_queues = 0;
  // Bytes of configuration space that the back-end answers for (PROTOCOL_F_CONFIG).
  uint32_t backend_config = 0;
  // What we answer for, over the back-end's from `config_offset` on.
  std::vector<std::byte> config;
  uint32_t config_offset = 0;
  std::chrono::milliseconds timeout{5000};
  // Instead, for what waits for the guest's requests that the back-end has in flight (a queue's stop, a
  // reset, a change under queues that run) or for its state: as long as the guest itself waits before
  // it complains.
  std::chrono::milliseconds drain_timeout{120000};
  // Regions that the guest may only read (pmem) have read-only descriptors, which only back-ends
  // like ours can map.
  bool share_read_only_memory = true;
  // A lost back-end will be replaced: queues wait for Reconnect instead of NEEDS_RESET. No packed rings
  // then.
  bool reconnects = false;
  // The back-end records what is in flight, if it can; a successor goes on with it.
  bool track_inflight = false;
  uint16_t mtu = 0;  // of a driver that takes VIRTIO_NET_F_MTU, by PROTOCOL_F_MTU; 0: not told
  // Where files of the back-end become visible to the guest (PROTOCOL_F_SHMEM).
  std::shared_ptr<SharedMemoryWindow> window{};
  std::function<void()> on_thread_start;  // first thing its thread does: confines it
};

class Frontend final : public virtio::VirtioDevice {
 public:
  // UNAVAILABLE: the back-end does not answer; FAILED_PRECONDITION: it lacks queues, VERSION_1 or a
  // configuration.
  static Result<std::unique_ptr<Frontend>> Create(UniqueFd socket, FrontendOptions options);
  // A virtio-fs device: queue 0 is hiprio. Where there is a `dax_window`, the back-end shows the
  // guest parts of files in it, and must have one of just that size (FAILED_PRECONDITION).
  static Result<std::unique_ptr<Frontend>> CreateFs(
      UniqueFd socket, const std::string& tag, uint16_t request_queues, uint16_t queue_size,
      std::function<void()> on_thread_start = {},
      const std::shared_ptr<mem::FileWindow>& dax_window = nullptr);
  // The rest fill in device_id, name, features, queues and configuration; what else `options` says
  // holds. Capacity, geometry and the like are the back-end's. (A network device: vhost_user_net.)
  static Result<std::unique_ptr<Frontend>> CreateBlk(UniqueFd socket, uint16_t queues,
                                                     uint16_t queue_size, FrontendOptions options);
  // The guest's CID is the back-end's.
  static Result<std::unique_ptr<Frontend>> CreateVsock(UniqueFd socket, uint16_t queue_size,
                                                       FrontendOptions options);
  ~Frontend() override;
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Set before the first StartQueue.
  void set_lost_callback(std::function<void(std::string text)> callback);

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  bool TakesMemory(const mem::GuestMemory& memory) override;
  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) override;
  std::vector<virtio::CounterValue> counters() const override;

  bool lost() const;

  // SET_VRING_ENABLE, at once for a queue that runs, and whenever it starts: every queue is enabled
  // until this says otherwise. An error leaves the queue as it was: the back-end's, FAILED_PRECONDITION
  // without PROTOCOL_FEATURES. Any thread.
  Result<> EnableQueue(uint16_t index, bool enabled);

  // A new back-end instead of the lost one: queues that run go on where the ring or the record of
  // what is in flight says. FAILED_PRECONDITION: none is lost, or this one offers less. Not from the
  // lost callback, which holds up what answers the back-end. After an error it may be tried again.
  Result<> Reconnect(UniqueFd socket);

  // Live migration: from now on the back-end marks in `log` (one bit per page of 4096 bytes, from
  // guest address 0) what it writes. FAILED_PRECONDITION: it cannot.
  Result<> StartLog(FdRef log, uint64_t size);
  Result<> StopLog();
  // The device's state beyond its rings; every queue is stopped. FAILED_PRECONDITION: the back-end
  // has no such thing, or gives and takes it by nothing but a channel of its own that we might wait for.
  Result<std::vector<std::byte>> SaveState();
  Result<> LoadState(std::span<const std::byte> state);
  // Announces the guest's address after a migration, for guests that do not.
  Result<> SendRarp(std::array<uint8_t, 6> mac);

 private:
  struct Queue {
    bool running = false;
    bool enabled = true;
    virtio::QueueResources resources;
    uint64_t features = 0;
    virtio::QueueState begun;  // where it was started
    // When the interrupt has no eventfd: ours, signalled by the back-end and carried on by the
    // watching thread. Never read, written or waited for but by epoll: its flags are the back-end's.
    std::optional<EventFd> relay;
    std::shared_ptr<virtio::Interrupt> interrupt;
  };

  // What we keep for the back-end, and its successors.
  struct Inflight {
    UniqueFd fd;
    InflightArea area;
  };

  struct Log {
    UniqueFd fd;
    uint64_t size = 0;
  };

  Frontend(UniqueFd socket, FrontendOptions options, UniqueFd epoll);

  // frontend.cc
  Result<> Negotiate();
  Result<> CheckQueues();
  Result<> FetchConfig();
  Result<> FetchSharedMemory();
  uint64_t WantedProtocol() const;
  uint64_t OfferedFeatures() const;
  void ForgetSession();
  Result<> RestartQueues();

  // frontend_queues.cc
  Result<> Configure(const std::shared_ptr<const mem::GuestMemory>& memory, uint64_t features);
  Result<> SendFeatures(uint64_t features);
  Result<> SendMtu(uint64_t features);
  Result<> SendInflight();
  Result<> StartOnBackend(uint16_t index);
  static Result<> RenewKick(Queue& queue);
  virtio::QueueState StopOnBackend(uint16_t index);
  Result<> SendQueue(uint16_t index, const virtio::QueueState& base);
  Result<> SendAddress(uint16_t index);
  Result<FdRef> CallFd(uint16_t index);
  bool served(uint16_t index) const;
  bool AnyRunning() const;

  // frontend_memory.cc
  Result<> SendMemory(const mem::GuestMemory& memory);
  // False: not without a stop of the rings.
  Result<bool> SendGrowth(const mem::GuestMemory& memory);
  Result<> SendTable(std::span<const SharedRegion> regions);
  Result<> AddSlots(std::span<const SharedRegion> regions);
  Result<> RemoveSlots(std::span<const SharedRegion> regions);
  Result<size_t> MaxSlots();

  // frontend_migration.cc
  Result<> SendLogBase();
  Result<> SetLogging(std::optional<Log> log);
  Result<Message> BeginTransfer(uint32_t direction, FdRef channel);
  Result<> CheckTransfer();

  // frontend_watch.cc
  Result<> Attach();
  void Detach();
  void Watch(const EventFd& stop);
  void Dispatch(uint64_t what);
  void Relay(uint16_t index);
  // From here on nobody hears what the rings' last life says.
  Result<> RenewErrors();
  void OnError(uint32_t number);
  void OnHangUp();
  void OnRequest();
  Wire<> Answer(Connection& connection, uint64_t protocol_features);
  Result<> Act(const Message& message, std::vector<UniqueFd>& fds);
  void OnConfigChange();

  const FrontendOptions options_;
  virtio::DeviceTraits traits_;
  UniqueFd epoll_;
  SharedMappings mappings_;

  mutable std::mutex control_;  // up to `log_sent_`
  std::unique_ptr<FrontendChannel> channel_;
  UniqueFd our_requests_;  // until Attach: our end of the back-end's channel
  uint64_t backend_features_ = 0;
  uint64_t protocol_features_ = 0;
  std::vector<virtio::SharedMemoryRegion> shared_memory_;
  std::vector<Queue> queues_;                       // `relay` and `interrupt` also by mu_
  std::shared_ptr<const mem::GuestMemory> memory_;  // what the back-end has
  std::vector<SharedRegion> slots_;                 // the same, one by one
  std::optional<size_t> max_slots_;                 // once it was asked
  std::optional<uint64_t> sent_features_;
  bool touched_ = false;  // the back-end has something to reset
  bool driver_ok_ = false;
  bool reconnecting_ = false;  // queues that are started were another back-end's
  bool mtu_sent_ = false;
  bool inflight_sent_ = false;
  std::optional<Inflight> inflight_;
  std::optional<Log> log_;
  bool log_sent_ = false;

  std::atomic<bool> config_stale_{false};
  std::atomic<uint64_t> losses_{0};
  std::atomic<uint64_t> reconnects_{0};
  std::atomic<uint64_t> backend_requests_{0};
  std::atomic<uint64_t> backend_requests_refused_{0};

  mutable std::mutex mu_;  // the rest
  std::vector<std::byte> config_;
  bool lost_ = false;
  // Of every queue: the driver broke one. Shared and watched as `relay`; set with control_ held, too.
  std::optional<EventFd> error_;
  uint32_t error_number_ = 0;
  std::function<void(std::string)> on_lost_;
  std::shared_ptr<virtio::Interrupt> interrupt_;  // for changes of the configuration
  std::shared_ptr<Connection> requests_;          // the back-end's
  uint64_t watched_features_ = 0;                 // protocol_features_, for the watching thread
  int watched_socket_ = -1;                       // the channel's, while it is watched
  std::unique_ptr<WorkerThread> watcher_;
};

}  // namespace wyvern::vhost_user
