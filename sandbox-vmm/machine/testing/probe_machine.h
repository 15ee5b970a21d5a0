// machine/testing/probe_machine.h — vCPU threads whose guest is a few instructions, and a record of its exits.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvm/testing/vm_test.h"
#include "machine/vcpu_thread.h"

namespace wyvern::machine::testing {

class RecordingHandler final : public ExitHandler {
 public:
  void OnPort(const kvm::Exit& exit) override {
    inside.fetch_add(1);
    last_port = exit.address;
    last_byte = static_cast<int>(exit.data[0]);
    ports.fetch_add(1);
    if (during_port) {
      during_port();
    }
    inside.fetch_sub(1);
  }

  void OnMmio(const kvm::Exit& exit) override {
    exit.data[0] = std::byte{'-'};  // as a bus with nothing there, but seen
    mmio.fetch_add(1);
  }

  void OnEndOfInterrupt(uint8_t) override {}

  bool OnSystemEvent(uint64_t) override { return false; }

  void OnFault(const kvm::Vcpu&, const std::string& what) override {
    const std::lock_guard lock(mu_);
    faults_.push_back(what);
  }

  bool IsOff(const kvm::Vcpu& vcpu) override {
    looks.fetch_add(1);
    return (off.load() >> vcpu.id() & 1U) != 0;
  }

  std::vector<std::string> Faults() const {
    const std::lock_guard lock(mu_);
    return faults_;
  }

  std::function<void()> during_port;  // set before the threads start
  std::atomic<int> inside{0};
  std::atomic<uint64_t> last_port{0};
  std::atomic<int> last_byte{0};  // that went out
  std::atomic<int> ports{0};
  std::atomic<int> mmio{0};
  std::atomic<uint32_t> off{0};  // a bit for each vCPU that is off line
  std::atomic<int> looks{0};

 private:
  mutable std::mutex mu_;
  std::vector<std::string> faults_;  // guarded by mu_
};

class ProbeMachineTest : public kvm::testing::ProbeVmTest {
 protected:
  // Before what their hook refers to is gone.
  void TearDown() override { threads_.reset(); }

  // Threads of `count` vCPUs, not started yet; the code is there (Load).
  void MakeThreads(uint32_t count,
                   std::function<void(const char* name)> on_thread_start = nullptr) {
    std::vector<kvm::Vcpu> vcpus;
    for (uint32_t i = 0; i < count; ++i) {
      auto vcpu = vm_->CreateVcpu(i);
      ASSERT_TRUE(vcpu.has_value()) << vcpu.error().message();
      ASSERT_TRUE(kvm::SetProbeRegisters(vcpu->fd()).has_value());
      vcpus.push_back(*std::move(vcpu));
    }
    threads_ =
        std::make_unique<VcpuThreads>(std::move(vcpus), &handler_, std::move(on_thread_start));
  }

  // Of all vCPUs.
  uint64_t ExitsBy(kvm::ExitReason reason) const {
    uint64_t total = 0;
    for (const ExitCounts& vcpu : threads_->exits()) {
      total += vcpu.at(static_cast<size_t>(reason));
    }
    return total;
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 10000 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return condition();
  }

  RecordingHandler handler_;
  std::unique_ptr<VcpuThreads> threads_;
};

}  // namespace wyvern::machine::testing
