// fs/serve.h — the life of wyvern-fs: confinement, then requests until the front-end hangs up.
// Threads: the caller's for the front-end's messages, one for the control socket, the device's pool.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "fs/export.h"
#include "fs/fs_state.h"

namespace wyvern::fs_process {

struct ServeOptions {
  UniqueFd vhost_socket;    // connected
  UniqueFd control_socket;  // SEQPACKET, or none
  std::string tag = "wyvern";
  std::string shared_dir;  // share this one directory; empty: exports come by the control socket
  bool read_only = false;
  unsigned cache_ms = 1000;
  fs::SessionFeatures features;
  // Of the DAX window that the front-end is asked to map files in: a multiple of 2 MiB; 0: none.
  uint64_t dax_window = 0;
  // Of a state that another server saved (migration).
  fs::OnLoss on_loss = fs::OnLoss::kAbort;
  unsigned queues = 4;
  unsigned threads = 4;
  bool offer_config = false;
};

// Returns when the front-end has hung up. Everything is released then; a request that hangs on the
// host delays that by 10 s at most, then the process is ended by SIGALRM.
Result<> Serve(ServeOptions options);

}  // namespace wyvern::fs_process
