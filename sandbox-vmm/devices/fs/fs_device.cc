#include "fs/fs_device.h"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "virtio/feature_bits.h"

namespace wyvern::fs {

namespace {

constexpr size_t kTagSize = 36;
constexpr uint16_t kMaxRequestQueues = 64;
constexpr unsigned kMaxThreads = 64;
// Requests of a queue that a thread serves before others have their turn: a guest that asks without
// end must not keep the hiprio queue waiting (VIRTIO §5.11.6.2.1).
constexpr int kTurn = 128;
// With the hiprio queue; what a ticket is divided by to tell its queue.
constexpr uint64_t kMaxQueues = kMaxRequestQueues + 1;

// Epoll tokens: two per queue, and one for the end.
constexpr uint64_t kStopToken = ~uint64_t{0};
constexpr uint64_t kRetryToken = ~uint64_t{1};

constexpr uint64_t KickToken(uint16_t index) {
  return uint64_t{index} * 2;
}

constexpr uint64_t MoreToken(uint16_t index) {
  return uint64_t{index} * 2 + 1;
}

}  // namespace

std::array<std::byte, 40> MakeFsConfig(std::string_view tag, uint32_t request_queues) {
  std::array<std::byte, 40> config{};
  std::memcpy(config.data(), tag.data(), std::min(tag.size(), kTagSize));
  const Le32 queues = request_queues;
  std::memcpy(config.data() + kTagSize, &queues, sizeof(queues));
  return config;
}

FsDevice::FsDevice(FileServer& server, FsDeviceOptions options, TimerFd retry)
    : server_(server),
      options_(std::move(options)),
      retry_(std::move(retry)),
      started_(static_cast<std::ptrdiff_t>(options_.threads)) {
  traits_.device_id = virtio::kDeviceFs;
  traits_.features = virtio::kRingFeatures;
  traits_.queue_sizes.assign(size_t{options_.request_queues} + 1, kQueueSize);
  traits_.config_length = 40;
  traits_.name = "fs";
  if (server_.dax_window_bytes() != 0) {
    // VIRTIO §5.11.6.4: VIRTIO_FS_SHMCAP_ID_CACHE.
    traits_.shared_memory.push_back({0, server_.dax_window_bytes()});
  }
}

Result<std::unique_ptr<FsDevice>> FsDevice::Create(FileServer& server, FsDeviceOptions options) {
  if (options.tag.size() > kTagSize || options.request_queues == 0 ||
      options.request_queues > kMaxRequestQueues || options.threads == 0 ||
      options.threads > kMaxThreads) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("a virtio-fs device has a tag of at most {} bytes, 1 to {} request queues "
                    "and 1 to {} threads",
                    kTagSize, kMaxRequestQueues, kMaxThreads));
  }
  WV_TRY(TimerFd retry, TimerFd::Create());
  std::unique_ptr<FsDevice> device(new FsDevice(server, std::move(options), std::move(retry)));
  device->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!device->epoll_.valid()) {
    return SysError("epoll_create1");
  }
  WV_TRY_VOID(device->Watch(device->retry_.fd(), kRetryToken));
  const auto queues = static_cast<uint16_t>(device->traits_.queue_sizes.size());
  for (uint16_t i = 0; i < queues; ++i) {
    WV_TRY(EventFd more, EventFd::Create());
    auto slot = std::make_unique<Slot>(std::move(more));
    WV_TRY_VOID(device->Watch(slot->more.fd(), MoreToken(i)));
    device->slots_.push_back(std::move(slot));
  }
  FsDevice* self = device.get();
  for (unsigned i = 0; i < device->options_.threads; ++i) {
    WV_TRY(auto thread, WorkerThread::Start(fmt::format("fs-{}", i),
                                            [self](const EventFd& stop) { self->Work(stop); }));
    device->threads_.push_back(std::move(thread));
  }
  // What a thread does to come up is no work of a file server: a system call filter may follow.
  device->started_.wait();
  return device;
}

