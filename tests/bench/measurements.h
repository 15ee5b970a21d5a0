// bench/measurements.h — what `wyvern-bench` measures. Each prints one JSON object per line on stdout.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace wyvern::bench {

// `wyvern-bench first-answer`
Result<> FirstAnswer(const std::string& binary, int runs);

// What is done with a running guest, whoever its VMM is.
struct Exercise {
  bool agent = false;                                     // wait for the agent's Hello
  std::vector<std::pair<std::string, uint64_t>> streams;  // see guest_streams.h
  bool done = false;                                      // wait for "BENCH done" on its console
  bool hold = false;                                      // then wait for the end of stdin
};

struct BootOptions {
  std::string vmm, kernel, initrd, image, cmdline;
  uint64_t memory = uint64_t{256} << 20U;
  uint32_t vcpus = 1;
  std::string fs_binary, export_directory;  // wyvern-fs with one export "x"
  std::string vhost_user_socket;            // or a back-end that listens at this path
  uint64_t dax_window = 0;                  // bytes of that back-end's; 0: none
  std::string disk;
  bool shared_memory = false;  // also where nothing needs it
  Exercise exercise;
};

// `wyvern-bench boot`: wyvern-vmm from exec on.
Result<> Boot(const BootOptions& options);
// `wyvern-bench peer`: another VMM; its guest is reached by AF_VSOCK.
Result<> BootPeer(const std::vector<std::string>& argv, uint32_t guest_cid,
                  const Exercise& exercise);

}  // namespace wyvern::bench
