#include "machine/vcpu_thread.h"

#include <pthread.h>
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

Result<> VcpuThreads::Start() {
  WV_TRY_VOID(InstallKickHandler());
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot* slot = slots_[i].get();
    const std::string name = fmt::format("vcpu{}", i);
    auto worker =
        WorkerThread::Start(name, [this, slot, name](const EventFd&) { Body(slot, name); });
    if (!worker) {
      Stop();
      return tl::unexpected(std::move(worker).error());
    }
    slot->worker = *std::move(worker);
  }
  return {};
}

void VcpuThreads::Body(Slot* slot, const std::string& name) {
  slot->thread.store(::pthread_self());
  slot->started.store(true, std::memory_order_release);
  UnblockKick();
  if (on_thread_start_) {
    on_thread_start_(name.c_str());
  }
  for (bool go_on = true; go_on;) {
    switch (mode_.load(std::memory_order_acquire)) {
      case Mode::kRun:
        go_on = RunOnce(slot);
        break;
      case Mode::kPause:
        Park(slot);
        break;
      case Mode::kStop:
        go_on = false;
        break;
    }
  }
  const std::lock_guard lock(mu_);
  ++ended_;
  changed_.notify_all();
}

bool VcpuThreads::RunOnce(Slot* slot) {
  auto exit = slot->vcpu.Run();
  if (!exit) {
    Fault(slot, exit.error().message());
    return false;
  }
  slot->exits[static_cast<size_t>(exit->reason)].fetch_add(1, std::memory_order_relaxed);
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
  changed_.wait(lock, [&] { return mode_.load() != Mode::kPause; });
  --parked_;
  changed_.notify_all();
  lock.unlock();
  slot->vcpu.TellPaused();
}

void VcpuThreads::KickAll() {
  for (const auto& slot : slots_) {
    slot->vcpu.RequestExit();
    if (slot->started.load(std::memory_order_acquire)) {
      // A thread that has ended but is not joined is still a valid target.
      (void)::pthread_kill(slot->thread.load(), kKickSignal);
    }
  }
}

void VcpuThreads::Pause() {
  std::unique_lock lock(mu_);
  if (mode_.load() != Mode::kRun) {
    return;
  }
  mode_.store(Mode::kPause, std::memory_order_release);
  do {
    KickAll();
  } while (!changed_.wait_for(lock, kKickAgain, [&] {
    return mode_.load() == Mode::kStop || parked_ + ended_ == slots_.size();
  }));
}

void VcpuThreads::Resume() {
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
  const auto begun = static_cast<size_t>(
      std::ranges::count_if(slots_, [](const auto& slot) { return slot->worker != nullptr; }));
  {
    std::unique_lock lock(mu_);
    while (!changed_.wait_for(lock, kKickAgain, [&] { return ended_ == begun; })) {
      KickAll();
    }
  }
  for (const auto& slot : slots_) {
    if (slot->worker) {
      slot->worker->Join();
    }
  }
}

ExitCounts VcpuThreads::exits() const {
  ExitCounts counts{};
  for (const auto& slot : slots_) {
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] += slot->exits[i].load(std::memory_order_relaxed);
    }
  }
  return counts;
}

}  // namespace wyvern::machine
