// The only process of a measuring guest, /init of its initrd. The kernel command line says what to do:
//   bench=blk-read:1000,fs-read:1000,fs-lookup:1000,fs-write:1000,vsock:1   operations one after the other, and their count
//   bench=agent-rss:1  the agent's resident memory in KiB, as <count>
//   bench_dir=x   directory of the share (tag "wyvern") that holds a file "data" of 16 MiB
// Prints "BENCH <operation> <count> <ns>" on the console for each, at last "BENCH done", and waits to be killed. Static, libc only.
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kBlock = 4096;
constexpr uint64_t kFileBlocks = 4096;
constexpr unsigned kPort = 1000;
alignas(kBlock) char buffer[1 << 16];

[[noreturn]] void End(const char* why) {
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

// The same blocks in every run and on every VMM.
uint64_t NextBlock() {
  static uint64_t state = 1;
  state = state * 6364136223846793005U + 1442695040888963407U;
  return (state >> 33U) % kFileBlocks;
}

void Blocks(const char* path, uint64_t count, bool write) {
  const int fd = open(path, (write ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    End(path);
  }
  for (uint64_t i = 0; i < count; ++i) {
    const auto at = static_cast<off_t>(NextBlock() * kBlock);
    const ssize_t done = write ? pwrite(fd, buffer, kBlock, at) : pread(fd, buffer, kBlock, at);
    if (done != kBlock) {
      End("4 KiB at once");
    }
  }
  close(fd);
}

// From the directory itself, as a container's root is: the way to it would be looked up each time.
void Lookups(const char* directory, uint64_t count) {
  const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    End(directory);
  }
  for (uint64_t i = 0; i < count; ++i) {
    char name[64];
    snprintf(name, sizeof(name), "missing-%llu", static_cast<unsigned long long>(i));

    struct stat info {};

    if (fstatat(fd, name, &info, 0) == 0) {
      End("a name that should not exist");
    }
  }
  close(fd);
}

bool ReadAll(int fd, void* to, size_t size) {
  for (auto* at = static_cast<char*>(to); size > 0;) {
    const ssize_t got = read(fd, at, size);
    if (got <= 0) {
      return false;
    }
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

// The host says how many bytes in which direction: 'e'cho one by one, 'g'ive, 't'ake.
void ServeStream(int fd) {
  struct {
    char kind;
    char unused[7];
    uint64_t size;
  } order{};

  if (!ReadAll(fd, &order, sizeof(order))) {
    return;
  }
  for (uint64_t left = order.size; left > 0;) {
    const size_t part = order.kind == 'e' ? 1 : left < sizeof(buffer) ? left : sizeof(buffer);
    ssize_t done = static_cast<ssize_t>(part);
    if (order.kind != 'g') {
      done = read(fd, buffer, part);
    }
    if (done > 0 && order.kind != 't') {
      done = write(fd, buffer, static_cast<size_t>(done));
    }
    if (done <= 0) {
      return;
    }
    left -= static_cast<uint64_t>(done);
  }
  if (order.kind == 't') {
    static_cast<void>(!write(fd, "", 1));
  }
}

[[noreturn]] void ServeVsock() {
  const int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = kPort;
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 4) != 0) {
    End("vsock");
  }
  for (;;) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    ServeStream(fd);
    close(fd);
  }
}

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

void Run(const char* operation, uint64_t count, const char* directory) {
  char file[320];
  snprintf(file, sizeof(file), "%s/data", directory);
  const uint64_t start = NowNs();
  if (strcmp(operation, "blk-read") == 0) {
    Blocks("/dev/vda", count, false);
  } else if (strcmp(operation, "fs-read") == 0) {
    Blocks(file, count, false);
  } else if (strcmp(operation, "fs-write") == 0) {
    Blocks(file, count, true);
  } else if (strcmp(operation, "fs-lookup") == 0) {
    Lookups(directory, count);
  } else if (strcmp(operation, "agent-rss") == 0) {
    MeasureAgent();
  } else if (strcmp(operation, "vsock") == 0) {
    ServeVsock();
  } else {
    End(operation);
  }
  printf("BENCH %s %llu %llu\n", operation, static_cast<unsigned long long>(count),
         static_cast<unsigned long long>(NowNs() - start));
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

int main() {
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
  char* operations = Word(line, " bench=");
  const char* directory = Word(line, " bench_dir=");
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
    Run(one, count, path);
  }
  End(nullptr);
}