FsDevice::~FsDevice() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    StopQueue(static_cast<uint16_t>(i));
  }
  for (const auto& thread : threads_) {
    thread->RequestStop();
  }
  for (const auto& thread : threads_) {
    thread->Join();
  }
  for (const auto& slot : slots_) {
    ForgetParkedLocked(*slot);  // the server lives on
  }
}

void FsDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const auto config = MakeFsConfig(options_.tag, options_.request_queues);
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset < config.size()) {
    const size_t bytes = std::min(out.size(), config.size() - offset);
    std::memcpy(out.data(), config.data() + offset, bytes);
  }
}

// Edge-triggered: one event wakes one thread, and an eventfd that is never read gives one for each
// signal.
Result<> FsDevice::Watch(FdRef fd, uint64_t token) const {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) {
    return SysError("epoll_ctl(ADD) of a queue's event");
  }
  return {};
}

Result<> FsDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                              std::optional<virtio::QueueState> resume) {
  if (index >= slots_.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("fs: no queue {}", index));
  }
  auto queue =
      virtio::Queue::Create(std::move(resources.memory), resources.config, features, resume);
  if (!queue) {
    return Fail(Code::kInvalidArgument,
                fmt::format("fs: queue {}: {}", index, virtio::ChainFaultName(queue.error())));
  }
  Slot& slot = *slots_[index];
  {
    const std::lock_guard lock(slot.mu);
    if (slot.queue != nullptr) {
      return Fail(Code::kFailedPrecondition, fmt::format("fs: queue {} is running", index));
    }
    WV_TRY_VOID(Watch(resources.kick, KickToken(index)));
    slot.queue = std::move(*queue);
    slot.features = features;
    slot.interrupt = std::move(resources.interrupt);
    slot.kick = resources.kick;
    slot.broken = false;
    ResumeParkedLocked(slot, resume);
  }
  // What became available before the queue ran.
  slot.more.Signal();
  return {};
}

std::optional<virtio::QueueState> FsDevice::StopQueue(uint16_t index) {
  if (index >= slots_.size()) {
    return std::nullopt;
  }
  Slot& slot = *slots_[index];
  std::unique_lock lock(slot.mu);
  if (slot.queue == nullptr) {
    return std::nullopt;
  }
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, slot.kick.get(), nullptr);
  slot.broken = true;  // nothing new is taken
  slot.idle.wait(lock, [&] { return slot.in_flight == 0 && HoldParkedLocked(slot); });
  const virtio::QueueState state = slot.queue->state();
  slot.left = Left{state, slot.features, slot.queue->size()};
  slot.queue.reset();
  slot.interrupt.reset();
  slot.kick = FdRef(-1);
  return state;
}

void FsDevice::Reset() {
  for (const auto& slot : slots_) {
    const std::lock_guard lock(slot->mu);
    ForgetParkedLocked(*slot);
  }
  server_.Clear();
}

void FsDevice::Work(const EventFd& stop) {
  // Each thread has its own stop event: level-triggered in a set of its own would cost a call per
  // wait, so it joins the common one.
  Buffers buffers;
  epoll_event end{};
  end.events = EPOLLIN;
  end.data.u64 = kStopToken;
  const int added = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop.fd().get(), &end);
  started_.count_down();
  if (added != 0) {
    WV_ERROR("fs: a thread of the pool cannot wait: {}", strerrordesc_np(errno));
    return;
  }
  for (;;) {
    epoll_event event{};
    const int ready = ::epoll_wait(epoll_.get(), &event, 1, -1);
    if (ready < 0 && errno != EINTR) {
      WV_ERROR("fs: {}", strerrordesc_np(errno));
      return;
    }
    if (ready <= 0) {
      continue;
    }
    if (event.data.u64 == kStopToken) {
      return;  // any thread's stop is everyone's: they end together
    }
    if (event.data.u64 == kRetryToken) {
      EndWaits();
      continue;
    }
    const auto index = static_cast<uint16_t>(event.data.u64 / 2);
    if (event.data.u64 == MoreToken(index)) {
      slots_[index]->more_pending.store(false);
    }
    Serve(index, &buffers);
  }
}

