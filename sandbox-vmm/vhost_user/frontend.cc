#include "vhost_user/frontend.h"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/endian.h"
#include "base/log.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kWantedProtocol = kProtocolMq | kProtocolReplyAck | kProtocolConfigureMemSlots;
constexpr uint64_t kWatchHangUp = ~uint64_t{0};
constexpr uint64_t kWatchStop = ~uint64_t{1};

}  // namespace

Frontend::Frontend(UniqueFd socket, FrontendOptions options)
    : options_(std::move(options)), channel_(std::move(socket), options_.timeout) {
  traits_.device_id = options_.device_id;
  traits_.queue_sizes = options_.queue_sizes;
  traits_.config_length = static_cast<uint32_t>(options_.config.size());
  traits_.name = options_.name;
  queues_ = std::vector<Queue>(options_.queue_sizes.size());
}

Result<std::unique_ptr<Frontend>> Frontend::Create(UniqueFd socket, FrontendOptions options) {
  std::unique_ptr<Frontend> device(new Frontend(std::move(socket), std::move(options)));
  WV_TRY_VOID_CONTEXT(device->Negotiate(), "vhost-user back-end");
  device->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!device->epoll_.valid()) {
    return SysError("epoll_create1");
  }
  // Only the end of the connection: replies are read by who waits for them.
  epoll_event event{};
  event.events = EPOLLRDHUP;
  event.data.u64 = kWatchHangUp;
  if (::epoll_ctl(device->epoll_.get(), EPOLL_CTL_ADD, device->channel_.fd().get(), &event) != 0) {
    return SysError("epoll_ctl(ADD) of the vhost-user socket");
  }
  Frontend* self = device.get();
  WV_TRY(device->watcher_,
         WorkerThread::Start("vhost-user", [self](const EventFd& stop) { self->Watch(stop); }));
  return device;
}

Result<std::unique_ptr<Frontend>> Frontend::CreateFs(UniqueFd socket, const std::string& tag,
                                                     uint16_t request_queues, uint16_t queue_size,
                                                     std::function<void()> on_thread_start) {
  constexpr size_t kTagSize = 36;  // VIRTIO §5.11.4
  if (tag.empty() || tag.size() > kTagSize || request_queues == 0) {
    return Fail(Code::kInvalidArgument,
                "a virtio-fs device has a tag of 1 to 36 bytes and a queue");
  }
  FrontendOptions options;
  options.device_id = virtio::kDeviceFs;
  options.name = "fs";
  options.on_thread_start = std::move(on_thread_start);
  // Packed rings have a base of 32 bits, of which this side knows 16 (QueueState).
  options.features = virtio::kRingFeatures & ~virtio::kRingPacked;
  options.queue_sizes.assign(size_t{request_queues} + 1, queue_size);
  options.config.resize(kTagSize + sizeof(Le32));
  std::memcpy(options.config.data(), tag.data(), tag.size());
  const Le32 queues = uint32_t{request_queues};
  std::memcpy(options.config.data() + kTagSize, &queues, sizeof(queues));
  return Create(std::move(socket), std::move(options));
}

Frontend::~Frontend() {
  if (watcher_ != nullptr) {
    watcher_->Join();
  }
}

void Frontend::set_lost_callback(std::function<void(std::string)> callback) {
  const std::lock_guard lock(mu_);
  on_lost_ = std::move(callback);
}

bool Frontend::lost() const {
  const std::lock_guard lock(mu_);
  return lost_;
}

Result<> Frontend::Negotiate() {
  WV_TRY(backend_features_, channel_.Get<uint64_t>(Request::kGetFeatures));
  if ((backend_features_ & virtio::kVersion1) == 0) {
    return Fail(Code::kFailedPrecondition, "offers no VIRTIO 1 device");
  }
  if ((backend_features_ & kFeatureProtocol) != 0) {
    WV_TRY(const uint64_t offered, channel_.Get<uint64_t>(Request::kGetProtocolFeatures));
    const uint64_t wanted = offered & kWantedProtocol;
    WV_TRY_VOID(channel_.SetValue(Request::kSetProtocolFeatures, wanted));
    protocol_features_ = wanted;
    channel_.set_protocol_features(wanted);
  }
  uint64_t queues = 1;
  if ((protocol_features_ & kProtocolMq) != 0) {
    WV_TRY(queues, channel_.Get<uint64_t>(Request::kGetQueueNum));
  }
  // Without MQ a device has as many queues as it needs, which a back-end cannot tell.
  if ((protocol_features_ & kProtocolMq) != 0 && queues < queues_.size()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("serves {} queues where {} are needed", queues, queues_.size()));
  }
  traits_.features = backend_features_ & options_.features & ~kFeatureProtocol;
  return channel_.Set(Request::kSetOwner, {});
}

