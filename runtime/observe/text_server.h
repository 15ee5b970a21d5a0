// observe/text_server.h — one text over HTTP on a unix socket, made anew for each request: GET /metrics.
// Errors:  of clients: 400, 404, 405, 408, or the connection is cut; the next one is served.
// Bounds:  one connection at a time; a client has kClientPatience for its request and again for reading the answer, so that one who stalls holds
//          the others up for so long and no longer. A request is at most kMaxRequestHead.
// Threads: one of its own, on which `make` runs. The others from any but that.
// Trust:   the socket is 0600 and the peer's uid is checked: root, or our own.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/worker_thread.h"

namespace wyvern::observe {

class TextServer {
 public:
  static constexpr std::chrono::milliseconds kClientPatience{2000};

  // A stale file at `path` is replaced.
  static Result<std::unique_ptr<TextServer>> Start(const std::string& path,
                                                   std::function<std::string()> make);
  // Waits for a `make` that runs.
  ~TextServer();
  TextServer(const TextServer&) = delete;
  TextServer& operator=(const TextServer&) = delete;

  // Nobody new is served and the socket's file is gone; does not wait. Idempotent.
  void Close();

 private:
  TextServer(std::string path, std::function<std::string()> make)
      : path_(std::move(path)), make_(std::move(make)) {}

  void Serve(const EventFd& stop);
  void Answer(const UniqueFd& client, const EventFd& stop);

  const std::string path_;
  const std::function<std::string()> make_;
  UniqueFd listener_;
  std::atomic<bool> closed_{false};
  std::unique_ptr<WorkerThread> thread_;  // uses the rest
};

}  // namespace wyvern::observe
