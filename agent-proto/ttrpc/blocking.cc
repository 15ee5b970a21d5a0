#include "ttrpc/blocking.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <vector>

#include "base/log.h"

namespace wyvern::ttrpc {

struct BlockingPool::State {
  // pthreads, because std::thread can tell of a failed start only by an exception.
  struct Thread {
    State* pool;
    pthread_t handle;
    std::list<Thread>::iterator self;
  };

  std::string name;
  std::chrono::milliseconds idle_limit;
  std::mutex mu;
  std::condition_variable wake;
  std::deque<std::function<void()>> work;
  size_t idle = 0;
  bool stopping = false;
  std::list<Thread> threads;
  std::vector<pthread_t> ended;  // to be joined

  static void* Main(void* thread);
  void Loop(const Thread& thread);
  bool StartThreadLocked();
};

void* BlockingPool::State::Main(void* thread) {
  const auto* self = static_cast<const Thread*>(thread);
  self->pool->Loop(*self);
  return nullptr;
}

bool BlockingPool::State::StartThreadLocked() {
  const auto self = threads.emplace(threads.end());
  self->pool = this;
  self->self = self;
  if (pthread_create(&self->handle, nullptr, &State::Main, &*self) != 0) {
    threads.erase(self);
    return false;
  }
  (void)pthread_setname_np(self->handle, name.c_str());
  return true;
}

void BlockingPool::State::Loop(const Thread& thread) {
  std::unique_lock lock(mu);
  while (true) {
    if (work.empty()) {
      ++idle;
      wake.wait_for(lock, idle_limit, [this] { return stopping || !work.empty(); });
      --idle;
      if (work.empty()) {
        // Idle for long, or stopping: then the destructor has the list.
        if (!stopping) {
          ended.push_back(thread.handle);
          threads.erase(thread.self);
        }
        return;
      }
    }
    auto item = std::move(work.front());
    work.pop_front();
    lock.unlock();
    item();
    item = nullptr;
    lock.lock();
  }
}

BlockingPool::BlockingPool(const std::string& name, std::chrono::milliseconds idle)
    : state_(std::make_unique<State>()) {
  state_->name = name.substr(0, 15);
  state_->idle_limit = idle;
}

BlockingPool::~BlockingPool() {
  {
    const std::lock_guard lock(state_->mu);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  // `stopping` is set: nobody else changes the list any more.
  for (const State::Thread& thread : state_->threads) {
    pthread_join(thread.handle, nullptr);
  }
  for (const pthread_t handle : state_->ended) {
    pthread_join(handle, nullptr);
  }
}

void BlockingPool::Run(std::function<void()> work) {
  std::vector<pthread_t> ended;
  {
    const std::lock_guard lock(state_->mu);
    ended.swap(state_->ended);
    state_->work.push_back(std::move(work));
    if (state_->idle >= state_->work.size() || state_->stopping) {
      state_->wake.notify_one();
    } else if (!state_->StartThreadLocked()) {
      WV_WARN_LIMITED("{}: no thread can be started; calls wait for one to end", state_->name);
      if (state_->threads.empty()) {
        state_->work.pop_back();  // dropped: its caller is answered INTERNAL
      }
    }
  }
  for (const pthread_t handle : ended) {
    pthread_join(handle, nullptr);
  }
}

size_t BlockingPool::thread_count() const {
  const std::lock_guard lock(state_->mu);
  return state_->threads.size();
}

}  // namespace wyvern::ttrpc
