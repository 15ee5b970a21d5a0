#include "vhost_user/frontend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/fs_device.h"
#include "fs/testing/fuse_guest.h"
#include "vhost_user/backend.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::vhost_user {
namespace {

using fs::testing::FuseGuest;
using std::chrono::milliseconds;
using virtio::testing::FakeInterrupt;

// Our file server in this process, behind our back-end.
class LocalBackend {
 public:
  explicit LocalBackend(const std::string& directory, uint16_t request_queues = 1) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    socket = std::move(pair->first);
    fs::FileServerOptions options;
    options.root = *Open(directory, O_RDONLY | O_DIRECTORY);
    server_ = *fs::FileServer::Create(std::move(options));
    fs::FsDeviceOptions device;
    device.tag = "t";
    device.request_queues = request_queues;
    device.threads = 2;
    backend_ = std::make_unique<Backend>(std::move(pair->second),
                                         *fs::FsDevice::Create(*server_, device), BackendOptions{});
    thread_ = std::thread([this] {
      while (backend_->Serve().has_value()) {
      }
      backend_.reset();
    });
  }

  ~LocalBackend() {
    socket.Reset();
    thread_.join();
  }

  LocalBackend(const LocalBackend&) = delete;
  LocalBackend& operator=(const LocalBackend&) = delete;

  UniqueFd socket;

 private:
  std::unique_ptr<fs::FileServer> server_;
  std::unique_ptr<Backend> backend_;
  std::thread thread_;
};

class FrontendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "wyvern-vhost-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    std::ofstream(directory_ + "/hello") << "hello from the host";
  }

  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  static FrontendOptions Options(milliseconds timeout) {
    FrontendOptions options;
    options.device_id = virtio::kDeviceFs;
    options.features = virtio::kRingFeatures;
    options.queue_sizes = {64, 64};
    options.timeout = timeout;
    options.drain_timeout = timeout;
    return options;
  }

  std::string directory_;
};

TEST_F(FrontendTest, OurFrontEndAndOurBackEnd) {
  LocalBackend backend(directory_);
  auto device = Frontend::CreateFs(std::move(backend.socket), "tag", 1, 64);
  ASSERT_TRUE(device.has_value()) << device.error().message();
  FuseGuest guest;
  const auto started = guest.Start(**device);
  ASSERT_TRUE(started.has_value()) << started.error().message();
  EXPECT_TRUE(guest.Init());
  EXPECT_EQ(guest.ReadFile("hello"), "hello from the host");
  EXPECT_FALSE((*device)->lost());
}

TEST_F(FrontendTest, FourRequestQueuesAreServedSideBySide) {
  constexpr uint16_t kQueues = 4;
  LocalBackend backend(directory_, kQueues);
  auto device = Frontend::CreateFs(std::move(backend.socket), "tag", kQueues, 64);
  ASSERT_TRUE(device.has_value()) << device.error().message();
  EXPECT_EQ((*device)->traits().queue_sizes.size(), size_t{kQueues} + 1);
  std::array<std::byte, 48> config{};
  (*device)->ReadConfig(0, config);
  EXPECT_EQ(config[36], std::byte{kQueues});
  FuseGuest guest(kQueues);
  const auto started = guest.Start(**device);
  ASSERT_TRUE(started.has_value()) << started.error().message();
  EXPECT_TRUE(guest.Init());
  const auto [node, handle] = guest.OpenFile("hello");
  std::vector<uint16_t> requests;
  for (uint16_t queue = 1; queue <= kQueues; ++queue) {
    guest.UseQueue(queue);
    requests.push_back(guest.SubmitRead(node, handle));
  }
  for (uint16_t queue = 1; queue <= kQueues; ++queue) {
    guest.UseQueue(queue);
    EXPECT_EQ(guest.Await(requests.at(queue - 1U)), "hello from the host") << queue;
    EXPECT_TRUE(guest.interrupt().WaitQueue(queue, 0)) << queue;  // it comes after the buffer
  }
  // INIT, LOOKUP and OPEN came by queue 1. The last queue goes on when the others have stopped.
  EXPECT_EQ((*device)->StopQueue(1).value_or(virtio::QueueState{}).next_used, 4U);
  EXPECT_EQ((*device)->StopQueue(2).value_or(virtio::QueueState{}).next_used, 1U);
  EXPECT_EQ((*device)->StopQueue(3).value_or(virtio::QueueState{}).next_used, 1U);
  EXPECT_EQ(guest.ReadFile("hello"), "hello from the host");
  EXPECT_EQ((*device)->StopQueue(4).value_or(virtio::QueueState{}).next_used, 4U);
}

