// The queues: which port they belong to, and the messages of the control queues.
#include <algorithm>
#include <utility>

#include "console/console_device.h"

namespace wyvern::devices {

namespace {

void CountMessage(std::atomic<uint64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

// Whose queue it is: 0 and 1 are port 0's, 2 and 3 the control queues' (VIRTIO §5.3.2).
uint32_t PortOf(uint16_t index) {
  return index < 2 ? 0 : index / 2U - 1;
}

}  // namespace

uint16_t ConsoleDevice::QueueOf(uint32_t id, bool to_host) {
  return static_cast<uint16_t>((id == 0 ? 0 : 2 * id + 2) + (to_host ? 1 : 0));
}

void ConsoleDevice::MakePort(uint32_t id, ConsoleOverflow overflow) {
  slots_[id].overflow = overflow;
  slots_[id].port = std::make_unique<ConsolePort>(worker_->loop(), overflow, counters_,
                                                  [this, id] { OnHostClosed(id); });
}

// --- Start and stop ---

Result<> ConsoleDevice::StartQueue(uint16_t index, virtio::QueueResources resources,
                                   uint64_t features, std::optional<virtio::QueueState> resume) {
  const auto interrupt = resources.interrupt;
  const bool resumed = resume.has_value();
  return ActiveQueue::StartOn(
      *worker_,
      {.index = index,
       .resources = std::move(resources),
       .features = features,
       .resume = resume,
       .device = traits_.name,
       .on_kick = [this, index] { OnKick(index); },
       .on_fault =
           [this] {
             CountMessage(counters_.faults);
             NeedsReset();
           }},
      [&](std::unique_ptr<ActiveQueue> queue) {
        features_ = features;
        queues_[index] = std::move(queue);
        config_change_.QueueStarted(interrupt);
        Slot& slot = slots_[PortOf(index)];
        if (!resumed && slot.port != nullptr && index == QueueOf(PortOf(index), true)) {
          slot.port->set_resume_at(0);
        }
        ConnectQueue(index, queues_[index].get());
        if (!multiport() && index < 2 && slots_[0].port != nullptr) {
          slots_[0].port->SetGuestOpen(true);  // a driver without control queues cannot say so
        }
        OnKick(index);
      });
}

std::optional<virtio::QueueState> ConsoleDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queues_[index] != nullptr) {
      ConnectQueue(index, nullptr);
      state = queues_[index]->state();
      queues_[index].reset();
      config_change_.QueueStopped();
    }
  });
  return state;
}

void ConsoleDevice::ConnectQueue(uint16_t index, ActiveQueue* queue) {
  if (index == kControlToGuest || index == kControlFromGuest) {
    return;
  }
  if (ConsolePort* port = slots_[PortOf(index)].port.get(); port != nullptr) {
    if (index % 2 == 0) {
      port->SetToGuest(queue);
    } else {
      port->SetToHost(queue);
    }
  }
}

void ConsoleDevice::Reset() {
  worker_->Call([this] {
    features_ = 0;
    driver_ready_ = false;
    for (uint32_t id = 0; id < slots_.size(); ++id) {
      Slot& slot = slots_[id];
      if (slot.control.guest_open()) {
        Tell(id, ConsolePortEvent::kGuestClosed);
      }
      slot.control.Reset();
      if (slot.port != nullptr) {
        slot.port->SetGuestOpen(false);
      }
    }
  });
}

void ConsoleDevice::OnKick(uint16_t index) {
  if (queues_[index] == nullptr) {
    return;
  }
  if (index >= 2 && !multiport()) {
    return;  // not there without MULTIPORT
  }
  if (index == kControlToGuest) {
    SendMessages();
    return;
  }
  if (index == kControlFromGuest) {
    TakeMessages();
    return;
  }
  ConsolePort* port = slots_[PortOf(index)].port.get();
  if (index % 2 == 0) {
    if (port != nullptr) {
      port->SendToGuest();
    }
  } else if (port != nullptr) {
    port->SendToHost();
  } else {
    DiscardFromGuest(index);
  }
}

