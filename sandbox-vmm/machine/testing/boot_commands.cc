// What can be asked of wyvern-boot-test on its standard input.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "base/fd.h"
#include "machine/testing/boot_devices.h"

namespace wyvern::machine {

namespace {

using Clock = std::chrono::steady_clock;

// How long a guest may take to read its console, or to tell of its memory.
constexpr std::chrono::seconds kPatience{20};

std::optional<std::vector<uint64_t>> ParseNumbers(std::string_view text) {
  std::vector<uint64_t> numbers;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    uint64_t& number = numbers.emplace_back();
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size()) {
      return std::nullopt;
    }
    text.remove_prefix(std::min(word.size() + 1, text.size()));
  }
  return numbers;
}

tl::unexpected<Error> NoDevice() {
  return Fail(Code::kNotFound, "the machine has no such device");
}

}  // namespace

Result<> PauseFor(Machine& machine, std::chrono::milliseconds time) {
  machine.Pause();
  const std::vector<ExitCounts> before = machine.counters().exits;
  std::this_thread::sleep_for(time);
  const bool ran = before != machine.counters().exits;
  machine.Resume();
  if (ran) {
    return Fail(Code::kInternal, "a vCPU ran while the machine was paused");
  }
  return {};
}

std::string BootDevices::Command(std::string_view line) {
  const size_t space = std::min(line.find(' '), line.size());
  const std::string_view name = line.substr(0, space);
  const auto text = Perform(name, line.substr(std::min(space + 1, line.size())));
  return text ? fmt::format("{}{}: done", *text, name)
              : fmt::format("{}: {}", name, text.error().message());
}

Result<std::string> BootDevices::Perform(std::string_view name, std::string_view rest) {
  struct Act {
    size_t numbers;
    Result<std::string> (BootDevices::*run)(Numbers);
  };

  static const std::map<std::string_view, Act> acts = {
      {"balloon", {1, &BootDevices::SetBalloon}},
      {"counters", {0, &BootDevices::TellCounters}},
      {"hint", {1, &BootDevices::Hint}},
      {"link", {1, &BootDevices::Link}},
      {"pause", {1, &BootDevices::Pause}},
      {"plug", {1, &BootDevices::Plug}},
      {"resize", {2, &BootDevices::ResizeDisk}},
      {"stats", {0, &BootDevices::Stats}},
      {"start-vcpu", {1, &BootDevices::StartVcpu}},
      {"stop-vcpu", {1, &BootDevices::StopVcpu}},
      {"vcpus", {0, &BootDevices::TellVcpus}},
      {"window", {2, &BootDevices::Window}}};
  if (name == "type") {
    return Type(rest);
  }
  const auto act = acts.find(name);
  if (act == acts.end()) {
    return Fail(Code::kInvalidArgument, "there is no such command");
  }
  const auto numbers = ParseNumbers(rest);
  if (!numbers || numbers->size() != act->second.numbers) {
    return Fail(Code::kInvalidArgument, fmt::format("takes {} numbers", act->second.numbers));
  }
  return (this->*act->second.run)(*numbers);
}

