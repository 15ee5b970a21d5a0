#include "base/loop_thread.h"

#include <future>
#include <utility>

#include "base/log.h"

namespace wyvern {

Result<std::unique_ptr<LoopThread>> LoopThread::Start(const std::string& name,
                                                      std::function<void()> on_start) {
  WV_TRY(auto loop, EventLoop::Create());
  std::unique_ptr<LoopThread> self(new LoopThread(std::move(loop)));
  WV_TRY(self->thread_,
         WorkerThread::Start(name.substr(0, 15), [loop = self->loop_.get(), name,
                                                  on_start = std::move(on_start)](const EventFd&) {
           if (on_start) {
             on_start();
           }
           if (auto ended = loop->Run(); !ended) {
             WV_ERROR("event loop {}: {}", name, ended.error().message());
           }
         }));
  return self;
}

LoopThread::~LoopThread() {
  Stop();
}

void LoopThread::Call(const EventLoop::Task& task) {
  if (loop_->OnLoopThread()) {
    task();
    return;
  }
  std::promise<void> done;
  loop_->Post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

void LoopThread::Stop() {
  if (thread_ != nullptr) {
    loop_->Stop();
    thread_.reset();
  }
}

}  // namespace wyvern
