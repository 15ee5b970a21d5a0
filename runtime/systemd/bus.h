// systemd/bus.h — a connection to systemd over D-Bus: calls with deadlines, and signals. Internal to systemd/.
// Spec:    D-Bus specification 0.43; org.freedesktop.systemd1(5).
// Why:     libdbus-1 of the distribution, and not a library on top of it: four calls with fixed signatures need no more. Its types stay in here.
// Trust:   who answers is checked by the bus (only root may own systemd's name) or is root's own socket. What comes is still checked: libdbus checks
//          the wire format, we the types; messages are at most kMaxMessage long; texts of errors are made plain and cut.
// Errors:  UNAVAILABLE: nobody answers there; DEADLINE_EXCEEDED; else by the name of the D-Bus error, whose text is in the message.
// Threads: one at a time for one Bus.
#pragma once

#include <dbus/dbus.h>

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "systemd/unit.h"

namespace wyvern::runtime {

using BusDeadline = std::chrono::steady_clock::time_point;

inline constexpr const char* kSystemdManager = "org.freedesktop.systemd1.Manager";
inline constexpr long kMaxBusMessage = 1L << 20;  // bytes

struct BusMessageEnd {
  void operator()(DBusMessage* message) const { dbus_message_unref(message); }
};

using BusMessage = std::unique_ptr<DBusMessage, BusMessageEnd>;

class Bus {
 public:
  // `direct`: systemd itself listens at `address`; else a bus does, on which systemd has its name. Does not wait for a listener whose queue is full
  // longer than the kernel does for a blocking connect(2).
  static Result<Bus> Open(const std::string& address, bool direct, BusDeadline deadline);

  bool direct() const { return direct_; }

  // A call of systemd's object at `path`.
  BusMessage NewCall(const char* path, const char* interface, const char* method) const;
  // The answer to `request`, never null.
  Result<BusMessage> Call(const BusMessage& request, BusDeadline deadline);
  // The next message that is no answer, never null.
  Result<BusMessage> Next(BusDeadline deadline);

 private:
  struct Close {
    void operator()(DBusConnection* connection) const {
      dbus_connection_close(connection);
      dbus_connection_unref(connection);
    }
  };

  using Connection = std::unique_ptr<DBusConnection, Close>;

  Bus(Connection connection, bool direct) : connection_(std::move(connection)), direct_(direct) {}

  Connection connection_;
  bool direct_;
};

// Appends "a(sv)", with "PIDs" (au) in front if there are any.
void AppendProperties(DBusMessageIter* to, std::span<const UnitProperty> properties,
                      std::span<const uint32_t> pids);

// INTERNAL when the answer is not an object path, or not a variant with a text.
Result<std::string> ReadObjectPath(DBusMessage* answer);
Result<std::string> ReadTextVariant(DBusMessage* answer);

struct JobRemoved {
  std::string job;     // object path
  std::string result;  // "done", "failed", "canceled", "timeout", …
};

// Null: it is another signal.
std::unique_ptr<JobRemoved> ReadJobRemoved(DBusMessage* signal);

}  // namespace wyvern::runtime
