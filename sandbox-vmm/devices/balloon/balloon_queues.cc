// What the driver puts into the queues: pages, statistics, hints, reports.
#include <algorithm>
#include <utility>

#include "balloon/balloon_device.h"
#include "base/check.h"

namespace wyvern::devices {

namespace {

constexpr size_t kHintBatch = 1024;

uint64_t PagesOf(uint64_t length) {
  return (length + kBalloonPage - 1) / kBalloonPage;
}

}  // namespace

// `handle` says how many host calls it has made: they are what takes time, not the chains.
template <typename F>
void BalloonDevice::ServePages(Queue& queue, F handle) {
  uint64_t turn = 0;
  queue.active->Drain([&](virtio::Chain chain) {
    if (turn >= kHostCallsPerTurn) {
      queue.active->queue().UndoPop(std::move(chain));
      queue.active->RunAgain();
      return false;
    }
    turn += handle(*queue.memory, chain);
    queue.active->queue().Push(std::move(chain), 0);
    return true;
  });
}

void BalloonDevice::OnKick(uint16_t index) {
  switch (index) {
    case kInflate:
      ServePages(queues_[kInflate], [this](const auto& memory, const virtio::Chain& chain) {
        return Inflate(memory, chain);
      });
      break;
    case kDeflate:
      TakeDeflated();
      break;
    case kStats:
      if (Negotiated(kBalloonStatsQueue)) {
        TakeStats();
      }
      break;
    case kHints:
      if (Negotiated(kBalloonFreePageHint)) {
        TakeHints();
      }
      break;
    default:
      if (Negotiated(kBalloonPageReporting)) {
        ServePages(queues_[kReports], [this](const auto& memory, const virtio::Chain& chain) {
          return Report(memory, chain);
        });
      }
      break;
  }
}

uint64_t BalloonDevice::Inflate(const mem::GuestMemory& memory, const virtio::Chain& chain) {
  const uint32_t length = chain.readable_length();
  if (length % sizeof(Le32) != 0 || length == 0 || chain.writable_length() != 0) {
    Count(counters_.bad_requests);
  }
  const auto listed = static_cast<uint32_t>(length / sizeof(Le32));
  const uint32_t taken = std::min(listed, kMaxPagesPerChain);
  Count(counters_.inflated_pages, taken);
  Count(counters_.pages_over_limit, listed - taken);
  FreedPages freed;
  const auto wire = std::span(wire_pages_).first(taken);
  if (chain.Read(0, std::as_writable_bytes(wire))) {
    pages_.assign(wire.begin(), wire.end());
    FreePages(memory, pages_, &freed);
  }
  Account(freed);
  return freed.host_calls;
}

// Freed pages read as zeros when they are touched again, so there is nothing to do.
void BalloonDevice::TakeDeflated() {
  ActiveQueue& queue = *queues_[kDeflate].active;
  queue.Drain([&](virtio::Chain chain) {
    const uint32_t length = chain.readable_length();
    if (length % sizeof(Le32) != 0 || length == 0 || chain.writable_length() != 0) {
      Count(counters_.bad_requests);
    }
    Count(counters_.deflated_pages, length / sizeof(Le32));
    queue.queue().Push(std::move(chain), 0);
    return true;
  });
}

uint64_t BalloonDevice::Report(const mem::GuestMemory& memory, const virtio::Chain& chain) {
  if (chain.writable_length() == 0 || chain.readable_length() != 0) {
    Count(counters_.bad_requests);
  }
  // A reported page may become nothing but poison_val (VIRTIO §5.5.6.7.2), and a freed one is zero.
  const uint32_t poison = config_change_.Read([this] { return config_.poison.value(); });
  if (Negotiated(kBalloonPagePoison) && poison != 0) {
    Count(counters_.reports_kept);
    return 0;
  }
  reports_.clear();
  FreedPages freed;
  for (const virtio::Buffer& buffer : chain.writable()) {
    if (IsOneRamRange(memory, buffer.address, buffer.length)) {
      Count(counters_.reported_pages, PagesOf(buffer.length));
      reports_.push_back({.start = buffer.address, .length = buffer.length});
    } else {
      freed.refused_pages += PagesOf(buffer.length);
    }
  }
  std::ranges::sort(reports_, {}, &HintedRange::start);
  for (size_t i = 0; i < reports_.size();) {
    const uint64_t start = mem::Raw(reports_[i].start);
    uint64_t end = start;
    for (; i < reports_.size() && mem::Raw(reports_[i].start) <= end; ++i) {
      end = std::max(end, mem::Raw(reports_[i].start) + reports_[i].length);
    }
    FreeRun(memory, start, end, &freed);
  }
  Account(freed);
  return freed.host_calls;
}

void BalloonDevice::Account(const FreedPages& freed) {
  Count(counters_.freed_pages, freed.pages);
  Count(counters_.refused_pages, freed.refused_pages);
  Count(counters_.host_calls, freed.host_calls);
  Count(counters_.host_failures, freed.host_failures);
}

// --- Statistics ---

// The driver's buffer is kept: giving it back asks for the next (VIRTIO §5.5.6.3). A driver that
// offers several at once gets the older ones back.
void BalloonDevice::TakeStats() {
  ActiveQueue& queue = *queues_[kStats].active;
  queue.Drain([&](virtio::Chain chain) {
    if (!std::exchange(stats_undone_, false)) {
      const ParsedStats parsed = ParseStats(chain);
      Count(counters_.stats_updates);
      Count(counters_.stats_ignored, parsed.ignored);
      config_change_.Quietly([&] {
        stats_.values = parsed.values;
        ++stats_.updates;
        stats_.at = std::chrono::steady_clock::now();
      });
    }
    if (chain.writable_length() != 0) {
      Count(counters_.bad_requests);
    }
    if (stats_chain_) {
      Count(counters_.bad_requests);
      queue.queue().Push(TakeStatsChain(), 0);
    }
    stats_chain_.emplace(std::move(chain));
    return true;
  });
}

virtio::Chain BalloonDevice::TakeStatsChain() {
  WV_CHECK(stats_chain_.has_value());
  virtio::Chain chain = *std::move(stats_chain_);
  stats_chain_.reset();
  return chain;
}

void BalloonDevice::AskForStats() {
  if (!stats_chain_) {
    return;  // no queue, or the driver has not answered the last time
  }
  ActiveQueue& queue = *queues_[kStats].active;
  queue.queue().Push(TakeStatsChain(), 0);
  queue.Signal();
}

void BalloonDevice::ArmStatsTimer() {
  worker_->loop().Remove(std::exchange(stats_timer_, EventLoop::Token::kNone));
  if (stats_interval_.count() > 0) {
    stats_timer_ = worker_->loop().After(stats_interval_, [this] {
      stats_timer_ = EventLoop::Token::kNone;
      AskForStats();
      ArmStatsTimer();
    });
  }
}

// --- Hints ---

void BalloonDevice::TakeHints() {
  Queue& queue = queues_[kHints];
  queue.active->Drain([&](virtio::Chain chain) {
    OnHintChain(*queue.memory, chain);
    queue.active->queue().Push(std::move(chain), 0);
    return true;
  });
  DeliverHints();
}

void BalloonDevice::OnHintChain(const mem::GuestMemory& memory, const virtio::Chain& chain) {
  if (chain.readable_length() != 0) {
    const auto command = chain.ReadAs<Le32>(0);
    if (!command || chain.readable_length() != sizeof(Le32)) {
      Count(counters_.bad_requests);
    } else {
      OnHintCommand(command->value());
    }
  }
  const uint32_t current = config_change_.Read([this] { return config_.hint_command.value(); });
  // Pages of another command, or of none, are ignored (VIRTIO §5.5.6.5.2).
  const bool wanted = current >= kFirstHintCommand && current == driver_hint_command_;
  for (const virtio::Buffer& buffer : chain.writable()) {
    if (!wanted || !IsOneRamRange(memory, buffer.address, buffer.length)) {
      Count(counters_.hints_ignored);
      continue;
    }
    Count(counters_.hinted_pages, PagesOf(buffer.length));
    hints_.push_back({.start = buffer.address, .length = buffer.length});
  }
  if (hints_.size() >= kHintBatch) {
    DeliverHints();
  }
}

void BalloonDevice::OnHintCommand(uint32_t command) {
  DeliverHints();
  const uint32_t ended = std::exchange(driver_hint_command_, command);
  if (command != kHintStop) {
    return;
  }
  config_change_.Quietly([this] { hint_round_open_ = false; });
  if (ended >= kFirstHintCommand && options_.on_hints_end) {
    options_.on_hints_end(ended);
  }
}

void BalloonDevice::DeliverHints() {
  if (!hints_.empty() && options_.on_hints) {
    options_.on_hints(driver_hint_command_, hints_);
  }
  hints_.clear();
}

}  // namespace wyvern::devices
