#include "agent/block_storage.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <sstream>
#include <utility>

#include "agent/block_disk.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr size_t kMaxDisks = 256;
constexpr uint32_t kDefaultDeadline = 5000;
constexpr uint32_t kMaxDeadline = 60000;

}  // namespace

Result<> BlockStorage::Check(const v1::AddDiskRequest& request) const {
  if (!IsSerial(request.serial())) {
    return Fail(Code::kInvalidArgument, "bad serial of a disk");
  }
  const bool plain_name = IsSerial(request.filesystem());  // the same letters, as short
  if (!request.filesystem().empty() && !plain_name) {
    return Fail(Code::kInvalidArgument, "bad name of a file system");
  }
  if (!AreMountFlags(request.flags())) {
    return Fail(Code::kInvalidArgument,
                fmt::format("bad flags of a mount: {:#x}", request.flags()));
  }
  if (request.options().size() > kMaxMountOptions ||
      request.options().find('\0') != std::string::npos) {
    return Fail(Code::kInvalidArgument, "bad options of a mount");
  }
  if (request.deadline_ms() > kMaxDeadline) {
    return Fail(Code::kInvalidArgument, "deadline_ms is at most 60000");
  }
  if (disks_.contains(request.serial())) {
    return Fail(Code::kAlreadyExists, "disk " + request.serial() + " was added already");
  }
  if (disks_.size() >= kMaxDisks) {
    return Fail(Code::kResourceExhausted, fmt::format("{} disks are there", kMaxDisks));
  }
  return {};
}

void BlockStorage::Add(const v1::AddDiskRequest& request, AddDone done) {
  if (auto checked = Check(request); !checked) {
    done(tl::unexpected(std::move(checked).error()));
    return;
  }
  const std::string& serial = request.serial();
  Disk disk;
  if (!request.filesystem().empty()) {
    if (mkdir(options_.mounts.c_str(), 0755) != 0 && errno != EEXIST) {
      done(SysError("mkdir " + options_.mounts));
      return;
    }
    disk.target = options_.mounts + "/" + serial;
  }
  const uint32_t deadline = request.deadline_ms() == 0 ? kDefaultDeadline : request.deadline_ms();
  std::vector<std::string> args = {"--add-disk",
                                   options_.sys,
                                   serial,
                                   std::to_string(deadline),
                                   request.filesystem(),
                                   std::to_string(request.flags()),
                                   request.options(),
                                   disk.target};
  disks_.emplace(serial, std::move(disk));
  crun_.AskSelf(std::move(args), [this, serial,
                                  done = std::move(done)](Result<std::string> answer) {
    auto added = Added(serial, std::move(answer));
    done(std::move(added));
    if (const auto it = disks_.find(serial); it != disks_.end() && !it->second.removals.empty()) {
      Leave(serial);
    }
  });
}

Result<v1::AddDiskResponse> BlockStorage::Added(const std::string& serial,
                                                Result<std::string> answer) {
  Disk& disk = disks_.at(serial);
  v1::AddDiskResponse response;
  uint64_t bytes = 0;
  int ignored = 0;
  if (answer) {
    std::istringstream words(*answer);
    if (words >> disk.node >> disk.major >> disk.minor >> bytes >> ignored) {
      disk.state = State::kReady;
      response.set_major(disk.major);
      response.set_minor(disk.minor);
      response.set_bytes(bytes);
      response.set_journal_ignored(ignored != 0);
      WV_DEBUG("disk {} is {}", serial, disk.node);
      return response;
    }
  }
  const auto removals = std::exchange(disk.removals, {});
  disks_.erase(serial);
  for (const RemoveDone& each : removals) {
    each(v1::RemoveDiskResponse());
  }
  if (answer) {
    return Fail(Code::kInternal, "--add-disk: bad answer");
  }
  return tl::unexpected(std::move(answer).error());
}

void BlockStorage::Remove(const std::string& serial, RemoveDone done) {
  const auto it = disks_.find(serial);
  if (it == disks_.end()) {
    done(v1::RemoveDiskResponse());
    return;
  }
  it->second.removals.push_back(std::move(done));
  if (it->second.state == State::kReady) {
    Leave(serial);
  }
}

void BlockStorage::Usage(const v1::DiskUsageRequest& request, UsageDone done) {
  const auto it = disks_.find(request.serial());
  if (it == disks_.end() || it->second.state != State::kReady) {
    done(Fail(Code::kNotFound, "no such disk"));
    return;
  }
  if (it->second.target.empty()) {
    done(Fail(Code::kFailedPrecondition, "the disk is not mounted"));
    return;
  }
  crun_.AskSelf({"--disk-usage", options_.sys, request.serial(), it->second.target,
                 request.grow() ? "1" : "0"},
                [done = std::move(done)](Result<std::string> answer) {
                  if (!answer) {
                    done(tl::unexpected(std::move(answer).error()));
                    return;
                  }
                  v1::DiskUsageResponse response;
                  std::istringstream words(*answer);
                  std::array<uint64_t, 6> numbers = {};
                  for (uint64_t& number : numbers) {
                    words >> number;
                  }
                  response.set_bytes(numbers[0]);
                  response.set_bytes_available(numbers[1]);
                  response.set_bytes_used(numbers[2]);
                  response.set_inodes(numbers[3]);
                  response.set_inodes_available(numbers[4]);
                  response.set_inodes_used(numbers[5]);
                  done(std::move(response));
                });
}

void BlockStorage::Leave(const std::string& serial) {
  Disk& disk = disks_.at(serial);
  disk.state = State::kRemoving;
  crun_.AskSelf({"--leave-disk", disk.node, std::to_string(disk.major), std::to_string(disk.minor),
                 disk.target},
                [this, serial](Result<std::string> answer) { Left(serial, std::move(answer)); });
}

void BlockStorage::Left(const std::string& serial, Result<std::string> answer) {
  Disk& disk = disks_.at(serial);
  const auto removals = std::exchange(disk.removals, {});
  if (!answer) {
    disk.state = State::kReady;  // the next Remove tries again
    for (const RemoveDone& each : removals) {
      each(Fail(answer.error().code(), answer.error().message()));
    }
    return;
  }
  disks_.erase(serial);
  v1::RemoveDiskResponse response;
  response.set_in_use(answer->starts_with("1"));
  response.set_lost(answer->size() > 2 ? answer->substr(2) : "");
  for (const RemoveDone& each : removals) {
    each(response);
  }
}

std::vector<std::string> BlockStorage::Mounted() const {
  std::vector<std::string> out;
  for (const auto& [serial, disk] : disks_) {
    if (disk.state == State::kReady && !disk.target.empty()) {
      out.push_back(disk.target);
    }
  }
  return out;
}

}  // namespace wyvern::agent
