// testing/task_fixture.h — the whole task service over a real ttrpc socket, with a fake sandbox below and a fake containerd above.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/loop_thread.h"
#include "events/publisher.h"
#include "task/register.h"
#include "testing/fake_events.h"
#include "testing/fake_sandbox.h"
#include "testing/temp_dir.h"
#include "ttrpc/client.h"

namespace wyvern::shim {

// Reads a FIFO from its opening to its end, as containerd's client does.
class FifoReader {
 public:
  explicit FifoReader(std::string path);
  ~FifoReader();
  FifoReader(const FifoReader&) = delete;
  FifoReader& operator=(const FifoReader&) = delete;
  // Everything, once the writers are gone.
  std::string Text();

 private:
  std::string path_;
  std::string text_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

class TaskFixture : public ::testing::Test {
 protected:
  TaskFixture();
  ~TaskFixture() override;
  TaskFixture(const TaskFixture&) = delete;
  TaskFixture& operator=(const TaskFixture&) = delete;

  template <typename Resp, typename Req>
  Result<Resp> Call(const char* method, const Req& request,
                    std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    return client_->Call<Req, Resp>(service_name_, method, request, {.timeout = timeout});
  }

  // A bundle whose init is `args`; returns its directory.
  std::string Bundle(const std::string& id, const std::vector<std::string>& args);
  // `/bin/sh -c script`
  std::string ShellBundle(const std::string& id, const std::string& script);
  std::string MakeFifo(const std::string& name);

  Result<task_pb::CreateTaskResponse> Create(const std::string& id, const std::string& script);
  Result<task_pb::StartResponse> Start(const std::string& id, const std::string& exec_id = "");
  Result<pb::Empty> Exec(const std::string& id, const std::string& exec_id,
                         const std::vector<std::string>& args, const std::string& stdout_uri = "");
  Result<task_pb::WaitResponse> Wait(const std::string& id, const std::string& exec_id = "");
  Result<task_pb::StateResponse> State(const std::string& id, const std::string& exec_id = "");
  Result<task_pb::DeleteResponse> Delete(const std::string& id, const std::string& exec_id = "");
  Result<pb::Empty> Kill(const std::string& id, const std::string& exec_id, int signal,
                         bool all = false);
  Code ShutdownCode();

  // Set before the first Create.
  FakeSandbox::Hook hook_;
  Result<> start_error_;
  bool ignore_rootfs_ = false;
  std::function<Result<>(const std::stop_token& cancel)> on_boot_;
  CreateOptions options_seen_;  // of the last sandbox

  TempDir dir_;
  FakeEvents events_;
  std::string service_name_ = "containerd.task.v2.Task";
  std::atomic<FakeSandbox*> sandbox_{nullptr};
  std::atomic<int> sandboxes_{0};
  std::atomic<int> endings_{0};
  std::atomic<bool> shut_down_{false};
  std::unique_ptr<Publisher> publisher_;
  std::unique_ptr<LoopThread> stdio_;
  std::unique_ptr<LoopThread> server_thread_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::unique_ptr<TaskService> service_;
  std::unique_ptr<ttrpc::Server> server_;
  std::unique_ptr<ttrpc::Client> client_;
};

// The code of a failed call, kOk of a good one.
template <typename T>
Code CodeOf(const Result<T>& result) {
  return result ? Code::kOk : result.error().code();
}

}  // namespace wyvern::shim
