// A machine with kernels of a few instructions; real kernels are booted in the lab (testing/boot_test_main.cc).
#include "machine/machine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/endian.h"
#include "kvm/probe.h"
#include "loader/testing/elf_builder.h"
#include "mem/file_window.h"
#include "virtio/device.h"
#include "virtio/feature_bits.h"

namespace wyvern::machine {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20U;

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no usable /dev/kvm on this host";
    }
  }

  // A kernel whose PVH entry is `code` (32-bit).
  static UniqueFd Kernel(std::initializer_list<unsigned> code) {
    loader::testing::TestElf elf;
    size_t at = 0x10;
    for (const unsigned byte : code) {
      elf.code.at(at++) = static_cast<std::byte>(byte);
    }
    UniqueFd file = *MakeMemfd("kernel", 0);
    EXPECT_TRUE(WriteAll(file, elf.Build()).has_value());
    return file;
  }

  MachineConfig Config(std::initializer_list<unsigned> code) {
    MachineConfig config;
    config.kvm = *Open("/dev/kvm", O_RDWR);
    config.memory = 64 * kMiB;
    config.kernel = Kernel(code);
    config.console = [this](std::span<const std::byte> bytes) {
      const std::lock_guard lock(mu_);
      for (const std::byte byte : bytes) {
        console_.push_back(static_cast<char>(byte));
      }
    };
    config.on_event = [this](const Event& event) {
      const std::lock_guard lock(mu_);
      events_.push_back(event);
      changed_.notify_all();
    };
    return config;
  }

  static std::string CreateError(MachineConfig config) {
    auto machine = Machine::Create(std::move(config));
    return machine ? "no error" : machine.error().message();
  }

  // Boots, waits for the end, returns the first event.
  Event RunToEvent(std::initializer_list<unsigned> code, uint32_t vcpus = 1) {
    MachineConfig config = Config(code);
    config.vcpus = vcpus;
    auto machine = Machine::Create(std::move(config));
    EXPECT_TRUE(machine.has_value()) << machine.error().message();
    EXPECT_TRUE((*machine)->Boot().has_value());
    return AwaitEvent();
  }

  Event AwaitEvent() {
    std::unique_lock lock(mu_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      return !events_.empty() && events_.back().kind != EventKind::kPanicked;
    }));
    return events_.empty() ? Event{} : events_.front();
  }

  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<Event> events_;
  std::string console_;
};

TEST_F(MachineTest, BadSizesAreErrors) {
  for (const uint32_t vcpus : {0U, kMaxVcpus + 1, 0xffffffffU}) {
    MachineConfig config = Config({0xf4});
    config.vcpus = vcpus;
    EXPECT_THAT(CreateError(std::move(config)), HasSubstr("vCPUs"));
  }
  for (const uint64_t memory : {uint64_t{0}, 64 * kMiB + 4096, ~uint64_t{0}}) {
    MachineConfig config = Config({0xf4});
    config.memory = memory;
    EXPECT_THAT(CreateError(std::move(config)), HasSubstr("memory size"));
  }
}

TEST_F(MachineTest, BadFilesAreErrors) {
  MachineConfig not_elf = Config({0xf4});
  not_elf.kernel = *MakeMemfd("empty", 4096);
  EXPECT_THAT(CreateError(std::move(not_elf)), HasSubstr("not an ELF"));
  MachineConfig not_kvm = Config({0xf4});
  not_kvm.kvm = *Open("/dev/null", O_RDWR);
  EXPECT_THAT(CreateError(std::move(not_kvm)), HasSubstr("/dev/kvm"));
  MachineConfig huge_initrd = Config({0xf4});
  huge_initrd.initrd = *MakeMemfd("initrd", 64 * kMiB);
  EXPECT_THAT(CreateError(std::move(huge_initrd)), HasSubstr("initrd"));
  MachineConfig empty_initrd = Config({0xf4});
  empty_initrd.initrd = *MakeMemfd("initrd", 0);
  EXPECT_THAT(CreateError(std::move(empty_initrd)), HasSubstr("initrd"));
  MachineConfig long_text = Config({0xf4});
  long_text.command_line = std::string(5000, 'x');
  EXPECT_THAT(CreateError(std::move(long_text)), HasSubstr("command line"));
}

UniqueFd Image(std::string_view contents, uint64_t size) {
  UniqueFd file = *MakeMemfd("image", size);
  EXPECT_EQ(::pwrite(file.get(), contents.data(), contents.size(), 0),
            static_cast<ssize_t>(contents.size()));
  return file;
}

template <typename... Files>
std::vector<UniqueFd> Images(Files... files) {
  std::vector<UniqueFd> images;
  (images.push_back(std::move(files)), ...);
  return images;
}

TEST_F(MachineTest, ReadOnlySlotsArePaddedAlignedAndBounded) {
  auto machine = *Machine::Create(Config({0xf4}));
  auto first = machine->MapReadOnlyImages(Images(Image("first image", 11)));
  ASSERT_TRUE(first.has_value()) << first.error().message();
  EXPECT_EQ(first->start % (2 * kMiB), 0U);
  EXPECT_EQ(first->size, 2 * kMiB);
  auto second = machine->MapReadOnlyImages(Images(Image("", 4 * kMiB)));
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->start, first->end());
  const auto memory = machine->memory();
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->start}).value(), 'f');
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->start + 11}).value(), 0);
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->end() - 1}).value(), 0);
  EXPECT_EQ(memory->Write<char>(mem::Gpa{first->start}, 'x').error(), mem::MemFault::kReadOnly);
}