// The next chain, counted as in flight. Called with the slot's lock.
std::optional<virtio::Chain> FsDevice::Take(Slot& slot, uint16_t index) {
  for (;;) {
    if (slot.queue == nullptr || slot.broken) {
      return std::nullopt;
    }
    auto chain = slot.queue->Pop();
    if (!chain) {
      slot.broken = true;
      slot.report = true;
      WV_WARN_LIMITED("fs: queue {} is broken: {}", index, virtio::ChainFaultName(chain.error()));
      return std::nullopt;
    }
    // The driver may notify at any time: while this thread is busy, another one takes the next
    // request.
    const bool more = slot.queue->EnableNotification();
    if (std::optional<virtio::Chain>& next = *chain; next.has_value()) {
      ++slot.in_flight;
      if (more && options_.threads > 1 && !slot.more_pending.exchange(true)) {
        slot.more.Signal();
      }
      return std::move(next);
    }
    if (!more) {
      return std::nullopt;
    }
  }
}

void FsDevice::Serve(uint16_t index, Buffers* buffers) {
  Slot& slot = *slots_[index];
  std::unique_lock lock(slot.mu);
  for (int turn = 0;; ++turn) {
    if (turn == kTurn) {
      if (!slot.more_pending.exchange(true)) {
        slot.more.Signal();
      }
      break;
    }
    std::optional<virtio::Chain> chain = Take(slot, index);
    if (!chain.has_value()) {
      break;
    }
    lock.unlock();
    LockWaits::Request wait;
    std::optional<uint32_t> written = Answer(*chain, buffers, &wait);
    lock.lock();
    if (!written.has_value()) {
      written = ParkLocked(slot, index, &*chain, buffers, wait);
    }
    if (written.has_value()) {
      PushLocked(slot, index, std::move(*chain), *written, Next::kTake, &lock);
    }
    if (--slot.in_flight == 0) {
      slot.idle.notify_all();
    }
    if (server_.waits_changed()) {
      lock.unlock();
      EndWaits();
      lock.lock();
    }
  }
  if (std::exchange(slot.report, false)) {
    // As in flight: a report that came after the queue's stop would break the device that the driver has just reset. Without
    // the lock: who hears it may ask for the device's counters.
    ++slot.in_flight;
    lock.unlock();
    NeedsReset();
    lock.lock();
    if (--slot.in_flight == 0) {
      slot.idle.notify_all();
    }
  }
}

// The caller's chain counts as in flight, so the queue stays while the lock is let go.
void FsDevice::PushLocked(Slot& slot, uint16_t index, virtio::Chain chain, uint32_t written,
                          Next next, std::unique_lock<std::mutex>* lock) {
  slot.queue->Push(std::move(chain), written);
  const std::shared_ptr<virtio::Interrupt> interrupt =
      slot.queue->NeedsInterrupt() ? slot.interrupt : nullptr;
  if (interrupt != nullptr) {
    if (next == Next::kTake) {
      // The answer may bring the next request before we have looked: no kick for it, no other
      // thread. Only from who does look, since Take is what asks for kicks again.
      slot.queue->DisableNotification();
    }
    // Nobody waits for the lock meanwhile. StopQueue waits for what is in flight.
    lock->unlock();
    interrupt->SignalQueue(index);
    lock->lock();
  }
}

void FsDevice::ArmRetry() {
  server_.ArmNextWait([this](std::chrono::milliseconds next) { (void)retry_.Arm(next); });
}

// Nothing: the chain is parked. Else what was written into it, as it cannot wait.
std::optional<uint32_t> FsDevice::ParkLocked(Slot& slot, uint16_t index, virtio::Chain* chain,
                                             Buffers* buffers, const LockWaits::Request& wait) {
  const uint64_t ticket = tickets_.fetch_add(1) * kMaxQueues + index;
  // Who ends the wait looks for it with the slot's lock, so it finds it parked; so does who stops the
  // queue, which waits for us.
  if (!server_.AddWait(ticket, wait)) {
    return WriteAnswer(buffers->out, wait.unique, ENOLCK);
  }
  slot.parked.emplace(ticket, Parked{std::move(*chain), buffers->out, wait.unique});
  ArmRetry();
  return std::nullopt;
}

