#include "lifecycle/device_kinds.h"

#include <fcntl.h>

#include <filesystem>
#include <string>

#include "balloon/balloon_device.h"
#include "blk/blk_device.h"
#include "blk/blk_request.h"
#include "console/console_device.h"
#include "fs/fs_device.h"
#include "net/net_device.h"
#include "net/testing/net_rig.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "virtio_mem/mem_device.h"
#include "vsock/vsock_device.h"
#include "vsock/vsock_packet.h"

namespace wyvern::devices {

namespace {

using virtio::testing::FakeDriver;
using Made = std::unique_ptr<virtio::VirtioDevice>;

Made MakeRng() {
  return *RngDevice::Create({.name = "rng", .on_thread_start = nullptr});
}

Made MakePmem() {
  return *PmemDevice::Create({.name = "pmem", .on_thread_start = nullptr},
                             {.start = mem::Gpa{0x100000000}, .size = 4096});
}

Made MakeVsock() {
  return *VsockDevice::Create({.worker = {.name = "vsock", .on_thread_start = nullptr}});
}

Made MakeBlk(std::unique_ptr<IoRing> ring) {
  return *BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                             .file = *MakeMemfd("disk", 1 << 20),
                             .read_only = false,
                             .serial = "",
                             .ring = std::move(ring)});
}

Made MakeBlkWithRing() {
  auto ring = IoRing::Create();
  return MakeBlk(ring ? *std::move(ring) : nullptr);
}

Made MakeFs() {
  // Any directory: nobody opens a session.
  static const std::unique_ptr<fs::FileServer> server = [] {
    fs::FileServerOptions options;
    options.root = *Open(std::filesystem::temp_directory_path().string(), O_RDONLY | O_DIRECTORY);
    return *fs::FileServer::Create(std::move(options));
  }();
  fs::FsDeviceOptions options;
  options.tag = "lifecycle";
  options.threads = 2;
  return *fs::FsDevice::Create(*server, std::move(options));
}

// A backing to which everything is fine.
class AnyBacking final : public MemoryBacking {
 public:
  Result<> Plug(MemoryRange /*range*/) override { return {}; }

  Result<> Unplug(MemoryRange /*range*/) override { return {}; }

  Result<> UnplugAll() override { return {}; }
};

Made MakeMem() {
  MemOptions options;
  options.worker.name = "mem";
  options.region = {.start = mem::Gpa{uint64_t{4} << 30U}, .size = uint64_t{64} << 20U};
  options.block_size = MemDevice::kMinBlockSize;
  options.backing = std::make_unique<AnyBacking>();
  return *MemDevice::Create(std::move(options));
}

Made MakeBalloon() {
  BalloonOptions options;
  options.worker.name = "balloon";
  return *BalloonDevice::Create(std::move(options));
}

Made MakeConsole() {
  ConsoleOptions options;
  options.worker.name = "console";
  options.max_ports = 3;
  options.ports = {{.name = "", .console = true}, {.name = "port"}};
  return *ConsoleDevice::Create(std::move(options));
}

Made MakeNet() {
  return *NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                             .tap = std::make_unique<testing::FakeTap>(2),
                             .interface = {.mac = testing::kGuestMac}});
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
  const auto no_message = [](FakeDriver& driver) {  // of a port that is not there
    return driver.Build().Readable(std::string(8, '\xff')).Submit();
  };
  const auto entropy = [](FakeDriver& driver) { return driver.Build().Writable(64).Submit(); };
  const auto no_request = [](FakeDriver& driver) { return driver.Build().Writable(16).Submit(); };
  return {
      {.name = "rng", .make = MakeRng, .queue = 0, .submit = entropy, .written = 64},
      {.name = "pmem", .make = MakePmem, .queue = 0, .submit = flush_pmem, .written = 4},
      {.name = "vsock", .make = MakeVsock, .queue = 1, .submit = discarded, .written = 0},
      {.name = "net", .make = MakeNet, .queue = 1, .submit = packet, .written = 0},
      {.name = "balloon", .make = MakeBalloon, .queue = 0, .submit = no_page, .written = 0},
      {.name = "mem",
       .make = MakeMem,
       .queue = 0,
       .submit = SubmitMemState,
       .written = sizeof(MemResponse)},
      {.name = "console", .make = MakeConsole, .queue = 3, .submit = no_message, .written = 0},
      {.name = "blk_pool",
       .make = [] { return MakeBlk(nullptr); },
       .queue = 0,
       .submit = SubmitFlush,
       .written = 1},
      {.name = "blk_uring",
       .make = MakeBlkWithRing,
       .queue = 0,
       .submit = SubmitFlush,
       .written = 1},
      {.name = "fs", .make = MakeFs, .queue = 1, .submit = no_request, .written = 0},
  };
}

}  // namespace wyvern::devices
