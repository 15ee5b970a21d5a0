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

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "virtio/queue.h"
#include "vsock/byte_queue.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

class VsockConnection {
 public:
  static constexpr uint32_t kMaxPayload = 64 << 10;  // of one packet
  static constexpr uint32_t kMaxWanted = 256 << 10;  // more in one read makes none of it cheaper

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

  // What the next packets may carry, judged by the last read; 0: no data is due. Room for more is
  // used too, up to the guest's credit.
  uint32_t DataWanted() const { return DataDue() ? std::min(Credit(), expected_) : 0; }

  // Payload that a packet in `chain` can carry, which is at least a header long.
  static uint32_t PayloadRoom(const virtio::Chain& chain) {
    return std::min(chain.writable_length() - kVsockHeaderSize, kMaxPayload);
  }

  // Puts the next packet into the first of `chains`, each writable for at least a header; data into
  // as many of them as one read of the socket fills. What was written into each is appended to
  // `written`, nothing when no packet was due after all; the chains beyond are untouched.
  void FillPackets(std::span<virtio::Chain> chains, uint64_t guest_cid, std::vector<iovec>* scratch,
                   std::vector<uint32_t>* written);

  // Belongs to the device: membership of its ready list, and the connect timer.
  bool queued = false;
  EventLoop::Token timer = EventLoop::Token::kNone;

  uint64_t bytes_to_guest() const { return total_sent_; }

  uint64_t bytes_to_host() const { return total_received_; }

  uint64_t socket_reads() const { return socket_reads_; }

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
  VsockOp NextOp(std::span<virtio::Chain> chains, std::vector<iovec>* scratch, uint32_t* payload);
  uint32_t ReceiveInto(std::span<virtio::Chain> chains, std::vector<iovec>* scratch);
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
  uint32_t expected_ = 1;  // bytes that the socket is thought to hold
  uint64_t socket_reads_ = 0;
  uint64_t total_sent_ = 0;
  uint64_t total_received_ = 0;
};

}  // namespace wyvern::devices
