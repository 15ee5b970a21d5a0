// machine/testing/boot_options.h — the command line of wyvern-boot-test.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace wyvern::machine {

struct BootDisk {
  std::string path;
  bool read_only = false;
};

// A console port: what the guest writes goes to `out`, what it reads comes from `in` (a fifo).
struct BootPort {
  std::string name;
  std::string in;
  std::string out;
};

struct BootOptions {
  std::string kernel;
  std::string initrd;
  std::string command_line = "console=ttyS0 panic=-1";
  uint64_t memory_mib = 256;
  uint64_t hotplug_mib = 0;  // a virtio-mem device over that much
  uint32_t cpus = 1;
  uint32_t max_cpus = 0;  // 0: as many
  uint32_t queues = 1;    // of each disk
  uint32_t lanes = 1;     // of each disk: threads that serve them
  uint32_t pairs = 1;     // of the tap
  uint32_t seconds = 60;
  uint32_t pauses = 0;  // Pause/Resume this many times, 20 ms apart
  bool shared = false;
  bool split = false;  // no device offers packed rings
  bool balloon = false;
  bool reporting = true;   // the balloon offers free page reporting
  std::string tap;         // name of a tap, made if it is not there
  bool vhost_net = false;  // the kernel has its rings
  // /dev/pmem0, /dev/pmem1, …; each of one file or several, one behind the other.
  std::vector<std::vector<std::string>> images;
  std::vector<BootDisk> disks;  // /dev/vda, /dev/vdb, … with serial numbers disk0, disk1, …
  bool pool = false;            // they do without io_uring
  std::vector<BootPort> ports;
};

const char* BootUsage();

std::optional<BootOptions> ParseBootOptions(int argc, char** argv);

}  // namespace wyvern::machine
