// Our front-end against other people's back-ends. tests/interop starts them and names their sockets
// by environment; a test whose peer is not there is skipped.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/endian.h"
#include "base/unix_socket.h"
#include "vhost_user/frontend.h"
#include "vhost_user_net/vhost_user_net_device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::vhost_user {
namespace {

using std::chrono::milliseconds;
using virtio::testing::FakeDriver;
using virtio::testing::FakeInterrupt;
using virtio::testing::GuestRam;
using virtio::testing::Used;

constexpr uint64_t kFeatures = virtio::kVersion1 | virtio::kRingIndirectDesc;

class PeersTest : public ::testing::Test {
 protected:
  // The value of an environment variable; without it the test is skipped.
  static std::string Environment(const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read only
    return value == nullptr ? "" : value;
  }

  static Result<UniqueFd> Connect(const std::string& path) {
    for (int i = 0; i < 500; ++i) {
      if (auto socket = ConnectUnix(path)) {
        return socket;
      }
      std::this_thread::sleep_for(milliseconds(10));
    }
    return ConnectUnix(path);
  }

  struct Queue {
    explicit Queue(GuestRam& ram) : driver(ram, 64, kFeatures) {}

    FakeDriver driver;
    EventFd kick = *EventFd::Create();
  };

  Result<> Start(uint16_t index, uint64_t features = kFeatures) {
    while (queues_.size() <= index) {
      queues_.push_back(std::make_unique<Queue>(ram_));
    }
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = queues_[index]->driver.config();
    resources.kick = queues_[index]->kick.fd();
    resources.interrupt = interrupt_;
    return device_->StartQueue(index, std::move(resources), features, stopped_);
  }

