#include "sandbox/guest_sizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::runtime {
namespace {

Error NotFollowed(std::string_view what, const std::string& why) {
  return {Code::kUnavailable,
          fmt::format("{}: {}", what, why.empty() ? "the guest does not say why" : why)};
}

// With what the guest uses in the way, less than this is not worth the moving of its pages.
constexpr uint64_t kLeastPart = 32ULL << 20U;

std::string Uses(uint64_t bytes) {
  return fmt::format("the guest uses {} MiB", bytes >> 20U);
}

void Note(const std::string& why, std::string& kept) {
  kept += (kept.empty() ? "" : "; ") + why;
}

void Note(const Result<>& result, std::string& kept) {
  if (!result.has_value()) {
    Note(result.error().message(), kept);
  }
}

}  // namespace

GuestSizer::GuestSizer(Options options) : options_(std::move(options)), now_(options_.plan.boot) {}

Result<> GuestSizer::Set(const GuestSize& size) {
  WV_CHECK(size.vcpus >= 1 && size.vcpus <= options_.plan.most.vcpus);
  WV_CHECK(size.memory >= options_.plan.boot.memory);
  WV_CHECK(size.memory <= std::max(options_.plan.most.memory, now_.memory));  // whole blocks
  if (size.memory < now_.memory) {
    WV_TRY(const uint64_t used, options_.in_use(now_.memory));
    if (size.memory < used) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("{} MiB of memory: {}", size.memory >> 20U, Uses(used)));
    }
  }
  const GuestSize before = now_;
  auto done = SetMemory(size.memory, options_.patience);
  if (done.has_value()) {
    done = SetVcpus(size.vcpus, options_.patience);
  }
  if (done.has_value() || now_ == before) {
    return done;
  }
  auto back = SetMemory(before.memory, options_.patience);
  if (back.has_value()) {
    back = SetVcpus(before.vcpus, options_.patience);
  }
  if (!back.has_value()) {
    return tl::unexpected(std::move(done).error().WithContext(
        fmt::format("and it does not go back ({})", back.error().message())));
  }
  return done;
}

GuestSizer::Shrunk GuestSizer::Shrink(const GuestSize& size, std::chrono::milliseconds patience) {
  Shrunk shrunk;
  const GuestSize before = now_;
  if (size.vcpus < now_.vcpus) {
    Note(SetVcpus(size.vcpus, patience), shrunk.kept);
  }
  if (size.memory < now_.memory) {
    ShrinkMemory(size.memory, patience, shrunk.kept);
  }
  shrunk.moved = now_ != before;
  return shrunk;
}

void GuestSizer::ShrinkMemory(uint64_t bytes, std::chrono::milliseconds patience,
                              std::string& kept) {
  const auto used = options_.in_use(now_.memory);
  if (!used.has_value()) {
    Note(used.error().message(), kept);
    return;
  }
  if (*used <= bytes) {
    Note(SetMemory(bytes, patience), kept);
    return;
  }
  Note(Uses(*used), kept);
  const uint64_t part = RoundUpMemory(*used);
  if (part + kLeastPart <= now_.memory) {
    Note(SetMemory(part, patience), kept);
  }
}

Result<> GuestSizer::SetVcpus(uint32_t vcpus, std::chrono::milliseconds patience) {
  if (vcpus == now_.vcpus) {
    return {};
  }
  const std::string what =
      fmt::format("the sandbox does not get from {} to {} vCPUs", now_.vcpus, vcpus);
  auto resized = options_.machine->ResizeVcpus(vcpus, patience);
  if (!resized.has_value()) {
    Refresh();
    return tl::unexpected(std::move(resized).error().WithContext(what));
  }
  now_.vcpus = resized->vcpus;
  return now_.vcpus == vcpus ? Result<>() : tl::unexpected(NotFollowed(what, resized->why));
}

Result<> GuestSizer::SetMemory(uint64_t bytes, std::chrono::milliseconds patience) {
  if (bytes == now_.memory) {
    return {};
  }
  const std::string what = fmt::format("the sandbox does not get from {} to {} MiB of memory",
                                       now_.memory >> 20U, bytes >> 20U);
  const bool grows = bytes > now_.memory;
  if (grows) {
    // With the part of a block that may come beyond it.
    WV_TRY_VOID_CONTEXT(options_.limit_host(bytes + kHotplugStep), what);
  }
  auto resized = options_.machine->ResizeMemory(bytes, patience);
  if (!resized.has_value()) {
    Refresh();
    LimitHost(now_.memory);
    return tl::unexpected(std::move(resized).error().WithContext(what));
  }
  now_.memory = resized->bytes;
  LimitHost(now_.memory);
  // More than asked is a whole block, unless the machine says that it is not as asked.
  const bool reached = grows ? now_.memory >= bytes : resized->why.empty();
  return reached ? Result<>() : tl::unexpected(NotFollowed(what, resized->why));
}

void GuestSizer::LimitHost(uint64_t memory) {
  if (auto limited = options_.limit_host(memory); !limited.has_value()) {
    WV_WARN("the host's limit of the sandbox stays: {}", limited.error().message());
  }
}

void GuestSizer::Refresh() {
  const auto size = options_.machine->Size();
  if (size.has_value() && !size->vcpus.empty()) {
    now_ = {static_cast<uint32_t>(size->vcpus.size()), size->memory_bytes};
  }
}

}  // namespace wyvern::runtime
