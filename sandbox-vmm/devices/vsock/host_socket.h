// vsock/host_socket.h — the host's end of a connection: a donated unix socket between which and
// guest memory payload moves. What differs between streams and messages is here, and nothing of
// states, credit or headers.
// Spec:    VIRTIO 1.4 §5.10.6.5 (stream), §5.10.6.6 (seqpacket).
// Shape:   HostStream: bytes, no boundaries. HostMessages: a SOCK_SEQPACKET socket; what one sendmsg
//          carried is one message, in as many packets as it needs, the last with kEndOfMessage.
// Bounds:  what is kept for a slow host is at most what the owner lets the guest send. Kept for the
//          guest is at most one message of kMaxHostMessage bytes (HostMessages), else nothing.
// Threads: the device's worker.   Trust: chains are the guest's, lengths were judged by the caller.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "virtio/queue.h"
#include "vsock/byte_queue.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

inline constexpr uint32_t kMaxVsockPayload = 64 << 10;  // of one packet
// Of one message that the host sends: more is the end of its connection.
inline constexpr uint32_t kMaxHostMessage = 256 << 10;

// What a connection needs for the length of a call; a device has one.
struct VsockScratch {
  std::vector<iovec> iovecs;
  // Where the part of a host's message goes that the guest has no room for yet; empty until the
  // first HostMessages needs it.
  std::vector<std::byte> overflow;
};

class HostSocket {
 public:
  enum class Outcome : uint8_t {
    kMore,     // there may be more
    kBlocked,  // nothing beyond `bytes` until the socket says so
    kEnded,    // the host sends no more
    kTooLong,  // a message that nobody can keep; it is lost
  };

  struct Filled {
    uint32_t bytes = 0;
    uint32_t flags = 0;  // for the header of the packet with the last of them
    bool full = false;   // no less than there was room for
    Outcome outcome = Outcome::kMore;
  };

  // By the socket's own type. INVALID_ARGUMENT: neither SOCK_STREAM nor SOCK_SEQPACKET.
  static Result<std::unique_ptr<HostSocket>> Create(UniqueFd fd);
  virtual ~HostSocket() = default;
  HostSocket(const HostSocket&) = delete;
  HostSocket& operator=(const HostSocket&) = delete;

  // kVsockStream or kVsockSeqpacket.
  virtual uint16_t type() const = 0;
  // What the guest is let send ahead: `wanted` bytes, or less where more could not be handed on. To
  // be called once, before anything else.
  virtual uint32_t LimitKept(uint32_t wanted) = 0;

  bool valid() const { return fd_.valid(); }

  FdRef fd() const { return fd_; }

  void Close() { fd_.Reset(); }

  // False once writing has failed: nobody reads there.
  bool host_reads() const { return host_reads_; }

  // Guest → host. Hands on `length` bytes of `chain` behind its header, or keeps them; where nobody
  // reads they are dropped. False: the guest broke the rules.
  virtual bool Take(const virtio::Chain& chain, uint32_t length, uint32_t flags,
                    VsockScratch* scratch) = 0;
  // Hands on what is kept, as far as the socket takes it.
  virtual void Flush() = 0;
  // Payload bytes that are kept.
  virtual uint32_t kept() const = 0;
  // Nothing is kept that could still be handed on.
  virtual bool drained() const = 0;

  // In the middle of a message of the guest.
  virtual bool in_message() const { return false; }

  virtual void Drop() = 0;

  // The host is given up: nothing is kept for it, or of it, any more.
  virtual void Abandon() {
    host_reads_ = false;
    Drop();
  }

  // Host → guest. Payload behind the header of each of `chains`, in order, at most `credit` bytes
  // (not 0) and as many as one read of the socket gives.
  virtual Filled Fill(std::span<virtio::Chain> chains, uint32_t credit, VsockScratch* scratch) = 0;

