#include "observe/text_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "base/log.h"
#include "base/unix_socket.h"
#include "observe/http_request.h"

namespace wyvern::observe {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kText = "text/plain; charset=utf-8";
constexpr const char* kMetrics = "text/plain; version=0.0.4; charset=utf-8";

// Until `fd` is ready; false at the deadline, or when we are to stop.
bool WaitFor(FdRef fd, short events, const EventFd& stop, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      return false;
    }
    pollfd waits[] = {{fd.get(), events, 0}, {stop.fd().get(), POLLIN, 0}};
    const int ready = poll(waits, 2, static_cast<int>(left.count()));
    if (ready < 0 && errno != EINTR) {
      return false;
    }
    if (ready > 0) {
      return waits[1].revents == 0;
    }
  }
}

// The bytes up to the end of the head, if they come in time.
std::string ReadHead(FdRef client, const EventFd& stop, Clock::time_point deadline) {
  std::string head;
  char buffer[1024];
  while (!IsWholeHead(head) && head.size() <= kMaxRequestHead &&
         WaitFor(client, POLLIN, stop, deadline)) {
    const auto count = ReadSome(client, std::as_writable_bytes(std::span(buffer)));
    if (!count && count.error().sys_errno() == EAGAIN) {
      continue;
    }
    if (!count || *count == 0) {
      break;
    }
    head.append(buffer, *count);
  }
  return head;
}

void Send(FdRef client, std::string_view answer, const EventFd& stop, Clock::time_point deadline) {
  while (!answer.empty() && WaitFor(client, POLLOUT, stop, deadline)) {
    const ssize_t sent = send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      return;
    }
    answer.remove_prefix(sent < 0 ? 0 : static_cast<size_t>(sent));
  }
}

bool IsAllowed(FdRef client) {
  const auto peer = GetPeerCredentials(client);
  return peer && (peer->uid == 0 || peer->uid == geteuid());
}

std::string AnswerTo(const std::string& head, const std::function<std::string()>& make) {
  if (!IsWholeHead(head)) {
    return head.size() > kMaxRequestHead
               ? HttpAnswer(431, "Request Header Fields Too Large", kText, "")
               : HttpAnswer(408, "Request Timeout", kText, "");
  }
  const auto request = ParseRequestHead(head);
  if (!request) {
    return HttpAnswer(400, "Bad Request", kText, "this is HTTP: GET /metrics\n");
  }
  if (request->method != "GET" && request->method != "HEAD") {
    return HttpAnswer(405, "Method Not Allowed", kText, "GET /metrics\n");
  }
  if (request->path != "/metrics") {
    return HttpAnswer(404, "Not Found", kText, "only /metrics is here\n");
  }
  return HttpAnswer(200, "OK", kMetrics, make(), request->method == "HEAD");
}

}  // namespace

Result<std::unique_ptr<TextServer>> TextServer::Start(const std::string& path,
                                                      std::function<std::string()> make) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return SysError("unlink " + path);
  }
  auto server = std::unique_ptr<TextServer>(new TextServer(path, std::move(make)));
  WV_TRY(server->listener_, ListenUnix(path, 0600));
  WV_TRY_VOID(SetNonBlocking(server->listener_, true));
  WV_TRY(server->thread_, WorkerThread::Start("metrics", [raw = server.get()](const EventFd& stop) {
           raw->Serve(stop);
         }));
  return server;
}

TextServer::~TextServer() {
  Close();
}

void TextServer::Close() {
  // Once: the file may be that of the next server by now.
  if (thread_ != nullptr && !closed_.exchange(true)) {
    thread_->RequestStop();
    unlink(path_.c_str());
  }
}

void TextServer::Serve(const EventFd& stop) {
  while (true) {
    pollfd waits[] = {{listener_.get(), POLLIN, 0}, {stop.fd().get(), POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) {
      WV_ERROR("metrics: {}", strerrordesc_np(errno));
      return;
    }
    if (waits[1].revents != 0) {
      return;
    }
    if (auto client = Accept(listener_, SOCK_NONBLOCK); client) {
      Answer(*client, stop);
    } else if (client.error().sys_errno() != EAGAIN) {
      WV_WARN_LIMITED("metrics: accept: {}", client.error().message());
      (void)WaitFor(stop.fd(), 0, stop, Clock::now() + std::chrono::milliseconds(100));
    }
  }
}

void TextServer::Answer(const UniqueFd& client, const EventFd& stop) {
  if (!IsAllowed(client)) {
    WV_WARN_LIMITED("metrics: a client that is not root was refused");
    return;
  }
  const std::string head = ReadHead(client, stop, Clock::now() + kClientPatience);
  if (head.empty()) {
    return;
  }
  Send(client, AnswerTo(head, make_), stop, Clock::now() + kClientPatience);
}

}  // namespace wyvern::observe
