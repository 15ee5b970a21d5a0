// agent/console_port.h — the upcall over the virtio-console port "wyvern.upcall", for a machine without a vsock device.
// Spec:    VIRTIO 1.4 §5.3; Linux drivers/char/virtio_console.c: one opener at a time (EBUSY for others), read gives 0 and poll EPOLLHUP
//          while the host's end is closed, ENODEV once the port is gone.
// Sessions: each begins with a preamble (upcall/preamble.h), is a stream of its own to the ttrpc server, and ends with the next preamble,
//          with the host's end, or with the port. What comes before a preamble is dropped.
// Shape:   bytes are pumped between the port and one end of a socketpair, since ttrpc wants a socket with an end; 64 KiB each way wait
//          at most, then nothing more is read. Watched by edges: a port whose host is away is hung up for as long as that lasts.
// Trust:   the port is held open from when it appears until it is gone, so that no container can have it; a container's device rules and
//          /dev do not hold it in the first place.
// Threads: the loop's thread.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "agent/kernel_files.h"
#include "agent/pump.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "upcall/preamble.h"

namespace wyvern::agent {

class ConsolePort {
 public:
  // Takes a session's stream.
  using Serve = std::function<Result<>(UniqueFd stream)>;

  // `files` outlives it.
  ConsolePort(EventLoop& loop, const KernelFiles& files, Serve serve);
  ~ConsolePort();
  ConsolePort(const ConsolePort&) = delete;
  ConsolePort& operator=(const ConsolePort&) = delete;

  // Opens the port if there is one and it is not open. To be called at start and whenever the kernel tells of a change.
  void Look();

  bool is_open() const { return port_.valid(); }

 private:
  void Open(const std::string& device);
  void Close();
  void OnPort(uint32_t events);
  void ReadPort();
  void WritePort();
  // True: a session has begun.
  bool Take(std::span<const std::byte> bytes);
  void BeginSession(const upcall::Nonce& nonce);
  void EndSession();
  void OnSession(uint32_t events);
  void WriteSession();
  // What the session's stream is watched for, by what waits.
  void WatchSession();

  EventLoop& loop_;
  const KernelFiles& files_;
  const Serve serve_;
  UniqueFd port_;
  EventLoop::Token port_token_ = EventLoop::Token::kNone;
  EventLoop::Token later_ = EventLoop::Token::kNone;
  upcall::PreambleScanner scanner_;
  UniqueFd session_;
  IoWatch session_watch_;
  std::string to_session_;
  std::string to_port_;
};

}  // namespace wyvern::agent
