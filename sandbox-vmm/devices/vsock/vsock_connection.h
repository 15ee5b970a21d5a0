// vsock/vsock_connection.h — one connection between a host socket and a guest port: its states, its
// credit, its packets.
// Spec:    VIRTIO 1.4 §5.10.6.3 (credit), §5.10.6.5 (connecting, shutdown), §5.10.6.6 (seqpacket).
// State:   waiting (request not yet sent) → connecting → established → gone. Each direction ends on
//          its own: a FIN of the host socket
//          becomes SHUTDOWN(SEND), the guest's SHUTDOWN(SEND) becomes shutdown(SHUT_WR).
//          An established connection is never reset by us while the guest may still have bytes to
//          read: Linux drops unread bytes on RST.
//          It ends when the guest says RST or SHUTDOWN of both directions, which we answer with
//          RST.
// Threads: the device's worker.   Trust: headers and payload are the guest's; each header is copied
//          once by the caller.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "virtio/queue.h"
#include "vsock/host_socket.h"
#include "vsock/vsock_credit.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

class VsockConnection {
 public:
  static constexpr uint32_t kMaxWanted = 256 << 10;  // more in one read makes none of it cheaper

  struct Ports {
    uint32_t host = 0;
    uint32_t guest = 0;
  };

  using Connected = std::function<void(Result<>)>;

  // `buffer_size`: what we let the guest send ahead, if the socket can take so much.
  VsockConnection(EventLoop& loop, Ports ports, std::unique_ptr<HostSocket> host,
                  uint32_t buffer_size, Connected connected);
  ~VsockConnection();
  VsockConnection(const VsockConnection&) = delete;
  VsockConnection& operator=(const VsockConnection&) = delete;

  // Waits for the socket: `on_event` runs after OnSocket.
  Result<> Watch(std::function<void()> on_event);

  Ports ports() const { return ports_; }

  uint16_t type() const { return host_->type(); }

  uint32_t buffer_size() const { return credit_.buffer_size(); }

  bool request_sent() const { return state_ != State::kWaiting; }

  bool connecting() const { return state_ == State::kConnecting; }

  bool established() const { return state_ == State::kEstablished; }

  // Host side is closed and the guest has been told everything: only its answer is missing.
  bool lingering() const { return !host_->valid() && established() && ops_ == 0; }

  // Nothing is left to do for either side.
  bool finished() const;

  // A packet of the guest for this connection. False: it broke the rules (the connection is then to
  // be reset).
  bool OnPacket(const VsockHeader& header, const virtio::Chain& chain, VsockScratch* scratch);
  // Drops the host side and answers the guest with RST.
  void Reset(Error reason);
  // The guest's side is gone (device reset): what the host still has to get is written, then the
  // socket is closed.
  void GuestGone(Error reason);

  // A packet for the guest is due.
  bool WantsToSend() const { return ops_ != 0 || DataDue(); }

  // What the next packets may carry, judged by the last read; 0: no data is due. Room for more is
  // used too, up to the guest's credit.
  uint32_t DataWanted() const {
    return DataDue() ? std::min(credit_.ToSend(), std::max(expected_, host_->waiting())) : 0;
  }

  // Puts the next packet into the first of `chains`, each writable for at least a header; data into
  // as many of them as one read of the socket fills. What was written into each is appended to
  // `written`, nothing when no packet was due after all; the chains beyond are untouched.
  void FillPackets(std::span<virtio::Chain> chains, uint64_t guest_cid, VsockScratch* scratch,
                   std::vector<uint32_t>* written);

  // Belongs to the device: which of its lists this is in, and when connecting ends.
  enum class Place : uint8_t { kIdle, kReady, kConnecting, kLingering };
  Place place = Place::kIdle;
  std::chrono::steady_clock::time_point deadline;

  uint64_t bytes_to_host() const { return total_received_; }

  uint64_t socket_reads() const { return host_->reads(); }

 private:
  enum class State : uint8_t { kWaiting, kConnecting, kEstablished, kGone };

  enum Op : uint8_t { kSendRequest = 1, kSendReset = 2, kSendShutdown = 4, kSendCredit = 8 };

  void OnSocket(uint32_t events);
  bool OnData(const VsockHeader& header, const virtio::Chain& chain, VsockScratch* scratch);
  bool OnShutdown(uint32_t flags);
  void Settle();
  void WatchRoom(bool watch);
  void HostSendsNoMore();
  void FinishHostSide();
  void Finish(Result<> outcome);
  void CloseSocket();
  bool DataDue() const;
  HostSocket::Filled ReadHost(std::span<virtio::Chain> chains, VsockScratch* scratch);
  VsockOp NextOp(std::span<virtio::Chain> chains, VsockScratch* scratch,
                 HostSocket::Filled* filled);
  VsockHeader Header(VsockOp op, uint64_t guest_cid);

  EventLoop& loop_;
  const Ports ports_;
  std::unique_ptr<HostSocket> host_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  Connected connected_;
  VsockCredit credit_;
  uint32_t expected_ = 1;  // bytes that the socket is thought to hold
  uint64_t total_received_ = 0;
  State state_ = State::kWaiting;
  uint8_t ops_ = kSendRequest;
  bool readable_ = false;       // the socket may have bytes or an end
  bool end_near_ = false;       // the end, or an error, is behind what the socket still holds
  bool room_watched_ = false;   // epoll tells when the socket takes more
  bool hung_up_ = false;        // the host's other end is closed in both directions
  bool host_sends_ = true;      // false: end of file was read
  bool host_told_end_ = false;  // SHUT_WR was done
  uint32_t shutdown_ = 0;       // what we tell, or have told, the guest
  uint32_t peer_shutdown_ = 0;  // what the guest told us
};

}  // namespace wyvern::devices
