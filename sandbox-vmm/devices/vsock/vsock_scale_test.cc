// As many connections as there may be: all of them transfer, all of them get their turns, each costs
// little memory. Measured by counts, not by time.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <future>
#include <map>
#include <memory>
#include <optional>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr size_t kStreams = VsockDevice::kMaxConnections;
constexpr size_t kFullPayload = VsockGuest::kBuffer - kVsockHeaderSize;

// Both ends of each connection are ours.
bool CanHaveAllDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max < 2 * kStreams + 256) {
    return false;
  }
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

// How far each stream is: turns and bytes, and where the last of the unfinished ones stand.
class Progress {
 public:
  explicit Progress(size_t bytes_each) : bytes_each_(bytes_each) {
    by_turns_[0] = kStreams;
    by_bytes_[0] = kStreams;
  }

  // A packet with `bytes` for `stream`. False: it was ahead of another one, by a turn or by what a
  // turn of these streams brings.
  bool Take(uint32_t stream, size_t bytes) {
    Of& of = streams_[stream];
    const size_t turn = of.turns + (stream != last_ ? 1 : 0);
    const bool fair = by_turns_.begin()->first + 1 >= turn &&
                      by_bytes_.begin()->first + 2 * kFullPayload >= of.bytes + bytes;
    last_ = stream;
    const bool finished = of.bytes + bytes == bytes_each_;
    Move(&by_turns_, of.turns, turn, finished);
    Move(&by_bytes_, of.bytes, of.bytes + bytes, finished);
    of = {.turns = turn, .bytes = of.bytes + bytes};
    most_turns_ = std::max(most_turns_, turn);
    return fair;
  }

  bool done() const { return by_turns_.empty(); }

  size_t most_turns() const { return most_turns_; }

 private:
  using Histogram = std::map<size_t, size_t>;

  struct Of {
    size_t turns = 0;
    size_t bytes = 0;
  };

  static void Move(Histogram* unfinished, size_t from, size_t to, bool finished) {
    if (--(*unfinished)[from] == 0) {
      unfinished->erase(from);
    }
    if (!finished) {
      ++(*unfinished)[to];
    }
  }

  const size_t bytes_each_;
  std::map<uint32_t, Of> streams_;
  Histogram by_turns_;  // of the unfinished
  Histogram by_bytes_;
  uint32_t last_ = 0;
  size_t most_turns_ = 0;
};

// One device with all its streams for all tests: each leaves it without anything to be sent.
class VsockScaleTest : public ::testing::Test {
 protected:
  struct All {
    VsockGuest guest;
    std::vector<VsockGuest::Stream> streams;
    size_t bytes_each = 0;
  };

  static void SetUpTestSuite() {
    if (!CanHaveAllDescriptors()) {
      return;
    }
    all = std::make_unique<All>();
    all->guest.Start(48);
    const size_t before = mallinfo2().uordblks;
    all->streams = all->guest.ConnectMany(kStreams, 7, 16 << 20);
    all->bytes_each = (mallinfo2().uordblks - before) / kStreams;
  }

  static void TearDownTestSuite() { all.reset(); }

  void SetUp() override {
    if (all == nullptr) {
      GTEST_SKIP() << "this process may not have " << 2 * kStreams << " descriptors";
    }
  }

  static VsockGuest& guest() { return all->guest; }

  static std::vector<VsockGuest::Stream>& streams() { return all->streams; }

  // With no buffer of the guest in its hands the device sees that all hosts have written.
  static void WriteToAll(std::string_view bytes) {
    guest().rig().core().Pause();
    for (const auto& stream : streams()) {
      ASSERT_TRUE(WriteAll(stream.host, bytes));
    }
    // Each call waits for a turn of the device's loop, and a turn takes up to 64 events.
    for (size_t i = 0; i < kStreams / 16; ++i) {
      guest().device().StopQueue(0);
    }
    ASSERT_TRUE(guest().rig().core().Resume());
  }

  static inline std::unique_ptr<All> all;
};

TEST_F(VsockScaleTest, AllOf4096StreamsTransferAndTakeTurns) {
  EXPECT_EQ(guest().rig().counter("connections"), kStreams);
  std::vector<std::string> packets;
  for (size_t i = 0; i < kStreams; ++i) {
    const std::string data = std::to_string(i);
    packets.push_back(VsockGuest::Bytes(guest().DataHeader(streams()[i], data.size()), data));
  }
  guest().SendAll(packets);
  for (size_t i = 0; i < kStreams; ++i) {
    std::string got(std::to_string(i).size(), '\0');
    ASSERT_TRUE(ReadExact(streams()[i].host, std::as_writable_bytes(std::span(got))));
    ASSERT_EQ(got, std::to_string(i));
  }
  const std::string bytes(3 * kFullPayload, 'h');
  WriteToAll(bytes);
  Progress progress(bytes.size());
  while (!progress.done()) {
    const auto packet = guest().Expect(VsockOp::kData);
    ASSERT_TRUE(progress.Take(packet.header.src_port, packet.data.size()));
  }
  EXPECT_LE(progress.most_turns(), 3U);
  EXPECT_GE(guest().rig().counter("bytes_to_guest"), kStreams * bytes.size());
}

TEST_F(VsockScaleTest, StreamWithMuchDelaysNoOtherByMoreThanItsTurn) {
  constexpr size_t kMuch = 150 << 10;
  guest().rig().core().Pause();
  ASSERT_TRUE(WriteAll(streams()[0].host, std::string(kMuch, 'm')));
  WriteToAll("little");
  size_t much = 0;
  for (size_t others = 0; others < kStreams - 1;) {
    const auto packet = guest().Expect(VsockOp::kData);
    if (packet.header.src_port == streams()[0].request.src_port) {
      much += packet.data.size();
    } else {
      ASSERT_EQ(packet.data, "little");
      ++others;
    }
  }
  EXPECT_LE(much, 2 * (64U << 10U));
  while (much < 6 + kMuch) {
    much += guest().Expect(VsockOp::kData).data.size();
  }
}

TEST_F(VsockScaleTest, ConnectionsCostLittleMemoryAndCreditHasAnEnd) {
  RecordProperty("bytes_per_connection", static_cast<int>(all->bytes_each));
  EXPECT_LE(all->bytes_each, 1024U);
  uint64_t credit = 0;
  for (const auto& stream : streams()) {
    credit += stream.request.buffer_size;
  }
  EXPECT_LE(credit, uint64_t{128} << 20U);
}

TEST_F(VsockScaleTest, OneMoreIsRefusedUntilOneEnds) {
  const auto connect = [&] {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(pair);
    std::promise<Code> done;
    EXPECT_TRUE(guest().device().ConnectStream(9, std::move(pair->second), [&](Result<> r) {
      done.set_value(r ? Code::kOk : r.error().code());
    }));
    if (const auto request = guest().Next(std::chrono::milliseconds(50))) {
      guest().Send(guest().Reply(request->header, VsockOp::kResponse));
    }
    return done.get_future().get();
  };
  EXPECT_EQ(connect(), Code::kResourceExhausted);
  guest().Send(guest().Reply(streams()[17].request, VsockOp::kReset));
  EXPECT_EQ(connect(), Code::kOk);
}

}  // namespace
}  // namespace wyvern::devices
