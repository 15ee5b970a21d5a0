// pci/testing/simple_function.h — a function with one BAR that remembers what was done to it.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "irq/testing/fake_interrupts.h"
#include "pci/function.h"

namespace wyvern::pci::testing {

class SimpleFunction : public Function {
 public:
  static constexpr uint64_t kTable = 0x400;
  static constexpr uint64_t kPba = 0x800;

  explicit SimpleFunction(uint64_t bar_size, irq::MsiRouter* router = nullptr)
      : Function({.vendor = 0x1234,
                  .device = 0x5678,
                  .revision = 0,
                  .class_code = 0xff0000,
                  .subsystem_vendor = 0,
                  .subsystem = 0}) {
    set_up().AddMemoryBar(0, bar_size);
    if (router != nullptr) {
      auto made = Msix::Create(*router, 4);
      AddMsix(*std::move(made), 0, kTable, kPba);
    }
  }

  std::vector<std::optional<uint64_t>> moves;
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> writes{0};

 protected:
  void ReadBar(unsigned, uint64_t, std::span<std::byte> out) override {
    ++reads;
    std::ranges::fill(out, std::byte{0x5a});
  }

  void WriteBar(unsigned, uint64_t, std::span<const std::byte>) override { ++writes; }

  void OnBarMapped(unsigned, std::optional<uint64_t> address) override { moves.push_back(address); }
};

}  // namespace wyvern::pci::testing