TEST_F(FrontendTest, StoppedQueueGoesOnWhereItWas) {
  LocalBackend backend(directory_);
  auto device = Frontend::CreateFs(std::move(backend.socket), "tag", 1, 64);
  ASSERT_TRUE(device.has_value());
  FuseGuest guest;
  ASSERT_TRUE(guest.Start(**device).has_value());
  EXPECT_TRUE(guest.Init());
  ASSERT_TRUE((*device)->StopQueue(0).has_value());
  const virtio::QueueState state = (*device)->StopQueue(1).value_or(virtio::QueueState{});
  EXPECT_EQ(state.next_available, 1U);
  EXPECT_EQ(state.next_used, 1U);
  EXPECT_FALSE((*device)->StopQueue(1).has_value());
  ASSERT_TRUE(guest.Start(**device, state).has_value());
  EXPECT_EQ(guest.ReadFile("hello"), "hello from the host");
}

TEST_F(FrontendTest, ConfigurationIsOurs) {
  LocalBackend backend(directory_);
  auto device = Frontend::CreateFs(std::move(backend.socket), "tag", 1, 64);
  ASSERT_TRUE(device.has_value());
  std::array<std::byte, 48> config{};
  (*device)->ReadConfig(0, config);
  EXPECT_EQ(std::memcmp(config.data(), "tag\0", 4), 0);
  EXPECT_EQ(config[36], std::byte{1});
  EXPECT_EQ(config[44], std::byte{0});
  EXPECT_EQ((*device)->traits().features, virtio::kRingFeatures);
}

TEST_F(FrontendTest, TooFewQueuesAreAFailedPrecondition) {
  LocalBackend backend(directory_);
  const auto device = Frontend::CreateFs(std::move(backend.socket), "tag", 2, 64);
  EXPECT_EQ(device.error().code(), Code::kFailedPrecondition);
}

TEST_F(FrontendTest, PrivateMemoryIsRefused) {
  LocalBackend backend(directory_);
  auto device = Frontend::CreateFs(std::move(backend.socket), "tag", 1, 64);
  ASSERT_TRUE(device.has_value());
  std::vector<mem::RegionSpec> specs(1);
  specs[0].size = 1 << 20;
  virtio::QueueResources resources;
  resources.memory = *mem::GuestMemory::Create(std::move(specs));
  resources.config.size = 64;
  resources.interrupt = std::make_shared<FakeInterrupt>();
  const auto started =
      (*device)->StartQueue(0, std::move(resources), virtio::kVersion1, std::nullopt);
  EXPECT_EQ(started.error().code(), Code::kFailedPrecondition);
}

TEST_F(FrontendTest, HangUpIsToldOnceAndEverythingFailsFromThenOn) {
  std::atomic<int> lost{0};
  std::atomic<int> needs_reset{0};
  auto backend = std::make_unique<LocalBackend>(directory_);
  // A second descriptor of our end, to cut it.
  auto ours = backend->socket.Duplicate();
  auto device = Frontend::CreateFs(std::move(backend->socket), "tag", 1, 64);
  ASSERT_TRUE(device.has_value());
  (*device)->set_lost_callback([&](const std::string&) { ++lost; });
  (*device)->set_fault_callback([&] { ++needs_reset; });
  FuseGuest guest;
  ASSERT_TRUE(guest.Start(**device).has_value());
  ::shutdown(ours->get(), SHUT_RDWR);
  for (int i = 0; i < 500 && lost == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(lost, 1);
  EXPECT_EQ(needs_reset, 1);
  EXPECT_TRUE((*device)->lost());
  EXPECT_TRUE((*device)->StopQueue(1).has_value());
  EXPECT_FALSE(guest.Start(**device).has_value());
}

TEST_F(FrontendTest, StallingBackEndIsGivenUpInTime) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  const auto start = Connection::Clock::now();
  const auto device = Frontend::Create(std::move(pair->first), Options(milliseconds(100)));
  EXPECT_EQ(device.error().code(), Code::kUnavailable);
  EXPECT_LT(Connection::Clock::now() - start, std::chrono::seconds(3));
}