TEST_F(MachineTest, ImagesLieBehindEachOtherInOneMemslot) {
  auto machine = *Machine::Create(Config({0xf4}));
  const uint32_t before = machine->counters().memslots;
  const auto range = machine->MapReadOnlyImages(
      Images(Image("one", 4097), Image("two", 2 * kMiB), Image("three", 3 * kMiB)));
  ASSERT_TRUE(range.has_value()) << range.error().message();
  EXPECT_EQ(machine->counters().memslots, before + 1);
  EXPECT_EQ(range->size, 8 * kMiB);
  const auto memory = machine->memory();
  const auto at = [&](uint64_t offset) { return mem::Gpa{range->start + offset}; };
  EXPECT_EQ(memory->Read<char>(at(0)).value(), 'o');
  EXPECT_EQ(memory->Read<char>(at(2 * kMiB)).value(), 't');
  EXPECT_EQ(memory->Read<char>(at(2 * kMiB + 1)).value(), 'w');
  EXPECT_EQ(memory->Read<char>(at(4 * kMiB + 1)).value(), 'h');
  // From the first image to the end of the last padding there is no hole and nothing to write to.
  std::vector<std::byte> all(8 * kMiB);
  ASSERT_TRUE(memory->ReadBytes(at(0), all).has_value());
  EXPECT_EQ(all[8192], std::byte{0});
  EXPECT_EQ(all[8 * kMiB - 1], std::byte{0});
  for (const uint64_t offset : {uint64_t{0}, uint64_t{8192}, 2 * kMiB, 4 * kMiB, 8 * kMiB - 1}) {
    EXPECT_EQ(memory->Write<char>(at(offset), 'x').error(), mem::MemFault::kReadOnly) << offset;
  }
  EXPECT_FALSE(memory->Contains(at(8 * kMiB), 1));
}

TEST_F(MachineTest, WhatIsNoImageIsRefusedAndLeavesNothing) {
  auto machine = *Machine::Create(Config({0xf4}));
  const size_t regions = machine->memory()->regions().size();
  const uint32_t memslots = machine->counters().memslots;
  const auto refused = [&](std::vector<UniqueFd> files) {
    const auto range = machine->MapReadOnlyImages(std::move(files));
    return range ? "no error" : std::string(range.error().message());
  };
  EXPECT_THAT(refused({}), HasSubstr("1 to 16 images, not 0"));
  EXPECT_THAT(refused(Images(Image("", 4096), Image("", 0))), HasSubstr("image 2 of 2 is empty"));
  EXPECT_THAT(refused(Images(Image("", 4096), *Open("/dev/zero", O_RDONLY))),
              HasSubstr("image 2 of 2 is not a regular file"));
  EXPECT_THAT(refused(Images(*Open("/", O_RDONLY | O_DIRECTORY))), HasSubstr("not a regular file"));
  EXPECT_THAT(refused(Images(UniqueFd())), HasSubstr("image 1 of 1"));
  EXPECT_THAT(refused(Images(Image("", 1ULL << 40U))),
              HasSubstr("image 1 of 1: its 1099511627776"));
  // Each fits, but not both.
  EXPECT_THAT(refused(Images(Image("", 12ULL << 30U), Image("", 5ULL << 30U))),
              HasSubstr("image 2 of 2: its 5368709120 bytes do not fit in the 4096 MiB"));
  std::vector<UniqueFd> many;
  for (int i = 0; i < 17; ++i) {
    many.push_back(Image("", 4096));
  }
  EXPECT_THAT(refused(std::move(many)), HasSubstr("1 to 16 images, not 17"));
  EXPECT_EQ(machine->memory()->regions().size(), regions);
  EXPECT_EQ(machine->counters().memslots, memslots);
  EXPECT_TRUE(machine->MapReadOnlyImages(Images(Image("", 12ULL << 30U))).has_value());
}

// Page tables of a guest that reads and writes persistent memory, which is above what 32 bits reach: the 2 MiB of its code, and from 2 MiB on
// `range`.
void MapForGuest(const Machine& machine, arch::AddressRange range) {
  constexpr uint64_t kTables = 0x20000;  // one of each level
  constexpr uint64_t kDirectory = kTables + 0x2000;
  constexpr uint64_t kWritable = 0x3;       // present, writable
  constexpr uint64_t kWritableHuge = 0x83;  // of 2 MiB
  constexpr uint64_t kCode = loader::testing::TestElf::kLoadAddress;
  const auto memory = machine.memory();
  const auto entry = [&](uint64_t table, uint64_t index, uint64_t value) {
    ASSERT_TRUE(memory->Write(mem::Gpa{table + 8 * index}, Le64(value)).has_value());
  };
  entry(kTables, 0, (kTables + 0x1000) | kWritable);
  entry(kTables + 0x1000, 0, kDirectory | kWritable);
  entry(kDirectory, kCode / (2 * kMiB), kCode | kWritableHuge);
  for (uint64_t i = 0; i < range.size / (2 * kMiB); ++i) {
    entry(kDirectory, 1 + i, (range.start + i * 2 * kMiB) | kWritableHuge);
  }
}

