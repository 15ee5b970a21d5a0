// A machine with kernels of a few instructions; real kernels are booted in the lab (testing/boot_test_main.cc).
#include "machine/machine.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loader/testing/elf_builder.h"
#include "mem/file_window.h"
#include "virtio/device.h"

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

TEST_F(MachineTest, ReadOnlySlotsArePaddedAlignedAndBounded) {
  auto machine = *Machine::Create(Config({0xf4}));
  EXPECT_FALSE(machine->MapReadOnlySlot(*MakeMemfd("image", 4096), 0).has_value());
  EXPECT_FALSE(machine->MapReadOnlySlot(*MakeMemfd("image", 4096), 4097).has_value());
  EXPECT_FALSE(machine->MapReadOnlySlot(*MakeMemfd("image", 1ULL << 40U), 1ULL << 40U).has_value());
  UniqueFd image = *MakeMemfd("image", 0);
  ASSERT_TRUE(WriteAll(image, "first image").has_value());
  auto first = machine->MapReadOnlySlot(std::move(image), 11);
  ASSERT_TRUE(first.has_value()) << first.error().message();
  EXPECT_EQ(first->start % (2 * kMiB), 0U);
  EXPECT_EQ(first->size, 2 * kMiB);
  auto second = machine->MapReadOnlySlot(*MakeMemfd("image", 4 * kMiB), 4 * kMiB);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->start, first->end());
  const auto memory = machine->memory();
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->start}).value(), 'f');
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->start + 11}).value(), 0);
  EXPECT_EQ(memory->Read<char>(mem::Gpa{first->end() - 1}).value(), 0);
  EXPECT_EQ(memory->Write<char>(mem::Gpa{first->start}, 'x').error(), mem::MemFault::kReadOnly);
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

// Has one region of shared memory.
class WindowedDevice final : public virtio::VirtioDevice {
 public:
  WindowedDevice() {
    traits_.device_id = 26;
    traits_.queue_sizes = {64};
    traits_.name = "windowed";
    traits_.shared_memory = {{.id = 0, .length = 2 * kMiB}};
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
  const auto slot = machine->AttachDevice(std::make_unique<WindowedDevice>(), window);
  ASSERT_TRUE(slot.has_value()) << slot.error().message();
  ASSERT_EQ(*slot, 1);
  ASSERT_TRUE(machine->Boot().has_value());
  EXPECT_EQ(AwaitEvent().kind, EventKind::kReset);
  machine.reset();
  // Where it is not, the bus answers.
  EXPECT_EQ(console_, "ff\xff\xff");
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
