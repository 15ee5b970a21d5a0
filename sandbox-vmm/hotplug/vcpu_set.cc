#include "hotplug/vcpu_set.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include <fmt/format.h>

#include "base/plain_text.h"

namespace wyvern::hotplug {

namespace {

constexpr std::chrono::seconds kTakeBackTime(1);

std::string Refusals(const agent::v1::CpuResponse& answer) {
  std::string text;
  for (const auto& refusal : answer.refused()) {
    text += fmt::format("{}the guest did not take vCPU {}: {}", text.empty() ? "" : "; ",
                        refusal.id(), PlainText(refusal.text(), kMaxGuestError));
    if (text.size() > kMaxGuestError) {
      return text + "; and others";
    }
  }
  return text;
}

}  // namespace

VcpuSet::VcpuSet(VcpuThreadSwitch& threads, upcall::Session& upcall, uint32_t running, uint32_t all)
    : threads_(threads), upcall_(upcall), all_(all), count_(running) {
  for (uint32_t id = 0; id < running; ++id) {
    running_.insert(id);
  }
}

Result<VcpusReached> VcpuSet::Resize(uint32_t vcpus, upcall::Time deadline) {
  if (vcpus < 1 || vcpus > all_) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("{} vCPUs: must be 1 to {}, which the machine was made with", vcpus, all_));
  }
  const Turn::Taken turn(turn_, deadline);
  if (!turn) {
    return Fail(Code::kDeadlineExceeded, "another change of the vCPUs is under way");
  }
  std::string why;
  if (vcpus > running_.size()) {
    WV_TRY(why, Grow(vcpus, deadline));
  } else if (vcpus < running_.size()) {
    WV_TRY(why, Shrink(vcpus, deadline));
  }
  return VcpusReached{.vcpus = static_cast<uint32_t>(running_.size()), .why = std::move(why)};
}

Result<std::string> VcpuSet::Grow(uint32_t vcpus, upcall::Time deadline) {
  std::vector<uint32_t> ids;
  for (uint32_t id = 1; running_.size() < vcpus; ++id) {
    if (running_.contains(id)) {
      continue;
    }
    if (auto started = threads_.Start(id); !started) {
      (void)StopThreads(ids);  // the guest knows nothing of them yet
      return tl::unexpected(std::move(started).error());
    }
    ids.push_back(id);
    running_.insert(id);
    count_ = static_cast<uint32_t>(running_.size());
  }
  auto answer = upcall_.CpuOnline(ids, deadline);
  if (!answer) {
    // Some may have come online, or still do.
    (void)upcall_.CpuOffline(ids, upcall::Clock::now() + kTakeBackTime);
    (void)StopThreads(ids);
    return tl::unexpected(std::move(answer).error());
  }
  std::vector<uint32_t> refused;
  for (const auto& refusal : answer->refused()) {
    refused.push_back(refusal.id());
  }
  (void)StopThreads(refused);
  return Refusals(*answer);
}

Result<std::string> VcpuSet::Shrink(uint32_t vcpus, upcall::Time deadline) {
  std::vector<uint32_t> ids(
      running_.rbegin(),
      std::next(running_.rbegin(), static_cast<ptrdiff_t>(running_.size() - vcpus)));
  WV_TRY(const auto answer, upcall_.CpuOffline(ids, deadline));
  std::erase_if(ids, [&answer](uint32_t id) {
    return std::ranges::any_of(answer.refused(),
                               [id](const auto& refusal) { return refusal.id() == id; });
  });
  const std::string refusals = Refusals(answer);
  const std::string lies = StopThreads(ids);
  return refusals + (refusals.empty() || lies.empty() ? "" : "; ") + lies;
}

std::string VcpuSet::StopThreads(const std::vector<uint32_t>& ids) {
  std::string why;
  for (const uint32_t id : ids) {
    if (const auto stopped = threads_.Stop(id); stopped) {
      running_.erase(id);
    } else if (why.empty()) {
      why = fmt::format("vCPU {} runs on: {}", id, stopped.error().message());
    }
  }
  count_ = static_cast<uint32_t>(running_.size());
  return why;
}

}  // namespace wyvern::hotplug
