// What FUSE requests cost a guest: through rings, kick and interrupt, one at a time, the server being
//   thread     in threads of this process (FsDevice)
//   process    in its own, confined, over vhost-user (wyvern-fs)
//   virtiofsd  the same over the same front-end, by virtiofsd: the words of its command are in
//              WYVERN_BENCH_VIRTIOFSD, without it there are no such figures
// The driver, its memory, its rings and the shared directory are the same for all three.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/fs_device.h"
#include "fs/fuse_abi.h"
#include "vhost_user/frontend.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::fs_process {
namespace {

using Clock = std::chrono::steady_clock;

enum class Isolation : uint8_t { kThread, kProcess, kVirtiofsd };

constexpr uint64_t kFeatures = virtio::kVersion1 | virtio::kRingIndirectDesc;
constexpr uint16_t kRingSize = 1024;  // of QEMU's vhost-user-fs, as its users set it
constexpr uint32_t kPage = 4096;      // a request's data come in pages, as Linux's do
constexpr const char* kName = "a";

// Signalled by the device as an irqfd is: by the server itself, also from its own process.
class CallFd final : public virtio::Interrupt {
 public:
  void SignalQueue(uint16_t /*index*/) override { fd_.Signal(); }

  void SignalConfig() override {}

  FdRef QueueCallFd(uint16_t /*index*/) override { return fd_.fd(); }

  // False: nothing has come for long.
  bool Wait() const {
    pollfd polled{.fd = fd_.fd().get(), .events = POLLIN, .revents = 0};
    const bool signalled = ::poll(&polled, 1, 5000) == 1;
    fd_.Drain();
    return signalled;
  }

 private:
  EventFd fd_ = *EventFd::Create();
};

struct FuseRequest {
  uint32_t opcode = 0;
  uint64_t node = 0;
  std::string body;
  uint32_t room = 0;  // of the reply's payload, and how long it is
};

template <typename T>
std::string BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

template <typename T>
T ValueIn(const std::string& bytes) {
  T value{};
  WV_CHECK(bytes.size() >= sizeof(T));
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// A guest that has one request under way, and sleeps meanwhile.
class RingGuest {
 public:
  Result<> Start(virtio::VirtioDevice& device) {
    WV_TRY_VOID(StartQueue(device, 0, hiprio_));
    return StartQueue(device, 1, requests_);
  }

  virtio::testing::GuestRam& ram() { return ram_; }

  // In the ring; the device has not been told.
  uint16_t Place(const FuseRequest& request) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + request.body.size());
    header.opcode = request.opcode;
    header.nodeid = request.node;
    header.unique = ++unique_;
    auto build = requests_.driver.Build();
    build.Indirect().Readable(BytesOf(header) + request.body).Writable(sizeof(fuse_out_header));
    for (uint32_t at = 0; at < request.room; at += kPage) {
      build.Writable(std::min(kPage, request.room - at));
    }
    return build.Submit();
  }

  // From the notification until the answer is there: its length, 0 when none comes.
  uint32_t Exchange() {
    if (requests_.driver.ShouldNotify()) {
      requests_.kick.Signal();
    }
    for (;;) {
      if (const auto used = requests_.driver.TakeUsed()) {
        return used->written;
      }
      if (!interrupt_->Wait()) {
        return 0;
      }
    }
  }

  // The reply's payload; aborts on an error.
  std::string Call(const FuseRequest& request) {
    const uint16_t head = Place(request);
    const std::string reply = requests_.driver.Written(head, Exchange());
    WV_CHECK(ValueIn<fuse_out_header>(reply).error == 0);
    return reply.substr(sizeof(fuse_out_header));
  }

 private:
  struct Ring {
    explicit Ring(virtio::testing::GuestRam& ram) : driver(ram, kRingSize, kFeatures) {}

    virtio::testing::FakeDriver driver;
    EventFd kick = *EventFd::Create();
  };

  Result<> StartQueue(virtio::VirtioDevice& device, uint16_t index, const Ring& ring) {
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = ring.driver.config();
    resources.kick = ring.kick.fd();
    resources.interrupt = interrupt_;
    return device.StartQueue(index, std::move(resources), kFeatures, {});
  }

  virtio::testing::GuestRam ram_{16 << 20};
  Ring hiprio_{ram_};
  Ring requests_{ram_};
  std::shared_ptr<CallFd> interrupt_ = std::make_shared<CallFd>();
  uint64_t unique_ = 0;
};