// Answers the requests that wait no longer, of all queues. Without any lock.
void FsDevice::EndWaits() {
  for (const LockWaits::Ended& ended : server_.RetryWaits()) {
    const auto index = static_cast<uint16_t>(ended.ticket % kMaxQueues);
    Slot& slot = *slots_[index];
    std::unique_lock lock(slot.mu);
    auto node = slot.parked.extract(ended.ticket);
    WV_CHECK(!node.empty());
    ++slot.in_flight;
    Parked& parked = node.mapped();
    const uint32_t written = WriteAnswer(parked.out, parked.unique, ended.error);
    PushLocked(slot, index, std::move(parked.chain), written, Next::kNothing, &lock);
    if (--slot.in_flight == 0) {
      slot.idle.notify_all();
    }
  }
  ArmRetry();
}

// The queue stops. False: some have ended, and are with the thread that will answer them.
bool FsDevice::HoldParkedLocked(Slot& slot) {
  return std::ranges::all_of(slot.parked,
                             [&](const auto& entry) { return server_.HoldWait(entry.first); });
}

// What was left waiting goes on where the queue does. It has no answer that would let the guest wait
// again: EINTR has its kernel restart the system call without a signal, and ends in the program as an
// error that does not exist; ENOLCK is a lock that is not to be had.
void FsDevice::ResumeParkedLocked(Slot& slot, const std::optional<virtio::QueueState>& resume) {
  const std::optional<Left> left = std::exchange(slot.left, std::nullopt);
  if (slot.parked.empty()) {
    return;
  }
  if (!left || !resume || resume->next_available != left->state.next_available ||
      resume->next_used != left->state.next_used || slot.features != left->features ||
      slot.queue->size() != left->size) {
    ForgetParkedLocked(slot);  // of a ring that is no longer
    return;
  }
  for (auto it = slot.parked.begin(); it != slot.parked.end();) {
    auto& [ticket, parked] = *it;
    std::optional<virtio::Chain> chain = slot.queue->Adopt(std::move(parked.chain));
    if (!chain) {
      (void)server_.DropWait(ticket);
      it = slot.parked.erase(it);
      continue;
    }
    parked.chain = *std::move(chain);
    parked.out.clear();
    // The memory may be another one. Without this buffer there is no room for an answer.
    (void)parked.chain.WritableIovecs(0, parked.chain.writable_length(), &parked.out);
    server_.ResumeWait(ticket);
    ++it;
  }
  ArmRetry();
}

// Of a ring that does not run. Nobody waits for them any more.
void FsDevice::ForgetParkedLocked(Slot& slot) {
  for (const auto& [ticket, parked] : slot.parked) {
    (void)server_.DropWait(ticket);
  }
  slot.parked.clear();
}

// What was written into the chain; nothing: it waits for a lock.
std::optional<uint32_t> FsDevice::Answer(virtio::Chain& chain, Buffers* buffers,
                                         LockWaits::Request* wait) {
  buffers->in.clear();
  buffers->out.clear();
  if (!chain.ReadableIovecs(0, chain.readable_length(), &buffers->in) ||
      !chain.WritableIovecs(0, chain.writable_length(), &buffers->out)) {
    WV_WARN_LIMITED("fs: a buffer outside the guest's memory");
    return 0;
  }
  return server_.HandleOrWait(buffers->in, buffers->out, &buffers->scratch, wait);
}

std::vector<virtio::CounterValue> FsDevice::counters() const {
  const ServerStats stats = server_.stats();
  return {{"fs_requests", stats.requests},     {"fs_faults", stats.faults},
          {"fs_inodes", stats.inodes},         {"fs_inode_descriptors", stats.resident},
          {"fs_open_files", stats.handles},    {"fs_lock_owners", stats.lock_owners},
          {"fs_lock_waits", stats.lock_waits}, {"fs_dax_ranges", stats.dax_ranges}};
}

}  // namespace wyvern::fs
