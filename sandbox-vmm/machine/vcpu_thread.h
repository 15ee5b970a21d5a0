// machine/vcpu_thread.h — the threads that run vCPUs: one per vCPU, started, parked and stopped together.
// State:   running → parked (Pause) → running (Resume); stopped for good by Stop, or by a vCPU that ended the guest.
// Errors:  what ends the guest is reported once, through ExitHandler::OnFault or by the devices. Memory that the host does not have (a part
//          of a device's window where no file is) ends it when it is still not there after half a second: until then the access is tried
//          again, since a mapping is replaced by one that is unmapped first.
// Threads: Pause, Resume and Stop from one thread at a time, never from a vCPU thread; RequestStop from any.
#pragma once

#include <array>
#include <atomic>
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
};

using ExitCounts = std::array<uint64_t, kvm::kExitReasons>;

class VcpuThreads {
 public:
  // `on_thread_start`: called first in each thread with its name ("vcpu0"); seccomp filters are installed there. `handler` outlives this.
  VcpuThreads(std::vector<kvm::Vcpu> vcpus, ExitHandler* handler,
              std::function<void(const char* name)> on_thread_start);
  // Stops and joins.
  ~VcpuThreads();
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // All or none: after an Error this is stopped.
  Result<> Start();
  // When this returns no vCPU is inside KVM_RUN or inside a device.
  void Pause();
  void Resume();
  // Asks every vCPU to leave for good; does not wait.
  void RequestStop();
  // RequestStop and join.
  void Stop();

  size_t count() const { return slots_.size(); }

  ExitCounts exits() const;

 private:
  enum class Mode : uint8_t { kRun, kPause, kStop };

  struct Slot {
    explicit Slot(kvm::Vcpu v) : vcpu(std::move(v)) {}

    kvm::Vcpu vcpu;
    std::array<std::atomic<uint64_t>, kvm::kExitReasons> exits{};
    std::atomic<bool> started{false};
    std::atomic<unsigned long> thread{0};  // pthread_t, valid when started
    MemoryPatience patience;               // the thread's own
    std::unique_ptr<WorkerThread> worker;
  };

  void Body(Slot* slot, const std::string& name);
  // False: the vCPU ends.
  bool RunOnce(Slot* slot);
  bool Handle(Slot* slot, const kvm::Exit& exit);
  bool RetryMemory(Slot* slot);
  void Fault(Slot* slot, const std::string& what);
  void Park(Slot* slot);
  void KickAll();

  ExitHandler* const handler_;
  const std::function<void(const char* name)> on_thread_start_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::atomic<Mode> mode_{Mode::kRun};  // written with mu_ held
  std::mutex mu_;
  std::condition_variable changed_;
  size_t parked_ = 0;  // guarded by mu_
  size_t ended_ = 0;   // guarded by mu_
};

}  // namespace wyvern::machine