void Frontend::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset < options_.config.size()) {
    const size_t bytes = std::min(out.size(), options_.config.size() - offset);
    std::memcpy(out.data(), options_.config.data() + offset, bytes);
  }
}

Result<> Frontend::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                              std::optional<virtio::QueueState> resume) {
  if (index >= queues_.size() || queues_[index].running) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: queue {}", options_.name, index));
  }
  WV_TRY_VOID(Configure(resources.memory, features));
  WV_TRY_VOID_CONTEXT(SendQueue(index, resources, resume ? resume->next_available : uint16_t{0}),
                      fmt::format("{}: queue {}", options_.name, index));
  queues_[index].memory = resources.memory;
  queues_[index].config = resources.config;
  queues_[index].running = true;
  return {};
}

Result<> Frontend::Configure(const std::shared_ptr<const mem::GuestMemory>& memory,
                             uint64_t features) {
  const uint64_t protocol = backend_features_ & kFeatureProtocol;
  const uint64_t wanted = features | virtio::kVersion1 | protocol;
  if (sent_features_ != wanted) {
    WV_TRY_VOID(channel_.SetValue(Request::kSetFeatures, wanted));
    sent_features_ = wanted;
  }
  if (memory_ != memory) {
    WV_TRY_VOID(SendMemory(*memory));
    memory_ = memory;
  }
  return {};
}

namespace {

MemoryRegion ToRegion(const mem::RegionInfo& info) {
  return {mem::Raw(info.start), info.size, info.host_address, info.fd_offset};
}

}  // namespace

Result<> Frontend::SendMemory(const mem::GuestMemory& memory) {
  std::vector<mem::RegionInfo> shared;
  for (const mem::RegionInfo& info : memory.regions()) {
    if (info.fd.valid() && (!info.read_only || options_.share_read_only_memory)) {
      shared.push_back(info);
    }
  }
  if (shared.empty()) {
    return Fail(Code::kFailedPrecondition,
                "guest memory is private: a vhost-user device needs it shared (memfd)");
  }
  if (shared.size() > kMaxTableRegions) {
    return SendSlots(shared);
  }
  MemoryTable table;
  std::vector<FdRef> fds;
  for (const mem::RegionInfo& info : shared) {
    table.regions[table.count++] = ToRegion(info);
    fds.push_back(info.fd);
  }
  const size_t size = 8 + table.count * sizeof(MemoryRegion);
  return channel_.Set(Request::kSetMemTable, std::as_bytes(std::span(&table, 1)).first(size), fds);
}

Result<> Frontend::SendSlots(const std::vector<mem::RegionInfo>& regions) {
  if ((protocol_features_ & kProtocolConfigureMemSlots) == 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the back-end takes {} memory regions, not {}", kMaxTableRegions,
                            regions.size()));
  }
  WV_TRY(const uint64_t slots, channel_.Get<uint64_t>(Request::kGetMaxMemSlots));
  if (slots < regions.size()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the back-end takes {} memory regions, not {}", slots, regions.size()));
  }
  for (const mem::RegionInfo& info : slots_) {
    WV_TRY_VOID(channel_.SetValue(Request::kRemMemReg, SingleRegion{0, ToRegion(info)}));
  }
  slots_.clear();
  for (const mem::RegionInfo& info : regions) {
    const FdRef fd[] = {info.fd};
    WV_TRY_VOID(channel_.SetValue(Request::kAddMemReg, SingleRegion{0, ToRegion(info)}, fd));
    slots_.push_back(info);
  }
  return {};
}

namespace {

// Our own address of a guest address: what the protocol calls a user address.
std::optional<uint64_t> UserAddress(const mem::GuestMemory& memory, mem::Gpa gpa) {
  for (const mem::RegionInfo& info : memory.regions()) {
    const uint64_t start = mem::Raw(info.start);
    if (mem::Raw(gpa) >= start && mem::Raw(gpa) - start < info.size) {
      return info.host_address + (mem::Raw(gpa) - start);
    }
  }
  return std::nullopt;
}

}  // namespace

