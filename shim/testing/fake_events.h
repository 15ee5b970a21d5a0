// testing/fake_events.h — containerd's end of the event stream: remembers what arrives, can refuse, can go away and come back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/loop_thread.h"
#include "proto/containerd_events.pb.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

class FakeEvents {
 public:
  explicit FakeEvents(std::string path);
  ~FakeEvents();
  FakeEvents(const FakeEvents&) = delete;
  FakeEvents& operator=(const FakeEvents&) = delete;

  void Start();
  void Stop();
  // The next `count` events are answered with `code`.
  void Refuse(int count, Code code);
  // From now on each event is taken at once and answered so much later.
  void Delay(std::chrono::milliseconds late);

  // "create t", "exit t/e1 137", …: topic's last part, container[/exec], exit status where there is one.
  std::vector<std::string> Lines();
  std::vector<containerd::events::Envelope> Envelopes();
  // Waits until `count` events are there.
  bool Await(size_t count, std::chrono::milliseconds patience = std::chrono::seconds(10));
  // The lines of one container.
  std::vector<std::string> LinesOf(const std::string& container_id);

 private:
  Result<pb::Empty> Forward(const containerd::events::ForwardRequest& request);
  std::chrono::milliseconds delay();

  const std::string path_;
  std::unique_ptr<LoopThread> thread_;
  std::unique_ptr<ttrpc::Server> server_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<containerd::events::Envelope> envelopes_;
  int refuse_ = 0;
  Code refuse_code_ = Code::kUnknown;
  std::chrono::milliseconds delay_{0};
};

// One event as a line.
std::string DescribeEvent(const containerd::events::Envelope& envelope);

}  // namespace wyvern::shim
