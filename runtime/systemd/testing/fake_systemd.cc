#include "systemd/testing/fake_systemd.h"

#include <dbus/dbus.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

constexpr const char* kSelf = ":1.1";
constexpr const char* kVariable = "DBUS_SYSTEM_BUS_ADDRESS";

bool SendAll(const UniqueFd& socket, std::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(socket.get(), data.data(), data.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      return false;
    }
    data.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// False: the peer has gone.
bool Receive(const UniqueFd& socket, std::string& buffer) {
  char data[4096];
  const ssize_t size = recv(socket.get(), data, sizeof data, 0);
  if (size <= 0) {
    return false;
  }
  buffer.append(data, static_cast<size_t>(size));
  return true;
}

// "a-b.slice" → "/a.slice/a-b.slice"
std::string SlicePath(const std::string& slice) {
  std::string out;
  if (slice == "-.slice") {
    return out;
  }
  for (size_t dash = slice.find('-'); dash != std::string::npos; dash = slice.find('-', dash + 1)) {
    out += "/" + slice.substr(0, dash) + ".slice";
  }
  return out + "/" + slice;
}

std::string TextOf(DBusMessageIter* iter) {
  const char* text = nullptr;
  dbus_message_iter_get_basic(iter, static_cast<void*>(&text));
  return text;
}

// "t 4096", "s text", "b 1", "ay 0301", "au 12,13"
std::string ValueOf(DBusMessageIter* variant) {
  DBusMessageIter value;
  dbus_message_iter_recurse(variant, &value);
  switch (dbus_message_iter_get_arg_type(&value)) {
    case DBUS_TYPE_UINT64: {
      uint64_t number = 0;
      dbus_message_iter_get_basic(&value, &number);
      return fmt::format("t {}", number);
    }
    case DBUS_TYPE_STRING:
      return "s " + TextOf(&value);
    case DBUS_TYPE_BOOLEAN: {
      dbus_bool_t flag = 0;
      dbus_message_iter_get_basic(&value, &flag);
      return fmt::format("b {}", flag);
    }
    case DBUS_TYPE_ARRAY: {
      DBusMessageIter each;
      dbus_message_iter_recurse(&value, &each);
      const bool bytes = dbus_message_iter_get_element_type(&value) == DBUS_TYPE_BYTE;
      std::string out = bytes ? "ay " : "au";
      for (; dbus_message_iter_get_arg_type(&each) != DBUS_TYPE_INVALID;
           dbus_message_iter_next(&each)) {
        uint32_t number = 0;
        dbus_message_iter_get_basic(&each, &number);
        out += bytes ? fmt::format("{:02x}", number & 0xffU) : fmt::format(" {}", number);
      }
      return out;
    }
    default:
      return "?";
  }
}

std::map<std::string, std::string> PropertiesAt(DBusMessageIter* list) {
  std::map<std::string, std::string> out;
  DBusMessageIter entry;
  dbus_message_iter_recurse(list, &entry);
  for (; dbus_message_iter_get_arg_type(&entry) == DBUS_TYPE_STRUCT;
       dbus_message_iter_next(&entry)) {
    DBusMessageIter field;
    dbus_message_iter_recurse(&entry, &field);
    const std::string name = TextOf(&field);
    dbus_message_iter_next(&field);
    out[name] = ValueOf(&field);
  }
  return out;
}

std::string PlainValue(const std::map<std::string, std::string>& properties, const char* name) {
  const auto it = properties.find(name);
  return it == properties.end() ? "" : it->second.substr(2);
}

}  // namespace

FakeSystemd::FakeSystemd(std::string directory, std::string cgroup_root)
    : cgroup_root_(std::move(cgroup_root)) {
  const std::string path = directory + "/bus";
  auto listener = ListenUnix(path, 0600);
  WV_CHECK(listener.has_value());
  listener_ = std::move(*listener);
  setenv(kVariable, ("unix:path=" + path).c_str(), 1);
  thread_ = std::thread([this] { Serve(); });
}

FakeSystemd::~FakeSystemd() {
  stop_ = true;
  thread_.join();
  unsetenv(kVariable);
}

void FakeSystemd::Do(const std::string& method, Manner manner, std::string error) {
  const std::lock_guard lock(mu_);
  manners_[method] = {manner, std::move(error)};
}

void FakeSystemd::DoRight(const std::string& method) {
  const std::lock_guard lock(mu_);
  manners_.erase(method);
}

void FakeSystemd::EndJobsAs(std::string result) {
  const std::lock_guard lock(mu_);
  job_result_ = std::move(result);
}

void FakeSystemd::LetOthersLie() {
  const std::lock_guard lock(mu_);
  others_lie_ = true;
}

void FakeSystemd::Have(const std::string& name, const std::string& description, int until_tries) {
  const std::lock_guard lock(mu_);
  there_[name] = {description, until_tries};
}

