// machine/vcpu_thread.h — the threads that run vCPUs: one for each that is on line, parked and stopped together.
// State:   running → parked (Pause) → running (Resume); stopped for good by Stop, or by a vCPU that ended the guest.
//          A vCPU without a thread is off line; StartOne and StopOne change that while the others run, or are parked.
// Errors:  what ends the guest is reported once, through ExitHandler::OnFault or by the devices. Memory that the host does not have (a part
//          of a device's window where no file is) ends it when it is still not there after half a second: until then the access is tried
//          again, since a mapping is replaced by one that is unmapped first.
// Threads: any but a vCPU's own; RequestStop from those, too. Calls wait for each other, but Stop ends a StopOne that waits.
// Trust:   that a vCPU is off line is asked of KVM, never of the guest.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/worker_thread.h"
#include "kvm/vcpu.h"
#include "machine/memory_patience.h"

namespace wyvern::machine {

// What the machine does with an exit. Called on vCPU threads, several at once; must not block or allocate. A system call that waits all
// the same (for a process that shares what it acts on) ends with EINTR when the vCPU is to pause or stop.
class ExitHandler {
 public:
  virtual ~ExitHandler() = default;
  virtual void OnPort(const kvm::Exit& exit) = 0;
  virtual void OnMmio(const kvm::Exit& exit) = 0;
  virtual void OnEndOfInterrupt(uint8_t vector) = 0;
  // KVM_SYSTEM_EVENT_*. The guest has ended when this returns false.
  virtual bool OnSystemEvent(uint64_t type) = 0;
  // The vCPU cannot go on; every vCPU stops.
  virtual void OnFault(const kvm::Vcpu& vcpu, const std::string& what) = 0;
  // The vCPU executes nothing until another one starts it: the guest has taken it off line, or never had it. Its own thread asks.
  virtual bool IsOff(const kvm::Vcpu& vcpu) = 0;
};

using ExitCounts = std::array<uint64_t, kvm::kExitReasons>;

struct VcpuThreadId {
  uint32_t vcpu = 0;
  pid_t thread = 0;
};

class VcpuThreads {
 public:
  // From the guest's word that a CPU is off line to the halt that ends it are a few hundred instructions of its.
  static constexpr std::chrono::milliseconds kOffPatience{2000};

  // `on_thread_start`: called first in each thread with its name ("vcpu0"); seccomp filters are installed there. `handler` outlives this.
  VcpuThreads(std::vector<kvm::Vcpu> vcpus, ExitHandler* handler,
              std::function<void(const char* name)> on_thread_start);
  // Stops and joins.
  ~VcpuThreads();
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // The first `count` vCPUs, once. All or none: after an Error this is stopped.
  Result<> Start(size_t count);
  // One more; nothing to do where it has a thread. What the guest sent it before (INIT, SIPI) is waiting for it. INVALID_ARGUMENT: no such
  // vCPU. FAILED_PRECONDITION: the guest has ended.
  Result<> StartOne(uint32_t id);
  // Ends the thread of a vCPU that is off line, or gets there within kOffPatience; nothing to do where it has none. After an Error it runs on.
  // INVALID_ARGUMENT: no such vCPU, or the boot CPU. FAILED_PRECONDITION: the guest has not let it go, or has ended.
  Result<> StopOne(uint32_t id);
  // When this returns no vCPU is inside KVM_RUN or inside a device.
  void Pause();
  void Resume();
  // Asks every vCPU to leave for good; does not wait.
  void RequestStop();
  // RequestStop and join.
  void Stop();

  // Those that have a thread. Waits until threads that were just started have told.
  std::vector<VcpuThreadId> threads() const;

  // In the order of the vCPUs, with and without a thread.
  std::vector<ExitCounts> exits() const;

 private:
  enum class Mode : uint8_t { kRun, kPause, kStop };
  enum class Look : uint8_t { kNone, kOff, kRuns };

  struct Slot {
    explicit Slot(kvm::Vcpu v) : vcpu(std::move(v)) {}

    kvm::Vcpu vcpu;
    // Only its own thread writes, so that counting an exit is a plain load and store; a later thread of the same vCPU begins after the
    // earlier one was joined.
    std::array<std::atomic<uint64_t>, kvm::kExitReasons> exits{};
    // Written with mu_ held. Set: the thread looks whether the vCPU is off, answers and, if so, ends.
    std::atomic<bool> leave{false};
    Look seen = Look::kNone;   // guarded by mu_: the answer
    bool live = false;         // guarded by mu_: has a thread that has not ended
    pid_t thread_id = 0;       // guarded by mu_: 0 until the thread of a live one has begun
    unsigned long thread = 0;  // guarded by mu_: pthread_t, valid where thread_id is
    MemoryPatience patience;   // the thread's own
    std::unique_ptr<WorkerThread> worker;  // guarded by control_mu_
  };

  Result<> CheckId(uint32_t id) const;
  Result<> StartLocked(Slot* slot);
  // kRuns: not off line by the deadline, or it makes no progress as the guest is paused.
  Look LookUntil(Slot* slot, std::chrono::steady_clock::time_point deadline);
  void Body(Slot* slot, const std::string& name);
  // False: the thread ends.
  bool Step(Slot* slot);
  bool RunOnce(Slot* slot);
  bool Leaves(Slot* slot);
  bool Handle(Slot* slot, const kvm::Exit& exit);
  bool RetryMemory(Slot* slot);
  void Fault(Slot* slot, const std::string& what);
  void Park(Slot* slot);
  void Kick(Slot* slot);
  void KickAll();

  ExitHandler* const handler_;
  const std::function<void(const char* name)> on_thread_start_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::atomic<Mode> mode_{Mode::kRun};  // written with mu_ held
  std::mutex control_mu_;               // one call at a time; taken before mu_
  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  size_t live_ = 0;    // guarded by mu_: threads that have not ended
  size_t parked_ = 0;  // guarded by mu_: of those
};

}  // namespace wyvern::machine
