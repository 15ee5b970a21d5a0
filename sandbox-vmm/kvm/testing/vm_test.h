// kvm/testing/vm_test.h — what a test with a virtual machine begins with; it is skipped where there is no usable /dev/kvm.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kvm/kvm.h"
#include "kvm/probe_guest.h"
#include "mem/guest_memory.h"

namespace wyvern::kvm::testing {

class VmTest : public ::testing::Test {
 protected:
  void SetUp() final {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no usable /dev/kvm on this host";
    }
    auto kvm = Kvm::Create(*Open("/dev/kvm", O_RDWR));
    ASSERT_TRUE(kvm.has_value()) << kvm.error().message();
    kvm_ = std::make_unique<Kvm>(*std::move(kvm));
    vm_ = std::make_unique<Vm>(*kvm_->CreateVm());
    Prepare();
  }

  // The rest of SetUp: not called where the test is skipped.
  virtual void Prepare() {}

  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<Vm> vm_;
};

// With memory in which a vCPU with the probe's registers runs 64-bit code of the test's own.
class ProbeVmTest : public VmTest {
 protected:
  void Prepare() override {
    std::vector<mem::RegionSpec> regions(1);
    regions[0].size = kProbeMemory;
    memory_ = *mem::GuestMemory::Create(std::move(regions));
    ASSERT_TRUE(vm_->SetMemslot(0, memory_->regions()[0]).has_value());
    std::vector<std::byte> image(kProbeMemory);
    WriteProbeGuest(image);
    ASSERT_TRUE(memory_->WriteBytes(mem::Gpa{0}, image).has_value());
  }

  void Load(std::initializer_list<unsigned> code) {
    uint64_t at = 0x4000;  // where SetProbeRegisters starts
    for (const unsigned byte : code) {
      ASSERT_TRUE(memory_->Write<uint8_t>(mem::Gpa{at++}, static_cast<uint8_t>(byte)).has_value());
    }
  }

  std::shared_ptr<const mem::GuestMemory> memory_;
};

}  // namespace wyvern::kvm::testing