std::map<std::string, FakeSystemd::Unit> FakeSystemd::units() const {
  const std::lock_guard lock(mu_);
  return units_;
}

std::vector<std::string> FakeSystemd::calls() const {
  const std::lock_guard lock(mu_);
  return calls_;
}

void FakeSystemd::Serve() {
  while (!stop_) {
    pollfd wait = {listener_.get(), POLLIN, 0};
    if (poll(&wait, 1, 5) > 0) {
      if (const auto socket = Accept(listener_); socket.has_value()) {
        ServeOne(*socket);
      }
    }
    Collect();
  }
}

void FakeSystemd::ServeOne(const UniqueFd& socket) {
  std::string buffer;
  if (!Authenticate(socket, buffer)) {
    return;
  }
  while (!stop_) {
    const int needed =
        buffer.size() < DBUS_MINIMUM_HEADER_SIZE
            ? 0
            : dbus_message_demarshal_bytes_needed(buffer.data(), static_cast<int>(buffer.size()));
    if (needed <= 0 || buffer.size() < static_cast<size_t>(needed)) {
      pollfd wait = {socket.get(), POLLIN, 0};
      const int ready = poll(&wait, 1, 5);
      Collect();
      if (ready > 0 && !Receive(socket, buffer)) {
        return;
      }
      continue;
    }
    DBusMessage* call = dbus_message_demarshal(buffer.data(), needed, nullptr);
    buffer.erase(0, static_cast<size_t>(needed));
    WV_CHECK(call != nullptr);
    const bool goes_on = Answer(socket, call);
    dbus_message_unref(call);
    if (!goes_on) {
      return;
    }
  }
}

// D-Bus specification, "Authentication Protocol".
bool FakeSystemd::Authenticate(const UniqueFd& socket, std::string& buffer) {
  while (!stop_) {
    const size_t end = buffer.find("\r\n");
    if (end == std::string::npos) {
      pollfd wait = {socket.get(), POLLIN, 0};
      if (poll(&wait, 1, 5) > 0 && !Receive(socket, buffer)) {
        return false;
      }
      continue;
    }
    const std::string line = buffer.substr(buffer.front() == '\0' ? 1 : 0, end);
    buffer.erase(0, end + 2);
    if (line.starts_with("BEGIN")) {
      return true;
    }
    const bool said = SendAll(socket, line.starts_with("AUTH EXTERNAL")
                                          ? "OK 0123456789abcdef0123456789abcdef\r\n"
                                          : "AGREE_UNIX_FD\r\n");
    if (!said) {
      return false;
    }
  }
  return false;
}

bool FakeSystemd::Send(const UniqueFd& socket, DBusMessage* message) {
  dbus_message_set_serial(message, ++serial_);
  char* data = nullptr;
  int size = 0;
  WV_CHECK(dbus_message_marshal(message, &data, &size) != 0);
  const bool sent = SendAll(socket, {data, static_cast<size_t>(size)});
  dbus_free(data);
  dbus_message_unref(message);
  return sent;
}

bool FakeSystemd::SendError(const UniqueFd& socket, DBusMessage* call, const std::string& name) {
  DBusMessage* error = dbus_message_new_error(call, name.c_str(), "the fake says no");
  dbus_message_set_sender(error, kSelf);
  return Send(socket, error);
}