  std::optional<Used> Await(uint16_t index, milliseconds timeout = milliseconds(5000)) {
    for (int i = 0; i < timeout.count(); ++i) {
      if (auto used = queues_[index]->driver.TakeUsed()) {
        return used;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return std::nullopt;
  }

  GuestRam ram_{8 << 20};
  std::vector<std::unique_ptr<Queue>> queues_;
  std::shared_ptr<FakeInterrupt> interrupt_ = std::make_shared<FakeInterrupt>();
  std::optional<virtio::QueueState> stopped_;
  std::unique_ptr<virtio::VirtioDevice> device_;
};

class BlkPeerTest : public PeersTest {
 protected:
  struct Header {
    Le32 type;
    Le32 reserved;
    Le64 sector;
  };

  // The device's answer to a request: its data, with the status byte behind it.
  std::string Ask(uint16_t queue, uint32_t type, uint64_t sector, std::string_view data,
                  uint32_t room) {
    Header header;
    header.type = type;
    header.sector = sector;
    FakeDriver& driver = queues_[queue]->driver;
    auto chain = driver.Build().Readable(
        std::string_view(reinterpret_cast<const char*>(&header), sizeof(header)));
    if (!data.empty()) {
      chain.Readable(data);
    }
    const uint16_t head = chain.Writable(room + 1).Submit();
    queues_[queue]->kick.Signal();
    const auto used = Await(queue);
    return used && used->head == head ? driver.Written(head, room + 1) : "<no answer>";
  }
};

TEST_F(BlkPeerTest, DiskIsReadAndWrittenAndGoesOnAfterAStop) {
  const std::string path = Environment("WYVERN_TEST_VHOST_BLK");
  if (path.empty()) {
    GTEST_SKIP() << "no vhost-user-blk back-end (qemu-storage-daemon of qemu-utils)";
  }
  auto socket = Connect(path);
  ASSERT_TRUE(socket.has_value()) << socket.error().message();
  FrontendOptions options;
  options.track_inflight = true;
  auto device = Frontend::CreateBlk(*std::move(socket), 2, 64, std::move(options));
  ASSERT_TRUE(device.has_value()) << device.error().message();
  const Frontend& front_end = **device;
  device_ = *std::move(device);
  Le64 sectors;
  device_->ReadConfig(0, std::as_writable_bytes(std::span(&sectors, 1)));
  EXPECT_EQ(sectors.value(), 8192U);  // 4 MiB
  for (uint16_t queue = 0; queue < 2; ++queue) {
    const auto started = Start(queue);
    ASSERT_TRUE(started.has_value()) << started.error().message();
  }
  // The file is all 'd'.
  EXPECT_EQ(Ask(0, 0, 16, "", 4096), std::string(4096, 'd') + '\0');
  const std::string text(512, 'w');
  EXPECT_EQ(Ask(1, 1, 8191, text, 0), std::string(1, '\0'));
  EXPECT_EQ(Ask(1, 4, 0, "", 0), std::string(1, '\0'));
  EXPECT_EQ(Ask(0, 0, 8190, "", 1024), std::string(512, 'd') + text + '\0');
  // Behind the end is an error of the device's, not the end of it.
  EXPECT_NE(Ask(0, 0, 8192, "", 512).back(), '\0');
  stopped_ = device_->StopQueue(0);
  ASSERT_TRUE(stopped_.has_value());
  EXPECT_EQ(stopped_.value_or(virtio::QueueState{}).next_used, 3U);
  ASSERT_TRUE(Start(0));
  EXPECT_EQ(Ask(0, 0, 8191, "", 512), text + '\0');
  device_->StopQueue(0);
  device_->StopQueue(1);
  device_->Reset();
  EXPECT_FALSE(front_end.lost());
}

class NetPeerTest : public PeersTest {
 protected:
  static constexpr std::array<uint8_t, 6> kMac = {2, 0, 0, 0, 0, 9};

  // Who has `target`? Tell `source`.
  static std::string Arp(const std::array<uint8_t, 4>& source,
                         const std::array<uint8_t, 4>& target) {
    std::string frame(6, '\xff');
    const auto add = [&](std::span<const uint8_t> bytes) {
      frame.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    add(kMac);
    add(std::array<uint8_t, 10>{8, 6, 0, 1, 8, 0, 6, 4, 0, 1});
    add(kMac);
    add(source);
    add(std::array<uint8_t, 6>{});
    add(target);
    frame.resize(60, '\0');
    return frame;
  }

  // All of its queues run, with buffers in each receive queue; the error where the back-end is not taken.
  Result<> CreateNet(const std::string& path, uint16_t pairs = 1) {
    WV_TRY(UniqueFd socket, Connect(path));
    devices::VhostUserNetOptions options;
    options.worker.name = "net";
    options.socket = std::move(socket);
    options.interface.mac = kMac;
    options.pairs = pairs;
    options.queue_size = 64;
    WV_TRY(device_, devices::VhostUserNetDevice::Create(std::move(options)));
    const uint64_t features =
        kFeatures | devices::kNetCtrlVq | devices::kNetMac | (pairs > 1 ? devices::kNetMq : 0);
    for (uint16_t queue = 0; queue < 2 * pairs + 1; ++queue) {
      WV_TRY_VOID(Start(queue, features));
    }
    for (uint16_t pair = 0; pair < pairs; ++pair) {
      Offer(pair, 8);
    }
    control_ = static_cast<uint16_t>(2 * pairs);
    return {};
  }

  void Offer(uint16_t pair, int buffers) {
    const auto index = static_cast<size_t>(2 * pair);
    for (int i = 0; i < buffers; ++i) {
      queues_[index]->driver.Build().Writable(kHeader + 65536).Submit();
    }
    queues_[index]->kick.Signal();
  }

  // The answer to a command, -1: none comes.
  int Command(devices::NetClass command_class, uint8_t command, std::string_view data) {
    const char header[] = {static_cast<char>(command_class), static_cast<char>(command)};
    FakeDriver& driver = queues_[control_]->driver;
    const uint16_t head = driver.Build()
                              .Readable(std::string_view(header, sizeof(header)))
                              .Readable(data)
                              .Writable(1)
                              .Submit();
    queues_[control_]->kick.Signal();
    const auto used = Await(control_);
    return used && used->written == 1 ? driver.Written(head, 1)[0] : -1;
  }

  int SetPairs(uint16_t pairs) {
    const Le16 wire(pairs);
    return Command(devices::NetClass::kMq, devices::kNetMqPairsSet,
                   std::string_view(reinterpret_cast<const char*>(&wire), sizeof(wire)));
  }

  // Until a frame to us of the same type comes back to that pair; empty: none does. Sent `times`.
  std::string Exchange(const std::string& frame, uint16_t pair = 0, int times = 20) {
    const auto send = static_cast<uint16_t>(2 * pair + 1);
    for (int i = 0; i < times; ++i) {
      queues_[send]->driver.Build().Readable(std::string(kHeader, '\0') + frame).Submit();
      queues_[send]->kick.Signal();
      if (!Await(send, milliseconds(500))) {
        continue;  // one that leaves what is sent on a disabled ring
      }
      for (int wait = 0; wait < 100; ++wait) {
        const std::string got = Received(pair);
        if (got.empty()) {
          std::this_thread::sleep_for(milliseconds(5));
        } else if (got.size() > 14 && got.substr(0, 6) == frame.substr(6, 6) &&
                   got.substr(12, 2) == frame.substr(12, 2)) {
          return got;
        }
      }
    }
    return "";
  }

  // The next frame that came to that pair; empty: there is none.
  std::string Received(uint16_t pair) {
    FakeDriver& driver = queues_[size_t{2} * pair]->driver;
    const auto used = driver.TakeUsed();
    if (!used) {
      return "";
    }
    const std::string got = driver.Written(used->head, used->written);
    Offer(pair, 1);
    return got.size() > kHeader ? got.substr(kHeader) : "";
  }

  static constexpr size_t kHeader = devices::kNetHeaderSize;

  uint16_t control_ = 0;
};

TEST_F(NetPeerTest, PasstAnswersForTheGateway) {
  const std::string path = Environment("WYVERN_TEST_VHOST_PASST");
  if (path.empty()) {
    GTEST_SKIP() << "no passt with vhost-user (Debian 13)";
  }
  // passt has one pair; the control queue is ours all the same.
  EXPECT_EQ(CreateNet(path, 2).error().code(), Code::kFailedPrecondition);
  const auto created = CreateNet(path);
  ASSERT_TRUE(created.has_value()) << created.error().message();
  EXPECT_EQ(Command(devices::NetClass::kMac, devices::kNetMacAddrSet, "\2\1\1\1\1\1"), 1)
      << "not negotiated";
  const std::string answer = Exchange(Arp({192, 0, 2, 9}, {192, 0, 2, 1}));
  ASSERT_GE(answer.size(), 42U);
  EXPECT_EQ(answer[21], 2);  // a reply
  EXPECT_EQ(answer.substr(28, 4), std::string("\xc0\x00\x02\x01", 4));
}

TEST_F(NetPeerTest, TestpmdSendsFramesBack) {
  const std::string path = Environment("WYVERN_TEST_VHOST_TESTPMD");
  if (path.empty()) {
    GTEST_SKIP() << "no testpmd (Debian's dpdk) with net_vhost and --forward-mode=macswap";
  }
  const auto created = CreateNet(path, 2);
  ASSERT_TRUE(created.has_value()) << created.error().message();
  const std::string frame = Arp({192, 0, 2, 9}, {192, 0, 2, 1});
  const auto comes_back = [&](uint16_t pair, int times) {
    const std::string answer = Exchange(frame, pair, times);
    return answer.size() >= 42 && answer.substr(12, 30) == frame.substr(12, 30);
  };
  EXPECT_TRUE(comes_back(0, 20));
  EXPECT_FALSE(comes_back(1, 2)) << "it is not in use";
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(SetPairs(2), 0);
    EXPECT_TRUE(comes_back(1, 20)) << round;
    EXPECT_TRUE(comes_back(0, 20)) << round;
    ASSERT_EQ(SetPairs(1), 0);
    EXPECT_TRUE(comes_back(0, 20)) << round;
  }
  EXPECT_EQ(SetPairs(3), 1);
  EXPECT_EQ(SetPairs(0), 1);
}

}  // namespace
}  // namespace wyvern::vhost_user
