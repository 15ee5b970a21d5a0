#include "systemd/bus.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/plain_text.h"

namespace wyvern::runtime {
namespace {

constexpr const char* kSystemd = "org.freedesktop.systemd1";
constexpr size_t kMaxErrorText = 300;

class DBusErrorText {
 public:
  DBusErrorText() { dbus_error_init(&error_); }

  ~DBusErrorText() { dbus_error_free(&error_); }

  DBusErrorText(const DBusErrorText&) = delete;
  DBusErrorText& operator=(const DBusErrorText&) = delete;

  DBusError* get() { return &error_; }

  tl::unexpected<Error> ToError(const std::string& what) const {
    const std::string_view name = error_.name == nullptr ? "" : error_.name;
    const std::string_view text = error_.message == nullptr ? "" : error_.message;
    return Fail(CodeOf(name), fmt::format("{}: {} ({})", what, PlainText(text, kMaxErrorText),
                                          PlainText(name, kMaxErrorText)));
  }

 private:
  static Code CodeOf(std::string_view name) {
    constexpr std::array kCodes = {
        std::pair("org.freedesktop.systemd1.UnitExists", Code::kAlreadyExists),
        std::pair("org.freedesktop.systemd1.NoSuchUnit", Code::kNotFound),
        std::pair("org.freedesktop.DBus.Error.AccessDenied", Code::kPermissionDenied),
        std::pair("org.freedesktop.DBus.Error.AuthFailed", Code::kPermissionDenied),
        std::pair("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
                  Code::kPermissionDenied),
        std::pair("org.freedesktop.DBus.Error.InvalidArgs", Code::kInvalidArgument),
        std::pair("org.freedesktop.DBus.Error.PropertyReadOnly", Code::kInvalidArgument),
        std::pair("org.freedesktop.DBus.Error.UnknownProperty", Code::kInvalidArgument),
        std::pair("org.freedesktop.DBus.Error.NoReply", Code::kDeadlineExceeded),
        std::pair("org.freedesktop.DBus.Error.Timeout", Code::kDeadlineExceeded),
        std::pair("org.freedesktop.DBus.Error.TimedOut", Code::kDeadlineExceeded),
        std::pair("org.freedesktop.DBus.Error.Disconnected", Code::kUnavailable),
        std::pair("org.freedesktop.DBus.Error.FileNotFound", Code::kUnavailable),
        std::pair("org.freedesktop.DBus.Error.NoServer", Code::kUnavailable),
        std::pair("org.freedesktop.DBus.Error.ServiceUnknown", Code::kUnavailable),
        std::pair("org.freedesktop.DBus.Error.NameHasNoOwner", Code::kUnavailable)};
    // How a bus says that it could not start systemd, which is not started so: it is not what runs this host.
    if (name.starts_with("org.freedesktop.DBus.Error.Spawn.")) {
      return Code::kUnavailable;
    }
    const auto* const it =
        std::ranges::find_if(kCodes, [name](const auto& each) { return name == each.first; });
    return it == kCodes.end() ? Code::kInternal : it->second;
  }

