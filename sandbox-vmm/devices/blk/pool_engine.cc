#include "blk/pool_engine.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace wyvern::devices {

Result<std::unique_ptr<IoEngine>> PoolEngine::Create(EventLoop& loop, const WorkerOptions& options,
                                                     FdRef file, Done done) {
  WV_TRY(EventFd wake, EventFd::Create());
  std::unique_ptr<PoolEngine> engine(new PoolEngine(loop, file, std::move(done), std::move(wake)));
  PoolEngine* self = engine.get();
  for (int i = 0; i < kThreads; ++i) {
    WV_TRY(auto thread,
           WorkerThread::Start(options.name.substr(0, 15),
                               [self, hook = options.on_thread_start](const EventFd& /*stop*/) {
                                 if (hook) {
                                   hook("io");
                                 }
                                 self->RunThread();
                               }));
    engine->threads_.push_back(std::move(thread));
  }
  return engine;
}

PoolEngine::PoolEngine(EventLoop& loop, FdRef file, Done done, EventFd wake)
    : loop_(loop), file_(file), done_(std::move(done)), wake_(std::move(wake)) {}

Result<> PoolEngine::Watch() {
  WV_TRY(token_, loop_.Add(wake_.fd(), EPOLLIN, [this](uint32_t /*events*/) {
    wake_.Drain();
    Report();
  }));
  return {};
}

PoolEngine::~PoolEngine() {
  loop_.Remove(token_);
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
  }
  work_.notify_all();
  threads_.clear();
}

void PoolEngine::Submit(const IoRequest& request) {
  submitted_.push_back(request);
}

void PoolEngine::Kick() {
  if (submitted_.empty()) {
    return;
  }
  {
    const std::lock_guard lock(mu_);
    queue_.insert(queue_.end(), submitted_.begin(), submitted_.end());
  }
  if (submitted_.size() == 1) {
    work_.notify_one();
  } else {
    work_.notify_all();
  }
  submitted_.clear();
}

void PoolEngine::RunThread() {
  std::unique_lock lock(mu_);
  for (;;) {
    work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) {
      return;
    }
    const IoRequest request = queue_.front();
    queue_.pop_front();
    lock.unlock();
    const int32_t result = Perform(request);
    lock.lock();
    completions_.push_back({.tag = request.tag, .result = result});
    // Whoever finds others there knows that the worker has been told.
    if (completions_.size() == 1) {
      wake_.Signal();
    }
  }
}

int32_t PoolEngine::Perform(const IoRequest& request) const {
  const auto count = static_cast<int>(request.parts.size());
  const auto offset = static_cast<off_t>(request.offset);
  ssize_t result = 0;
  do {
    switch (request.kind) {
      case IoKind::kRead:
        result = preadv2(file_.get(), request.parts.data(), count, offset, 0);
        break;
      case IoKind::kWrite:
        result = pwritev2(file_.get(), request.parts.data(), count, offset, 0);
        break;
      case IoKind::kSyncWrite:
        result = pwritev2(file_.get(), request.parts.data(), count, offset, RWF_DSYNC);
        break;
      case IoKind::kFlush:
        result = fdatasync(file_.get());
        break;
      case IoKind::kPunchHole:
        result = fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                           static_cast<off_t>(request.length));
        break;
      case IoKind::kZeroRange:
        result = fallocate(file_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset,
                           static_cast<off_t>(request.length));
        break;
    }
  } while (result < 0 && errno == EINTR);
  return static_cast<int32_t>(result < 0 ? -errno : result);
}

void PoolEngine::Report() {
  {
    const std::lock_guard lock(mu_);
    reporting_.swap(completions_);
  }
  for (const Completion& completion : reporting_) {
    done_(completion.tag, completion.result);
  }
  reporting_.clear();
  done_(kBatchEnd, 0);
}

}  // namespace wyvern::devices
