// vsock/vsock_connection.h — one stream between a host socket and a guest port.
// Spec:    VIRTIO 1.3 §5.10.6.3 (credit), §5.10.6.6 (shutdown).
// State:   waiting (request not yet sent) → connecting → established → gone. Each direction ends on
//          its own: a FIN of the host socket
//          becomes SHUTDOWN(SEND), the guest's SHUTDOWN(SEND) becomes shutdown(SHUT_WR).
//          An established stream is never reset by us while the guest may still have bytes to read:
//          Linux drops unread bytes on RST.
//          It ends when the guest says RST or SHUTDOWN of both directions, which we answer with
//          RST.
// Units:   all counters are free-running uint32_t, as on the wire.
// Threads: the device's worker.   Trust: headers and payload are the guest's; each header is copied
//          once by the caller.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "virtio/queue.h"
#include "vsock/byte_queue.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

class VsockConnection {
 public:
  static constexpr uint32_t kMaxPayload = 64 << 10;

  struct Ports {
    uint32_t host = 0;
    uint32_t guest = 0;
  };

  using Connected = std::function<void(Result<>)>;

  // `socket`: a connected stream socket. `buffer_size`: what we let the guest send ahead.
  VsockConnection(EventLoop& loop, Ports ports, UniqueFd socket, uint32_t buffer_size,
                  Connected connected);
  ~VsockConnection();
  VsockConnection(const VsockConnection&) = delete;
  VsockConnection& operator=(const VsockConnection&) = delete;

  // Waits for the socket: `on_event` runs after OnSocket.
  Result<> Watch(std::function<void()> on_event);

  Ports ports() const { return ports_; }

  bool request_sent() const { return state_ != State::kWaiting; }

  bool established() const { return state_ == State::kEstablished; }

  // Host side is closed and the guest has been told everything: only its answer is missing.
  bool lingering() const { return !socket_.valid() && established() && ops_ == 0; }

  // Nothing is left to do for either side.
  bool finished() const;

  // A packet of the guest for this stream. False: it broke the rules (the stream is then being
  // reset).
  bool OnPacket(const VsockHeader& header, const virtio::Chain& chain, std::vector<iovec>* scratch);
  // Drops the host side and answers the guest with RST.
  void Reset(Error reason);
  // The guest's side is gone (device reset): what the host still has to get is written, then the
  // socket is closed.
  void GuestGone(Error reason);

  // A packet for the guest is due.
  bool WantsToSend() const;
  // Puts the next packet into the writable part of `chain` (at least a header long); bytes written,
  // 0 when nothing was due after all.
  uint32_t FillPacket(virtio::Chain& chain, uint64_t guest_cid, std::vector<iovec>* scratch);

  // Belongs to the device: membership of its ready list, and the connect timer.
  bool queued = false;
  EventLoop::Token timer = EventLoop::Token::kNone;

  uint64_t bytes_to_guest() const { return total_sent_; }

  uint64_t bytes_to_host() const { return total_received_; }

 private:
  enum class State : uint8_t { kWaiting, kConnecting, kEstablished, kGone };

  enum Op : uint8_t { kSendRequest = 1, kSendReset = 2, kSendShutdown = 4, kSendCredit = 8 };

  void OnSocket(uint32_t events);
  bool OnData(uint32_t length, const virtio::Chain& chain, std::vector<iovec>* scratch);
  bool OnShutdown(uint32_t flags);
  void Flush();
  bool WriteDirectly(uint32_t length, const virtio::Chain& chain, std::vector<iovec>* scratch,
                     uint32_t* written);
  void HostReadsNoMore();
  void HostSendsNoMore();
  void FinishHostSide();
  void Forwarded(uint32_t count);
  void Finish(Result<> outcome);
  void CloseSocket();
  uint32_t Credit() const;
  bool DataDue() const;
  VsockOp NextOp(virtio::Chain& chain, std::vector<iovec>* scratch, uint32_t* payload);
  uint32_t ReceiveInto(virtio::Chain& chain, std::vector<iovec>* scratch);
  VsockHeader Header(VsockOp op, uint64_t guest_cid);

  EventLoop& loop_;
  const Ports ports_;
  UniqueFd socket_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  const uint32_t buffer_size_;
  Connected connected_;
  State state_ = State::kWaiting;
  uint8_t ops_ = kSendRequest;
  bool readable_ = false;       // the socket may have bytes or an end
  bool hung_up_ = false;        // the host's other end is closed in both directions
  bool host_sends_ = true;      // false: end of file was read
  bool host_reads_ = true;      // false: writing failed
  bool host_told_end_ = false;  // SHUT_WR was done
  uint32_t shutdown_ = 0;       // what we tell, or have told, the guest
  uint32_t peer_shutdown_ = 0;  // what the guest told us
  // Guest → host.
  uint32_t received_ = 0;
  uint32_t forwarded_ = 0;
  uint32_t forwarded_told_ = 0;
  ByteQueue pending_;  // received, not yet taken by the socket; at most buffer_size_
  // Host → guest.
  uint32_t sent_ = 0;
  uint32_t peer_buffer_ = 0;
  uint32_t peer_forwarded_ = 0;
  uint64_t total_sent_ = 0;
  uint64_t total_received_ = 0;
};

}  // namespace wyvern::devices
