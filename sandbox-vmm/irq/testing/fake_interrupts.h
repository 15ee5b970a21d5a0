// irq/testing/fake_interrupts.h — MsiRouter and DoorbellRegistry that record what they were told.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "irq/interrupts.h"

namespace wyvern::irq::testing {

class FakeMsiRouter : public MsiRouter {
 public:
  using MsiRouter::Update;

  struct Entry {
    int event_fd = -1;  // the caller's number, for identity only
    MsiMessage message;
    bool masked = true;
  };

  Result<MsiRoute> Allocate(const EventFd& event) override {
    const std::lock_guard lock(mu_);
    if (entries_.size() >= capacity) {
      return Fail(Code::kResourceExhausted, "no route left");
    }
    entries_[next_] = Entry{.event_fd = event.fd().get(), .message = {}, .masked = true};
    return MsiRoute{next_++};
  }

  Result<> Update(std::span<const MsiUpdate> updates) override {
    const std::lock_guard lock(mu_);
    for (const MsiUpdate& update : updates) {
      auto it = entries_.find(static_cast<uint32_t>(update.route));
      if (it == entries_.end()) {
        return Fail(Code::kNotFound, "no such route");
      }
      it->second.message = update.message;
      it->second.masked = update.masked;
    }
    ++update_calls;
    return {};
  }

  void Release(MsiRoute route) override {
    const std::lock_guard lock(mu_);
    entries_.erase(static_cast<uint32_t>(route));
  }

  Result<> Send(MsiMessage message) override {
    const std::lock_guard lock(mu_);
    sent.push_back(message);
    return {};
  }

  std::map<uint32_t, Entry> entries() const {
    const std::lock_guard lock(mu_);
    return entries_;
  }

  size_t capacity = 4096;
  int update_calls = 0;
  std::vector<MsiMessage> sent;

 private:
  mutable std::mutex mu_;
  uint32_t next_ = 24;
  std::map<uint32_t, Entry> entries_;
};

class FakeDoorbells : public DoorbellRegistry {
 public:
  Result<> AssignIoeventfd(const Doorbell& doorbell, const EventFd& event) override {
    if (Find(doorbell, event) != assigned.end()) {
      return Fail(Code::kAlreadyExists, "doorbell exists");
    }
    assigned.push_back({doorbell, event.fd().get()});
    return {};
  }

  Result<> RemoveIoeventfd(const Doorbell& doorbell, const EventFd& event) override {
    auto it = Find(doorbell, event);
    if (it == assigned.end()) {
      return Fail(Code::kNotFound, "no such doorbell");
    }
    assigned.erase(it);
    return {};
  }

  struct Assigned {
    Doorbell doorbell;
    int event_fd = -1;
  };

  std::vector<Assigned> assigned;

 private:
  std::vector<Assigned>::iterator Find(const Doorbell& doorbell, const EventFd& event) {
    return std::find_if(assigned.begin(), assigned.end(), [&](const Assigned& a) {
      return a.doorbell.address == doorbell.address && a.doorbell.length == doorbell.length &&
             a.doorbell.match == doorbell.match && a.event_fd == event.fd().get();
    });
  }
};

class FakeLine : public InterruptLine {
 public:
  void SetLevel(bool asserted) override {
    rises += asserted && !level ? 1 : 0;
    level = asserted;
  }

  bool level = false;
  int rises = 0;
};

}  // namespace wyvern::irq::testing
