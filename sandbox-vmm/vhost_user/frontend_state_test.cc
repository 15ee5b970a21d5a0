// A device's state between our front-end and a back-end: ours, one that writes and reads as others do,
// and hostile ones.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/unix_socket.h"
#include "vhost_user/device_state.h"
#include "vhost_user/state_file.h"
#include "vhost_user/testing/frontend_rig.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;
using testing::Peer;

std::vector<std::byte> StateOf(size_t bytes) {
  std::vector<std::byte> state(bytes);
  for (size_t i = 0; i < bytes; ++i) {
    state[i] = static_cast<std::byte>(i % 251);
  }
  return state;
}

// A back-end that has a state, and nothing else.
class StateBackend {
 public:
  // What becomes of the front-end's channel; returns a descriptor of its own for it, or none.
  using Transfer = std::function<UniqueFd(UniqueFd channel)>;

  explicit StateBackend(Transfer transfer) : transfer_(std::move(transfer)) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(pair.has_value());
    front_end = std::move(pair->first);
    ours_ = *pair->second.Duplicate();
    thread_ = std::thread([this, socket = std::make_shared<Connection>(std::move(pair->second))] {
      while (Answer(*socket)) {
      }
    });
  }

  ~StateBackend() {
    ::shutdown(ours_.get(), SHUT_RDWR);
    thread_.join();
  }

  StateBackend(const StateBackend&) = delete;
  StateBackend& operator=(const StateBackend&) = delete;

  UniqueFd front_end;

 private:
  bool Answer(Connection& socket) {
    const auto deadline = Connection::Clock::now() + std::chrono::seconds(20);
    auto message = socket.Receive(deadline);
    if (!message) {
      return false;
    }
    const auto reply = [&](uint64_t value, const UniqueFd& fd = UniqueFd()) {
      const FdRef fds[] = {fd};
      return socket
          .Send(message->header.request, kFlagReply, std::as_bytes(std::span(&value, 1)),
                std::span(fds).first(fd.valid() ? 1 : 0), deadline)
          .has_value();
    };
    switch (static_cast<Request>(message->header.request)) {
      case Request::kGetFeatures:
        return reply(virtio::kVersion1 | kFeatureProtocol);
      case Request::kGetProtocolFeatures:
        return reply(kProtocolDeviceState);
      case Request::kSetDeviceStateFd: {
        const UniqueFd own = transfer_(std::move(message->fds.at(0)));
        return reply(own.valid() ? 0 : kNoFd, own);
      }
      case Request::kCheckDeviceState:
        return reply(0);
      default:
        return true;
    }
  }

  const Transfer transfer_;
  UniqueFd ours_;
  std::thread thread_;
};

class FrontendStateTest : public testing::FrontendRig {
 protected:
  void CreateOver(StateBackend& backend, milliseconds timeout = std::chrono::seconds(10)) {
    FrontendOptions options = Options();
    options.timeout = timeout;
    auto device = Frontend::Create(std::move(backend.front_end), std::move(options));
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = *std::move(device);
  }

  // A thread of a back-end that writes `bytes` into its end, then closes it.
  void WriteBeside(UniqueFd channel, size_t bytes) {
    writers_.emplace_back([end = std::make_shared<UniqueFd>(std::move(channel)), bytes] {
      const std::vector<std::byte> state = StateOf(bytes);
      for (size_t at = 0; at < bytes;) {
        const ssize_t sent = ::send(end->get(), state.data() + at, bytes - at, MSG_NOSIGNAL);
        if (sent <= 0) {
          return;
        }
        at += static_cast<size_t>(sent);
      }
    });
  }

  void TearDown() override {
    device_.reset();
    for (std::thread& writer : writers_) {
      writer.join();
    }
  }

  std::vector<std::thread> writers_;
};

class HalfMegabyte final : public DeviceState {
 public:
  Result<std::vector<std::byte>> Save() override { return StateOf(512 << 10); }

  Result<> Load(std::span<const std::byte> state) override {
    loaded.assign(state.begin(), state.end());
    return {};
  }

  std::vector<std::byte> loaded;
};

