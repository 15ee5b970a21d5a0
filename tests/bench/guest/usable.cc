// bench/guest/usable.cc — says when a device that is attached to a running guest can be used: it looks for it every millisecond, asks nobody.
//   usable PORT   the orders and the answers go over the file PORT, a virtio-console port:
//     blk SERIAL   a disk with that serial, of which 512 bytes were read
//     net MAC      an interface with that address, in lower case with colons, which is up
//     fs TAG       a share that is mounted, its root looked at
//     cpu N        CPU N is online and this program has run on it
//     cpu-on N     the same, and it is put online here, as udev would: for a guest in which no agent does it
//     quit
//   Each is answered "looking", then "usable <ns>" (of the guest's CLOCK_MONOTONIC, since the order), then "free" when this program holds
//   nothing of it any more; or "never" after a minute.
#include <dirent.h>
#include <fcntl.h>
#include <linux/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "guest/guest.h"

namespace bench_guest {

namespace {

constexpr long kLookEveryNs = 1000000;
constexpr int kLooks = 60000;
constexpr size_t kSector = 512;
constexpr size_t kLine = 128;
constexpr char kMountPoint[] = "/run/usable.mnt";

// The first line of a file; false: there is none.
bool ReadLine(const char* path, char (&text)[kLine]) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const ssize_t got = read(fd, text, kLine - 1);
  close(fd);
  text[got < 0 ? 0 : got] = '\0';
  text[strcspn(text, "\n")] = '\0';
  return got >= 0;
}

// The entry of `directory` whose file `name` says `wanted`.
bool Find(const char* directory, const char* name, const char* wanted, char (&found)[kLine]) {
  DIR* entries = opendir(directory);
  bool there = false;
  while (entries != nullptr && !there) {
    const dirent* entry = readdir(entries);
    if (entry == nullptr) {
      break;
    }
    char path[512];
    char text[kLine];
    snprintf(path, sizeof(path), "%s/%s/%s", directory, entry->d_name, name);
    there = ReadLine(path, text) && strcmp(text, wanted) == 0;
    if (there) {
      snprintf(found, sizeof(found), "%.*s", static_cast<int>(kLine - 1), entry->d_name);
    }
  }
  if (entries != nullptr) {
    closedir(entries);
  }
  return there;
}

void Pause() {
  const timespec pause = {.tv_sec = 0, .tv_nsec = kLookEveryNs};
  nanosleep(&pause, nullptr);
}

// What an imported kernel's initrd has (deploy/guest): /modules/list names the files in order.
void LoadModules() {
  FILE* list = fopen("/modules/list", "re");
  if (list == nullptr) {
    End("/modules/list");
  }
  for (char line[kLine]; fgets(line, sizeof(line), list) != nullptr;) {
    line[strcspn(line, " \n")] = '\0';
    char path[kLine + 16];
    snprintf(path, sizeof(path), "/modules/%s", line);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) {
      printf("%s: %m\n", path);  // not every kernel has them all
    }
    close(fd);
  }
  static_cast<void>(fclose(list));
}

bool DiskReads(const char* serial) {
  char name[kLine];
  if (!Find("/sys/block", "serial", serial, name)) {
    return false;
  }
  char path[kLine + 8];
  snprintf(path, sizeof(path), "/dev/%s", name);
  alignas(kSector) static char sector[kSector];
  const int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  const bool read_it = fd >= 0 && pread(fd, sector, kSector, 0) == static_cast<ssize_t>(kSector);
  if (fd >= 0) {
    close(fd);
  }
  return read_it;
}

bool InterfaceIsUp(const char* mac) {
  ifreq request{};
  char name[kLine];
  if (!Find("/sys/class/net", "address", mac, name)) {
    return false;
  }
  snprintf(request.ifr_name, IFNAMSIZ, "%.*s", IFNAMSIZ - 1, name);
  request.ifr_flags = IFF_UP;
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool up = ioctl(fd, SIOCSIFFLAGS, &request) == 0;
  close(fd);
  return up;
}

bool ShareIsMounted(const char* tag) {
  struct stat root {};

  return mount(tag, kMountPoint, "virtiofs", 0, nullptr) == 0 && stat(kMountPoint, &root) == 0;
}

bool CpuRuns(int cpu, bool put_online) {
  char path[kLine];
  char online[kLine];
  snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
  if (!ReadLine(path, online)) {
    return false;
  }
  if (online[0] == '0' && put_online) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool written = fd >= 0 && write(fd, "1", 1) == 1;
    if (fd >= 0) {
      close(fd);
    }
    if (!written) {
      return false;
    }
  }
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  return sched_setaffinity(0, sizeof(one), &one) == 0 && sched_getcpu() == cpu;
}

bool Usable(const char* what, const char* which) {
  if (strcmp(what, "blk") == 0) {
    return DiskReads(which);
  }
  if (strcmp(what, "net") == 0) {
    return InterfaceIsUp(which);
  }
  if (strcmp(what, "fs") == 0) {
    return ShareIsMounted(which);
  }
  return CpuRuns(atoi(which), strcmp(what, "cpu-on") == 0);
}

void LetGo(const char* what) {
  if (strcmp(what, "fs") == 0) {
    umount2(kMountPoint, 0);
  }
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  sched_setaffinity(0, sizeof(first), &first);
}

void Look(FILE* answers, const char* what, const char* which) {
  fprintf(answers, "looking\n");
  const uint64_t start = NowNs();
  for (int i = 0; i < kLooks; ++i) {
    if (Usable(what, which)) {
      fprintf(answers, "usable %llu\n", static_cast<unsigned long long>(NowNs() - start));
      LetGo(what);
      fprintf(answers, "free\n");
      return;
    }
    Pause();
  }
  LetGo(what);
  fprintf(answers, "never\n");
}

}  // namespace

void InitOfUsable(const char* name) {
  mkdir("/sys", 0755);
  mkdir("/run", 0755);
  mount("sysfs", "/sys", "sysfs", 0, nullptr);
  LoadModules();
  char port[kLine];
  while (!Find("/sys/class/virtio-ports", "name", name, port)) {
    Pause();
  }
  char path[kLine + 8];
  snprintf(path, sizeof(path), "/dev/%s", port);
  static_cast<void>(ServeUsable(path));
  End("the orders end");
}

int ServeUsable(const char* port) {
  const int fd = open(port, O_RDWR | O_CLOEXEC);
  FILE* orders = fd < 0 ? nullptr : fdopen(fd, "r");
  FILE* answers = fd < 0 ? nullptr : fdopen(dup(fd), "w");
  if (orders == nullptr || answers == nullptr) {
    perror(port);
    return 1;
  }
  setvbuf(answers, nullptr, _IOLBF, kLine);
  mkdir(kMountPoint, 0755);
  char line[kLine];
  while (fgets(line, sizeof(line), orders) != nullptr) {
    char* rest = nullptr;
    const char* what = strtok_r(line, " \n", &rest);
    const char* which = strtok_r(nullptr, " \n", &rest);
    if (what == nullptr || which == nullptr) {
      break;
    }
    Look(answers, what, which);
  }
  return 0;
}

}  // namespace bench_guest