// Turns those page tables on, in long mode (the code stays of 32 bits); then dx is the console's port.
// clang-format off
#define WV_PAGING_ON                                                                        \
  0xb8, 0x00, 0x00, 0x02, 0x00, 0x0f, 0x22, 0xd8,                    /* mov cr3, 0x20000 */ \
  0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0,              /* or cr4, PAE */      \
  0xb9, 0x80, 0x00, 0x00, 0xc0, 0xb8, 0x00, 0x01, 0x00, 0x00,        /* efer: LME */        \
  0x31, 0xd2, 0x0f, 0x30,                                            /* wrmsr */            \
  0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0,  /* or cr0, PG */       \
  0x66, 0xba, 0xf8, 0x03                                             /* mov dx, 0x3f8 */
// clang-format on
// mov al, [megabytes << 20]; out dx, al
#define WV_SAY(megabytes) 0xa0, 0x00, 0x00, (megabytes) << 4U, 0x00, 0xee
// mov byte [megabytes << 20], 'X'
#define WV_SPOIL(megabytes) 0xc6, 0x05, 0x00, 0x00, (megabytes) << 4U, 0x00, 0x58
// mov al, 0xfe; out 0x64, al; hlt
#define WV_RESET 0xb0, 0xfe, 0xe6, 0x64, 0xf4

TEST_F(MachineTest, GuestReadsEachImageAndWritesNone) {
  auto machine = *Machine::Create(
      Config({WV_PAGING_ON, WV_SAY(2), WV_SAY(4), WV_SAY(6), WV_SPOIL(2), WV_SPOIL(4), WV_SPOIL(6),
              WV_SPOIL(3), WV_SAY(2), WV_SAY(4), WV_SAY(6), WV_SAY(3), WV_RESET}));
  UniqueFd one = Image("1", 4096);
  UniqueFd two = Image("2", 2 * kMiB);
  UniqueFd three = Image("3", 5000);
  const auto range =
      machine->MapReadOnlyImages(Images(*one.Duplicate(), *two.Duplicate(), *three.Duplicate()));
  ASSERT_TRUE(range.has_value()) << range.error().message();
  MapForGuest(*machine, *range);
  ASSERT_TRUE(machine->Boot().has_value());
  const Event event = AwaitEvent();
  EXPECT_EQ(event.kind, EventKind::kReset) << event.text;
  machine->Stop();
  // At 3 MiB is the padding of the first image.
  EXPECT_EQ(console_, std::string("123123\0", 7));
  EXPECT_EQ(machine->counters().read_only_writes, 4U);
  const auto first_byte = [](const UniqueFd& file) {
    char byte = 0;
    EXPECT_EQ(::pread(file.get(), &byte, 1, 0), 1);
    return byte;
  };
  EXPECT_EQ(first_byte(one), '1');
  EXPECT_EQ(first_byte(two), '2');
  EXPECT_EQ(first_byte(three), '3');
}

TEST_F(MachineTest, ImageThatIsCutShortEndsTheGuestWithAReason) {
  if (kvm::ProbeKvm("/dev/kvm", std::chrono::milliseconds(500)).verdict !=
      kvm::KvmVerdict::kWorks) {
    GTEST_SKIP() << "this KVM interprets the guest: to it memory that is not there is MMIO";
  }
  auto machine = *Machine::Create(
      Config({WV_PAGING_ON, WV_SAY(2), WV_SAY(6), WV_SAY(4), WV_SAY(6), WV_RESET}));
  UniqueFd two = Image("2", 2 * kMiB);
  const auto range =
      machine->MapReadOnlyImages(Images(Image("1", 4096), *two.Duplicate(), Image("3", 5000)));
  ASSERT_TRUE(range.has_value()) << range.error().message();
  MapForGuest(*machine, *range);
  ASSERT_EQ(::ftruncate(two.get(), 0), 0);
  ASSERT_TRUE(machine->Boot().has_value());
  const Event event = AwaitEvent();
  EXPECT_EQ(event.kind, EventKind::kFault);
  EXPECT_THAT(event.text, HasSubstr("memory that the host does not have"));
  machine->Stop();
  EXPECT_EQ(console_, "13");  // its neighbours are there
}

TEST_F(MachineTest, SharedMemoryIsOneSealedFile) {
  MachineConfig config = Config({0xf4});
  config.shared_memory = true;
  auto machine = *Machine::Create(std::move(config));
  const mem::RegionInfo& ram = machine->memory()->regions()[0];
  ASSERT_TRUE(ram.fd.valid());
  EXPECT_LT(::ftruncate(ram.fd.get(), 0), 0);
  EXPECT_EQ(::fcntl(ram.fd.get(), F_GET_SEALS) & F_SEAL_SHRINK, F_SEAL_SHRINK);
}

TEST_F(MachineTest, GuestPowersOff) {
  // mov dx, 0x600; mov al, 0x34; out dx, al; hlt
  const Event event = RunToEvent({0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4});
  EXPECT_EQ(event.kind, EventKind::kPowerOff);
}

TEST_F(MachineTest, GuestResetsByTheKeyboardController) {
  // mov al, 0xfe; out 0x64, al; hlt
  EXPECT_EQ(RunToEvent({0xb0, 0xfe, 0xe6, 0x64, 0xf4}, 2).kind, EventKind::kReset);
  EXPECT_EQ(events_.size(), 1U);
}

TEST_F(MachineTest, PanicIsToldAndTheGuestGoesOn) {
  // mov dx, 0x505; mov al, 1; out dx, al; mov dx, 0x602; out dx, al; hlt
  const Event event =
      RunToEvent({0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0x66, 0xba, 0x02, 0x06, 0xee, 0xf4});
  EXPECT_EQ(event.kind, EventKind::kPanicked);
  ASSERT_EQ(events_.size(), 2U);
  EXPECT_EQ(events_[1].kind, EventKind::kReset);
}

