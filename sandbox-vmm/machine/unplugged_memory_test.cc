// What a guest gains by touching memory that was unplugged: nothing.
#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "kvm/probe.h"
#include "loader/testing/elf_builder.h"
#include "machine/machine.h"

namespace wyvern::machine {
namespace {

constexpr uint64_t kOneMiB = 1ULL << 20U;
constexpr uint64_t kChunk = 2 * kOneMiB;

// Intel SDM volume 3, 4.4 (PAE paging): tables that a 32-bit guest reaches all of guest memory with.
constexpr uint64_t kDirectoryPointers = 8 * kOneMiB;
constexpr uint64_t kLowDirectory = kDirectoryPointers + 0x1000;   // linear 0: as it is
constexpr uint64_t kHighDirectory = kDirectoryPointers + 0x2000;  // linear 1 GiB: memory to plug
constexpr uint64_t kPresent = 1;
constexpr uint64_t kLargeWritable = 0x83;

// Reads the first byte of the first chunk, writes to the second one, reads it; says both on the console and powers off.
constexpr std::initializer_list<unsigned> kTouches = {
    // clang-format off
    0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0,              // cr4 |= PAE
    0xb8, 0x00, 0x00, 0x80, 0x00, 0x0f, 0x22, 0xd8,                    // cr3 = 8 MiB
    0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0,  // cr0 |= PG
    0x66, 0xba, 0xf8, 0x03,                                            // mov dx, 0x3f8
    0xa0, 0x00, 0x00, 0x00, 0x40, 0xee,                                // mov al, [1 GiB]; out dx, al
    0xc6, 0x05, 0x00, 0x00, 0x20, 0x40, 0x78,                          // mov byte [1 GiB + 2 MiB], 'x'
    0xa0, 0x00, 0x00, 0x20, 0x40, 0xee,                                // mov al, [1 GiB + 2 MiB]; out dx, al
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4,                    // power off
    // clang-format on
};

class UnpluggedMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no usable /dev/kvm on this host";
    }
    if (kvm::ProbeKvm("/dev/kvm", std::chrono::milliseconds(500)).verdict !=
        kvm::KvmVerdict::kWorks) {
      GTEST_SKIP() << "this KVM interprets the guest: it ends there, and says nothing of memory";
    }
    loader::testing::TestElf elf;
    size_t at = 0x10;
    for (const unsigned byte : kTouches) {
      elf.code.at(at++) = static_cast<std::byte>(byte);
    }
    MachineConfig config;
    config.kvm = *Open("/dev/kvm", O_RDWR);
    config.memory = 64 * kOneMiB;
    config.hotplug_memory = 64 * kOneMiB;
    config.kernel = *MakeMemfd("kernel", 0);
    ASSERT_TRUE(WriteAll(config.kernel, elf.Build()).has_value());
    config.console = [this](std::span<const std::byte> bytes) {
      const std::lock_guard lock(mu_);
      for (const std::byte byte : bytes) {
        console_.push_back(static_cast<char>(byte));
      }
    };
    config.on_event = [this](const Event& event) {
      const std::lock_guard lock(mu_);
      end_ = std::string(EventName(event.kind)) + ": " + event.text;
      changed_.notify_all();
    };
    auto machine = Machine::Create(std::move(config));
    ASSERT_TRUE(machine.has_value()) << machine.error().message();
    machine_ = *std::move(machine);
    slots_ = *machine_->MakeMemorySlots(kChunk);
    WriteTables();
  }

  void WriteTables() {
    const auto put = [this](uint64_t table, uint64_t index, uint64_t entry) {
      EXPECT_TRUE(machine_->memory()->Write(mem::Gpa{table + index * 8}, Le64(entry)).has_value());
    };
    put(kDirectoryPointers, 0, kLowDirectory | kPresent);
    put(kDirectoryPointers, 1, kHighDirectory | kPresent);
    for (uint64_t i = 0; i < 32; ++i) {
      put(kLowDirectory, i, i * kChunk | kLargeWritable);
      put(kHighDirectory, i, Raw(At(i)) | kLargeWritable);
    }
  }

  mem::Gpa At(uint64_t chunk) const {
    return mem::Gpa{machine_->hotplug_window().start + chunk * kChunk};
  }

  // What the guest says until it powers off.
  std::string Run() {
    EXPECT_TRUE(machine_->Boot().has_value());
    std::unique_lock lock(mu_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(20), [this] { return !end_.empty(); }));
    lock.unlock();
    machine_->Stop();
    return console_;
  }

  // Bytes that all memory to plug costs the host.
  uint64_t Charged() const {
    for (const mem::RegionInfo& region : machine_->memory()->regions()) {
      if (region.start == At(0)) {
        return static_cast<uint64_t>(Fstat(region.fd)->st_blocks) * 512;
      }
    }
    ADD_FAILURE() << "nothing is plugged";
    return 0;
  }

  std::mutex mu_;
  std::condition_variable changed_;
  std::string end_;  // how the guest ended
  std::string console_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<devices::MemorySlots> slots_;
};

TEST_F(UnpluggedMemoryTest, UnpluggedVirtioMemRangesAreInaccessibleAndCostNothing) {
  ASSERT_TRUE(slots_->Map({At(0), 2 * kChunk}).has_value());
  ASSERT_TRUE(machine_->memory()->Write(At(0), 'p').has_value());
  ASSERT_TRUE(machine_->memory()->Write(At(1), 's').has_value());
  ASSERT_TRUE(slots_->Unmap({At(1), kChunk}).has_value());
  ASSERT_TRUE(slots_->Free({At(1), kChunk}).has_value());
  EXPECT_FALSE(machine_->memory()->Contains(At(1), 1));
  const uint64_t before = Charged();
  EXPECT_LE(before, kChunk);
  EXPECT_EQ(Run(), "p\xff") << end_;  // what was there is gone, and a write is not kept
  EXPECT_EQ(Charged(), before);
}

TEST_F(UnpluggedMemoryTest, RangesThatWereNeverPluggedAreInaccessible) {
  ASSERT_TRUE(slots_->Map({At(0), kChunk}).has_value());
  EXPECT_EQ(Run(), std::string("\0\xff", 2)) << end_;
}

// Memory that comes back is not what it was.
TEST_F(UnpluggedMemoryTest, MemoryThatIsPluggedAgainIsZero) {
  ASSERT_TRUE(slots_->Map({At(0), 2 * kChunk}).has_value());
  ASSERT_TRUE(machine_->memory()->Write(At(0), 's').has_value());
  ASSERT_TRUE(slots_->Unmap({At(0), kChunk}).has_value());
  ASSERT_TRUE(slots_->Free({At(0), kChunk}).has_value());
  ASSERT_TRUE(slots_->Map({At(0), kChunk}).has_value());
  EXPECT_EQ(Run(), std::string("\0x", 2)) << end_;
}

}  // namespace
}  // namespace wyvern::machine
