#include "systemd/systemd.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "base/check.h"
#include "systemd/bus.h"

namespace wyvern::runtime {
namespace {

using std::chrono::steady_clock;

constexpr const char* kPath = "/org/freedesktop/systemd1";
constexpr const char* kUnit = "org.freedesktop.systemd1.Unit";
// D-Bus specification, "Well-known Message Bus Instances"; systemd(1) for its own.
constexpr const char* kSystemBus = "unix:path=/run/dbus/system_bus_socket";
constexpr const char* kPrivate = "unix:path=/run/systemd/private";
constexpr const char* kJobRemovedMatch =
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',"
    "interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
constexpr std::chrono::milliseconds kPoll{20};

void AppendStrings(const BusMessage& call, const char* first, const char* second) {
  WV_CHECK(dbus_message_append_args(call.get(), DBUS_TYPE_STRING, &first, DBUS_TYPE_STRING, &second,
                                    DBUS_TYPE_INVALID) != 0);
}

void AppendString(const BusMessage& call, const char* text) {
  WV_CHECK(dbus_message_append_args(call.get(), DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID) != 0);
}

// What to do where there is none.
Error WithHint(Error error) {
  if (error.code() != Code::kUnavailable) {
    return std::move(error).WithContext("systemd");
  }
  return std::move(error).WithContext(
      "asking systemd for a scope (on a host without it, have containerd or docker use cgroupfs's "
      "driver: SystemdCgroup = false, native.cgroupdriver=cgroupfs)");
}

Result<Bus> OpenSystemd(BusDeadline deadline) {
  const char* given =
      getenv("DBUS_SYSTEM_BUS_ADDRESS");  // NOLINT(concurrency-mt-unsafe): nobody changes it
  const bool has_given = given != nullptr && *given != '\0';
  auto bus = Bus::Open(has_given ? given : kSystemBus, /*direct=*/false, deadline);
  if (bus.has_value()) {
    return bus;
  }
  if (!has_given && bus.error().code() == Code::kUnavailable) {
    if (auto direct = Bus::Open(kPrivate, /*direct=*/true, deadline); direct.has_value()) {
      return direct;
    }
  }
  return tl::unexpected(WithHint(std::move(bus).error()));
}

// So that JobRemoved comes to us.
Result<> Subscribe(Bus& bus, BusDeadline deadline) {
  if (!bus.direct()) {
    const BusMessage match(dbus_message_new_method_call(DBUS_SERVICE_DBUS, DBUS_PATH_DBUS,
                                                        DBUS_INTERFACE_DBUS, "AddMatch"));
    WV_CHECK(match != nullptr);
    AppendString(match, kJobRemovedMatch);
    WV_TRY_VOID(bus.Call(match, deadline));
  }
  WV_TRY_VOID(bus.Call(bus.NewCall(kPath, kSystemdManager, "Subscribe"), deadline));
  return {};
}

BusMessage StartCall(const Bus& bus, const Scope& scope, pid_t pid,
                     std::span<const UnitProperty> limits) {
  using Kind = UnitProperty::Kind;
  const auto text = [](const char* name, const std::string& value) {
    return UnitProperty{.name = name, .kind = Kind::kText, .number = 0, .bytes = {}, .text = value};
  };
  const auto flag = [](const char* name, bool value) {
    return UnitProperty{
        .name = name, .kind = Kind::kFlag, .number = value ? 1U : 0U, .bytes = {}, .text = {}};
  };
  std::vector<UnitProperty> properties = {
      text("Description", scope.description),
      text("Slice", scope.slice),
      flag("Delegate", true),
      // Else it would be ended first thing when the host shuts down, before whoever looks after it.
      flag("DefaultDependencies", false),
      // One whose processes were killed for want of memory counts as failed, and would stay.
      text("CollectMode", "inactive-or-failed"),
  };
  properties.insert(properties.end(), limits.begin(), limits.end());
  BusMessage call = bus.NewCall(kPath, kSystemdManager, "StartTransientUnit");
  AppendStrings(call, scope.name.c_str(), "fail");
  DBusMessageIter iter;
  dbus_message_iter_init_append(call.get(), &iter);
  const auto number = static_cast<uint32_t>(pid);
  AppendProperties(&iter, properties, {&number, 1});
  DBusMessageIter auxiliary;
  WV_CHECK(dbus_message_iter_open_container(&iter, DBUS_TYPE_ARRAY, "(sa(sv))", &auxiliary) != 0);
  WV_CHECK(dbus_message_iter_close_container(&iter, &auxiliary) != 0);
  return call;
}

Result<> AwaitJob(Bus& bus, const std::string& job, const std::string& from, BusDeadline deadline) {
  while (true) {
    WV_TRY(const BusMessage message, bus.Next(deadline));
    const char* sender = dbus_message_get_sender(message.get());
    const auto removed = ReadJobRemoved(message.get());
    // Anybody may send signals.
    if (removed == nullptr || removed->job != job || from != (sender == nullptr ? "" : sender)) {
      continue;
    }
    if (removed->result != "done") {
      return Fail(Code::kInternal, "its start ends as '" + removed->result.substr(0, 40) + "'");
    }
    return {};
  }
}

Result<> TryStart(Bus& bus, const Scope& scope, pid_t pid, std::span<const UnitProperty> limits,
                  BusDeadline deadline) {
  WV_TRY(const BusMessage answer, bus.Call(StartCall(bus, scope, pid, limits), deadline));
  WV_TRY(const std::string job, ReadObjectPath(answer.get()));
  const char* sender = dbus_message_get_sender(answer.get());
  return AwaitJob(bus, job, sender == nullptr ? "" : sender, deadline);
}

Result<std::string> DescriptionOf(Bus& bus, const std::string& name, BusDeadline deadline) {
  const BusMessage get_unit = bus.NewCall(kPath, kSystemdManager, "GetUnit");
  AppendString(get_unit, name.c_str());
  WV_TRY(const BusMessage unit, bus.Call(get_unit, deadline));
  WV_TRY(const std::string path, ReadObjectPath(unit.get()));
  const BusMessage get = bus.NewCall(path.c_str(), DBUS_INTERFACE_PROPERTIES, "Get");
  AppendStrings(get, kUnit, "Description");
  WV_TRY(const BusMessage value, bus.Call(get, deadline));
  return ReadTextVariant(value.get());
}

}  // namespace

bool IsUnitName(std::string_view name) {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\";
  return !name.empty() && name.size() <= kMaxUnitName &&
         name.find_first_not_of(kLetters) == std::string_view::npos;
}

Result<> StartScope(const Scope& scope, pid_t pid, std::span<const UnitProperty> limits,
                    const SystemdOptions& options) {
  WV_CHECK(IsUnitName(scope.name) && IsUnitName(scope.slice));
  const BusDeadline deadline = steady_clock::now() + options.timeout;
  const BusDeadline patient = std::min(deadline, steady_clock::now() + options.patience);
  WV_TRY(Bus bus, OpenSystemd(deadline));
  if (auto subscribed = Subscribe(bus, deadline); !subscribed.has_value()) {
    return tl::unexpected(WithHint(std::move(subscribed).error()));
  }
  while (true) {
    auto started = TryStart(bus, scope, pid, limits, deadline);
    if (started.has_value() || started.error().code() != Code::kAlreadyExists ||
        steady_clock::now() > patient) {
      WV_TRY_VOID_CONTEXT(std::move(started), "systemd: " + scope.name);
      return {};
    }
    const auto description = DescriptionOf(bus, scope.name, deadline);
    if (description.has_value() && *description != scope.description) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("systemd: {} exists already and is not ours", scope.name));
    }
    // An earlier one of ours, that systemd is about to notice the end of.
    const BusMessage reset = bus.NewCall(kPath, kSystemdManager, "ResetFailedUnit");
    AppendString(reset, scope.name.c_str());
    static_cast<void>(bus.Call(reset, deadline));
    std::this_thread::sleep_for(kPoll);
  }
}

Result<> SetUnitProperties(const std::string& name, std::span<const UnitProperty> properties,
                           const SystemdOptions& options) {
  if (properties.empty()) {
    return {};
  }
  const BusDeadline deadline = steady_clock::now() + options.timeout;
  WV_TRY(Bus bus, OpenSystemd(deadline));
  const BusMessage call = bus.NewCall(kPath, kSystemdManager, "SetUnitProperties");
  AppendString(call, name.c_str());
  const dbus_bool_t runtime = 1;
  WV_CHECK(dbus_message_append_args(call.get(), DBUS_TYPE_BOOLEAN, &runtime, DBUS_TYPE_INVALID) !=
           0);
  DBusMessageIter iter;
  dbus_message_iter_init_append(call.get(), &iter);
  AppendProperties(&iter, properties, {});
  WV_TRY_VOID_CONTEXT(bus.Call(call, deadline), "systemd: " + name);
  return {};
}

}  // namespace wyvern::runtime