// A port that does not exist: what is written to it comes back, so that nobody waits for it.
void ConsoleDevice::DiscardFromGuest(uint16_t index) {
  ActiveQueue& queue = *queues_[index];
  queue.Drain([&](virtio::Chain chain) {
    counters_.bytes_dropped.fetch_add(chain.readable_length(), std::memory_order_relaxed);
    queue.queue().Push(std::move(chain), 0);
    return true;
  });
}

// --- Messages ---

void ConsoleDevice::TakeMessages() {
  ActiveQueue& queue = *queues_[kControlFromGuest];
  queue.Drain([&](virtio::Chain chain) {
    const auto message = chain.ReadAs<ConsoleControl>(0);
    CountMessage(counters_.messages_from_guest);
    if (!message || !OnMessage(*message)) {
      CountMessage(counters_.bad_messages);
    }
    if (chain.writable_length() != 0) {
      CountMessage(counters_.bad_chains);
    }
    queue.queue().Push(std::move(chain), 0);
    return true;
  });
  SendMessages();
}

bool ConsoleDevice::OnMessage(const ConsoleControl& message) {
  const uint32_t id = message.id;
  if (static_cast<ConsoleEvent>(message.event.value()) == ConsoleEvent::kDeviceReady) {
    if (message.value != 1) {
      return false;  // it says itself that it has failed
    }
    driver_ready_ = true;
    for (Slot& slot : slots_) {
      slot.control.DriverReady();
    }
    return true;
  }
  return id < slots_.size() && OnPortMessage(slots_[id], id, message);
}

bool ConsoleDevice::OnPortMessage(Slot& slot, uint32_t id, const ConsoleControl& message) {
  switch (static_cast<ConsoleEvent>(message.event.value())) {
    case ConsoleEvent::kPortReady:
      return slot.control.PortReady(message.value == 1);
    case ConsoleEvent::kPortOpen:
      return OnPortOpen(slot, id, message.value != 0);
    default:
      return false;
  }
}

bool ConsoleDevice::OnPortOpen(Slot& slot, uint32_t id, bool open) {
  const bool was_open = slot.control.guest_open();
  if (!slot.control.PortOpen(open)) {
    return false;
  }
  if (open != was_open) {
    Tell(id, open ? ConsolePortEvent::kGuestOpened : ConsolePortEvent::kGuestClosed);
    slot.port->SetGuestOpen(open);
  }
  return true;
}

PortControl* ConsoleDevice::NextDue() {
  const auto found =
      std::ranges::find_if(slots_, [](const Slot& slot) { return slot.control.owes(); });
  return found == slots_.end() ? nullptr : &found->control;
}

void ConsoleDevice::SendMessages() {
  ActiveQueue* queue = queues_[kControlToGuest].get();
  if (queue == nullptr || !multiport() || NextDue() == nullptr) {
    return;
  }
  queue->Drain([&](virtio::Chain chain) {
    PortControl* port = NextDue();
    if (port == nullptr) {
      queue->queue().UndoPop(std::move(chain));
      return false;
    }
    const std::optional<ConsoleMessage> message = port->Next();
    if (!message || !chain.Write(0, message->bytes())) {
      // No room for it: it stays due, for a buffer that has some.
      CountMessage(counters_.bad_chains);
      queue->queue().Push(std::move(chain), 0);
      return true;
    }
    port->Sent();
    CountMessage(counters_.messages_to_guest);
    queue->queue().Push(std::move(chain), static_cast<uint32_t>(message->bytes().size()));
    return true;
  });
}

void ConsoleDevice::OnHostClosed(uint32_t id) {
  slots_[id].control.HostClosed();
  SendMessages();
  Tell(id, ConsolePortEvent::kHostClosed);
}

// Not from within what is being done with the port.
void ConsoleDevice::Tell(uint32_t id, ConsolePortEvent event) {
  if (options_.on_event) {
    worker_->loop().Post([this, id, event] { options_.on_event(id, event); });
  }
}

}  // namespace wyvern::devices