  DBusError error_{};
};

// Milliseconds for libdbus, which waits forever for -1.
int LeftOf(BusDeadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

// libdbus fails so when there is no memory, which is the end here.
void Must(dbus_bool_t done) {
  WV_CHECK(done != 0);
}

class Container {
 public:
  Container(DBusMessageIter* outer, int type, const char* signature) : outer_(outer) {
    Must(dbus_message_iter_open_container(outer, type, signature, &inner_));
  }

  ~Container() { Must(dbus_message_iter_close_container(outer_, &inner_)); }

  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  DBusMessageIter* get() { return &inner_; }

 private:
  DBusMessageIter* outer_;
  DBusMessageIter inner_{};
};

void AppendText(DBusMessageIter* to, const std::string& text) {
  const char* data = text.c_str();
  Must(dbus_message_iter_append_basic(to, DBUS_TYPE_STRING, static_cast<const void*>(&data)));
}

void AppendValue(DBusMessageIter* to, const UnitProperty& property) {
  switch (property.kind) {
    case UnitProperty::Kind::kNumber: {
      Container variant(to, DBUS_TYPE_VARIANT, "t");
      Must(dbus_message_iter_append_basic(variant.get(), DBUS_TYPE_UINT64, &property.number));
      return;
    }
    case UnitProperty::Kind::kFlag: {
      Container variant(to, DBUS_TYPE_VARIANT, "b");
      const dbus_bool_t flag = property.number != 0 ? 1 : 0;
      Must(dbus_message_iter_append_basic(variant.get(), DBUS_TYPE_BOOLEAN, &flag));
      return;
    }
    case UnitProperty::Kind::kText: {
      Container variant(to, DBUS_TYPE_VARIANT, "s");
      AppendText(variant.get(), property.text);
      return;
    }
    case UnitProperty::Kind::kBytes: {
      Container variant(to, DBUS_TYPE_VARIANT, "ay");
      Container bytes(variant.get(), DBUS_TYPE_ARRAY, "y");
      const uint8_t* data = property.bytes.data();
      Must(dbus_message_iter_append_fixed_array(bytes.get(), DBUS_TYPE_BYTE,
                                                static_cast<const void*>(&data),
                                                static_cast<int>(property.bytes.size())));
      return;
    }
  }
}

// The text at `iter`, which has been asked for its type.
std::string TextAt(DBusMessageIter* iter) {
  const char* text = nullptr;
  dbus_message_iter_get_basic(iter, static_cast<void*>(&text));
  return text;
}

}  // namespace

Result<Bus> Bus::Open(const std::string& address, bool direct, BusDeadline deadline) {
  const std::string what = "D-Bus at " + address;
  DBusErrorText error;
  Connection connection(dbus_connection_open_private(address.c_str(), error.get()));
  if (connection == nullptr) {
    return error.ToError(what);
  }
  // The process decides itself about its signals and its end.
  dbus_connection_set_change_sigpipe(0);
  dbus_connection_set_exit_on_disconnect(connection.get(), 0);
  dbus_connection_set_max_message_size(connection.get(), kMaxBusMessage);
  dbus_connection_set_max_received_size(connection.get(), 4 * kMaxBusMessage);
  Bus bus(std::move(connection), direct);
  if (direct) {
    return bus;
  }
  // What dbus_bus_register does, which has a deadline of its own only.
  const BusMessage hello(dbus_message_new_method_call(DBUS_SERVICE_DBUS, DBUS_PATH_DBUS,
                                                      DBUS_INTERFACE_DBUS, "Hello"));
  WV_CHECK(hello != nullptr);
  WV_TRY_CONTEXT(const BusMessage answer, bus.Call(hello, deadline), what);
  const char* name = nullptr;
  if (dbus_message_get_args(answer.get(), error.get(), DBUS_TYPE_STRING, &name,
                            DBUS_TYPE_INVALID) == 0) {
    return error.ToError(what);
  }
  if (dbus_bus_set_unique_name(bus.connection_.get(), name) == 0) {
    return Fail(Code::kInternal, what + ": no name");
  }
  return bus;
}

BusMessage Bus::NewCall(const char* path, const char* interface, const char* method) const {
  BusMessage call(
      dbus_message_new_method_call(direct_ ? nullptr : kSystemd, path, interface, method));
  WV_CHECK(call != nullptr);
  return call;
}

Result<BusMessage> Bus::Call(const BusMessage& request, BusDeadline deadline) {
  DBusErrorText error;
  BusMessage answer(dbus_connection_send_with_reply_and_block(connection_.get(), request.get(),
                                                              LeftOf(deadline), error.get()));
  if (answer == nullptr) {
    return error.ToError(dbus_message_get_member(request.get()));
  }
  return answer;
}

Result<BusMessage> Bus::Next(BusDeadline deadline) {
  while (true) {
    if (BusMessage message(dbus_connection_pop_message(connection_.get())); message != nullptr) {
      return message;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return Fail(Code::kDeadlineExceeded, "systemd does not answer");
    }
    if (dbus_connection_read_write(connection_.get(), LeftOf(deadline)) == 0) {
      return Fail(Code::kUnavailable, "systemd, or the bus to it, has closed the connection");
    }
  }
}

void AppendProperties(DBusMessageIter* to, std::span<const UnitProperty> properties,
                      std::span<const uint32_t> pids) {
  Container list(to, DBUS_TYPE_ARRAY, "(sv)");
  if (!pids.empty()) {
    Container entry(list.get(), DBUS_TYPE_STRUCT, nullptr);
    AppendText(entry.get(), "PIDs");
    Container variant(entry.get(), DBUS_TYPE_VARIANT, "au");
    Container numbers(variant.get(), DBUS_TYPE_ARRAY, "u");
    for (const uint32_t pid : pids) {
      Must(dbus_message_iter_append_basic(numbers.get(), DBUS_TYPE_UINT32, &pid));
    }
  }
  for (const UnitProperty& property : properties) {
    Container entry(list.get(), DBUS_TYPE_STRUCT, nullptr);
    AppendText(entry.get(), property.name);
    AppendValue(entry.get(), property);
  }
}

Result<std::string> ReadObjectPath(DBusMessage* answer) {
  DBusMessageIter iter;
  if (dbus_message_iter_init(answer, &iter) == 0 ||
      dbus_message_iter_get_arg_type(&iter) != DBUS_TYPE_OBJECT_PATH) {
    return Fail(Code::kInternal, "systemd answers with something else than an object");
  }
  return TextAt(&iter);
}

Result<std::string> ReadTextVariant(DBusMessage* answer) {
  DBusMessageIter iter;
  DBusMessageIter value;
  if (dbus_message_iter_init(answer, &iter) != 0 &&
      dbus_message_iter_get_arg_type(&iter) == DBUS_TYPE_VARIANT) {
    dbus_message_iter_recurse(&iter, &value);
    if (dbus_message_iter_get_arg_type(&value) == DBUS_TYPE_STRING) {
      return TextAt(&value);
    }
  }
  return Fail(Code::kInternal, "systemd answers with something else than a text");
}

std::unique_ptr<JobRemoved> ReadJobRemoved(DBusMessage* signal) {
  dbus_uint32_t id = 0;
  const char *job = nullptr, *unit = nullptr, *result = nullptr;
  if (dbus_message_is_signal(signal, kSystemdManager, "JobRemoved") == 0 ||
      dbus_message_get_args(signal, nullptr, DBUS_TYPE_UINT32, &id, DBUS_TYPE_OBJECT_PATH, &job,
                            DBUS_TYPE_STRING, &unit, DBUS_TYPE_STRING, &result,
                            DBUS_TYPE_INVALID) == 0) {
    return nullptr;
  }
  return std::make_unique<JobRemoved>(JobRemoved{job, result});
}

}  // namespace wyvern::runtime
