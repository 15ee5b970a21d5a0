// agent/policy.h — what the host may ask of a guest that runs: an allow list, set by the boot and changed by nothing.
// Shape:   the word wyvern.allow=exec,signal,… of the kernel's command line (the runtime's guest.allow); names are those of kNames below.
//          Without the word everything is allowed. A name that is not known allows nothing. What a sandbox cannot be without (its
//          containers' creation, start, wait and deletion, SIGKILL, network, disks, volumes, figures) is no matter of it.
// Errors:  PERMISSION_DENIED, with the name that guest.allow would need.
// Threads: any.   Trust: it binds the clients of this runtime. Who is root on the host reads and writes the guest's memory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::agent {

class Policy {
 public:
  enum class What : uint8_t {
    kExec,         // a process more in a container
    kGuestExec,    // one beside the containers
    kStdin,        // input for processes
    kSignal,       // signals but SIGKILL
    kUpdate,       // other limits
    kPause,        // pause and resume
    kPortForward,  // connections to the guest's loopback
    kFiles,        // other files in a volume of files, once it has some
  };

  // In the order of What.
  static constexpr std::array<std::string_view, 8> kNames = {
      "exec", "guest_exec", "stdin", "signal", "update", "pause", "port_forward", "files"};

  // `allow`: names with commas between them; nullopt: no policy.
  explicit Policy(const std::optional<std::string>& allow);
  ~Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  Result<> Check(What what) const;

  bool limits() const { return limits_; }

  // Names of what is allowed.
  std::vector<std::string_view> allowed() const;

  // Calls that Check refused.
  uint64_t refused() const { return refused_; }

 private:
  bool limits_ = false;
  std::array<bool, kNames.size()> allowed_{};
  mutable std::atomic<uint64_t> refused_ = 0;
};

}  // namespace wyvern::agent
