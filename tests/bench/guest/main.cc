// The only process of a measuring guest, /init of its initrd. The kernel command line says what to do:
//   bench=blk-read:1000,fs-walk:100,…   operations one after the other, and their count: blk-read, fs-read, fs-write (4 KiB each),
//     blk-seq (MiB), fs-lookup, fs-walk (directories), fs-create; net-ping, net-send and net-receive (MiB), with the host; vsock:1
//   bench=agent-rss:1  the agent's resident memory in KiB, as <count>
//   bench_dir=x   directory of the share (tag "wyvern") that holds a file "data" of 16 MiB and the directories tree/0, tree/1, …
//   bench_usable=PORT  nothing of that: a kernel with modules, whose devices come later (usable.cc)
// In another guest: `… usable PORT`, see usable.cc.
// Prints "BENCH <operation> <count> <ns>" on the console for each, at last "BENCH done", and waits to be killed. Static, libc only.
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "guest/guest.h"

namespace bench_guest {

void End(const char* why) {
  if (why != nullptr) {
    printf("BENCH error %s: %m\n", why);
  }
  printf("BENCH done\n");
  fflush(stdout);
  for (;;) {
    pause();
  }
}

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000U + static_cast<uint64_t>(now.tv_nsec);
}

namespace {

constexpr uint64_t kMib = 1 << 20;

// Becomes the agent of the image on /dev/pmem0, as the kernel would have started it; a child of ours says what it holds five seconds later.
[[noreturn]] void MeasureAgent() {
  mkdir("/image", 0755);
  if (mount("/dev/pmem0", "/image", "erofs", MS_RDONLY, "dax=always") != 0) {
    End("mount /dev/pmem0");
  }
  if (fork() != 0) {
    if (chroot("/image") != 0 || chdir("/") != 0) {
      End("chroot");
    }
    execl("/sbin/wyvern-agent", "/sbin/wyvern-agent", nullptr);
    End("/sbin/wyvern-agent");
  }
  poll(nullptr, 0, 5000);
  FILE* status = fopen("/proc/1/status", "re");
  unsigned long long rss = 0;
  for (char text[256]; status != nullptr && fgets(text, sizeof(text), status) != nullptr;) {
    if (strncmp(text, "VmRSS:", 6) == 0) {
      rss = strtoull(text + 6, nullptr, 10);
    }
  }
  printf("BENCH agent-rss %llu 0\n", rss);
  End(nullptr);
}

// False: there is no such operation.
bool RunFiles(const char* operation, uint64_t count, const char* directory) {
  char file[320];
  snprintf(file, sizeof(file), "%s/data", directory);
  if (strcmp(operation, "blk-read") == 0) {
    RandomBlocks("/dev/vda", count, false);
  } else if (strcmp(operation, "blk-seq") == 0) {
    ReadInOrder("/dev/vda", count);
  } else if (strcmp(operation, "fs-read") == 0) {
    RandomBlocks(file, count, false);
  } else if (strcmp(operation, "fs-write") == 0) {
    RandomBlocks(file, count, true);
  } else if (strcmp(operation, "fs-lookup") == 0) {
    LookUpMissing(directory, count);
  } else if (strcmp(operation, "fs-walk") == 0) {
    Walk(directory, count);
  } else if (strcmp(operation, "fs-create") == 0) {
    MakeAndRemove(directory, count);
  } else {
    return false;
  }
  return true;
}

bool RunNetwork(int host, const char* operation, uint64_t count) {
  if (strcmp(operation, "net-ping") == 0) {
    Talk(host, 'e', count);
  } else if (strcmp(operation, "net-send") == 0) {
    Talk(host, 't', count * kMib);
  } else if (strcmp(operation, "net-receive") == 0) {
    Talk(host, 'g', count * kMib);
  } else {
    return false;
  }
  return true;
}

void Run(const char* operation, uint64_t count, const char* directory) {
  if (strcmp(operation, "agent-rss") == 0) {
    MeasureAgent();
  }
  if (strcmp(operation, "vsock") == 0) {
    ServeVsock();
  }
  const bool network = strncmp(operation, "net-", 4) == 0;
  const int host = network ? ConnectToHost() : -1;
  const uint64_t start = NowNs();
  if (!(network ? RunNetwork(host, operation, count) : RunFiles(operation, count, directory))) {
    End(operation);
  }
  printf("BENCH %s %llu %llu\n", operation, static_cast<unsigned long long>(count),
         static_cast<unsigned long long>(NowNs() - start));
  if (network) {
    close(host);
  }
}

// The value of a word "name=value" of the command line; cuts it out of `line`.
char* Word(char* line, const char* name) {
  char* at = strstr(line, name);
  if (at == nullptr) {
    return nullptr;
  }
  at += strlen(name);
  char* copy = strdup(at);
  copy[strcspn(copy, " \n")] = '\0';
  return copy;
}

}  // namespace

}  // namespace bench_guest

int main(int argc, char** argv) {
  using bench_guest::End;
  if (argc == 3 && strcmp(argv[1], "usable") == 0) {
    return bench_guest::ServeUsable(argv[2]);
  }
  mkdir("/proc", 0755);
  mkdir("/dev", 0755);
  mkdir("/share", 0755);
  mount("proc", "/proc", "proc", 0, nullptr);
  mount("devtmpfs", "/dev", "devtmpfs", 0, nullptr);
  // It may be a standard stream already, which the agent is to have.
  const int console = open("/dev/console", O_RDWR);  // NOLINT(android-cloexec-open)
  for (int fd = 0; fd < 3; ++fd) {
    dup2(console, fd);
  }
  char line[4096] = {};
  const int cmdline = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  static_cast<void>(!read(cmdline, line, sizeof(line) - 1));
  if (const char* port = bench_guest::Word(line, " bench_usable=")) {
    bench_guest::InitOfUsable(port);
  }
  char* operations = bench_guest::Word(line, " bench=");
  const char* directory = bench_guest::Word(line, " bench_dir=");
  if (operations == nullptr) {
    End("no bench= on the command line");
  }
  if (directory != nullptr && mount("wyvern", "/share", "virtiofs", 0, nullptr) != 0) {
    End("mount the share");
  }
  char path[256];
  snprintf(path, sizeof(path), "/share/%s", directory != nullptr ? directory : "");
  char* rest = nullptr;
  for (char* one = strtok_r(operations, ",", &rest); one != nullptr;
       one = strtok_r(nullptr, ",", &rest)) {
    char* colon = strchr(one, ':');
    const uint64_t count = colon != nullptr ? strtoull(colon + 1, nullptr, 10) : 1;
    if (colon != nullptr) {
      *colon = '\0';
    }
    bench_guest::Run(one, count, path);
  }
  End(nullptr);
}
