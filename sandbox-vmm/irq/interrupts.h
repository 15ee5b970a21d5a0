// irq/interrupts.h — how devices and transports raise interrupts and get doorbells, without knowing
// KVM. Shape:   one eventfd per MSI-X vector: a device signals it, the router delivers the vector's
// current message. Errors:  Error when the kernel refuses (out of routes, bad fd). What the guest
// wrote into an MSI-X entry is not judged here: a message
//          that addresses nothing is delivered to nobody.
// Threads: every method from any thread.
// Trust:   MsiMessage comes from the guest; eventfds are ours (or a vhost-user back-end's).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/event_fd.h"
#include "mem/guest_memory.h"

namespace wyvern::irq {

// PCI 3.0 §6.8.2: what an MSI-X table entry holds.
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
};

// A routed interrupt source (with KVM: its GSI).
enum class MsiRoute : uint32_t {};

struct MsiUpdate {
  MsiRoute route{};
  MsiMessage message;
  bool masked = true;
};

class MsiRouter {
 public:
  virtual ~MsiRouter() = default;

  // A route, masked at first, delivered each time `event` is signalled. The router keeps a
  // duplicate of the fd; the caller's stays the caller's. RESOURCE_EXHAUSTED when the table is
  // full.
  virtual Result<MsiRoute> Allocate(const EventFd& event) = 0;
  // What the guest programmed. While masked nobody is interrupted and signals stay in the eventfd
  // (its counter is the pending bit); unmasking delivers what is pending. Cheap when nothing
  // changed.
  virtual Result<> Update(std::span<const MsiUpdate> updates) = 0;
  virtual void Release(MsiRoute route) = 0;
  // Delivers one message at once, for sources without an eventfd.
  virtual Result<> Send(MsiMessage message) = 0;

  Result<> Update(MsiRoute route, MsiMessage message, bool masked) {
    const MsiUpdate update{.route = route, .message = message, .masked = masked};
    return Update(std::span(&update, 1));
  }
};

// A level-triggered line into the interrupt controller (the UART's).
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  // Idempotent.
  virtual void SetLevel(bool asserted) = 0;
};

// A guest write of exactly `length` bytes (1, 2, 4, 8; 0: any length) to `address` signals `event`
// without leaving the kernel. With `match`, only a write of that value does.
struct Doorbell {
  mem::Gpa address{};
  uint32_t length = 0;
  std::optional<uint64_t> match;
};

class DoorbellRegistry {
 public:
  virtual ~DoorbellRegistry() = default;
  // The kernel keeps its own reference to the eventfd. ALREADY_EXISTS when such a doorbell is
  // there.
  virtual Result<> AssignIoeventfd(const Doorbell& doorbell, const EventFd& event) = 0;
  // Same arguments as at the assignment. NOT_FOUND when there is none.
  virtual Result<> RemoveIoeventfd(const Doorbell& doorbell, const EventFd& event) = 0;
};

}  // namespace wyvern::irq