// A line at the serial console. Its FIFO is short: the rest waits for the guest.
Result<std::string> BootDevices::Type(std::string_view text) {
  const std::string line = std::string(text) + '\n';
  auto left = std::as_bytes(std::span(line.data(), line.size()));
  for (const auto end = Clock::now() + kPatience; !left.empty();) {
    const size_t taken = machine_.ConsoleInput(left);
    left = left.subspan(taken);
    if (taken != 0) {
      continue;
    }
    if (Clock::now() > end) {
      return Fail(Code::kDeadlineExceeded, "the guest does not read its console");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return std::string();
}

Result<std::string> BootDevices::Pause(Numbers numbers) {
  WV_TRY_VOID(PauseFor(machine_, std::chrono::milliseconds(numbers[0])));
  return std::string();
}

// A file that grows does so before its device, one that shrinks afterwards.
Result<std::string> BootDevices::ResizeDisk(Numbers numbers) {
  if (numbers[0] >= disks_.size()) {
    return NoDevice();
  }
  const Disk& disk = disks_[numbers[0]];
  const uint64_t bytes = numbers[1] * kMiB;
  WV_TRY(const UniqueFd file, Open(disk.path, O_RDWR));
  WV_TRY(const auto st, Fstat(file));
  const bool grows = bytes > static_cast<uint64_t>(st.st_size);
  if (grows && ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return SysError("ftruncate " + disk.path);
  }
  WV_TRY_VOID(disk.device->Resize(bytes));
  if (!grows && ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return SysError("ftruncate " + disk.path);
  }
  return std::string();
}

Result<std::string> BootDevices::SetBalloon(Numbers numbers) {
  if (balloon_ == nullptr) {
    return NoDevice();
  }
  WV_TRY_VOID(balloon_->SetTarget(numbers[0] * kMiB));
  return std::string();
}

// Begins a round of free page hints, or ends it.
Result<std::string> BootDevices::Hint(Numbers numbers) {
  if (balloon_ == nullptr) {
    return NoDevice();
  }
  if (numbers[0] == 0) {
    balloon_->FinishHinting();
    return std::string();
  }
  WV_TRY(const uint32_t command, balloon_->StartHinting());
  return fmt::format("hints come as {}\n", command);
}

Result<std::string> BootDevices::Stats(Numbers /*numbers*/) {
  if (balloon_ == nullptr) {
    return NoDevice();
  }
  const uint64_t before = balloon_->stats().updates;
  balloon_->RequestStats();
  for (const auto end = Clock::now() + kPatience; balloon_->stats().updates == before;) {
    if (Clock::now() > end) {
      return Fail(Code::kDeadlineExceeded, "the guest does not tell");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const devices::BalloonStats stats = balloon_->stats();
  std::string text = "memory:";
  for (size_t i = 0; i < devices::BalloonStats::kTags; ++i) {
    const auto tag = static_cast<devices::BalloonTag>(i);
    if (const auto value = stats.value(tag)) {
      text += fmt::format(" {}={}", devices::BalloonTagName(tag), *value);
    }
  }
  return text + '\n';
}

Result<std::string> BootDevices::Plug(Numbers numbers) {
  if (memory_ == nullptr) {
    return NoDevice();
  }
  WV_TRY_VOID(memory_->SetRequestedSize(numbers[0] * kMiB));
  return std::string();
}

Result<std::string> BootDevices::Window(Numbers numbers) {
  if (console_ == nullptr) {
    return NoDevice();
  }
  WV_TRY_VOID(
      console_->Resize(0, static_cast<uint16_t>(numbers[0]), static_cast<uint16_t>(numbers[1])));
  return std::string();
}

Result<std::string> BootDevices::Link(Numbers numbers) {
  if (!set_link_up_) {
    return NoDevice();
  }
  set_link_up_(numbers[0] != 0);
  return std::string();
}

Result<std::string> BootDevices::StartVcpu(Numbers numbers) {
  WV_TRY_VOID(machine_.StartVcpu(static_cast<uint32_t>(numbers[0])));
  return std::string();
}

Result<std::string> BootDevices::StopVcpu(Numbers numbers) {
  WV_TRY_VOID(machine_.StopVcpu(static_cast<uint32_t>(numbers[0])));
  return std::string();
}

// Those that have a thread, and its id.
Result<std::string> BootDevices::TellVcpus(Numbers /*numbers*/) {
  std::string text = "run:";
  for (const VcpuThreadId& each : machine_.vcpu_threads()) {
    text += fmt::format(" {}={}", each.vcpu, each.thread);
  }
  return text + '\n';
}

Result<std::string> BootDevices::TellCounters(Numbers /*numbers*/) {
  return Counters() + '\n';
}

}  // namespace wyvern::machine
