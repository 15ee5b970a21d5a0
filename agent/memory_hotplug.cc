#include "agent/memory_hotplug.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/log.h"

// The kernel's name, whose header collides with the C library's.
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace wyvern::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMemory[] = "/sys/devices/system/memory";
constexpr char kPolicy[] = "/sys/module/memory_hotplug/parameters/online_policy";
constexpr char kRatio[] = "/sys/module/memory_hotplug/parameters/auto_movable_ratio";
constexpr char kAutoOnline[] = "/sys/devices/system/memory/auto_online_blocks";
// In percent of what was there at boot. The kernel's own data cannot be in the movable zone, and 1/64 of all memory describes it: at
// eight times, 1/8 of the boot memory does.
constexpr char kMovableRatio[] = "800";
constexpr uint64_t kUnit = 1U << 20;
constexpr uint64_t kLastAddress = uint64_t{1} << 63;

// SIGUSR1 to this thread at `when`, and every 10 ms after it: one that comes before the system call it should end is in vain.
class ThreadAlarm {
 public:
  explicit ThreadAlarm(Clock::time_point when) {
    static const bool handled = [] {
      struct sigaction action {};

      action.sa_handler = [](int) {};  // no SA_RESTART: EINTR is the point
      return sigaction(SIGUSR1, &action, nullptr) == 0;
    }();
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event.sigev_notify_thread_id = gettid();
    armed_ = handled && timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
    if (!armed_) {
      return;  // then it takes as long as it takes
    }
    const auto left =
        std::max<std::chrono::nanoseconds>(when - Clock::now(), std::chrono::milliseconds(1));
    itimerspec spec{};
    spec.it_value = {.tv_sec = left.count() / 1'000'000'000,
                     .tv_nsec = left.count() % 1'000'000'000};
    spec.it_interval = {.tv_sec = 0, .tv_nsec = 10'000'000};
    (void)timer_settime(timer_, 0, &spec, nullptr);
  }

  ~ThreadAlarm() {
    if (armed_) {
      (void)timer_delete(timer_);
    }
  }

  ThreadAlarm(const ThreadAlarm&) = delete;
  ThreadAlarm& operator=(const ThreadAlarm&) = delete;

 private:
  timer_t timer_{};
  bool armed_ = false;
};

std::optional<uint64_t> NumberOf(std::string_view text, int base) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value, base);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(value) : std::nullopt;
}

struct Block {
  std::string state_file;
  bool online;
};

struct Blocks {
  uint64_t block_bytes = 0;
  std::vector<Block> all;  // in the range, by address

  uint64_t OnlineBytes() const {
    return block_bytes * static_cast<uint64_t>(std::ranges::count(all, true, &Block::online));
  }
};

// Whole blocks of [start, end). Nothing: the kernel has none at all.
std::optional<Blocks> BlocksWithin(const KernelFiles& files, uint64_t start, uint64_t end) {
  Blocks blocks;
  const std::string root = kMemory;
  const auto size = NumberOf(files.Read(root + "/block_size_bytes").value_or(""), 16);
  if (!size || *size == 0) {
    return std::nullopt;
  }
  blocks.block_bytes = *size;
  std::vector<std::pair<uint64_t, std::string>> found;
  for (const std::string& name : files.List(root)) {
    constexpr std::string_view kPrefix = "memory";
    const auto number = name.starts_with(kPrefix)
                            ? NumberOf(std::string_view(name).substr(kPrefix.size()), 10)
                            : std::nullopt;
    if (!number || *number >= kLastAddress / *size) {
      continue;
    }
    const uint64_t at = *number * *size;
    if (at >= start && at < end && *size <= end - at) {
      found.emplace_back(at, root + "/" + name + "/state");
    }
  }
  std::ranges::sort(found);
  for (auto& [at, file] : found) {
    const auto state = files.Read(file);
    if (state) {  // else it was removed this moment
      blocks.all.push_back({.state_file = std::move(file), .online = *state == "online"});
    }
  }
  return blocks;
}

class MemoryJob final : public Job {
 public:
  MemoryJob(const KernelFiles& files, const v1::MemoryRequest& request, bool online,
            Lane::TimePoint deadline, ttrpc::Responder<v1::MemoryResponse> responder)
      : files_(files),
        start_(request.start()),
        end_(request.start() + request.size()),
        bytes_(request.bytes()),
        online_(online),
        deadline_(deadline),
        responder_(std::move(responder)) {}