Result<> Frontend::SendQueue(uint16_t index, const virtio::QueueResources& resources,
                             uint16_t base) {
  const auto descriptor = UserAddress(*resources.memory, resources.config.descriptor_area);
  const auto available = UserAddress(*resources.memory, resources.config.driver_area);
  const auto used = UserAddress(*resources.memory, resources.config.device_area);
  if (!descriptor || !available || !used) {
    return Fail(Code::kInvalidArgument, "the ring lies outside the guest's memory");
  }
  WV_TRY_VOID(channel_.SetValue(Request::kSetVringNum, VringState{index, resources.config.size}));
  WV_TRY_VOID(channel_.SetValue(Request::kSetVringBase, VringState{index, base}));
  WV_TRY_VOID(channel_.SetValue(Request::kSetVringAddr,
                                VringAddress{index, 0, *descriptor, *used, *available, 0}));
  WV_TRY(const FdRef call, CallFd(index, resources));
  const FdRef call_fd[] = {call};
  const FdRef kick_fd[] = {resources.kick};
  WV_TRY_VOID(channel_.SetValue(Request::kSetVringCall, uint64_t{index}, call_fd));
  WV_TRY_VOID(channel_.SetValue(Request::kSetVringKick, uint64_t{index}, kick_fd));
  if ((backend_features_ & kFeatureProtocol) != 0) {
    WV_TRY_VOID(channel_.SetValue(Request::kSetVringEnable, VringState{index, 1}));
  }
  return {};
}

Result<FdRef> Frontend::CallFd(uint16_t index, const virtio::QueueResources& resources) {
  if (const FdRef direct = resources.interrupt->QueueCallFd(index); direct.valid()) {
    return direct;
  }
  WV_TRY(EventFd relay, EventFd::Create());
  const std::lock_guard lock(mu_);
  epoll_event event{};
  // One event for each signal, so that it is never read: the back-end shares its file description,
  // and could make a read wait for ever (by clearing O_NONBLOCK) that we do with the lock held.
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = index;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, relay.fd().get(), &event) != 0) {
    return SysError("epoll_ctl(ADD) of a call");
  }
  queues_[index].interrupt = resources.interrupt;
  const FdRef call = relay.fd();
  queues_[index].relay.emplace(std::move(relay));
  return call;
}

std::optional<virtio::QueueState> Frontend::StopQueue(uint16_t index) {
  if (index >= queues_.size() || !queues_[index].running) {
    return std::nullopt;
  }
  Queue& queue = queues_[index];
  queue.running = false;
  const VringState request{index, 0};
  auto base =
      channel_.Get<VringState>(Request::kGetVringBase, std::as_bytes(std::span(&request, 1)));
  if (base && (base->index != index || base->num > UINT16_MAX)) {
    base = channel_.Lose(Request::kGetVringBase, Fault::kUnexpected);
  }
  if (base && (backend_features_ & kFeatureProtocol) != 0) {
    static_cast<void>(channel_.SetValue(Request::kSetVringEnable, request));
  }
  // What the back-end has given back is in the ring. A lost one has no more to say than that.
  const auto used = virtio::Queue::UsedIndexInRing(*queue.memory, queue.config);
  const uint16_t next_used = used ? *used : uint16_t{0};
  const uint16_t next_available = base ? static_cast<uint16_t>(base->num) : next_used;
  queue.memory.reset();
  const std::lock_guard lock(mu_);
  if (queue.relay) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, queue.relay->fd().get(), nullptr);
    queue.interrupt->SignalQueue(index);  // maybe of the last buffers
    queue.relay.reset();
  }
  queue.interrupt.reset();
  return virtio::QueueState{next_available, next_used};
}

// The back-end keeps its session: the file system's client starts a new one with INIT.
void Frontend::Reset() {
  sent_features_ = 0;
}

void Frontend::Watch(const EventFd& stop) {
  if (options_.on_thread_start) {
    options_.on_thread_start();
  }
  epoll_event end{};
  end.events = EPOLLIN;
  end.data.u64 = kWatchStop;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop.fd().get(), &end) != 0) {
    WV_ERROR("{}: epoll_ctl: {}", options_.name, strerrordesc_np(errno));
    return;
  }
  for (;;) {
    epoll_event event{};
    const int ready = ::epoll_wait(epoll_.get(), &event, 1, -1);
    if (ready < 0 && errno != EINTR) {
      WV_ERROR("{}: epoll_wait: {}", options_.name, strerrordesc_np(errno));
      return;
    }
    if (ready <= 0) {
      continue;
    }
    if (event.data.u64 == kWatchStop) {
      return;
    }
    if (event.data.u64 == kWatchHangUp) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, channel_.fd().get(), nullptr);
      OnHangUp();
      continue;
    }
    Relay(static_cast<uint16_t>(event.data.u64));
  }
}

void Frontend::Relay(uint16_t index) {
  const std::lock_guard lock(mu_);
  Queue& queue = queues_[index];
  if (queue.relay) {
    queue.interrupt->SignalQueue(index);
  }
}

void Frontend::OnHangUp() {
  std::function<void(std::string)> callback;
  {
    const std::lock_guard lock(mu_);
    lost_ = true;
    callback = on_lost_;
  }
  WV_ERROR("{}: the vhost-user back-end is lost", options_.name);
  NeedsReset();
  if (callback) {
    callback(fmt::format("the back-end of {} is lost", options_.name));
  }
}

}  // namespace wyvern::vhost_user