TEST_F(MachineTest, TripleFaultIsAFaultWithRegisters) {
  const Event event = RunToEvent({0x0f, 0x0b});  // ud2
  EXPECT_EQ(event.kind, EventKind::kFault);
  EXPECT_THAT(event.text, HasSubstr("triple fault"));
  EXPECT_THAT(event.text, HasSubstr("rip="));
}

TEST_F(MachineTest, GuestReachesConsoleAndPciConfiguration) {
  // mov dx, 0x3f8; mov al, 'H'; out dx, al; mov eax, [0xe0000000]; out dx, al; mov al, 0xfe; out 0x64, al; hlt
  RunToEvent({0x66, 0xba, 0xf8, 0x03, 0xb0, 'H', 0xee, 0xa1, 0x00, 0x00, 0x00, 0xe0, 0xee, 0xb0,
              0xfe, 0xe6, 0x64, 0xf4});
  const std::lock_guard lock(mu_);
  ASSERT_EQ(console_.size(), 2U);
  EXPECT_EQ(console_[0], 'H');
  EXPECT_NE(console_[1], '\xff');  // the host bridge's vendor
}

// Takes part in nothing.
class IdleDevice : public virtio::VirtioDevice {
 public:
  explicit IdleDevice(std::vector<virtio::SharedMemoryRegion> shared = {}) {
    traits_.device_id = shared.empty() ? virtio::kDeviceEntropy : virtio::kDeviceFs;
    traits_.queue_sizes = {64};
    traits_.name = "idle";
    traits_.shared_memory = std::move(shared);
  }

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t, std::span<std::byte>) override {}

  void WriteConfig(uint32_t, std::span<const std::byte>) override {}

  Result<> StartQueue(uint16_t, virtio::QueueResources, uint64_t,
                      std::optional<virtio::QueueState>) override {
    return {};
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t) override { return std::nullopt; }

  void Reset() override {}

 private:
  virtio::DeviceTraits traits_;
};

std::unique_ptr<IdleDevice> WindowedDevice() {
  return std::make_unique<IdleDevice>(
      std::vector<virtio::SharedMemoryRegion>{{.id = 0, .length = 2 * kMiB}});
}

mem::Gpa Chunk(const Machine& machine, uint64_t chunk) {
  return mem::Gpa{machine.hotplug_window().start + chunk * 2 * kMiB};
}

class MemoryUser final : public IdleDevice {
 public:
  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) override {
    grown = memory;
    return true;
  }

  bool TakesMemory(const mem::GuestMemory& memory) override {
    return memory.regions().size() <= most_regions;
  }

  std::shared_ptr<const mem::GuestMemory> grown;
  size_t most_regions = 1000;
};

size_t OpenFds() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// With images and a window each time: slots, memslots, addresses and descriptors come back.
TEST_F(MachineTest, DevicesComeAndGoWhileTheGuestRunsAndLeaveNothing) {
  auto machine = *Machine::Create(Config({0xeb, 0xfe}));  // jmp to itself
  ASSERT_TRUE(machine->AttachDevice(std::make_unique<IdleDevice>()));
  ASSERT_TRUE(machine->Boot());
  const uint32_t memslots = machine->counters().memslots;
  size_t fds = 0;
  std::optional<uint64_t> place;
  for (int round = 0; round < 300; ++round) {
    if (round == 1) {
      fds = OpenFds();
    }
    std::vector<UniqueFd> files;
    files.push_back(*MakeMemfd("image", 4096));
    const auto range = machine->MapReadOnlyImages(std::move(files));
    ASSERT_TRUE(range) << range.error().message();
    EXPECT_EQ(range->start, place.value_or(range->start));
    place = range->start;
    const auto place = machine->AttachDevice(WindowedDevice(), *mem::FileWindow::Create(2 * kMiB));
    ASSERT_TRUE(place) << place.error().message();
    EXPECT_EQ(place->slot, 2);
    EXPECT_EQ(machine->counters().memslots, memslots + 2);
    ASSERT_TRUE(machine->DetachDevice(*place));
    ASSERT_TRUE(machine->UnmapReadOnlyImages(*range));
    EXPECT_EQ(machine->UnmapReadOnlyImages(*range).error().code(), Code::kNotFound);
  }
  EXPECT_EQ(machine->counters().memslots, memslots);
  EXPECT_LE(OpenFds(), fds);
  EXPECT_EQ(machine->DetachDevice({2}).error().code(), Code::kNotFound);
  EXPECT_EQ(machine->DetachDevice({0}).error().code(), Code::kNotFound);
}

const devices::WorkerOptions kGoneWorker = {.name = "gone", .on_thread_start = nullptr};