// A place in memory: the directory that is shared, with one file of 1 MiB, and room beside it for
// what a server leaves.
class Shared {
 public:
  Shared() {
    path_ = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm/wyvern-ring-bench-XXXXXX"
                                            : "/tmp/wyvern-ring-bench-XXXXXX";
    WV_CHECK(::mkdtemp(path_.data()) != nullptr && ::mkdir(directory().c_str(), 0755) == 0);
    const UniqueFd fd(
        ::open((directory() + "/" + kName).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    WV_CHECK(WriteAll(fd, std::string(1 << 20, 'x')).has_value());
  }

  ~Shared() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  std::string directory() const { return path_ + "/shared"; }

  std::string socket() const { return path_ + "/socket"; }

 private:
  std::string path_;
};

// The device, and who serves it.
class Served {
 public:
  Served() = default;

  ~Served() {
    device_.reset();  // a server ends with its front-end
    if (process_) {
      static_cast<void>(process_->Kill(SIGKILL));
      static_cast<void>(process_->Wait());
    }
  }

  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  Result<> Start(Isolation isolation, const Shared& shared) {
    switch (isolation) {
      case Isolation::kThread:
        return StartThread(shared);
      case Isolation::kProcess:
        return StartProcess(shared);
      case Isolation::kVirtiofsd:
        return StartVirtiofsd(shared);
    }
    return {};
  }

  virtio::VirtioDevice& device() { return *device_; }

  // What its threads have spent, in seconds; this one is the guest's.
  double CpuSeconds() const {
    clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
    if (process_) {
      WV_CHECK(::clock_getcpuclockid(process_->pid(), &clock) == 0);
      return Seconds(clock);
    }
    return Seconds(clock) - Seconds(CLOCK_THREAD_CPUTIME_ID);
  }

 private:
  static double Seconds(clockid_t clock) {
    timespec now{};
    WV_CHECK(::clock_gettime(clock, &now) == 0);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }

  Result<> StartThread(const Shared& shared) {
    fs::FileServerOptions options;
    WV_TRY(options.root, Open(shared.directory(), O_RDONLY | O_DIRECTORY));
    WV_TRY(server_, fs::FileServer::Create(std::move(options)));
    fs::FsDeviceOptions device;
    device.tag = "bench";
    WV_TRY(device_, fs::FsDevice::Create(*server_, device));
    return {};
  }

  Result<> StartProcess(const Shared& shared) {
    WV_TRY(auto pair, MakeSocketPair(SOCK_STREAM));
    WV_TRY_VOID(
        Spawn({WV_FS, "--tag", "bench", "--queues", "1", "--shared-dir", shared.directory()},
              {{2, FdRef(2)}, {3, pair.second}}));
    return Connect(std::move(pair.first));
  }

  // Its sandbox costs a request nothing, and one with namespaces would serve from another process
  // than the one that was started; its filter of system calls stays.
  Result<> StartVirtiofsd(const Shared& shared) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): read only
    const char* words = std::getenv("WYVERN_BENCH_VIRTIOFSD");
    if (words == nullptr) {
      return Fail(Code::kFailedPrecondition, "WYVERN_BENCH_VIRTIOFSD does not name a virtiofsd");
    }
    std::istringstream text(words);
    std::vector<std::string> argv{std::istream_iterator<std::string>(text), {}};
    for (const std::string& word :
         {std::string("--sandbox=none"), "--socket-path=" + shared.socket(),
          "--shared-dir=" + shared.directory()}) {
      argv.push_back(word);
    }
    WV_TRY_VOID(Spawn(std::move(argv), {{2, FdRef(2)}}));
    Result<UniqueFd> socket = ConnectUnix(shared.socket());
    for (int i = 0; i < 500 && !socket; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      socket = ConnectUnix(shared.socket());
    }
    if (!socket) {
      return tl::unexpected(std::move(socket).error());
    }
    return Connect(*std::move(socket));
  }

  Result<> Spawn(std::vector<std::string> argv, std::vector<std::pair<int, FdRef>> fds) {
    SpawnOptions options;
    options.argv = std::move(argv);
    options.fds = std::move(fds);
    WV_TRY(auto process, Subprocess::Spawn(options));
    process_.emplace(std::move(process));
    return {};
  }

  Result<> Connect(UniqueFd socket) {
    WV_TRY(device_, vhost_user::Frontend::CreateFs(std::move(socket), "bench", 1, kRingSize));
    return {};
  }

  std::optional<Subprocess> process_;
  std::unique_ptr<fs::FileServer> server_;
  std::unique_ptr<virtio::VirtioDevice> device_;  // last: before its server
};

// What is asked again and again.
using MakeRequest = FuseRequest (*)(RingGuest& guest, uint32_t size);

FuseRequest LookupRequest(RingGuest& /*guest*/, uint32_t /*size*/) {
  return {FUSE_LOOKUP, FUSE_ROOT_ID, std::string(kName) + '\0', sizeof(fuse_entry_out)};
}

