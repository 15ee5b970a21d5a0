#include "machine/vcpu_thread.h"

#include <pthread.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"

namespace wyvern::machine {

namespace {

// Interrupts KVM_RUN, and a system call of a device that waits; its handler does nothing. One that comes
// just before such a call begins is lost to it: hence again and again.
constexpr int kKickSignal = SIGUSR1;
constexpr std::chrono::milliseconds kKickAgain(10);
constexpr std::chrono::milliseconds kLookAgain(5);

extern "C" void OnKick(int /*signal*/) {}

Result<> InstallKickHandler() {
  struct sigaction action {};

  action.sa_handler = OnKick;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(kKickSignal, &action, nullptr) < 0) {
    return SysError("sigaction");
  }
  return {};
}

void UnblockKick() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, kKickSignal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace

VcpuThreads::VcpuThreads(std::vector<kvm::Vcpu> vcpus, ExitHandler* handler,
                         std::function<void(const char* name)> on_thread_start)
    : handler_(handler), on_thread_start_(std::move(on_thread_start)) {
  for (kvm::Vcpu& vcpu : vcpus) {
    slots_.push_back(std::make_unique<Slot>(std::move(vcpu)));
  }
}

VcpuThreads::~VcpuThreads() {
  Stop();
}

Result<> VcpuThreads::Start(size_t count) {
  WV_TRY_VOID(InstallKickHandler());
  for (size_t i = 0; i < count; ++i) {
    if (auto started = StartOne(static_cast<uint32_t>(i)); !started) {
      if (mode_.load() == Mode::kStop) {
        return {};  // those that run have ended the guest already, and said so
      }
      Stop();
      return started;
    }
  }
  return {};
}

Result<> VcpuThreads::CheckId(uint32_t id) const {
  if (id >= slots_.size()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("no vCPU {}: this machine was made with {}", id, slots_.size()));
  }
  return {};
}

Result<> VcpuThreads::StartOne(uint32_t id) {
  const std::lock_guard control(control_mu_);
  WV_TRY_VOID(CheckId(id));
  return StartLocked(slots_[id].get());
}

Result<> VcpuThreads::StartLocked(Slot* slot) {
  {
    const std::lock_guard lock(mu_);
    if (mode_.load() == Mode::kStop) {
      return Fail(Code::kFailedPrecondition, "the guest has ended");
    }
    if (slot->live) {
      return {};
    }
    slot->live = true;
    ++live_;
    if (mode_.load() == Mode::kRun) {
      slot->vcpu.ClearExitRequest();  // StopOne's
    }
  }
  const std::string name = fmt::format("vcpu{}", slot->vcpu.id());
  auto worker = WorkerThread::Start(name, [this, slot, name](const EventFd&) { Body(slot, name); });
  if (!worker) {
    const std::lock_guard lock(mu_);
    slot->live = false;
    --live_;
    changed_.notify_all();
    return tl::unexpected(std::move(worker).error());
  }
  slot->worker = *std::move(worker);
  return {};
}

Result<> VcpuThreads::StopOne(uint32_t id) {
  const std::lock_guard control(control_mu_);
  WV_TRY_VOID(CheckId(id));
  if (id == 0) {
    return Fail(Code::kInvalidArgument, "vCPU 0 is the boot CPU, which stays on line");
  }
  Slot* slot = slots_[id].get();
  if (LookUntil(slot, std::chrono::steady_clock::now() + kOffPatience) == Look::kOff) {
    slot->worker.reset();  // joins it
    return {};
  }
  if (mode_.load() == Mode::kStop) {
    return Fail(Code::kFailedPrecondition, "the guest has ended");
  }
  return Fail(Code::kFailedPrecondition,
              fmt::format("vCPU {} still runs: the guest has not taken it off line", id));
}