// A back-end that makes the eventfds it is given blocking, and takes what it has signalled back.
class ThievingBackend {
 public:
  ThievingBackend() {
    auto pair = MakeSocketPair(SOCK_STREAM);
    socket = std::move(pair->first);
    thread_ = std::thread([this, theirs = std::make_shared<Connection>(std::move(pair->second))] {
      while (Answer(*theirs)) {
      }
    });
  }

  ~ThievingBackend() {
    socket.Reset();
    thread_.join();
  }

  ThievingBackend(const ThievingBackend&) = delete;
  ThievingBackend& operator=(const ThievingBackend&) = delete;

  // The call eventfd of queue 0, once it is there.
  FdRef WaitForCall() {
    for (int i = 0; i < 500 && !has_call_; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    return has_call_ ? call_ : FdRef(-1);
  }

  static void Signal(FdRef call) {
    const uint64_t one = 1;
    EXPECT_EQ(::write(call.get(), &one, sizeof(one)), ssize_t{sizeof(one)});
  }

  static void TakeBack(FdRef call) {
    uint64_t count = 0;
    const iovec iov{&count, sizeof(count)};
    static_cast<void>(::preadv2(call.get(), &iov, 1, -1, RWF_NOWAIT));
  }

  UniqueFd socket;

 private:
  bool Answer(Connection& connection) {
    const auto deadline = Connection::Clock::now() + std::chrono::seconds(20);
    auto message = connection.Receive(deadline);
    if (!message) {
      return false;
    }
    const auto request = static_cast<Request>(message->header.request);
    if (request == Request::kSetVringCall && !has_call_) {
      call_ = std::move(message->fds.at(0));
      EXPECT_EQ(::fcntl(call_.get(), F_SETFL, 0), 0);
      has_call_ = true;
    }
    if (request == Request::kGetFeatures) {
      return Send(connection, request, virtio::kVersion1, deadline);
    }
    if (request == Request::kGetVringBase) {
      return Send(connection, request, VringState{message->As<VringState>().index, 0}, deadline);
    }
    return true;
  }

  template <typename T>
  static bool Send(Connection& connection, Request request, const T& value,
                   Connection::Clock::time_point deadline) {
    return connection.Send(request, kFlagReply, std::as_bytes(std::span(&value, 1)), {}, deadline)
        .has_value();
  }

  UniqueFd call_;
  std::atomic<bool> has_call_{false};
  std::thread thread_;
};

TEST_F(FrontendTest, BackEndThatTakesItsSignalsBackHoldsNobodyUp) {
  ThievingBackend backend;
  auto device = Frontend::Create(std::move(backend.socket), Options(std::chrono::seconds(5)));
  ASSERT_TRUE(device.has_value()) << device.error().message();
  FuseGuest guest;
  ASSERT_TRUE(guest.Start(**device).has_value());
  const FdRef call = backend.WaitForCall();
  ASSERT_TRUE(call.valid());
  // Each signal that is not taken back arrives, the first as well as those after it.
  for (int i = 0; i < 3; ++i) {
    const uint64_t seen = guest.interrupt().queue_signals(0);
    ThievingBackend::Signal(call);
    EXPECT_TRUE(guest.interrupt().WaitQueue(0, seen));
  }
  for (int i = 0; i < 5000; ++i) {
    ThievingBackend::Signal(call);
    ThievingBackend::TakeBack(call);
  }
  EXPECT_TRUE((*device)->StopQueue(0).has_value());
  EXPECT_TRUE((*device)->StopQueue(1).has_value());
}

// A back-end that answers GET_FEATURES with these bytes.
class LyingBackendTest : public FrontendTest {
 protected:
  Code CreateAgainst(const Header& header, size_t bytes, bool with_fd = false) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    std::vector<std::byte> message(sizeof(header) + bytes);
    std::memcpy(message.data(), &header, sizeof(header));
    auto event = EventFd::Create();
    const FdRef fds[] = {event->fd()};
    EXPECT_TRUE(SendMessage(pair->second, message,
                            with_fd ? std::span<const FdRef>(fds) : std::span<const FdRef>())
                    .has_value());
    const auto device = Frontend::Create(std::move(pair->first), Options(milliseconds(100)));
    return device ? Code::kOk : device.error().code();
  }
};