uint64_t NodeOfFile(RingGuest& guest) {
  return ValueIn<fuse_entry_out>(guest.Call(LookupRequest(guest, 0))).nodeid;
}

FuseRequest GetAttrRequest(RingGuest& guest, uint32_t /*size*/) {
  return {FUSE_GETATTR, NodeOfFile(guest), BytesOf(fuse_getattr_in{}), sizeof(fuse_attr_out)};
}

FuseRequest ReadRequest(RingGuest& guest, uint32_t size) {
  const uint64_t node = NodeOfFile(guest);
  const std::string opened =
      guest.Call({FUSE_OPEN, node, BytesOf(fuse_open_in{}), sizeof(fuse_open_out)});
  fuse_read_in in{};
  in.fh = ValueIn<fuse_open_out>(opened).fh;
  in.size = size;
  return {FUSE_READ, node, BytesOf(in), size};
}

void BeginSession(RingGuest& guest) {
  fuse_init_in in{};
  in.major = 7;
  in.minor = 38;
  in.flags = FUSE_MAX_PAGES;
  guest.Call({FUSE_INIT, 0, BytesOf(in), sizeof(fuse_init_out)});
}

Result<> StartBoth(Served& served, RingGuest& guest, Isolation isolation, const Shared& shared) {
  WV_TRY_VOID(served.Start(isolation, shared));
  return guest.Start(served.device());
}

// Only from the notification to the answer is timed: to fill and empty the ring is the guest's. The
// median of all goes into "median_ns", as in virtio_bench; what the server's threads spent, its
// part of a request on whichever machine, into "server_ns_per_item".
void RunRequests(benchmark::State& state, Isolation isolation, MakeRequest make, uint32_t size) {
  const Shared shared;
  Served served;
  RingGuest guest;
  if (const auto started = StartBoth(served, guest, isolation, shared); !started) {
    state.SkipWithError(started.error().message().c_str());
    return;
  }
  BeginSession(guest);
  const FuseRequest request = make(guest, size);
  const auto expected = static_cast<uint32_t>(sizeof(fuse_out_header) + request.room);
  std::vector<double> seconds;
  const uint64_t mark = guest.ram().Mark();
  const double before = served.CpuSeconds();
  for ([[maybe_unused]] auto step : state) {
    guest.Place(request);
    const auto start = Clock::now();
    const uint32_t written = guest.Exchange();
    const std::chrono::duration<double> took = Clock::now() - start;
    WV_CHECK(written == expected);
    state.SetIterationTime(took.count());
    seconds.push_back(took.count());
    guest.ram().Release(mark);
  }
  const auto count = static_cast<double>(seconds.size());
  state.counters["server_ns_per_item"] = (served.CpuSeconds() - before) * 1e9 / count;
  std::ranges::sort(seconds);
  state.counters["median_ns"] = seconds[seconds.size() / 2] * 1e9;
  if (size > 0) {
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(size));
  }
  served.device().StopQueue(1);
  served.device().StopQueue(0);
}

void BM_Lookup(benchmark::State& state, Isolation isolation) {
  RunRequests(state, isolation, LookupRequest, 0);
}

void BM_GetAttr(benchmark::State& state, Isolation isolation) {
  RunRequests(state, isolation, GetAttrRequest, 0);
}

void BM_Read4k(benchmark::State& state, Isolation isolation) {
  RunRequests(state, isolation, ReadRequest, 4096);
}

void BM_Read1M(benchmark::State& state, Isolation isolation) {
  RunRequests(state, isolation, ReadRequest, 1 << 20);
}

BENCHMARK_CAPTURE(BM_Lookup, thread, Isolation::kThread)->UseManualTime();
BENCHMARK_CAPTURE(BM_Lookup, process, Isolation::kProcess)->UseManualTime();
BENCHMARK_CAPTURE(BM_Lookup, virtiofsd, Isolation::kVirtiofsd)->UseManualTime();
BENCHMARK_CAPTURE(BM_GetAttr, thread, Isolation::kThread)->UseManualTime();
BENCHMARK_CAPTURE(BM_GetAttr, process, Isolation::kProcess)->UseManualTime();
BENCHMARK_CAPTURE(BM_GetAttr, virtiofsd, Isolation::kVirtiofsd)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read4k, thread, Isolation::kThread)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read4k, process, Isolation::kProcess)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read4k, virtiofsd, Isolation::kVirtiofsd)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read1M, thread, Isolation::kThread)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read1M, process, Isolation::kProcess)->UseManualTime();
BENCHMARK_CAPTURE(BM_Read1M, virtiofsd, Isolation::kVirtiofsd)->UseManualTime();

}  // namespace
}  // namespace wyvern::fs_process

BENCHMARK_MAIN();