VcpuThreads::Look VcpuThreads::LookUntil(Slot* slot,
                                         std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mu_);
  if (mode_.load() != Mode::kStop && !slot->live) {
    return Look::kOff;
  }
  const auto stopping = [&] { return mode_.load() == Mode::kStop; };
  const auto late = [&] { return std::chrono::steady_clock::now() >= deadline; };
  Look seen = Look::kRuns;
  while (!stopping() && !late()) {
    slot->seen = Look::kNone;
    slot->leave.store(true, std::memory_order_release);
    do {
      Kick(slot);
      changed_.notify_all();
    } while (!changed_.wait_for(lock, kKickAgain, [&] {
      return stopping() || slot->seen != Look::kNone;
    }) && !late());
    seen = slot->seen;
    if (seen == Look::kOff || mode_.load() == Mode::kPause) {
      break;
    }
    changed_.wait_for(lock, kLookAgain, stopping);
  }
  // A thread that was not asked in time, in a device for instance, stays.
  slot->leave.store(false, std::memory_order_release);
  if (seen == Look::kOff) {
    return seen;
  }
  if (mode_.load() == Mode::kRun) {
    slot->vcpu.ClearExitRequest();
  }
  return Look::kRuns;
}

void VcpuThreads::Body(Slot* slot, const std::string& name) {
  UnblockKick();
  {
    const std::lock_guard lock(mu_);
    slot->thread = ::pthread_self();
    slot->thread_id = ::gettid();
    changed_.notify_all();
  }
  if (on_thread_start_) {
    on_thread_start_(name.c_str());
  }
  while (Step(slot)) {
  }
  const std::lock_guard lock(mu_);
  slot->live = false;
  slot->thread_id = 0;
  --live_;
  changed_.notify_all();
}

bool VcpuThreads::Step(Slot* slot) {
  if (mode_.load(std::memory_order_acquire) == Mode::kStop) {
    return false;
  }
  if (slot->leave.load(std::memory_order_acquire) && Leaves(slot)) {
    return false;
  }
  if (mode_.load(std::memory_order_acquire) == Mode::kPause) {
    Park(slot);
    return true;
  }
  return RunOnce(slot);
}

bool VcpuThreads::Leaves(Slot* slot) {
  const bool off = handler_->IsOff(slot->vcpu);
  const std::lock_guard lock(mu_);
  if (!slot->leave.load()) {
    return false;  // nobody waits for the answer any more
  }
  slot->leave.store(false);
  slot->seen = off ? Look::kOff : Look::kRuns;
  if (!off && mode_.load() == Mode::kRun) {
    slot->vcpu.ClearExitRequest();
  }
  changed_.notify_all();
  return off;
}

bool VcpuThreads::RunOnce(Slot* slot) {
  auto exit = slot->vcpu.Run();
  if (!exit) {
    Fault(slot, exit.error().message());
    return false;
  }
  auto& count = slot->exits[static_cast<size_t>(exit->reason)];
  count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return Handle(slot, *exit);
}

bool VcpuThreads::Handle(Slot* slot, const kvm::Exit& exit) {
  switch (exit.reason) {
    case kvm::ExitReason::kInterrupted:
    case kvm::ExitReason::kHalt:
      return true;
    case kvm::ExitReason::kPortRead:
    case kvm::ExitReason::kPortWrite:
      handler_->OnPort(exit);
      return true;
    case kvm::ExitReason::kMmioRead:
    case kvm::ExitReason::kMmioWrite:
      handler_->OnMmio(exit);
      return true;
    case kvm::ExitReason::kEndOfInterrupt:
      handler_->OnEndOfInterrupt(static_cast<uint8_t>(exit.code));
      return true;
    case kvm::ExitReason::kSystemEvent:
      return handler_->OnSystemEvent(exit.code);
    case kvm::ExitReason::kShutdown:
      Fault(slot, "triple fault");
      return false;
    case kvm::ExitReason::kFailEntry:
      Fault(slot,
            fmt::format("the CPU refused to enter the guest, hardware reason {:#x}", exit.code));
      return false;
    case kvm::ExitReason::kInternalError:
      Fault(slot, fmt::format("KVM internal error, suberror {}", exit.code));
      return false;
    case kvm::ExitReason::kMemoryFault:
      return RetryMemory(slot);
    case kvm::ExitReason::kOther:
      Fault(slot, fmt::format("unknown KVM exit {}", exit.code));
      return false;
  }
  return true;
}

