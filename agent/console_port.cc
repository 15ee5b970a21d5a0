#include "agent/console_port.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

constexpr char kPorts[] = "/sys/class/virtio-ports";
constexpr size_t kMost = 64U << 10;  // waits in each direction
constexpr size_t kPart = 16U << 10;  // on the stack
constexpr int kPartsPerEvent = 16;   // then others have their turn
constexpr std::chrono::milliseconds kSoon(0);
constexpr std::chrono::seconds kTryAgain(1);

// Takes off the front what the other end has room for. False: that is gone.
template <typename F>
bool Send(std::string& bytes, F&& put) {
  while (!bytes.empty()) {
    const ssize_t sent = put(bytes.data(), bytes.size());
    if (sent >= 0) {
      bytes.erase(0, static_cast<size_t>(sent));
    } else if (errno != EINTR) {
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
  }
  return true;
}

}  // namespace

ConsolePort::ConsolePort(EventLoop& loop, const KernelFiles& files, Serve serve)
    : loop_(loop),
      files_(files),
      serve_(std::move(serve)),
      session_watch_(loop, [this](uint32_t events) { OnSession(events); }) {}

ConsolePort::~ConsolePort() {
  Close();
}

void ConsolePort::Look() {
  if (port_.valid()) {
    return;
  }
  for (const std::string& name : files_.List(kPorts)) {
    if (files_.Read(std::string(kPorts) + "/" + name + "/name") == upcall::kConsolePortName) {
      Open("/dev/" + name);
      return;
    }
  }
}

void ConsolePort::Open(const std::string& device) {
  loop_.Remove(std::exchange(later_, EventLoop::Token::kNone));
  auto opened = wyvern::Open(files_.At(device), O_RDWR | O_NONBLOCK | O_NOCTTY);
  if (!opened) {
    // EBUSY: somebody was faster, and is not to have it.
    WV_WARN_LIMITED("upcall: {}", opened.error().message());
    later_ = loop_.After(kTryAgain, [this] {
      later_ = EventLoop::Token::kNone;
      Look();
    });
    return;
  }
  auto token =
      loop_.Add(*opened, EPOLLIN | EPOLLOUT | EPOLLET, [this](uint32_t events) { OnPort(events); });
  if (!token) {
    WV_WARN_LIMITED("upcall: {}", token.error().message());
    return;
  }
  port_token_ = *token;
  port_ = *std::move(opened);
  scanner_ = {};
  WV_INFO("upcall: {} is open", device);
}

void ConsolePort::Close() {
  EndSession();
  loop_.Remove(std::exchange(later_, EventLoop::Token::kNone));
  loop_.Remove(std::exchange(port_token_, EventLoop::Token::kNone));
  port_.Reset();
}

void ConsolePort::OnPort(uint32_t events) {
  if ((events & EPOLLHUP) != 0) {
    // The host's end was closed, and may be open again by now: what is read then begins with a preamble.
    EndSession();
  }
  ReadPort();
  WritePort();
}

void ConsolePort::ReadPort() {
  std::array<std::byte, kPart> buffer;
  for (int i = 0; i < kPartsPerEvent; ++i) {
    // Read on as soon as the session has taken it: OnSession.
    if (!port_.valid() || to_session_.size() >= kMost) {
      return;
    }
    const ssize_t count = read(port_.get(), buffer.data(), buffer.size());
    if (count > 0) {
      // The port may hold the preambles of many sessions that the host has given up: the server sees the end of one before the next begins,
      // or it would have too many at once and refuse the last.
      if (Take(std::span(buffer).first(static_cast<size_t>(count)))) {
        break;
      }
    } else if (count == 0) {
      EndSession();  // the host's end is closed; an edge tells of the next one
      return;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno != EINTR) {
      WV_INFO("upcall: the console port is gone");
      Close();
      Look();
      return;
    }
  }
  if (later_ == EventLoop::Token::kNone) {
    later_ = loop_.After(kSoon, [this] {
      later_ = EventLoop::Token::kNone;
      ReadPort();
    });
  }
}

bool ConsolePort::Take(std::span<const std::byte> bytes) {
  std::optional<upcall::Nonce> newest;
  while (!bytes.empty()) {
    const auto preamble_end = scanner_.Feed(bytes);
    if (!preamble_end) {
      break;
    }
    bytes = bytes.subspan(*preamble_end);
    newest = scanner_.nonce();
  }
  if (newest) {
    BeginSession(*newest);
  }
  if (session_.valid() && !bytes.empty()) {
    to_session_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    WriteSession();
  }
  return newest.has_value();
}

void ConsolePort::BeginSession(const upcall::Nonce& nonce) {
  EndSession();
  const upcall::Preamble preamble = upcall::MakePreamble(nonce);
  to_port_.assign(reinterpret_cast<const char*>(preamble.data()), preamble.size());
  auto pair = MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
  const auto served =
      pair ? serve_(std::move(pair->second)) : Result<>(tl::unexpected(std::move(pair).error()));
  if (!served) {
    to_port_.clear();  // no answer is one, too
    WV_WARN_LIMITED("upcall: {}", served.error().message());
    return;
  }
  session_ = std::move(pair->first);
  WatchSession();
  WritePort();
}

// What it has not sent yet is for nobody; the VMM drops what is under way.
void ConsolePort::EndSession() {
  session_watch_.Set(session_, IoWatch::kOff);
  session_.Reset();
  to_session_.clear();
  to_port_.clear();
}

void ConsolePort::WatchSession() {
  if (session_.valid()) {
    session_watch_.Set(session_, (to_port_.empty() ? uint32_t{EPOLLIN} : 0U) |
                                     (to_session_.empty() ? 0U : uint32_t{EPOLLOUT}));
  }
}

void ConsolePort::OnSession(uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    WriteSession();
    ReadPort();
  }
  if (!session_.valid() || (events & ~uint32_t{EPOLLOUT}) == 0) {
    return;
  }
  if (to_port_.empty()) {
    std::array<char, kPart> buffer;
    const ssize_t count = read(session_.get(), buffer.data(), buffer.size());
    if (count > 0) {
      to_port_.assign(buffer.data(), static_cast<size_t>(count));
    } else if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
      EndSession();  // the server has cut it off
      return;
    }
  } else if ((events & EPOLLHUP) != 0) {
    EndSession();
    return;
  }
  WritePort();
}

void ConsolePort::WriteSession() {
  const auto put = [this](const char* data, size_t size) {
    return send(session_.get(), data, size, MSG_NOSIGNAL);
  };
  if (session_.valid() && !Send(to_session_, put)) {
    EndSession();
    return;
  }
  WatchSession();
}

// An edge comes when the port takes more.
void ConsolePort::WritePort() {
  const auto put = [this](const char* data, size_t size) { return write(port_.get(), data, size); };
  if (port_.valid() && !Send(to_port_, put)) {
    Close();
    Look();
    return;
  }
  WatchSession();
}

}  // namespace wyvern::agent
