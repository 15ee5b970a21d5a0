#include "blk/uring_engine.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::devices {

namespace {

// The shared liburing of Debian 12 declares io_uring_register_restrictions and
// io_uring_enable_rings, but does not export them.
bool Register(const io_uring& ring, unsigned operation, const void* argument, size_t count) {
  return syscall(SYS_io_uring_register, ring.ring_fd, operation, argument, count) == 0;
}

}  // namespace

Result<std::unique_ptr<IoRing>> IoRing::Create() {
  std::unique_ptr<IoRing> made(new IoRing());
  io_uring_params params{};
  params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP;
  if (const int error = io_uring_queue_init_params(kEntries, &made->ring_, &params); error < 0) {
    made->ring_.ring_fd = -1;
    return SysErrorFrom(-error, "io_uring_setup");
  }
  if (const int error = io_uring_register_files_sparse(&made->ring_, 1); error < 0) {
    return SysErrorFrom(-error, "io_uring_register(files)");
  }
  constexpr std::array<uint8_t, 4> kOperations = {IORING_OP_READV, IORING_OP_WRITEV,
                                                  IORING_OP_FSYNC, IORING_OP_FALLOCATE};
  std::array<io_uring_restriction, kOperations.size() + 2> rules{};
  for (size_t i = 0; i < kOperations.size(); ++i) {
    rules.at(i).opcode = IORING_RESTRICTION_SQE_OP;
    rules.at(i).sqe_op = kOperations.at(i);
  }
  rules[kOperations.size()].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  rules[kOperations.size()].sqe_flags = IOSQE_FIXED_FILE;
  rules.back().opcode = IORING_RESTRICTION_REGISTER_OP;
  rules.back().register_op = IORING_REGISTER_FILES_UPDATE;
  if (!Register(made->ring_, IORING_REGISTER_RESTRICTIONS, rules.data(), rules.size())) {
    return SysError("io_uring_register(restrictions)");
  }
  if (!Register(made->ring_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0)) {
    return SysError("io_uring_register(enable)");
  }
  return made;
}

IoRing::~IoRing() {
  if (ring_.ring_fd >= 0) {
    io_uring_queue_exit(&ring_);
  }
}

Result<> IoRing::SetFile(FdRef file) {
  const int fd = file.get();
  if (const int updated = io_uring_register_files_update(&ring_, 0, &fd, 1); updated != 1) {
    return SysErrorFrom(updated < 0 ? -updated : EINVAL, "io_uring_register(file)");
  }
  return {};
}

Result<> IoRing::ClearFile() {
  const int none = -1;
  if (const int updated = io_uring_register_files_update(&ring_, 0, &none, 1); updated != 1) {
    return SysErrorFrom(updated < 0 ? -updated : EINVAL, "io_uring_register(no file)");
  }
  return {};
}

UringEngine::UringEngine(EventLoop& loop, std::shared_ptr<IoRing> ring, Done done)
    : loop_(loop), ring_(std::move(ring)), done_(std::move(done)) {}

Result<> UringEngine::Watch() {
  WV_TRY(token_,
         loop_.Add(FdRef(ring_->get()->ring_fd), EPOLLIN, [this](uint32_t /*events*/) { Reap(); }));
  return {};
}

UringEngine::~UringEngine() {
  loop_.Remove(token_);
  loop_.Remove(retry_);
}

void UringEngine::Submit(const IoRequest& request) {
  io_uring_sqe* entry = io_uring_get_sqe(ring_->get());
  if (entry == nullptr) {
    Kick();
    entry = io_uring_get_sqe(ring_->get());
  }
  // The device has no more requests in flight than the ring has entries.
  WV_CHECK(entry != nullptr);
  const auto count = static_cast<unsigned>(request.parts.size());
  switch (request.kind) {
    case IoKind::kRead:
      io_uring_prep_readv(entry, 0, request.parts.data(), count, request.offset);
      break;
    case IoKind::kWrite:
      io_uring_prep_writev(entry, 0, request.parts.data(), count, request.offset);
      break;
    case IoKind::kSyncWrite:
      io_uring_prep_writev2(entry, 0, request.parts.data(), count, request.offset, RWF_DSYNC);
      break;
    case IoKind::kFlush:
      io_uring_prep_fsync(entry, 0, IORING_FSYNC_DATASYNC);
      break;
    case IoKind::kPunchHole:
      io_uring_prep_fallocate(entry, 0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(request.offset),
                              static_cast<off_t>(request.length));
      break;
    case IoKind::kZeroRange:
      io_uring_prep_fallocate(entry, 0, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(request.offset),
                              static_cast<off_t>(request.length));
      break;
  }
  io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(entry, request.tag);
}

void UringEngine::Kick() {
  const int submitted = io_uring_submit(ring_->get());
  if (submitted >= 0) {
    return;
  }
  // The kernel is short of something now; what was not taken stays in the ring.
  WV_WARN_LIMITED("blk: io_uring_enter: error {}", -submitted);
  loop_.Remove(retry_);
  retry_ = loop_.After(std::chrono::milliseconds(1), [this] {
    retry_ = EventLoop::Token::kNone;
    Kick();
  });
}

void UringEngine::Reap() {
  io_uring_cqe* entry = nullptr;
  while (io_uring_peek_cqe(ring_->get(), &entry) == 0) {
    const auto tag = static_cast<uint32_t>(io_uring_cqe_get_data64(entry));
    const int32_t result = entry->res;
    io_uring_cqe_seen(ring_->get(), entry);
    done_(tag, result);
  }
  done_(kBatchEnd, 0);
}

}  // namespace wyvern::devices