bool VcpuThreads::RetryMemory(Slot* slot) {
  if (slot->patience.TryAgain(std::chrono::steady_clock::now())) {
    std::this_thread::sleep_for(MemoryPatience::kRetry);
    return true;
  }
  Fault(slot,
        "the guest touched memory that the host does not have (in a device's window, where no file "
        "is mapped, behind a file's end, or to "
        "write what is mapped for reading)");
  return false;
}

void VcpuThreads::Fault(Slot* slot, const std::string& what) {
  handler_->OnFault(slot->vcpu, what);
  RequestStop();
}

void VcpuThreads::Park(Slot* slot) {
  std::unique_lock lock(mu_);
  if (mode_.load() != Mode::kPause) {
    return;
  }
  ++parked_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return mode_.load() != Mode::kPause || slot->leave.load(); });
  --parked_;
  changed_.notify_all();
  const bool runs = mode_.load() == Mode::kRun;
  lock.unlock();
  if (runs) {
    slot->vcpu.TellPaused();
  }
}

void VcpuThreads::Kick(Slot* slot) {
  slot->vcpu.RequestExit();
  if (slot->thread_id != 0) {  // which a thread takes back before it ends
    (void)::pthread_kill(slot->thread, kKickSignal);
  }
}

void VcpuThreads::KickAll() {
  for (const auto& slot : slots_) {
    Kick(slot.get());
  }
}

void VcpuThreads::Pause() {
  const std::lock_guard control(control_mu_);
  std::unique_lock lock(mu_);
  if (mode_.load() != Mode::kRun) {
    return;
  }
  mode_.store(Mode::kPause, std::memory_order_release);
  do {
    KickAll();
  } while (!changed_.wait_for(lock, kKickAgain,
                              [&] { return mode_.load() == Mode::kStop || parked_ == live_; }));
}

void VcpuThreads::Resume() {
  const std::lock_guard control(control_mu_);
  std::unique_lock lock(mu_);
  if (mode_.load() != Mode::kPause) {
    return;
  }
  for (const auto& slot : slots_) {
    slot->vcpu.ClearExitRequest();
  }
  mode_.store(Mode::kRun, std::memory_order_release);
  changed_.notify_all();
  // A Pause that follows at once must not count a thread that has not left yet.
  changed_.wait(lock, [&] { return parked_ == 0; });
}

void VcpuThreads::RequestStop() {
  const std::lock_guard lock(mu_);
  if (mode_.load() == Mode::kStop) {
    return;
  }
  mode_.store(Mode::kStop, std::memory_order_release);
  KickAll();
  changed_.notify_all();
}

void VcpuThreads::Stop() {
  RequestStop();
  const std::lock_guard control(control_mu_);
  {
    std::unique_lock lock(mu_);
    while (!changed_.wait_for(lock, kKickAgain, [&] { return live_ == 0; })) {
      KickAll();
    }
  }
  for (const auto& slot : slots_) {
    slot->worker.reset();
  }
}

std::vector<VcpuThreadId> VcpuThreads::threads() const {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [&] {
    return std::ranges::none_of(
        slots_, [](const auto& slot) { return slot->live && slot->thread_id == 0; });
  });
  std::vector<VcpuThreadId> threads;
  for (const auto& slot : slots_) {
    if (slot->live) {
      threads.push_back({.vcpu = slot->vcpu.id(), .thread = slot->thread_id});
    }
  }
  return threads;
}

std::vector<ExitCounts> VcpuThreads::exits() const {
  std::vector<ExitCounts> all;
  all.reserve(slots_.size());
  for (const auto& slot : slots_) {
    ExitCounts& counts = all.emplace_back();
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] = slot->exits[i].load(std::memory_order_relaxed);
    }
  }
  return all;
}

}  // namespace wyvern::machine
