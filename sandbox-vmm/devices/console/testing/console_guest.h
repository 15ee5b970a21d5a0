// console/testing/console_guest.h — a console device and a driver that answers its messages.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/unix_socket.h"
#include "console/console_device.h"
#include "testing/device_rig.h"
#include "testing/wait.h"

namespace wyvern::devices::testing {

// A message as the driver got it.
struct GuestMessage {
  uint32_t id = 0;
  ConsoleEvent event{};
  uint16_t value = 0;
  std::string payload;
};

class ConsoleGuest {
 public:
  static constexpr uint32_t kBadId = 0xffffffff;

  // Three ports: a console, and two for programs, the second one without a name.
  static ConsoleOptions Options() {
    ConsoleOptions options;
    options.max_ports = 4;
    options.ports = {{.name = "", .console = true}, {.name = "org.wyvern.agent"}, {.name = ""}};
    return options;
  }

  explicit ConsoleGuest(ConsoleOptions options = Options()) {
    options.worker = {.name = "console", .on_thread_start = nullptr};
    options.on_event = [this](uint32_t id, ConsolePortEvent event) {
      const std::lock_guard lock(mu_);
      events_.emplace_back(id, event);
    };
    options.on_emergency = [this](char byte) { emergency_ += byte; };
    auto device = ConsoleDevice::Create(std::move(options));
    WV_CHECK(device.has_value());
    device_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  DeviceRig& rig() { return *rig_; }

  ConsoleDevice& device() { return *device_; }

  const std::string& emergency() const { return emergency_; }

  static uint16_t ToGuest(uint32_t id) { return static_cast<uint16_t>(id == 0 ? 0 : 2 * id + 2); }

  static uint16_t ToHost(uint32_t id) { return static_cast<uint16_t>(ToGuest(id) + 1); }

  // Without MULTIPORT or with; with `buffers` buffers for messages.
  void Start(uint64_t refused = 0, int buffers = 32) {
    rig_->Start(refused);
    if ((refused & kConsoleFMultiport) == 0) {
      OfferMessageBuffers(buffers);
    }
  }

  void OfferMessageBuffers(int count, uint32_t length = 256) {
    for (int i = 0; i < count; ++i) {
      rig_->queue(2).Build().Writable(length).Submit();
    }
    rig_->KickAlways(2);
  }

  void SendRaw(std::string_view bytes) {
    rig_->queue(3).Build().Readable(bytes).Submit();
    rig_->KickAlways(3);
    rig_->WaitUsed(3);
  }

  void Send(uint32_t id, ConsoleEvent event, uint16_t value) {
    ConsoleControl control;
    control.id = id;
    control.event = static_cast<uint16_t>(event);
    control.value = value;
    SendRaw({reinterpret_cast<const char*>(&control), sizeof(control)});
  }

  std::optional<GuestMessage> NextMessage(
      std::chrono::milliseconds timeout = std::chrono::milliseconds(20)) {
    const auto used = rig_->WaitMaybe(2, timeout);
    if (!used) {
      return std::nullopt;
    }
    const std::string bytes = rig_->queue(2).Written(used->head, used->written);
    WV_CHECK(bytes.size() >= sizeof(ConsoleControl));
    ConsoleControl control;
    std::memcpy(static_cast<void*>(&control), bytes.data(), sizeof(control));
    return GuestMessage{.id = control.id,
                        .event = static_cast<ConsoleEvent>(control.event.value()),
                        .value = control.value,
                        .payload = bytes.substr(sizeof(control))};
  }

  GuestMessage MustGet(ConsoleEvent event) {
    auto message = NextMessage(std::chrono::seconds(10));
    WV_CHECK(message.has_value());
    WV_CHECK(message->event == event);
    return *message;
  }

  // Everything there is, as "add 0", "name 1 org.wyvern.agent", "open 1 1", "size 0 80x25".
  std::vector<std::string> Messages() {
    static constexpr std::array kNames = {"ready",   "add",  "remove", "port-ready",
                                          "console", "size", "open",   "name"};
    std::vector<std::string> names;
    while (auto message = NextMessage()) {
      std::string line = kNames.at(static_cast<size_t>(message->event));
      line += " " + std::to_string(message->id);
      if (message->event == ConsoleEvent::kPortOpen) {
        line += " " + std::to_string(message->value);
      } else if (message->event == ConsoleEvent::kPortName) {
        line += " " + message->payload;
      } else if (message->event == ConsoleEvent::kResize) {
        ConsoleSize size;
        WV_CHECK(message->payload.size() == sizeof(size));
        std::memcpy(static_cast<void*>(&size), message->payload.data(), sizeof(size));
        line +=
            " " + std::to_string(size.columns.value()) + "x" + std::to_string(size.rows.value());
      }
      names.push_back(std::move(line));
    }
    return names;
  }

  // What Linux does: ready, then ready for each port, then the consoles are opened.
  void Up() {
    Start();
    Send(kBadId, ConsoleEvent::kDeviceReady, 1);
    (void)Messages();
    for (uint32_t id = 0; id < 3; ++id) {
      Send(id, ConsoleEvent::kPortReady, 1);
    }
    Send(0, ConsoleEvent::kPortOpen, 1);
    (void)Messages();
  }

  // A stream socket joined with the port; the test's end.
  UniqueFd Attach(uint32_t id) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(pair.has_value());
    WV_CHECK(device_->Attach(id, {.in = std::move(pair->second), .out = {}, .in_is_out = true})
                 .has_value());
    return std::move(pair->first);
  }

  void OfferInput(uint32_t id, uint32_t length) {
    rig_->queue(ToGuest(id)).Build().Writable(length).Submit();
    rig_->KickAlways(ToGuest(id));
  }

  // The next input of the port.
  std::string Input(uint32_t id) {
    const auto used = rig_->WaitUsed(ToGuest(id));
    return rig_->queue(ToGuest(id)).Written(used.head, used.written);
  }

  uint16_t Output(uint32_t id, std::string_view bytes) {
    const uint16_t head = rig_->queue(ToHost(id)).Build().Readable(bytes).Submit();
    rig_->KickAlways(ToHost(id));
    return head;
  }

  // The events so far; they are posted, so the wait is for as many.
  std::vector<std::pair<uint32_t, ConsolePortEvent>> Events(size_t count) {
    WaitUntil([&] {
      const std::lock_guard lock(mu_);
      return events_.size() >= count;
    });
    const std::lock_guard lock(mu_);
    return events_;
  }

 private:
  std::mutex mu_;
  std::vector<std::pair<uint32_t, ConsolePortEvent>> events_;  // guarded by mu_
  std::string emergency_;
  ConsoleDevice* device_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
