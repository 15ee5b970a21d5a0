// What the front-end shares: the memory table, and the log of what we write there.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "vhost_user/backend.h"

namespace wyvern::vhost_user {

// Rings must not run while what they were started with is exchanged; they go on in the new. One that
// cannot leaves the others alone.
Result<> Backend::WhileStopped(const std::function<Result<>()>& change) {
  std::vector<uint16_t> running;
  for (uint16_t i = 0; i < ring_count(); ++i) {
    if (core_.running(i)) {
      running.push_back(i);
      Stop(i);
    }
  }
  std::optional<Error> failed;
  if (auto changed = change(); !changed) {
    failed = std::move(changed).error();
  }
  core_.SetMemory(memory_.memory());
  for (const uint16_t index : running) {
    if (auto started = StartIfReady(index); !started) {
      WV_WARN_LIMITED("vhost-user: ring {} does not go on: {}", index, started.error().message());
      if (!failed) {
        failed = std::move(started).error();
      }
    }
  }
  if (failed) {
    return tl::unexpected(*std::move(failed));
  }
  return {};
}

Result<> Backend::SetMemTable(Call& call) {
  const auto table = call.message.As<MemoryTable>();
  const size_t bytes = call.message.payload.size();
  if (table.count == 0 || table.count > kMaxTableRegions || table.count != call.fds.size() ||
      bytes < 8 + table.count * sizeof(MemoryRegion)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("a memory table of {} regions, {} bytes and {} descriptors",
                            table.count, bytes, call.fds.size()));
  }
  return WhileStopped([&] {
    return memory_.Replace(std::span(table.regions).first(table.count), std::move(call.fds));
  });
}

Result<> Backend::GetMaxMemSlots(Call& call) {
  call.Answer(uint64_t{SharedMemory::kMaxSlots});
  return {};
}

// QEMU 7.2 says it of every region once for each queue pair, and takes a refusal for the end: it lacks
// ADD_MEM_REG and REM_MEM_REG in hw/virtio/vhost-user.c, vhost_user_one_time_request(). Only network
// devices have several of its vhost_dev on one connection.
bool Backend::hears_repeats() const {
  return QueueUnit(core_.traits().device_id) > 1;
}

Result<> Backend::AddMemReg(Call& call) {
  const MemoryRegion region = call.message.As<SingleRegion>().region;
  if (hears_repeats() && memory_.Has(region, call.fds.front())) {
    return {};
  }
  WV_TRY_VOID(memory_.Add(region, std::move(call.fds.front())));
  // Rings that run see it with their next chain: to drain them would take as long as their longest
  // request does.
  if (core_.GrowMemory(memory_.memory())) {
    return {};
  }
  return WhileStopped([] { return Result<>(); });
}

Result<> Backend::RemMemReg(Call& call) {
  return WhileStopped([&] {
    auto removed = memory_.Remove(call.message.As<SingleRegion>().region);
    if (!removed && removed.error().code() == Code::kNotFound && hears_repeats()) {
      return Result<>();
    }
    return removed;
  });
}

Result<> Backend::SetLogBase(Call& call) {
  WV_TRY(std::shared_ptr<DirtyLog> log,
         DirtyLog::Map(std::move(call.fds.front()), call.message.As<LogArea>()));
  WV_TRY_VOID(WhileStopped([&] {
    log_ = std::move(log);
    return Result<>();
  }));
  call.Answer(uint64_t{0});
  return {};
}

Result<> Backend::SetLogFd(Call& call) {
  return WhileStopped([&] {
    logged_ = std::make_shared<EventFd>(std::move(call.fds.front()));
    return Result<>();
  });
}

}  // namespace wyvern::vhost_user
