// console/console_port.h — one port: bytes between its two queues and the host's descriptors.
// Spec:    VIRTIO 1.4 §5.3.6.
// Shape:   payload moves by readv and writev on iovecs of the guest's buffers; nothing is kept in
//          between. What the host does not take stays in the guest's buffer, of which one is in hand;
//          what the guest has no room for stays in the host's pipe or socket. Descriptors are watched
//          edge-triggered: who waits costs no system calls.
// Bounds:  kTurnBytes for each direction before others of the worker have their turn.
// Errors:  a descriptor that fails ends its direction; when both have ended, the host's end is closed.
// Threads: the device's worker.   Trust: chains are the guest's, bytes are anybody's.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "worker/active_queue.h"

namespace wyvern::devices {

// What happens to output that the host does not take. Linux waits with interrupts off until a
// console's buffer is used (§5.3.6, footnote), so a console whose reader may be slow should drop.
enum class ConsoleOverflow : uint8_t { kWait, kDrop };

// The host's end of a port. Takes the descriptors; they become non-blocking.
struct ConsoleEnds {
  UniqueFd in;   // pipe, socket, terminal; invalid: nothing to read
  UniqueFd out;  // any; invalid: output is dropped, or goes to `in`
  bool in_is_out = false;
};

struct ConsoleCounters {
  std::atomic<uint64_t> bytes_to_guest{0};
  std::atomic<uint64_t> bytes_from_guest{0};
  std::atomic<uint64_t> bytes_dropped{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> writes{0};
  std::atomic<uint64_t> ports_attached{0};
  std::atomic<uint64_t> messages_to_guest{0};
  std::atomic<uint64_t> messages_from_guest{0};
  std::atomic<uint64_t> bad_messages{0};
  std::atomic<uint64_t> bad_chains{0};
  std::atomic<uint64_t> emergency_writes{0};
  std::atomic<uint64_t> faults{0};
};

class ConsolePort {
 public:
  static constexpr uint32_t kTurnBytes = 256 << 10;
  static constexpr uint32_t kPieceBytes = 64 << 10;

  // `on_host_closed`: both directions have ended; not for Detach.
  ConsolePort(EventLoop& loop, ConsoleOverflow overflow, ConsoleCounters& counters,
              std::function<void()> on_host_closed);
  // Preconditions: it has no queues.
  ~ConsolePort();
  ConsolePort(const ConsolePort&) = delete;
  ConsolePort& operator=(const ConsolePort&) = delete;

  // FAILED_PRECONDITION: something is attached. INVALID_ARGUMENT: no descriptor, or an input that
  // cannot be waited for.
  Result<> Attach(ConsoleEnds ends);
  void Detach();

  bool attached() const { return attached_; }

  // While the guest has not opened the port nothing is read for it.
  void SetGuestOpen(bool open);

  // The queues; null: none. Taking back the one to the host returns the chain in hand to the ring.
  void SetToGuest(ActiveQueue* queue) { to_guest_ = queue; }

  void SetToHost(ActiveQueue* queue);

  // How much of the first chain of the queue to the host has been written before it was returned.
  uint32_t resume_at() const { return resume_at_; }

  void set_resume_at(uint32_t bytes) { resume_at_ = bytes; }

  void SendToGuest();
  void SendToHost();

 private:
  FdRef out_fd() const { return ends_.in_is_out ? FdRef(ends_.in) : FdRef(ends_.out); }

  Result<> Watch();
  void OnEvents(uint32_t events, bool input, bool output);
  bool FillChain(virtio::Chain chain, uint32_t* budget);
  virtio::Chain TakeInHand();
  bool WriteChain(uint32_t* budget);
  void WritePiece(uint32_t* budget);
  void EndInput();
  void EndOutput();
  void CloseIfEnded();
  void Drop();

  EventLoop& loop_;
  const ConsoleOverflow overflow_;
  ConsoleCounters& counters_;
  const std::function<void()> on_host_closed_;

  ConsoleEnds ends_;
  bool attached_ = false;
  bool readable_ = false;  // no EAGAIN since the last event
  bool writable_ = false;
  bool in_ended_ = true;
  bool out_ended_ = true;
  EventLoop::Token in_token_ = EventLoop::Token::kNone;
  EventLoop::Token out_token_ = EventLoop::Token::kNone;

  bool guest_open_ = false;
  ActiveQueue* to_guest_ = nullptr;
  ActiveQueue* to_host_ = nullptr;
  std::optional<virtio::Chain> in_hand_;  // of to_host_
  uint32_t written_ = 0;                  // bytes of it
  uint32_t resume_at_ = 0;
  std::vector<iovec> parts_;
};

}  // namespace wyvern::devices