TEST_F(LyingBackendTest, RepliesThatBreakTheProtocolAreRefused) {
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 8}, 8),
            Code::kFailedPrecondition);  // no VERSION_1
  EXPECT_EQ(CreateAgainst({15, kVersion | kFlagReply, 8}, 8), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion, 8}, 8), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, 2 | kFlagReply, 8}, 8), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 4}, 4), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 16}, 16), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 8}, 3), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 0xffffffff}, 8), Code::kUnavailable);
  EXPECT_EQ(CreateAgainst({1, kVersion | kFlagReply, 8}, 8, true), Code::kUnavailable);
}

// The C virtiofsd of QEMU 7.2 (Debian 12: qemu-system-common), and the one in Rust.
class ForeignBackendTest : public FrontendTest {
 protected:
  // Out of it and back, where it has such a thing.
  void MoveState(Frontend& device) const {
    const auto state = device.SaveState();
    if (!has_state_) {
      EXPECT_EQ(state.error().code(), Code::kFailedPrecondition);
      return;
    }
    ASSERT_TRUE(state.has_value()) << state.error().message();
    EXPECT_GT(state->size(), 0U);
    const auto loaded = device.LoadState(*state);
    EXPECT_TRUE(loaded.has_value()) << loaded.error().message();
    EXPECT_FALSE(device.lost());
  }

  // `command`: the program, maybe behind a dynamic loader and its options.
  void ServeWith(const std::vector<std::string>& command, std::vector<std::string> arguments) {
    if (command.empty() || ::access(command[0].c_str(), X_OK) != 0 || ::geteuid() != 0) {
      GTEST_SKIP() << "it is not installed, or this is not root";
    }
    const std::string path = directory_ + ".sock";
    SpawnOptions spawn;
    spawn.argv = command;
    spawn.argv.push_back("--socket-path=" + path);
    spawn.argv.insert(spawn.argv.end(), arguments.begin(), arguments.end());
    spawn.fds = {{2, FdRef(2)}};
    auto process = Subprocess::Spawn(spawn);
    ASSERT_TRUE(process.has_value()) << process.error().message();
    Result<UniqueFd> socket = ConnectUnix(path);
    for (int i = 0; i < 500 && !socket; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
      socket = ConnectUnix(path);
    }
    ASSERT_TRUE(socket.has_value()) << socket.error().message();
    {
      auto device = Frontend::CreateFs(*std::move(socket), "tag", 1, 64);
      ASSERT_TRUE(device.has_value()) << device.error().message();
      FuseGuest guest;
      const auto started = guest.Start(**device);
      ASSERT_TRUE(started.has_value()) << started.error().message();
      EXPECT_TRUE(guest.Init());
      EXPECT_EQ(guest.ReadFile("hello"), "hello from the host");
      EXPECT_TRUE((*device)->StopQueue(0).has_value());
      EXPECT_EQ((*device)->StopQueue(1).value_or(virtio::QueueState{}).next_available, 4U);
      MoveState(**device);
    }
    static_cast<void>(process->Kill(SIGTERM));
    static_cast<void>(process->Wait());
    ::unlink(path.c_str());
  }

  bool has_state_ = false;
};

TEST_F(ForeignBackendTest, VirtiofsdOfQemu72) {
  ServeWith({"/usr/lib/qemu/virtiofsd"}, {"-o", "source=" + directory_, "-o", "cache=auto", "-f"});
}

// Debian 13's, which does not run on Debian 12 by itself: tests/interop gives the words of its command.
TEST_F(ForeignBackendTest, VirtiofsdOfRust) {
  has_state_ = true;
  const char* words =
      std::getenv("WYVERN_TEST_VIRTIOFSD");  // NOLINT(concurrency-mt-unsafe): read only
  std::istringstream text(words != nullptr ? words : "/usr/libexec/virtiofsd");
  ServeWith({std::istream_iterator<std::string>(text), {}}, {"--shared-dir", directory_});
}

}  // namespace
}  // namespace wyvern::vhost_user
