#include "lifecycle/device_kinds.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "balloon/balloon_device.h"
#include "base/check.h"
#include "base/unix_socket.h"
#include "blk/blk_device.h"
#include "blk/blk_request.h"
#include "console/console_device.h"
#include "fs/fs_device.h"
#include "fs/fuse_abi.h"
#include "net/net_device.h"
#include "net/testing/net_rig.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "vhost_user_net/testing/net_frontend.h"
#include "virtio_mem/mem_device.h"
#include "vsock/vsock_device.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

namespace {

using virtio::testing::FakeDriver;
using virtio::testing::GuestRam;

MadeDevice MakeRng() {
  return {.device = *RngDevice::Create({.name = "rng", .on_thread_start = nullptr}),
          .from_host = nullptr};
}

MadeDevice MakePmem() {
  return {.device = *PmemDevice::Create({.name = "pmem", .on_thread_start = nullptr},
                                        {.start = mem::Gpa{0x100000000}, .size = 4096}),
          .from_host = nullptr};
}

MadeDevice MakeVsock() {
  auto device = *VsockDevice::Create({.worker = {.name = "vsock", .on_thread_start = nullptr}});
  // Connections that nobody in the guest answers.
  auto hosts = std::make_shared<std::vector<UniqueFd>>();
  auto connect = [hosts, vsock = device.get()] {
    auto pair = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(pair.has_value());
    hosts->push_back(std::move(pair->first));
    WV_CHECK(vsock->ConnectStream(1000, std::move(pair->second), [](const Result<>&) {}));
  };
  return {.device = std::move(device), .from_host = std::move(connect)};
}

MadeDevice MakeBlk(std::unique_ptr<IoRing> ring) {
  return {.device = *BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                        .file = *MakeMemfd("disk", 1 << 20),
                                        .read_only = false,
                                        .serial = "",
                                        .ring = std::move(ring)}),
          .from_host = nullptr};
}

MadeDevice MakeBlkWithRing() {
  auto ring = IoRing::Create();
  return MakeBlk(ring ? *std::move(ring) : nullptr);
}

MadeDevice MakeFs() {
  // Any directory.
  static const std::unique_ptr<fs::FileServer> server = [] {
    fs::FileServerOptions options;
    options.root = *Open(std::filesystem::temp_directory_path().string(), O_RDONLY | O_DIRECTORY);
    return *fs::FileServer::Create(std::move(options));
  }();
  fs::FsDeviceOptions options;
  options.tag = "lifecycle";
  options.threads = 2;
  return {.device = *fs::FsDevice::Create(*server, std::move(options)), .from_host = nullptr};
}

// A backing to which everything is fine.
class AnyBacking final : public MemoryBacking {
 public:
  Result<> Plug(MemoryRange /*range*/) override { return {}; }

  Result<> Unplug(MemoryRange /*range*/) override { return {}; }

  Result<> UnplugAll() override { return {}; }
};

MadeDevice MakeMem() {
  MemOptions options;
  options.worker.name = "mem";
  options.region = {.start = mem::Gpa{uint64_t{4} << 30U}, .size = uint64_t{64} << 20U};
  options.block_size = MemDevice::kMinBlockSize;
  options.backing = std::make_unique<AnyBacking>();
  return {.device = *MemDevice::Create(std::move(options)), .from_host = nullptr};
}

MadeDevice MakeBalloon() {
  BalloonOptions options;
  options.worker.name = "balloon";
  auto device = *BalloonDevice::Create(std::move(options));
  auto ask = [balloon = device.get()] { balloon->RequestStats(); };
  return {.device = std::move(device), .from_host = std::move(ask)};
}

MadeDevice MakeConsole() {
  ConsoleOptions options;
  options.worker.name = "console";
  options.max_ports = 3;
  options.ports = {{.name = "", .console = true}, {.name = "port"}};
  return {.device = *ConsoleDevice::Create(std::move(options)), .from_host = nullptr};
}

MadeDevice MakeNet() {
  auto tap = std::make_unique<testing::FakeTap>(2);
  auto send_packet = [tap = tap.get()] {
    const std::string packet = std::string(kNetHeaderSize, '\0') + testing::Frame(60);
    WV_CHECK(::send(tap->host(0).get(), packet.data(), packet.size(), MSG_NOSIGNAL) ==
             static_cast<ssize_t>(packet.size()));
  };
  return {.device = *NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                        .tap = std::move(tap),
                                        .interface = {.mac = testing::kGuestMac}}),
          .from_host = std::move(send_packet),
          .frontend = testing::MakeNetFrontend};
}

// VIRTIO §5.1.9.5.5: that many pairs are in use.
uint16_t SubmitPairs(FakeDriver& driver, uint16_t pairs) {
  const NetCommand command{.command_class = static_cast<uint8_t>(NetClass::kMq),
                           .command = kNetMqPairsSet};
  return driver.Build()
      .Readable(testing::Raw(command) + testing::Raw(Le16(pairs)))
      .Writable(1)
      .Submit();
}