// Slots first, then places behind root ports; both are given out again.
TEST_F(MachineTest, DevicesBeyondTheSlotsAreBehindRootPorts) {
  auto machine = *Machine::Create(Config({0xeb, 0xfe}));
  ASSERT_TRUE(machine->Boot());
  std::set<std::string> places;
  Result<pci::Place> place;
  while ((place = machine->AttachDevice(std::make_unique<IdleDevice>()))) {
    EXPECT_TRUE(places.insert(place->Text()).second) << place->Text();
  }
  EXPECT_EQ(place.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(places.size(), 29U + 16U);
  EXPECT_TRUE(places.contains("0000:00:1d.0"));
  EXPECT_TRUE(places.contains("0000:00:1e.0/0"));
  EXPECT_TRUE(places.contains("0000:00:1f.7/0"));
  for (int round = 0; round < 100; ++round) {
    ASSERT_TRUE(machine->DetachDevice({.slot = 0x1e, .port = 3}));
    EXPECT_EQ(machine->DetachDevice({.slot = 0x1e, .port = 3}).error().code(), Code::kNotFound);
    EXPECT_EQ(machine->AttachDevice(std::make_unique<IdleDevice>())->Text(), "0000:00:1e.3/0");
  }
  // Nobody drives it: nothing is left but a place that is nobody's.
  ASSERT_TRUE(machine->FailDevice({.slot = 0x1e, .port = 3}, kGoneWorker));
  EXPECT_EQ(machine->AttachDevice(std::make_unique<IdleDevice>()).error().code(),
            Code::kResourceExhausted);
}

// Says when it was looked at, and when it ends.
class WatchedDevice final : public virtio::VirtioDevice {
 public:
  WatchedDevice(std::atomic<bool>& seen, std::atomic<bool>& ended) : seen_(seen), ended_(ended) {
    traits_.device_id = virtio::kDeviceBlock;
    traits_.queue_sizes = {64};
    traits_.config_length = 8;
    traits_.name = "watched";
  }

  ~WatchedDevice() override { ended_ = true; }

  WatchedDevice(const WatchedDevice&) = delete;
  WatchedDevice& operator=(const WatchedDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t, std::span<std::byte> out) override {
    std::ranges::fill(out, std::byte{'w'});
    seen_ = true;
  }

  void WriteConfig(uint32_t, std::span<const std::byte>) override {}

  Result<> StartQueue(uint16_t, virtio::QueueResources, uint64_t,
                      std::optional<virtio::QueueState>) override {
    return {};
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t) override { return std::nullopt; }

  void Reset() override {}

 private:
  std::atomic<bool>& seen_;
  std::atomic<bool>& ended_;
  virtio::DeviceTraits traits_;
};

// A driver has begun with it: the device ends, and the guest still finds one that answers.
TEST_F(MachineTest, DeviceThatIsNotLetGoOfStaysToFail) {
  std::atomic<bool> seen{false};
  std::atomic<bool> ended{false};
  auto machine = *Machine::Create(Config({
      // clang-format off
      0xc7, 0x05, 0x10, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0xd0,  // mov dword [0xe0008010], 0xd0000000: slot 1's BAR 0
      0xc7, 0x05, 0x14, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0x00,  // mov dword [0xe0008014], 0
      0xc7, 0x05, 0x04, 0x80, 0x00, 0xe0, 0x02, 0x00, 0x00, 0x00,  // mov dword [0xe0008004], 2: decode memory
      0xc6, 0x05, 0x14, 0x00, 0x00, 0xd0, 0x01,                    // mov byte [0xd0000014], 1: a driver has seen it
      0x66, 0xba, 0xf8, 0x03,                                      // mov dx, 0x3f8
      0xa0, 0x00, 0x20, 0x00, 0xd0,                                // 1: mov al, [0xd0002000]: configuration
      0xee, 0xeb, 0xf8,                                            // out dx, al; jmp 1b
      // clang-format on
  }));
  ASSERT_TRUE(machine->AttachDevice(std::make_unique<WatchedDevice>(seen, ended)));
  ASSERT_TRUE(machine->Boot());
  for (int i = 0; i < 10000 && !seen; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(seen);
  ASSERT_TRUE(machine->FailDevice({1}, kGoneWorker));
  EXPECT_TRUE(ended);
  size_t said = 0;
  {
    const std::lock_guard lock(mu_);
    said = console_.size();
  }
  const auto says_more = [&] {
    const std::lock_guard lock(mu_);
    return console_.size() > said + 10;
  };
  for (int i = 0; i < 10000 && !says_more(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(says_more());
  EXPECT_EQ(machine->AttachDevice(std::make_unique<IdleDevice>())->slot, 2);
  EXPECT_TRUE(machine->FailDevice({1}, kGoneWorker)) << "again is as good";
  EXPECT_EQ(machine->FailDevice({3}, kGoneWorker).error().code(), Code::kNotFound);
  machine->Stop();
  EXPECT_EQ(console_.find_first_not_of('w'), std::string::npos) << "the configuration is the same";
  EXPECT_TRUE(machine->DetachDevice({1}));
}

// The guest moves the BAR, turns decoding on and off, reads and writes configuration and registers, without end.
TEST_F(MachineTest, DevicesGoWhileTheGuestIsInThem) {
  MachineConfig config = Config({
      // clang-format off
      0xc7, 0x05, 0x10, 0x00, 0x01, 0xe0, 0x00, 0x00, 0x00, 0xd0,  // 1: mov dword [0xe0010010], 0xd0000000: slot 2's BAR 0
      0xc7, 0x05, 0x14, 0x00, 0x01, 0xe0, 0x00, 0x00, 0x00, 0x00,  // mov dword [0xe0010014], 0
      0xc7, 0x05, 0x04, 0x00, 0x01, 0xe0, 0x02, 0x00, 0x00, 0x00,  // mov dword [0xe0010004], 2: decode memory
      0xc6, 0x05, 0x14, 0x00, 0x00, 0xd0, 0x01,                    // mov byte [0xd0000014], 1: status
      0xa1, 0x00, 0x20, 0x00, 0xd0,                                // mov eax, [0xd0002000]: configuration
      0xc6, 0x05, 0x14, 0x00, 0x00, 0xd0, 0x00,                    // mov byte [0xd0000014], 0: reset
      0xa1, 0x00, 0x00, 0x01, 0xe0,                                // mov eax, [0xe0010000]: vendor
      0xeb, 0xc8,                                                  // jmp 1b
      // clang-format on
  });
  auto machine = *Machine::Create(std::move(config));
  ASSERT_TRUE(machine->AttachDevice(std::make_unique<IdleDevice>()));
  ASSERT_TRUE(machine->Boot());
  size_t fds = 0;
  for (int round = 0; round < 10000; ++round) {
    if (round == 1) {
      fds = OpenFds();
    }
    const auto place = machine->AttachDevice(std::make_unique<IdleDevice>());
    ASSERT_TRUE(place) << place.error().message();
    ASSERT_EQ(place->slot, 2);
    ASSERT_TRUE(machine->DetachDevice(*place));
  }
  EXPECT_LE(OpenFds(), fds);
  machine->Stop();
  EXPECT_TRUE(events_.empty());
  EXPECT_GT(machine->counters().exits_by(kvm::ExitReason::kMmioWrite), 0U);
}

// What is between images is used again, and images that stay are not moved.
TEST_F(MachineTest, ImagesTakeTheFirstGapThatHasRoom) {
  auto machine = *Machine::Create(Config({0xf4}));
  const auto map = [&](uint64_t size) {
    std::vector<UniqueFd> files;
    files.push_back(*MakeMemfd("image", size));
    return *machine->MapReadOnlyImages(std::move(files));
  };
  const auto first = map(2 * kMiB);
  const auto second = map(2 * kMiB);
  const auto third = map(2 * kMiB);
  ASSERT_TRUE(machine->UnmapReadOnlyImages(second));
  EXPECT_EQ(map(4 * kMiB).start, third.end());
  EXPECT_EQ(map(1).start, first.end());
}

TEST_F(MachineTest, ChunksComeAndGoAndDevicesAreToldWhatIsMore) {
  MachineConfig config = Config({0xf4});
  config.hotplug_memory = 1024 * kMiB;
  auto machine = *Machine::Create(std::move(config));
  auto device = std::make_unique<MemoryUser>();
  MemoryUser& user = *device;
  ASSERT_TRUE(machine->AttachDevice(std::move(device)).has_value());
  auto slots = machine->MakeMemorySlots(2 * kMiB);
  ASSERT_TRUE(slots.has_value()) << slots.error().message();
  for (uint64_t i = 0; i < 512; i += 2) {
    const auto mapped = (*slots)->Map({Chunk(*machine, i), 2 * kMiB});
    ASSERT_TRUE(mapped.has_value()) << mapped.error().message();
  }
  ASSERT_EQ(user.grown, machine->memory());
  EXPECT_TRUE(user.grown->Contains(Chunk(*machine, 510), 2 * kMiB));
  EXPECT_FALSE(user.grown->Contains(Chunk(*machine, 509), 1));
  ASSERT_TRUE((*slots)->Unmap({Chunk(*machine, 4), 2 * kMiB}).has_value());
  EXPECT_FALSE(machine->memory()->Contains(Chunk(*machine, 4), 1));
  EXPECT_NE(user.grown, machine->memory()) << "less memory is no growth";
  // A device that could not go on is asked before anything is done.
  const auto before = machine->memory();
  user.most_regions = before->regions().size();
  const auto refused = (*slots)->Map({Chunk(*machine, 4), 2 * kMiB});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(machine->memory(), before);
  const auto image = machine->MapReadOnlyImages(Images(*MakeMemfd("image", 2 * kMiB)));
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(machine->memory(), before);
  user.most_regions = 1000;
  EXPECT_TRUE((*slots)->Map({Chunk(*machine, 4), 2 * kMiB}).has_value());
}

TEST_F(MachineTest, MemoryIsPluggedByOneDeviceAfterAnother) {
  MachineConfig config = Config({0xf4});
  config.hotplug_memory = 64 * kMiB;
  auto machine = *Machine::Create(std::move(config));
  for (int i = 0; i < 3; ++i) {
    auto slots = machine->MakeMemorySlots(2 * kMiB);
    ASSERT_TRUE(slots.has_value()) << slots.error().message();
    EXPECT_EQ(machine->MakeMemorySlots(2 * kMiB).error().code(), Code::kFailedPrecondition);
    ASSERT_TRUE((*slots)->Map({Chunk(*machine, 0), 4 * kMiB}).has_value());
    EXPECT_EQ(machine->memory()->Read<char>(Chunk(*machine, 0)), '\0') << "nothing of another's";
    ASSERT_TRUE(machine->memory()->Write(Chunk(*machine, 0), 'c').has_value());
    ASSERT_TRUE((*slots)->Unmap({Chunk(*machine, 0), 4 * kMiB}).has_value());
  }
  auto slots = *machine->MakeMemorySlots(2 * kMiB);
  ASSERT_TRUE(slots->Map({Chunk(*machine, 0), 2 * kMiB}).has_value());
  slots.reset();  // taken by force: the guest has that chunk still
  EXPECT_EQ(machine->MakeMemorySlots(2 * kMiB).error().code(), Code::kFailedPrecondition);
}

// Memslots from 256 on are those of chunks: an image or a window must not take one.
TEST_F(MachineTest, MemslotsForImagesEndWhereThoseOfChunksBegin) {
  MachineConfig config = Config({0xf4});
  config.hotplug_memory = 64 * kMiB;
  auto machine = *Machine::Create(std::move(config));
  auto slots = *machine->MakeMemorySlots(2 * kMiB);
  ASSERT_TRUE(slots->Map({Chunk(*machine, 0), 2 * kMiB}).has_value());
  ASSERT_TRUE(machine->memory()->Write(Chunk(*machine, 0), 'c').has_value());
  Result<arch::AddressRange> image{};
  size_t images = 0;
  for (; images < 400 && image; ++images) {
    image = machine->MapReadOnlyImages(Images(*MakeMemfd("image", 2 * kMiB)));
  }
  ASSERT_FALSE(image.has_value());
  EXPECT_EQ(image.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(image.error().message(), HasSubstr("memslots"));
  EXPECT_LE(images, 256U);
  const auto window = *mem::FileWindow::Create(2 * kMiB);
  const auto attached = machine->AttachDevice(WindowedDevice(), window);
  ASSERT_FALSE(attached.has_value());
  EXPECT_EQ(attached.error().code(), Code::kResourceExhausted);
  // And chunks come and go as before.
  ASSERT_TRUE(slots->Map({Chunk(*machine, 1), 2 * kMiB}).has_value());
  ASSERT_TRUE(slots->Unmap({Chunk(*machine, 0), 2 * kMiB}).has_value());
}

TEST_F(MachineTest, WindowOfADeviceFollowsItsBar) {
  const auto window = *mem::FileWindow::Create(2 * kMiB);
  const UniqueFd file = *MakeMemfd("file", 4096);
  ASSERT_EQ(::pwrite(file.get(), "f", 1, 0), 1);
  ASSERT_TRUE(window->Map(0, 4096, file, 0, false).has_value());
  auto machine = *Machine::Create(Config({
      // clang-format off
      0xc7, 0x05, 0x18, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0xd0,  // mov dword [0xe0008018], 0xd0000000: slot 1's BAR 2
      0xc7, 0x05, 0x1c, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0x00,  // mov dword [0xe000801c], 0
      0xc7, 0x05, 0x04, 0x80, 0x00, 0xe0, 0x02, 0x00, 0x00, 0x00,  // mov dword [0xe0008004], 2: decode memory
      0x66, 0xba, 0xf8, 0x03,                                      // mov dx, 0x3f8
      0xa0, 0x00, 0x00, 0x00, 0xd0, 0xee,                          // mov al, [0xd0000000]; out dx, al
      0xc7, 0x05, 0x18, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0xd8,  // mov dword [0xe0008018], 0xd8000000
      0xa0, 0x00, 0x00, 0x00, 0xd8, 0xee,                          // mov al, [0xd8000000]; out dx, al
      0xa0, 0x00, 0x00, 0x00, 0xd0, 0xee,                          // mov al, [0xd0000000]; out dx, al
      0xc7, 0x05, 0x04, 0x80, 0x00, 0xe0, 0x00, 0x00, 0x00, 0x00,  // mov dword [0xe0008004], 0
      0xa0, 0x00, 0x00, 0x00, 0xd8, 0xee,                          // mov al, [0xd8000000]; out dx, al
      0xb0, 0xfe, 0xe6, 0x64, 0xf4,                                // mov al, 0xfe; out 0x64, al; hlt
      // clang-format on
  }));
  const auto slot = machine->AttachDevice(WindowedDevice(), window);
  ASSERT_TRUE(slot.has_value()) << slot.error().message();
  ASSERT_EQ(slot->slot, 1);
  ASSERT_TRUE(machine->Boot().has_value());
  EXPECT_EQ(AwaitEvent().kind, EventKind::kReset);
  machine.reset();
  // Where it is not, the bus answers.
  EXPECT_EQ(console_, "ff\xff\xff");
}

// A guest with a second CPU that does what is typed: s starts it (INIT and SIPI, as Linux does), i sends INIT only, q resets the machine.
class SecondCpuTest : public MachineTest {
 protected:
  // Why a test that starts the second CPU cannot be made here; empty: it can.
  static std::string NoSecondCpu() {
    return kvm::ProbeKvm("/dev/kvm", std::chrono::milliseconds(500)).verdict ==
                   kvm::KvmVerdict::kWorks
               ? ""
               : "a KVM that interprets guests: one was seen that starts no second CPU";
  }

  // `ap`: what it executes from 0x8000 on, in real mode.
  void Boot(std::initializer_list<unsigned> ap) {
    MachineConfig config = Config({
        // clang-format off
        // Its APIC on, as every system does: KVM looks up which vCPU has which APIC then, and did not know of the second one before.
        0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00,  // mov dword [0xfee000f0], 0x1ff
        0x66, 0xba, 0xfd, 0x03,                                      // 1: mov dx, 0x3fd
        0xec, 0xa8, 0x01, 0x74, 0xfb,                                // 2: in al, dx; test al, 1; jz 2b
        0x66, 0xba, 0xf8, 0x03, 0xec,                                // mov dx, 0x3f8; in al, dx
        0x3c, 'q', 0x74, 0x24,                                       // cmp al, 'q'; je 3f
        0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x01,  // mov dword [0xfee00310], 1 << 24: to APIC 1
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x00, 0x00,  // mov dword [0xfee00300], 0x4500: INIT
        0x3c, 's', 0x75, 0xd6,                                       // cmp al, 's'; jne 1b
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x00, 0x00,  // mov dword [0xfee00300], 0x4608: SIPI, 0x8000
        0xeb, 0xca,                                                  // jmp 1b
        WV_RESET,                                                    // 3:
        // clang-format on
    });
    config.max_vcpus = 2;
    machine_ = *Machine::Create(std::move(config));
    uint64_t at = 0x8000;
    for (const unsigned byte : ap) {
      ASSERT_TRUE(machine_->memory()->Write(mem::Gpa{at++}, static_cast<uint8_t>(byte)));
    }
    ASSERT_TRUE(machine_->Boot().has_value());
  }

  void Type(char key) {
    const auto byte = static_cast<std::byte>(key);
    ASSERT_TRUE(Eventually([&] { return machine_->ConsoleInput({&byte, 1}) == 1; }));
  }

  // The second CPU has said so many bytes.
  bool Said(size_t count) {
    return Eventually([&] {
      const std::lock_guard lock(mu_);
      return console_.size() >= count;
    });
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 10000; ++i) {
      if (condition()) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  std::unique_ptr<Machine> machine_;
};

#define WV_SAY_A 0xba, 0xf8, 0x03, 0xb0, 'A', 0xee  // mov dx, 0x3f8; mov al, 'A'; out dx, al

TEST_F(SecondCpuTest, StartsAndStopsAsTheGuestDoes) {
  if (const std::string why = NoSecondCpu(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  Boot({WV_SAY_A, 0xfa, 0xf4, 0xeb, 0xfd});  // cli; 1: hlt; jmp 1b
  EXPECT_EQ(machine_->vcpu_threads().size(), 1U);
  for (size_t round = 1; round <= 10; ++round) {
    ASSERT_TRUE(machine_->StartVcpu(1).has_value());
    Type('s');
    ASSERT_TRUE(Said(round));
    EXPECT_EQ(machine_->vcpu_threads().size(), 2U);
    const auto stopped = machine_->StopVcpu(1);
    ASSERT_TRUE(stopped.has_value()) << stopped.error().message();
    EXPECT_EQ(machine_->vcpu_threads().size(), 1U);
  }
  Type('q');
  EXPECT_EQ(AwaitEvent().kind, EventKind::kReset);
  machine_->Stop();
  EXPECT_EQ(console_, std::string(10, 'A'));
}

TEST_F(SecondCpuTest, WhatItWasSentWithoutAThreadWaitsForIt) {
  if (const std::string why = NoSecondCpu(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  Boot({WV_SAY_A, 0xfa, 0xf4, 0xeb, 0xfd});
  Type('s');
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  {
    const std::lock_guard lock(mu_);
    EXPECT_TRUE(console_.empty());
  }
  ASSERT_TRUE(machine_->StartVcpu(1).has_value());
  EXPECT_TRUE(Said(1));
}

TEST_F(SecondCpuTest, OneThatWasNeverStartedOrWaitsForSipiIsOff) {
  Boot({WV_SAY_A});
  ASSERT_TRUE(machine_->StartVcpu(1).has_value());
  EXPECT_TRUE(machine_->StopVcpu(1).has_value());
  ASSERT_TRUE(machine_->StartVcpu(1).has_value());
  Type('i');
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(machine_->StopVcpu(1).has_value());
}

// An idle CPU halts, too: with interrupts on.
TEST_F(SecondCpuTest, OneThatIsIdleOrBusyIsNotOff) {
  if (const std::string why = NoSecondCpu(); !why.empty()) {
    GTEST_SKIP() << why;
  }
  for (const auto& rest : {std::array{0xfbU, 0xf4U, 0xebU, 0xfdU},     // sti; 1: hlt; jmp 1b
                           std::array{0xfaU, 0x90U, 0xebU, 0xfdU}}) {  // cli; 1: nop; jmp 1b
    console_.clear();
    Boot({WV_SAY_A, rest[0], rest[1], rest[2], rest[3]});
    ASSERT_TRUE(machine_->StartVcpu(1).has_value());
    Type('s');
    ASSERT_TRUE(Said(1));
    const auto refused = machine_->StopVcpu(1);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
    EXPECT_THAT(refused.error().message(), HasSubstr("vCPU 1 still runs"));
    EXPECT_EQ(machine_->vcpu_threads().size(), 2U);
    machine_.reset();
  }
}

TEST_F(MachineTest, VcpusAreBoundedAndChangeAfterBootOnly) {
  MachineConfig few = Config({0xf4});
  few.vcpus = 4;
  few.max_vcpus = 2;
  EXPECT_THAT(CreateError(std::move(few)), HasSubstr("2 vCPUs at most, of which 4 run at boot"));
  MachineConfig many = Config({0xf4});
  many.max_vcpus = kMaxVcpus + 1;
  EXPECT_THAT(CreateError(std::move(many)), HasSubstr("must be 1 to 32"));
  auto machine = *Machine::Create(Config({0xf4}));
  EXPECT_EQ(machine->StartVcpu(0).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(machine->StopVcpu(0).error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(machine->vcpu_threads().empty());
  ASSERT_TRUE(machine->Boot().has_value());
  EXPECT_EQ(machine->StartVcpu(1).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(machine->StopVcpu(0).error().code(), Code::kInvalidArgument);
}

TEST_F(MachineTest, BootTwiceIsAnError) {
  auto machine = *Machine::Create(Config({0xf4}));
  ASSERT_TRUE(machine->Boot().has_value());
  EXPECT_EQ(machine->Boot().error().code(), Code::kFailedPrecondition);
  machine->Pause();
  machine->Resume();
  machine->Stop();
  EXPECT_TRUE(events_.empty());
}

}  // namespace
}  // namespace wyvern::machine
