// fs/shared_dax_window.h — the DAX window in a front-end's hands: what the file server maps goes
// there as SHMEM_MAP and SHMEM_UNMAP.
// Shape:   every range of 2 MiB is a mapping of its own, so that any of them can be unmapped as it
//          was mapped, which the protocol wants; Linux asks for just these ranges. A range is
//          replaced as a whole, by unmapping first: between the two nothing is there, and a front-end
//          lets a guest that touches it meanwhile try again (machine/vcpu_thread.h).
// Errors:  FAILED_PRECONDITION: the front-end has no window, or is not there yet. UNAVAILABLE: it
//          does not answer. INTERNAL: it refuses.
// Threads: Connect before the first request; then as DaxWindow.
// Trust:   answers are the front-end's. What it refuses to unmap it does not have: it empties the
//          window itself when the device is reset.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "fs/dax_window.h"
#include "vhost_user/backend_requests.h"

namespace wyvern::fs_process {

class SharedDaxWindow final : public fs::DaxWindow {
 public:
  // `size`: a multiple of 2 MiB.
  explicit SharedDaxWindow(uint64_t size);

  // Of the back-end whose device has the file server.
  void Connect(std::shared_ptr<vhost_user::BackendRequests> requests) {
    requests_ = std::move(requests);
  }

  // The front-end hung up: what it had mapped went with it. Any thread.
  void Disconnect() { gone_.store(true, std::memory_order_relaxed); }

  uint64_t size() const override;
  // Precondition: window_offset is a multiple of 2 MiB.
  Result<> Map(FdRef file, uint64_t file_offset, uint64_t window_offset, uint64_t length,
               bool writable) override;
  // Whole ranges of 2 MiB: each that the given one touches.
  Result<> Unmap(uint64_t window_offset, uint64_t length) override;

 private:
  Result<> UnmapRange(size_t range);

  std::shared_ptr<vhost_user::BackendRequests> requests_;
  std::atomic<bool> gone_{false};
  std::vector<uint64_t> mapped_;  // bytes from each range's beginning; 0: none
};

}  // namespace wyvern::fs_process