// VIRTIO §5.15.6: the state of a block.
uint16_t SubmitMemState(FakeDriver& driver) {
  MemRequest request{};
  request.type = static_cast<uint16_t>(MemRequestType::kState);
  request.address = uint64_t{4} << 30U;
  request.blocks = uint16_t{1};
  const std::string bytes(reinterpret_cast<const char*>(&request), sizeof(request));
  return driver.Build().Readable(bytes).Writable(sizeof(MemResponse)).Submit();
}

// VIRTIO §5.2.6: a flush.
uint16_t SubmitFlush(FakeDriver& driver) {
  BlkHeader header;
  header.type = static_cast<uint32_t>(BlkType::kFlush);
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  return driver.Build().Readable(bytes).Writable(1).Submit();
}

// A FUSE request on the root directory.
template <typename Body>
uint16_t SubmitFuse(FakeDriver& driver, uint32_t opcode, const Body& body, uint32_t room) {
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + sizeof(body));
  header.opcode = opcode;
  header.nodeid = FUSE_ROOT_ID;
  header.unique = 2;
  return driver.Build()
      .Readable(testing::Raw(header) + testing::Raw(body))
      .Writable(static_cast<uint32_t>(sizeof(fuse_out_header) + room))
      .Submit();
}

uint16_t SubmitInit(FakeDriver& driver) {
  fuse_init_in in{};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = FUSE_KERNEL_MINOR_VERSION;
  return SubmitFuse(driver, FUSE_INIT, in, sizeof(fuse_init_out));
}

uint16_t SubmitGetAttr(FakeDriver& driver) {
  return SubmitFuse(driver, FUSE_GETATTR, fuse_getattr_in{}, sizeof(fuse_attr_out));
}

}  // namespace

std::vector<Kind> Kinds() {
  const auto discarded = [](FakeDriver& driver) {  // a packet of nobody to nobody
    return driver.Build().Readable(std::string(kVsockHeaderSize, '\0')).Submit();
  };
  const auto flush_pmem = [](FakeDriver& driver) {
    return driver.Build().Readable(std::string(4, '\0')).Writable(4).Submit();
  };
  const auto packet = [](FakeDriver& driver) {  // a header and 60 zeros
    return driver.Build().Readable(std::string(72, '\0')).Submit();
  };
  const auto no_page = [](FakeDriver& driver) {  // beyond all memory
    return driver.Build().Readable(std::string(4, '\xff')).Submit();
  };
  const auto last_page = [](FakeDriver& driver) {
    const auto number =
        static_cast<uint32_t>((GuestRam::kBase + testing::DeviceRig::kRamSize) / 4096 - 1);
    return driver.Build().Readable(testing::Raw(number)).Submit();
  };
  const auto no_message = [](FakeDriver& driver) {  // of a port that is not there
    return driver.Build().Readable(std::string(8, '\xff')).Submit();
  };
  const auto stats = [](FakeDriver& driver) { return driver.Build().Readable("").Submit(); };
  const auto buffer = [](FakeDriver& driver) { return driver.Build().Writable(2048).Submit(); };
  const auto entropy = [](FakeDriver& driver) { return driver.Build().Writable(64).Submit(); };
  const auto no_request = [](FakeDriver& driver) { return driver.Build().Writable(16).Submit(); };
  const auto kind = [](const char* name, std::function<MadeDevice()> make, KindRequest request) {
    return Kind{.name = name, .make = std::move(make), .request = std::move(request)};
  };
  std::vector<Kind> kinds = {
      kind("rng", MakeRng, {0, entropy, 64}),
      kind("pmem", MakePmem, {0, flush_pmem, 4}),
      kind("vsock", MakeVsock, {1, discarded, 0}),
      kind("net", MakeNet, {1, packet, 0}),
      kind("balloon", MakeBalloon, {0, no_page, 0}),
      kind("mem", MakeMem, {0, SubmitMemState, sizeof(MemResponse)}),
      kind("console", MakeConsole, {3, no_message, 0}),
      kind("blk_pool", [] { return MakeBlk(nullptr); }, {0, SubmitFlush, 1}),
      kind("blk_uring", MakeBlkWithRing, {0, SubmitFlush, 1}),
      kind("fs", MakeFs, {1, no_request, 0}),
  };
  const auto named = [&kinds](std::string_view name) -> Kind& {
    return *std::ranges::find(kinds, name, &Kind::name);
  };
  named("vsock").received = {0, buffer, kVsockHeaderSize};
  named("net").received = {0, buffer, kNetHeaderSize + 60};
  const auto two_pairs = [](FakeDriver& driver) { return SubmitPairs(driver, 2); };
  const auto one_pair = [](FakeDriver& driver) { return SubmitPairs(driver, 1); };
  named("net").session = {{4, two_pairs, 1}, {3, packet, 0}, {4, one_pair, 1}};
  named("balloon").received = {2, stats, 0};
  named("balloon").session = {{0, last_page, 0}, {1, last_page, 0}};
  named("fs").session = {{1, SubmitInit, sizeof(fuse_out_header) + sizeof(fuse_init_out)},
                         {1, SubmitGetAttr, sizeof(fuse_out_header) + sizeof(fuse_attr_out)},
                         {1, SubmitGetAttr, sizeof(fuse_out_header) + sizeof(fuse_attr_out)}};
  return kinds;
}

}  // namespace wyvern::devices
