#include "console/console_device.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/utf8.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr uint16_t kConsoleQueueSize = 128;

Result<> CheckPortName(const std::string& name) {
  if (name.size() > ConsoleMessage::kMaxPayload || name.find('\0') != std::string::npos) {
    return Fail(Code::kInvalidArgument, "console: a port's name has at most 128 bytes and no NUL");
  }
  for (std::string_view rest = name; !rest.empty();) {
    const size_t length = Utf8Length(rest);
    if (length == 0) {
      return Fail(Code::kInvalidArgument, "console: a port's name is not UTF-8");
    }
    rest.remove_prefix(length);
  }
  return {};
}

// A pipe whose reader is gone is an error of write(2), not the end of the process.
WorkerOptions WithoutSigpipe(WorkerOptions options) {
  options.on_thread_start = [hook = std::move(options.on_thread_start)](const char* kind) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &set, nullptr);
    if (hook) {
      hook(kind);
    }
  };
  return options;
}

}  // namespace

Result<std::unique_ptr<ConsoleDevice>> ConsoleDevice::Create(ConsoleOptions options) {
  if (options.max_ports == 0 || options.max_ports > kMaxPorts ||
      options.ports.size() > options.max_ports) {
    return Fail(Code::kInvalidArgument, "console: there can be 1 to 31 ports");
  }
  for (const ConsolePortOptions& port : options.ports) {
    WV_TRY_VOID(CheckPortName(port.name));
  }
  WV_TRY(auto worker, StartWorker(WithoutSigpipe(options.worker)));
  std::unique_ptr<ConsoleDevice> device(new ConsoleDevice(std::move(options), std::move(worker)));
  WV_TRY_VOID(device->Populate());
  return device;
}

ConsoleDevice::ConsoleDevice(ConsoleOptions options, std::unique_ptr<LoopThread> worker)
    : options_(std::move(options)), worker_(std::move(worker)) {
  const size_t queues = 2 * (size_t{options_.max_ports} + 1);
  traits_.device_id = virtio::kDeviceConsole;
  traits_.features = virtio::kRingFeatures | kConsoleFSize | kConsoleFMultiport |
                     (options_.on_emergency ? kConsoleFEmergWrite : 0);
  traits_.queue_sizes.assign(queues, kConsoleQueueSize);
  traits_.config_length = sizeof(ConsoleConfig);
  traits_.name = "console";
  config_.size.columns = options_.columns;
  config_.size.rows = options_.rows;
  config_.max_ports = options_.max_ports;
  queues_.resize(queues);
  slots_.reserve(options_.max_ports);
  for (uint32_t id = 0; id < options_.max_ports; ++id) {
    slots_.emplace_back(id);
  }
}

ConsoleDevice::~ConsoleDevice() {
  worker_->Call([this] {
    for (size_t i = 0; i < queues_.size(); ++i) {
      StopQueue(static_cast<uint16_t>(i));
    }
    slots_.clear();
  });
}

Result<> ConsoleDevice::Populate() {
  Result<> result;
  worker_->Call([&] {
    if (options_.resume) {
      result = Restore(*options_.resume);
      return;
    }
    for (uint32_t id = 0; id < options_.ports.size(); ++id) {
      const ConsolePortOptions& port = options_.ports[id];
      slots_[id].control.Create(port.name, port.console, false);
      MakePort(id, port.overflow);
    }
    if (slots_[0].control.exists()) {
      slots_[0].control.Resize(options_.columns, options_.rows);
    }
  });
  return result;
}

Result<> ConsoleDevice::Restore(const ConsoleState& state) {
  if (state.version != ConsoleState::kVersion || state.ports.size() != slots_.size()) {
    return Fail(Code::kInvalidArgument, "console: a state of another version or device");
  }
  for (const ConsolePortState& port : state.ports) {
    WV_TRY_VOID(CheckPortName(port.control.name));
  }
  for (uint32_t id = 0; id < slots_.size(); ++id) {
    const ConsolePortState& port = state.ports[id];
    slots_[id].control.Restore(port.control);
    if (port.control.exists) {
      MakePort(id, port.overflow);
      slots_[id].port->set_resume_at(port.resume_at);
      slots_[id].port->SetGuestOpen(port.control.guest_open);
    }
  }
  driver_ready_ = state.driver_ready;
  config_change_.Quietly([&] {
    config_.size.columns = state.columns;
    config_.size.rows = state.rows;
  });
  return {};
}

ConsoleState ConsoleDevice::state() const {
  ConsoleState state;
  worker_->Call([&] {
    state.driver_ready = driver_ready_;
    for (const Slot& slot : slots_) {
      state.ports.push_back({.control = slot.control.state(),
                             .overflow = slot.overflow,
                             .resume_at = slot.port == nullptr ? 0 : slot.port->resume_at()});
    }
  });
  config_change_.Read([&] {
    state.columns = config_.size.columns;
    state.rows = config_.size.rows;
    return 0;
  });
  return state;
}

