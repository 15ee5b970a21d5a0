// cli/run_spec.h — the OCI config.json that `wyvern run` makes of its options and an image's config.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/image.h"
#include "hypervisor/published_port.h"

namespace wyvern::cli {

struct RunOptions {
  std::string source;                // root directory, OCI layout or archive
  std::vector<std::string> command;  // after "--"; empty: the image's
  std::vector<std::string> env;      // "K=V" or "K" (taken from our environment)
  std::vector<std::string> volumes;  // HOST:GUEST[:ro]
  std::string name;                  // empty: a random one
  std::string user;
  std::string cwd;
  std::string hostname = "wyvern";
  std::string memory;                // "512MiB"; empty: the configuration's
  std::string net = "none";          // "none": loopback; "user": hypervisor/passt.h
  std::vector<std::string> publish;  // [ADDRESS:]HOST:GUEST[/udp]; with "user"
  std::string guest;                 // name of an imported guest; empty: the configuration's
  uint32_t cpus = 0;                 // 0: the configuration's
  bool tty = false;
  bool interactive = false;
  bool read_only = false;
  std::string timeline;     // file for the start's timeline; empty: none
  std::string config_file;  // on top of /etc/wyvern/wyvern.yaml
};

// INVALID_ARGUMENT: one is none, or there is no user network.
Result<std::vector<runtime::PublishedPort>> PublishedPorts(const RunOptions& options);

// With a user network the bundle is to have a file resolv.conf.
// INVALID_ARGUMENT names the option that is wrong.
Result<std::string> MakeRunSpec(const RunOptions& options, const Image& image);

}  // namespace wyvern::cli