TEST_F(FrontendStateTest, StateMovesFromOneBackEndToTheNext) {
  Peer source({.state = std::make_shared<HalfMegabyte>()});
  Create(source, Options());
  ASSERT_TRUE(Start());
  EXPECT_EQ(device_->SaveState().error().code(), Code::kFailedPrecondition);
  device_->StopQueue(0);
  const auto state = device_->SaveState();
  ASSERT_TRUE(state.has_value()) << state.error().message();
  EXPECT_EQ(*state, StateOf(512 << 10));
  const auto target_state = std::make_shared<HalfMegabyte>();
  Peer target({.state = target_state});
  Create(target, Options());
  const auto loaded = device_->LoadState(*state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
  EXPECT_EQ(target_state->loaded, *state);
  Peer without;
  Create(without, Options());
  EXPECT_EQ(device_->SaveState().error().code(), Code::kFailedPrecondition);
}

class SlowState final : public DeviceState {
 public:
  Result<std::vector<std::byte>> Save() override {
    std::this_thread::sleep_for(milliseconds(700));
    return StateOf(100);
  }

  Result<> Load(std::span<const std::byte> /*state*/) override {
    std::this_thread::sleep_for(milliseconds(700));
    return {};
  }
};

TEST_F(FrontendStateTest, StateMayTakeLongerThanAMessage) {
  Peer peer({.state = std::make_shared<SlowState>()});
  FrontendOptions options = Options();
  options.timeout = milliseconds(200);
  options.drain_timeout = std::chrono::seconds(20);
  Create(peer, std::move(options));
  const auto state = device_->SaveState();
  ASSERT_TRUE(state.has_value()) << state.error().message();
  const auto loaded = device_->LoadState(*state);
  EXPECT_TRUE(loaded.has_value()) << loaded.error().message();
  EXPECT_FALSE(device_->lost());
}

TEST_F(FrontendStateTest, StateComesThroughTheChannelThatWeMade) {
  StateBackend backend([this](UniqueFd channel) {
    EXPECT_EQ(::fcntl(channel.get(), F_GETFL) & O_NONBLOCK, 0);  // it need not expect EAGAIN
    WriteBeside(std::move(channel), 3 << 20);
    return UniqueFd();
  });
  CreateOver(backend);
  const auto state = device_->SaveState();
  ASSERT_TRUE(state.has_value()) << state.error().message();
  EXPECT_EQ(*state, StateOf(3 << 20));
}

TEST_F(FrontendStateTest, StateGoesInAFileThatHoldsAllOfIt) {
  std::vector<std::byte> seen;
  StateBackend backend([&](UniqueFd channel) {
    EXPECT_TRUE(IsSealed(channel));
    const std::string text = ReadToEnd(channel, 1 << 20).value_or("");
    const auto bytes = std::as_bytes(std::span(text));
    seen.assign(bytes.begin(), bytes.end());
    return UniqueFd();
  });
  CreateOver(backend);
  const auto loaded = device_->LoadState(StateOf(300000));
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
  EXPECT_EQ(seen, StateOf(300000));
}

// Nor are its offset, and who waits for a lock of that, any affair of ours.
TEST_F(FrontendStateTest, FileInMemoryOfTheBackEndIsReadFromItsBeginning) {
  StateBackend backend([](UniqueFd /*channel*/) {
    UniqueFd file = *MakeMemfd("theirs", 0);
    EXPECT_TRUE(WriteAll(file, StateOf(100000)));  // it stands at its end now
    return file;
  });
  CreateOver(backend);
  const auto state = device_->SaveState();
  ASSERT_TRUE(state.has_value()) << state.error().message();
  EXPECT_EQ(*state, StateOf(100000));
}

// Of a terminal poll says that it can be read, as a byte is there; the read waits for 254 more.
std::pair<UniqueFd, UniqueFd> HesitantTerminal() {
  UniqueFd controller(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  char name[64] = {};
  EXPECT_EQ(::grantpt(controller.get()), 0);
  EXPECT_EQ(::unlockpt(controller.get()), 0);
  EXPECT_EQ(::ptsname_r(controller.get(), name, sizeof(name)), 0);
  UniqueFd terminal(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios settings{};
  EXPECT_EQ(::tcgetattr(terminal.get(), &settings), 0);
  ::cfmakeraw(&settings);
  settings.c_cc[VMIN] = 255;
  settings.c_cc[VTIME] = 255;
  EXPECT_EQ(::tcsetattr(terminal.get(), TCSANOW, &settings), 0);
  EXPECT_EQ(::write(controller.get(), "s", 1), 1);
  return {std::move(controller), std::move(terminal)};
}

TEST_F(FrontendStateTest, StateIsNotReadFromWhatMayMakeUsWait) {
  const auto [controller, terminal] = HesitantTerminal();
  const PipePair pipe = *MakePipe();
  ASSERT_TRUE(WriteAll(pipe.write, std::string_view("s")));
  const UniqueFd zeros = *Open("/dev/zero", O_RDONLY);
  for (const UniqueFd* bad : {&terminal, &pipe.read, &zeros}) {
    StateBackend backend([&](UniqueFd /*channel*/) { return *bad->Duplicate(); });
    CreateOver(backend, milliseconds(200));
    const auto begun = Connection::Clock::now();
    const auto state = device_->SaveState();
    EXPECT_LT(Connection::Clock::now() - begun, std::chrono::seconds(5));
    EXPECT_EQ(state ? Code::kOk : state.error().code(), Code::kFailedPrecondition);
    EXPECT_FALSE(device_->lost());
    device_.reset();
  }
}

// Poll says of the first that it can be written; the write of what does not fit waits. The last is in
// memory, and has a lock for writers, which the back-end can keep.
TEST_F(FrontendStateTest, StateIsNotWrittenToWhatMayMakeUsWait) {
  const UniqueFd counter(::eventfd(0, EFD_CLOEXEC));
  const uint64_t most = ~uint64_t{2};
  ASSERT_EQ(::write(counter.get(), &most, sizeof(most)), ssize_t{sizeof(most)});
  const PipePair pipe = *MakePipe();
  const UniqueFd file = *MakeMemfd("theirs", 0);
  const std::vector<std::byte> state(8, std::byte{5});
  for (const UniqueFd* bad : {&counter, &pipe.write, &file}) {
    StateBackend backend([&](UniqueFd /*channel*/) { return *bad->Duplicate(); });
    CreateOver(backend, milliseconds(200));
    auto loading = std::async(std::launch::async, [&] { return device_->LoadState(state); });
    const bool in_time = loading.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
    EXPECT_TRUE(in_time);
    uint64_t count = 0;
    if (!in_time) {
      EXPECT_EQ(::read(counter.get(), &count, sizeof(count)), 8);  // lets it go
    }
    const auto loaded = loading.get();
    EXPECT_EQ(loaded ? Code::kOk : loaded.error().code(), Code::kFailedPrecondition);
    EXPECT_FALSE(device_->lost());
    device_.reset();
  }
}

// Its end of the channel is its own: what it makes of that one's flags changes nothing at ours.
TEST_F(FrontendStateTest, BackEndThatStopsWritingIsGivenUpInTime) {
  UniqueFd kept;
  StateBackend backend([&](UniqueFd channel) {
    EXPECT_EQ(::fcntl(channel.get(), F_SETFL, 0), 0);
    EXPECT_EQ(::send(channel.get(), "s", 1, 0), 1);
    kept = std::move(channel);
    return UniqueFd();
  });
  CreateOver(backend, milliseconds(200));
  const auto begun = Connection::Clock::now();
  const auto state = device_->SaveState();
  EXPECT_LT(Connection::Clock::now() - begun, std::chrono::seconds(5));
  EXPECT_EQ(state ? Code::kOk : state.error().code(), Code::kUnavailable);
}

TEST_F(FrontendStateTest, StateWithoutEndIsRefused) {
  StateBackend writer([this](UniqueFd channel) {
    WriteBeside(std::move(channel), DeviceState::kMaxBytes + 1);
    return UniqueFd();
  });
  CreateOver(writer);
  EXPECT_EQ(device_->SaveState().error().code(), Code::kResourceExhausted);
  device_.reset();
  StateBackend giver(
      [](UniqueFd /*channel*/) { return *MakeMemfd("theirs", DeviceState::kMaxBytes + 1); });
  CreateOver(giver);
  EXPECT_EQ(device_->SaveState().error().code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace wyvern::vhost_user
