#include "loop/loop_thread.h"

#include <pthread.h>

#include <future>

#include "base/log.h"

namespace wyvern::shim {

Result<std::unique_ptr<LoopThread>> LoopThread::Start(const std::string& name) {
  WV_TRY(auto loop, EventLoop::Create());
  std::unique_ptr<LoopThread> self(new LoopThread(std::move(loop)));
  self->thread_ = std::thread([loop = self->loop_.get(), name] {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    if (auto result = loop->Run(); !result) {
      WV_ERROR("event loop {}: {}", name, result.error().message());
    }
  });
  return self;
}

LoopThread::~LoopThread() {
  loop_->Stop();
  thread_.join();
}

void LoopThread::Call(const std::function<void()>& task) {
  std::promise<void> done;
  loop_->Post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace wyvern::shim