  // Goes over the range as often as it takes, one block a step.
  Progress Step() override {
    if (candidates_.empty()) {
      const auto blocks = BlocksWithin(files_, start_, end_);
      if (!blocks || IsComplete(*blocks)) {
        Answer();
        return Progress::kDone;
      }
      // After a round in vain: for virtio-mem to add a block, or for pages that are held now.
      if (!std::exchange(changed_, true)) {
        return Progress::kWait;
      }
      StartRound(*blocks);
      changed_ = false;
      if (candidates_.empty()) {
        return Progress::kMore;
      }
    }
    const std::string file = std::move(candidates_.back());
    candidates_.pop_back();
    if (Change(file)) {
      changed_ = true;
      left_ -= std::min(left_, block_bytes_);
      if (left_ == 0) {
        candidates_.clear();
      }
    }
    return Progress::kMore;
  }

  void Expire() override { Answer(); }

 private:
  bool IsComplete(const Blocks& blocks) const {
    return online_ ? blocks.OnlineBytes() >= bytes_ : blocks.OnlineBytes() <= bytes_;
  }

  // Fills candidates_, the first of them last: the lowest block when memory comes, the highest when it goes.
  void StartRound(const Blocks& blocks) {
    block_bytes_ = blocks.block_bytes;
    left_ = online_ ? bytes_ - blocks.OnlineBytes() : blocks.OnlineBytes() - bytes_;
    for (const Block& block : blocks.all) {
      if (block.online != online_) {
        candidates_.push_back(block.state_file);
      }
    }
    if (online_) {
      std::ranges::reverse(candidates_);
    }
  }

  bool Change(const std::string& file) {
    const std::string wanted = !online_ ? "offline" : OnlineWord();
    const ThreadAlarm alarm(deadline_);
    auto written = files_.Write(file, wanted);
    // EINVAL also says that it is as it should be: another was faster.
    if (!written && files_.Read(file) != (online_ ? "online" : "offline")) {
      error_.store(written.error().sys_errno());
      return false;
    }
    return true;
  }

  // "online" goes by the kernel's policy, where it has one.
  std::string OnlineWord() const {
    return files_.Read(kPolicy) == "auto-movable" ? "online" : "online_movable";
  }

  void Answer() {
    const auto blocks = BlocksWithin(files_, start_, end_);
    if (!blocks) {
      responder_.Fail(Error(Code::kUnimplemented,
                            "the guest's kernel cannot add or remove memory "
                            "(CONFIG_MEMORY_HOTPLUG, CONFIG_MEMORY_HOTREMOVE)"));
      return;
    }
    v1::MemoryResponse response;
    response.set_online_bytes(blocks->OnlineBytes());
    response.set_block_bytes(blocks->block_bytes);
    response.set_complete(IsComplete(*blocks));
    response.set_error(error_.load());
    responder_.Ok(response);
  }

  const KernelFiles& files_;
  const uint64_t start_;
  const uint64_t end_;
  const uint64_t bytes_;
  const bool online_;
  const Lane::TimePoint deadline_;
  const ttrpc::Responder<v1::MemoryResponse> responder_;
  std::atomic<int> error_{0};
  // The lane's: the round that is on.
  std::vector<std::string> candidates_;
  uint64_t block_bytes_ = 0;
  uint64_t left_ = 0;
  bool changed_ = true;  // some block, in this round
};

}  // namespace

void SetMemoryPolicy(const KernelFiles& files, const std::map<std::string, std::string>& cmdline) {
  if (!files.Exists(kAutoOnline)) {
    return;  // memory cannot be added
  }
  if (!cmdline.contains("memory_hotplug.online_policy")) {
    (void)files.Write(kPolicy, "auto-movable");
  }
  const bool automatic = files.Read(kPolicy) == "auto-movable";
  if (automatic && !cmdline.contains("memory_hotplug.auto_movable_ratio")) {
    (void)files.Write(kRatio, kMovableRatio);
  }
  if (!cmdline.contains("memhp_default_state")) {
    if (auto set = files.Write(kAutoOnline, automatic ? "online" : "online_movable"); !set) {
      WV_WARN("memory that is added will not be online at once: {}", set.error().message());
    }
  }
}

Result<std::shared_ptr<Job>> MakeMemoryJob(const KernelFiles& files,
                                           const v1::MemoryRequest& request, bool online,
                                           Lane::TimePoint deadline,
                                           ttrpc::Responder<v1::MemoryResponse> responder) {
  if (request.start() % kUnit != 0 || request.size() % kUnit != 0 || request.size() == 0 ||
      request.start() >= kLastAddress || request.size() >= kLastAddress - request.start()) {
    return Fail(Code::kInvalidArgument,
                "start and size: multiples of 1 MiB, size not 0, their sum below 2^63");
  }
  if (request.bytes() > request.size()) {
    return Fail(Code::kInvalidArgument, "bytes: at most size");
  }
  return std::make_shared<MemoryJob>(files, request, online, deadline, std::move(responder));
}

}  // namespace wyvern::agent
