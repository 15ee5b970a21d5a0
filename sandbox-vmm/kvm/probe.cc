#include "kvm/probe.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "base/mapping.h"
#include "kvm/probe_guest.h"

namespace wyvern::kvm {

namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr int kRounds = 8;

nanoseconds TimeNative() {
  nanoseconds best = nanoseconds::max();
  for (int i = 0; i < kRounds; ++i) {
    const auto start = Clock::now();
    RunProbeLoop();
    best = std::min(best, duration_cast<nanoseconds>(Clock::now() - start));
  }
  return best;
}

// Ends a KVM_RUN of this thread at the deadline: a thread-directed timer signal that is blocked everywhere but inside KVM_RUN, so that no
// handler is needed and none of the program's is disturbed.
class RunDeadline {
 public:
  static Result<std::unique_ptr<RunDeadline>> Arm(FdRef vcpu, nanoseconds delay) {
    std::unique_ptr<RunDeadline> deadline(new RunDeadline());
    sigset_t blocked;
    ::sigemptyset(&blocked);
    ::sigaddset(&blocked, kSignal);
    if (const int error = ::pthread_sigmask(SIG_BLOCK, &blocked, &deadline->old_mask_);
        error != 0) {
      return SysErrorFrom(error, "pthread_sigmask");
    }
    deadline->masked_ = true;
    WV_TRY_VOID(AllowInRun(vcpu));
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kSignal;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    if (::timer_create(CLOCK_MONOTONIC, &event, &deadline->timer_) < 0) {
      return SysError("timer_create");
    }
    deadline->timed_ = true;
    itimerspec when{};
    when.it_value.tv_sec = delay.count() / 1'000'000'000;
    when.it_value.tv_nsec = std::max<int64_t>(delay.count() % 1'000'000'000, 1);
    if (::timer_settime(deadline->timer_, 0, &when, nullptr) < 0) {
      return SysError("timer_settime");
    }
    return deadline;
  }

  ~RunDeadline() {
    if (timed_) {
      ::timer_delete(timer_);
    }
    if (masked_) {
      sigset_t pending;
      ::sigemptyset(&pending);
      ::sigaddset(&pending, kSignal);
      const timespec none{};
      while (::sigtimedwait(&pending, nullptr, &none) == kSignal) {
      }
      ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
    }
  }

  RunDeadline(const RunDeadline&) = delete;
  RunDeadline& operator=(const RunDeadline&) = delete;

 private:
  static constexpr int kSignal = SIGALRM;

  RunDeadline() = default;

  // KVM_SET_SIGNAL_MASK takes the kernel's 8-byte mask: everything blocked but our signal.
  static Result<> AllowInRun(FdRef vcpu) {
    struct {
      uint32_t length = 8;
      std::array<uint8_t, 8> mask{};
    } request;

    const uint64_t mask = ~(uint64_t{1} << (kSignal - 1U));
    std::memcpy(request.mask.data(), &mask, sizeof(mask));
    constexpr unsigned long kSetSignalMask = _IOW(KVMIO, 0x8b, uint32_t);
    if (::ioctl(vcpu.get(), kSetSignalMask, &request) < 0) {
      return SysError("ioctl(KVM_SET_SIGNAL_MASK)");
    }
    return {};
  }

  sigset_t old_mask_{};
  timer_t timer_{};
  bool masked_ = false;
  bool timed_ = false;
};

struct Guest {
  Mapping memory;
  UniqueFd vm;
  UniqueFd vcpu;
  Mapping run;
};

Result<Guest> MakeGuest(FdRef device) {
  Guest guest;
  if (const int version = ::ioctl(device.get(), KVM_GET_API_VERSION, 0);
      version != KVM_API_VERSION) {
    return Fail(Code::kFailedPrecondition, "it is not KVM (API version 12)");
  }
  guest.vm.Reset(::ioctl(device.get(), KVM_CREATE_VM, 0));
  if (!guest.vm.valid()) {
    return SysError("ioctl(KVM_CREATE_VM)");
  }
  WV_TRY(guest.memory, Mapping::Create(kProbeMemory, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, FdRef(-1)));
  WriteProbeGuest(std::span(guest.memory.data(), guest.memory.size()));
  kvm_userspace_memory_region region{};
  region.memory_size = kProbeMemory;
  region.userspace_addr = reinterpret_cast<uintptr_t>(guest.memory.data());
  if (::ioctl(guest.vm.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0) {
    return SysError("ioctl(KVM_SET_USER_MEMORY_REGION)");
  }
  guest.vcpu.Reset(::ioctl(guest.vm.get(), KVM_CREATE_VCPU, 0));
  if (!guest.vcpu.valid()) {
    return SysError("ioctl(KVM_CREATE_VCPU)");
  }
  const int size = ::ioctl(device.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < static_cast<int>(sizeof(kvm_run))) {
    return SysError("ioctl(KVM_GET_VCPU_MMAP_SIZE)");
  }
  WV_TRY(guest.run, Mapping::Create(static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED,
                                    guest.vcpu));
  WV_TRY_VOID(SetProbeRegisters(guest.vcpu));
  return guest;
}

struct Timing {
  nanoseconds best = nanoseconds::max();
  bool finished = true;
};

Result<Timing> TimeGuest(const Guest& guest, nanoseconds native, Clock::time_point end) {
  Timing timing;
  const auto* run = reinterpret_cast<const kvm_run*>(guest.run.data());
  for (int i = 0; i < kRounds; ++i) {
    const auto start = Clock::now();
    const int result = ::ioctl(guest.vcpu.get(), KVM_RUN, 0);
    const auto now = Clock::now();
    if ((result < 0 && errno == EINTR) || now >= end) {
      timing.finished = timing.best != nanoseconds::max();
      return timing;
    }
    if (result < 0) {
      return SysError("ioctl(KVM_RUN)");
    }
    if (run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO) {
      return Fail(Code::kInternal,
                  fmt::format("the test guest left with exit {}", run->exit_reason));
    }
    timing.best = std::min(timing.best, duration_cast<nanoseconds>(now - start));
    if (JudgeTimes(native, timing.best, true) == KvmVerdict::kWorks && i > 0) {
      break;
    }
  }
  return timing;
}

Result<KvmProbe> Measure(FdRef device, std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  KvmProbe probe;
  probe.native = TimeNative();
  WV_TRY(const Guest guest, MakeGuest(device));
  WV_TRY(const auto timer, RunDeadline::Arm(guest.vcpu, deadline));
  WV_TRY(const Timing timing, TimeGuest(guest, probe.native, end));
  probe.guest = timing.finished ? timing.best : duration_cast<nanoseconds>(deadline);
  probe.verdict = JudgeTimes(probe.native, probe.guest, timing.finished);
  const auto micro = [](nanoseconds t) { return static_cast<double>(t.count()) / 1000.0; };
  probe.detail =
      probe.verdict == KvmVerdict::kWorks
          ? fmt::format("KVM runs guests: test loop {:.0f} µs in a guest, {:.0f} µs outside",
                        micro(probe.guest), micro(probe.native))
          : fmt::format(
                "KVM answers but interprets guests: test loop {}{:.0f} µs in a guest, {:.0f} µs "
                "outside",
                timing.finished ? "" : "more than ", micro(probe.guest), micro(probe.native));
  if (probe.verdict != KvmVerdict::kWorks) {
    probe.remedy =
        "use a host with hardware virtualization (bare metal, or a cloud machine type with nested "
        "virtualization turned on)";
  }
  return probe;
}

}  // namespace

const char* KvmVerdictName(KvmVerdict verdict) {
  switch (verdict) {
    case KvmVerdict::kWorks:
      return "works";
    case KvmVerdict::kInterprets:
      return "interprets";
    case KvmVerdict::kUnusable:
      return "unusable";
    case KvmVerdict::kAbsent:
      return "absent";
  }
  return "?";
}

KvmVerdict JudgeTimes(nanoseconds native, nanoseconds guest, bool finished) {
  if (!finished) {
    return KvmVerdict::kInterprets;
  }
  const int64_t unit = std::max<int64_t>(native.count(), 1);
  return guest.count() / unit < kInterpretedRatio ? KvmVerdict::kWorks : KvmVerdict::kInterprets;
}

KvmProbe ProbeKvm(const std::string& path, std::chrono::milliseconds deadline) {
  auto device = Open(path, O_RDWR);
  if (device) {
    return ProbeKvm(FdRef(*device), deadline);
  }
  KvmProbe probe;
  const int error = device.error().sys_errno();
  const bool absent = error == ENOENT || error == ENODEV || error == ENXIO || error == ENOTDIR;
  probe.verdict = absent ? KvmVerdict::kAbsent : KvmVerdict::kUnusable;
  probe.detail = device.error().message();
  probe.remedy = absent
                     ? "turn virtualization on in the firmware or the cloud machine type, and load "
                       "the module kvm_intel or kvm_amd"
                     : "run as root, or as a member of the device's group";
  return probe;
}

KvmProbe ProbeKvm(FdRef device, std::chrono::milliseconds deadline) {
  auto probe = Measure(device, deadline);
  if (probe && probe->verdict == KvmVerdict::kInterprets) {
    // A host that stood still for a while looks the same; it does not do it twice.
    if (auto again = Measure(device, deadline); again) {
      return *std::move(again);
    }
  }
  if (probe) {
    return *std::move(probe);
  }
  KvmProbe failed;
  failed.verdict = KvmVerdict::kUnusable;
  failed.detail = fmt::format("KVM cannot run a test guest: {}", probe.error().message());
  failed.remedy = "see what the host's kernel says of kvm (dmesg)";
  return failed;
}

}  // namespace wyvern::kvm
