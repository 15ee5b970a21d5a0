// api/donation.h — how descriptors reach wyvern-vmm: one per SEQPACKET packet, each under a name,
// acknowledged.
// Wire:    request = le32 number, le32 kind, then the name (1..63 bytes of [a-z0-9:_-]), exactly one
//          fd as SCM_RIGHTS.
//          answer  = le32 number of the request (0: it had none), le32 google.rpc.Code, then a text
//          (empty when OK, at most 512 bytes).
//          Numbers count up from 1. The answer to a request that was given up on may still come:
//          its number says that it is not the one to the next request.
// Threads: DonationClient: any, serialised by a mutex. DonationServer: one thread.
// Trust:   the runtime is trusted, but a malformed packet must not hurt: it is answered
// INVALID_ARGUMENT and its fds are closed.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::api {

enum class DonationKind : uint32_t {
  kKvm = 1,     // /dev/kvm, O_RDWR
  kKernel = 2,  // regular file, O_RDONLY
  kInitrd = 3,
  kImage = 4,        // regular file, O_RDONLY: a pmem image
  kBlock = 5,        // regular file or block device
  kVhostUser = 6,    // connected SOCK_STREAM socket of a back-end
  kStream = 7,       // connected SOCK_STREAM socket of one vsock stream, or of a console port
  kConsoleRing = 8,  // memfd, see api/console_ring.h
  kTap = 9,          // attached tap, O_RDWR
};

inline constexpr size_t kMaxDonationName = 63;
inline constexpr size_t kMaxDonationText = 512;
// Fds that were donated and not yet taken by a request.
inline constexpr size_t kMaxPendingDonations = 256;

bool IsValidDonationName(std::string_view name);

class DonationClient {
 public:
  explicit DonationClient(UniqueFd socket,
                          std::chrono::milliseconds patience = std::chrono::seconds(5))
      : socket_(std::move(socket)), patience_(patience) {}

  // Sends a duplicate of `fd`; blocks for the acknowledgement (at most `patience`, then
  // DEADLINE_EXCEEDED: it may still be taken). ALREADY_EXISTS: the name is in use.
  Result<> Donate(DonationKind kind, const std::string& name, FdRef fd);

 private:
  Result<> AwaitAnswer(uint32_t number);

  std::mutex mu_;
  UniqueFd socket_;                           // guarded by mu_
  const std::chrono::milliseconds patience_;  // for one answer
  uint32_t sent_ = 0;                         // number of the last request; guarded by mu_
};

// The VMM's side: keeps fds by name until a request takes them.
class DonationStore {
 public:
  Result<> Add(DonationKind kind, std::string name, UniqueFd fd);
  // Hands the fd over; NOT_FOUND without one, INVALID_ARGUMENT when it was donated as another kind.
  Result<UniqueFd> Take(DonationKind kind, const std::string& name);

 private:
  struct Entry {
    DonationKind kind;
    UniqueFd fd;
  };

  std::mutex mu_;
  std::map<std::string, Entry> entries_;
};

// Receives one packet from `socket`, stores its fd, answers. False when the peer has closed.
Result<bool> ServeOneDonation(FdRef socket, DonationStore& store);

}  // namespace wyvern::api
