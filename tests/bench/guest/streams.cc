#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <cstdio>
#include <cstring>

#include "guest/guest.h"

namespace bench_guest {

namespace {

constexpr unsigned kVsockPort = 1000;
// As lab/network.py has them: 10.99.0.1 and .2, /24.
constexpr in_port_t kHostPort = 1000;
constexpr in_addr_t kHost = 0x0a630001;
constexpr in_addr_t kGuest = 0x0a630002;
constexpr in_addr_t kMask = 0xffffff00;
char stream_bytes[1 << 16];

// Begins a stream; the other end does as it says.
struct Order {
  char kind;
  char unused[7];
  uint64_t size;
};

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
  Order order{};

  if (!ReadAll(fd, &order, sizeof(order))) {
    return;
  }
  for (uint64_t left = order.size; left > 0;) {
    const size_t part = order.kind == 'e'             ? 1
                        : left < sizeof(stream_bytes) ? left
                                                      : sizeof(stream_bytes);
    ssize_t done = static_cast<ssize_t>(part);
    if (order.kind != 'g') {
      done = read(fd, stream_bytes, part);
    }
    if (done > 0 && order.kind != 't') {
      done = write(fd, stream_bytes, static_cast<size_t>(done));
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

sockaddr_in Address(in_addr_t address, in_port_t port = 0) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_addr.s_addr = htonl(address);
  result.sin_port = htons(port);
  return result;
}

void Configure(int fd, unsigned long what, const sockaddr_in& address) {
  ifreq request{};
  strcpy(request.ifr_name, "eth0");
  memcpy(&request.ifr_addr, &address, sizeof(address));
  if (ioctl(fd, what, &request) != 0) {
    End("an address for eth0");
  }
}

void ConfigureNetwork() {
  // Nobody asks for its neighbours meanwhile.
  const int ipv6 = open("/proc/sys/net/ipv6/conf/all/disable_ipv6", O_WRONLY | O_CLOEXEC);
  static_cast<void>(!write(ipv6, "1", 1));
  close(ipv6);
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  Configure(fd, SIOCSIFADDR, Address(kGuest));
  Configure(fd, SIOCSIFNETMASK, Address(kMask));
  ifreq request{};
  strcpy(request.ifr_name, "eth0");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) {
    End("eth0 up");
  }
  close(fd);
}

}  // namespace

void ServeVsock() {
  const int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = kVsockPort;
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

int ConnectToHost() {
  ConfigureNetwork();
  const sockaddr_in address = Address(kHost, kHostPort);
  for (int patience = 1000; patience > 0; --patience) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      return fd;
    }
    close(fd);
    poll(nullptr, 0, 10);  // until the link is up
  }
  End("connect to the host");
}

void Talk(int fd, char kind, uint64_t size) {
  Order order{};
  order.kind = kind;
  order.size = size;
  if (write(fd, &order, sizeof(order)) != sizeof(order)) {
    End("an order for the host");
  }
  for (uint64_t left = size; left > 0;) {
    const size_t part = kind == 'e' ? 1 : left < sizeof(stream_bytes) ? left : sizeof(stream_bytes);
    ssize_t done = static_cast<ssize_t>(part);
    if (kind != 'g') {
      done = write(fd, stream_bytes, part);
    }
    if (done > 0 && kind != 't') {
      done = read(fd, stream_bytes, static_cast<size_t>(done));
    }
    if (done <= 0) {
      End("a stream to the host");
    }
    left -= static_cast<uint64_t>(done);
  }
  // The last byte has arrived.
  if (kind == 't' && read(fd, stream_bytes, 1) != 1) {
    End("the host's answer");
  }
}

}  // namespace bench_guest