bool FakeSystemd::SendJobRemoved(const UniqueFd& socket, const std::string& job,
                                 const std::string& result, const char* sender) {
  DBusMessage* signal = dbus_message_new_signal("/org/freedesktop/systemd1",
                                                "org.freedesktop.systemd1.Manager", "JobRemoved");
  dbus_message_set_sender(signal, sender);
  const dbus_uint32_t id = jobs_;
  const char* path = job.c_str();
  const char* unit = "x.scope";
  const char* text = result.c_str();
  dbus_message_append_args(signal, DBUS_TYPE_UINT32, &id, DBUS_TYPE_OBJECT_PATH, &path,
                           DBUS_TYPE_STRING, &unit, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
  return Send(socket, signal);
}

bool FakeSystemd::Answer(const UniqueFd& socket, DBusMessage* call) {
  const char* member = dbus_message_get_member(call);
  const std::string method = member == nullptr ? "" : member;
  const std::lock_guard lock(mu_);
  calls_.push_back(method);
  const auto it = manners_.find(method);
  if (it == manners_.end()) {
    return AnswerRight(socket, call, method);
  }
  switch (it->second.first) {
    case Manner::kNever:
      return true;
    case Manner::kCut:
      return false;
    case Manner::kGarbage:
      return SendAll(socket, std::string(64, '\xff'));
    case Manner::kError:
      return SendError(socket, call, it->second.second);
    case Manner::kWrongType: {
      DBusMessage* answer = dbus_message_new_method_return(call);
      dbus_message_set_sender(answer, kSelf);
      const dbus_uint32_t number = 7;
      dbus_message_append_args(answer, DBUS_TYPE_UINT32, &number, DBUS_TYPE_INVALID);
      return Send(socket, answer);
    }
  }
  return true;
}

bool FakeSystemd::AnswerRight(const UniqueFd& socket, DBusMessage* call,
                              const std::string& method) {
  if (method == "StartTransientUnit") {
    return Start(socket, call);
  }
  DBusMessage* answer = dbus_message_new_method_return(call);
  dbus_message_set_sender(answer, kSelf);
  DBusMessageIter in;
  DBusMessageIter out;
  const bool has_arguments = dbus_message_iter_init(call, &in) != 0;
  dbus_message_iter_init_append(answer, &out);
  if (method == "Hello") {
    const char* name = ":1.42";
    dbus_message_append_args(answer, DBUS_TYPE_STRING, &name, DBUS_TYPE_INVALID);
  } else if (method == "GetUnit" && has_arguments) {
    const char* path = "/org/freedesktop/systemd1/unit/x";
    dbus_message_append_args(answer, DBUS_TYPE_OBJECT_PATH, &path, DBUS_TYPE_INVALID);
  } else if (method == "Get") {
    const std::string description = there_.empty() ? "" : there_.begin()->second.description;
    const char* text = description.c_str();
    DBusMessageIter variant;
    dbus_message_iter_open_container(&out, DBUS_TYPE_VARIANT, "s", &variant);
    dbus_message_iter_append_basic(&variant, DBUS_TYPE_STRING, static_cast<const void*>(&text));
    dbus_message_iter_close_container(&out, &variant);
  } else if (method == "SetUnitProperties" && has_arguments) {
    const std::string name = TextOf(&in);
    dbus_message_iter_next(&in);
    dbus_message_iter_next(&in);
    for (const auto& [key, value] : PropertiesAt(&in)) {
      units_[name].properties[key] = value;
    }
  }
  return Send(socket, answer);
}

bool FakeSystemd::Start(const UniqueFd& socket, DBusMessage* call) {
  DBusMessageIter in;
  dbus_message_iter_init(call, &in);
  const std::string name = TextOf(&in);
  if (const auto it = there_.find(name); it != there_.end()) {
    if (--it->second.tries >= 0) {
      return SendError(socket, call, "org.freedesktop.systemd1.UnitExists");
    }
    there_.erase(it);
  }
  dbus_message_iter_next(&in);
  dbus_message_iter_next(&in);
  Unit unit;
  unit.properties = PropertiesAt(&in);
  unit.pids.push_back(static_cast<uint32_t>(atoi(PlainValue(unit.properties, "PIDs").c_str())));
  unit.directory = cgroup_root_ + SlicePath(PlainValue(unit.properties, "Slice")) + "/" + name;
  std::error_code ignored;
  std::filesystem::create_directories(unit.directory, ignored);
  if (!std::filesystem::exists(unit.directory + "/cgroup.procs")) {
    static_cast<void>(Open(unit.directory + "/cgroup.procs", O_CREAT | O_WRONLY, 0600));
  }
  static_cast<void>(WriteFile(unit.directory + "/cgroup.procs", std::to_string(unit.pids[0])));
  units_[name] = unit;
  const std::string job = fmt::format("/org/freedesktop/systemd1/job/{}", ++jobs_);
  DBusMessage* answer = dbus_message_new_method_return(call);
  dbus_message_set_sender(answer, kSelf);
  const char* path = job.c_str();
  dbus_message_append_args(answer, DBUS_TYPE_OBJECT_PATH, &path, DBUS_TYPE_INVALID);
  if (others_lie_ && !SendJobRemoved(socket, job, "failed", ":1.99")) {
    return false;
  }
  return Send(socket, answer) && (!others_lie_ || SendJobRemoved(socket, job, "failed", ":1.99")) &&
         SendJobRemoved(socket, "/org/freedesktop/systemd1/job/4711", "failed", kSelf) &&
         (job_result_.empty() || SendJobRemoved(socket, job, job_result_, kSelf));
}

// A scope ends with its last process. Plain files have no kernel that takes processes out of them: who has ended is out.
void FakeSystemd::Collect() {
  const std::lock_guard lock(mu_);
  for (auto it = units_.begin(); it != units_.end();) {
    const std::string& directory = it->second.directory;
    const auto events = ReadFile(directory + "/cgroup.events", size_t{4096});
    if (!events.has_value() || events->find("populated 0") == std::string::npos) {
      ++it;
      continue;
    }
    rmdir(directory.c_str());
    it = units_.erase(it);
  }
}

}  // namespace wyvern::runtime