// --- The owner's calls ---

Result<> ConsoleDevice::WithPort(uint32_t id, const std::function<Result<>(Slot&)>& act) {
  Result<> result;
  worker_->Call([&] {
    if (id >= slots_.size() || !slots_[id].control.exists()) {
      result = Fail(Code::kNotFound, "console: no such port");
      return;
    }
    result = act(slots_[id]);
    SendMessages();
  });
  return result;
}

Result<> ConsoleDevice::AddPort(uint32_t id, ConsolePortOptions options) {
  WV_TRY_VOID(CheckPortName(options.name));
  Result<> result;
  worker_->Call([&] {
    if (id >= slots_.size()) {
      result = Fail(Code::kInvalidArgument, "console: a port's id is less than max_ports");
      return;
    }
    if (slots_[id].control.exists()) {
      result = Fail(Code::kAlreadyExists, "console: the port exists");
      return;
    }
    slots_[id].control.Create(std::move(options.name), options.console, driver_ready_);
    MakePort(id, options.overflow);
    if (id == 0 && queues_[0] != nullptr && !multiport()) {
      slots_[0].port->SetGuestOpen(true);
    }
    for (const bool to_host : {false, true}) {
      const uint16_t index = QueueOf(id, to_host);
      ConnectQueue(index, queues_[index].get());
      OnKick(index);
    }
    SendMessages();
  });
  return result;
}

Result<> ConsoleDevice::RemovePort(uint32_t id) {
  return WithPort(id, [&](Slot& slot) -> Result<> {
    slot.port->Detach();
    slot.port->SetToGuest(nullptr);
    slot.port->SetToHost(nullptr);
    slot.port.reset();
    slot.control.Remove();
    OnKick(QueueOf(id, true));  // what the guest has written comes back
    return {};
  });
}

Result<> ConsoleDevice::Attach(uint32_t id, ConsoleEnds ends) {
  return WithPort(id, [&](Slot& slot) -> Result<> {
    WV_TRY_VOID(slot.port->Attach(std::move(ends)));
    slot.control.HostOpened();
    slot.port->SendToGuest();
    slot.port->SendToHost();
    return {};
  });
}

Result<> ConsoleDevice::Detach(uint32_t id) {
  return WithPort(id, [](Slot& slot) -> Result<> {
    if (slot.port->attached()) {
      slot.port->Detach();
      slot.control.HostClosed();
    }
    return {};
  });
}

Result<> ConsoleDevice::Resize(uint32_t id, uint16_t columns, uint16_t rows) {
  return WithPort(id, [&](Slot& slot) -> Result<> {
    slot.control.Resize(columns, rows);
    if (id != 0) {
      return {};
    }
    const auto change = [&] {
      config_.size.columns = columns;
      config_.size.rows = rows;
    };
    if (features_ == 0 || (features_ & kConsoleFSize) != 0) {
      config_change_.Change(change);
    } else {
      config_change_.Quietly(change);
    }
    return {};
  });
}

// --- Configuration ---

void ConsoleDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  const ConsoleConfig config = config_change_.Read([this] { return config_; });
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

// The lower byte of emerg_wr is a character, whatever the device's status is (VIRTIO §5.3.5.1).
void ConsoleDevice::WriteConfig(uint32_t offset, std::span<const std::byte> in) {
  constexpr uint32_t kAt = offsetof(ConsoleConfig, emergency);
  if (offset <= kAt && in.size() > kAt - offset && options_.on_emergency) {
    counters_.emergency_writes.fetch_add(1, std::memory_order_relaxed);
    options_.on_emergency(static_cast<char>(in[kAt - offset]));
  }
}

std::vector<virtio::CounterValue> ConsoleDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {{"ports_attached", get(counters_.ports_attached)},
          {"bytes_to_guest", get(counters_.bytes_to_guest)},
          {"bytes_from_guest", get(counters_.bytes_from_guest)},
          {"bytes_dropped", get(counters_.bytes_dropped)},
          {"reads", get(counters_.reads)},
          {"writes", get(counters_.writes)},
          {"messages_to_guest", get(counters_.messages_to_guest)},
          {"messages_from_guest", get(counters_.messages_from_guest)},
          {"bad_messages", get(counters_.bad_messages)},
          {"bad_chains", get(counters_.bad_chains)},
          {"emergency_writes", get(counters_.emergency_writes)},
          {"faults", get(counters_.faults)}};
}

}  // namespace wyvern::devices