  // Bytes that were read and that the guest has not got.
  virtual uint32_t waiting() const { return 0; }

  uint64_t reads() const { return reads_; }

  // Payload that a packet in `chain` can carry, which is at least a header long.
  static uint32_t PayloadRoom(const virtio::Chain& chain);

 protected:
  explicit HostSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  // iovecs of the payload of `chains`, at most `limit` bytes and `max_parts`; their bytes.
  static uint32_t Room(std::span<virtio::Chain> chains, uint32_t limit, size_t max_parts,
                       std::vector<iovec>* iovecs);
  // One recvmsg: its value, or -errno; EINTR is not seen.
  int64_t Receive(std::vector<iovec>* iovecs, int* flags);
  // One sendmsg: its value, or -EAGAIN; any other failure makes host_reads() false and gives -EPIPE.
  int64_t Send(std::span<iovec> iovecs, int flags);
  // For Send, which does not write there.
  static std::array<iovec, 2> AsIovecs(const ByteQueue::Pieces<const std::byte>& pieces);

 private:
  UniqueFd fd_;
  bool host_reads_ = true;
  uint64_t reads_ = 0;
};

class HostStream final : public HostSocket {
 public:
  explicit HostStream(UniqueFd fd) : HostSocket(std::move(fd)) {}

  uint16_t type() const override { return kVsockStream; }

  uint32_t LimitKept(uint32_t wanted) override { return wanted; }

  bool Take(const virtio::Chain& chain, uint32_t length, uint32_t flags,
            VsockScratch* scratch) override;
  void Flush() override;

  uint32_t kept() const override { return static_cast<uint32_t>(kept_.size()); }

  bool drained() const override { return kept_.empty(); }

  void Drop() override { kept_.Clear(); }

  Filled Fill(std::span<virtio::Chain> chains, uint32_t credit, VsockScratch* scratch) override;

 private:
  bool WriteDirectly(const virtio::Chain& chain, uint32_t length, VsockScratch* scratch,
                     uint32_t* written);

  ByteQueue kept_;
};

class HostMessages final : public HostSocket {
 public:
  // `largest`: bytes of a message that the socket takes.
  HostMessages(UniqueFd fd, uint32_t largest) : HostSocket(std::move(fd)), limit_(largest) {}

  uint16_t type() const override { return kVsockSeqpacket; }

  uint32_t LimitKept(uint32_t wanted) override {
    limit_ = std::min(wanted, limit_);
    return limit_;
  }

  bool Take(const virtio::Chain& chain, uint32_t length, uint32_t flags,
            VsockScratch* scratch) override;
  void Flush() override;

  uint32_t kept() const override { return static_cast<uint32_t>(kept_.size()); }

  bool drained() const override { return ends_.empty(); }

  bool in_message() const override { return unfinished_ > 0; }

  void Drop() override;
  void Abandon() override;
  Filled Fill(std::span<virtio::Chain> chains, uint32_t credit, VsockScratch* scratch) override;

  uint32_t waiting() const override { return static_cast<uint32_t>(waiting_.size()); }

 private:
  struct End {
    uint32_t length = 0;
    bool of_record = false;
    size_t encoded = 0;  // bytes in ends_
  };

  bool Keep(const virtio::Chain& chain, uint32_t length);
  void PutEnd(bool of_record);
  End NextEnd() const;
  Filled FillFromWaiting(std::span<virtio::Chain> chains, uint32_t credit);

  uint32_t limit_;
  // Guest → host: whole messages and the beginning of one.
  ByteQueue kept_;
  // The whole ones' lengths, 7 bits a byte: the books of a message never cost more than itself, of
  // which the guest decides the number.
  ByteQueue ends_;
  uint32_t unfinished_ = 0;
  // Host → guest: the rest of a message, without an end only while it is not empty.
  ByteQueue waiting_;
  uint32_t waiting_flags_ = 0;
};

}  // namespace wyvern::devices
