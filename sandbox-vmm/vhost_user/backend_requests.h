// vhost_user/backend_requests.h — what a back-end asks of its front-end, over the channel of
// SET_BACKEND_REQ_FD.
// Errors:  FAILED_PRECONDITION: no channel, or the feature was not negotiated. UNAVAILABLE: the
//          front-end does not answer or not by the protocol; the channel is then closed for good.
//          INTERNAL: it refused.
// Threads: any; one request at a time, each within the timeout. A front-end answers them whatever
//          else it is waiting for, so the device may ask from any place.
// Trust:   replies are the front-end's.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>

#include "vhost_user/connection.h"

namespace wyvern::vhost_user {

class BackendRequests {
 public:
  explicit BackendRequests(std::chrono::milliseconds timeout) : timeout_(timeout) {}

  // By the back-end: a new channel, and what was negotiated.
  void SetChannel(UniqueFd socket);
  void SetProtocolFeatures(uint64_t features);

  // The device's configuration is another one (CONFIG_CHANGE_MSG). Not waited for.
  Result<> ConfigChanged();
  // Maps [fd_offset, + length) of `fd` at `offset` of the shared-memory region `shmid`, where
  // nothing is mapped (SHMEM_MAP). All multiples of a page.
  Result<> MapShared(uint8_t shmid, uint64_t offset, FdRef fd, uint64_t fd_offset, uint64_t length,
                     bool writable);
  // Exactly what was mapped before (SHMEM_UNMAP).
  Result<> UnmapShared(uint8_t shmid, uint64_t offset, uint64_t length);

 private:
  Result<> Ask(BackendRequest request, std::span<const std::byte> payload,
               std::span<const FdRef> fds, bool wait);

  const std::chrono::milliseconds timeout_;
  std::mutex mu_;
  std::unique_ptr<Connection> connection_;  // guarded by mu_
  uint64_t protocol_features_ = 0;          // guarded by mu_
};

}  // namespace wyvern::vhost_user
