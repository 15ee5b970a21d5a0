#include "testing/fake_events.h"

#include <unistd.h>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::shim {

namespace ev = containerd::events;

std::string DescribeEvent(const ev::Envelope& envelope) {
  const std::string topic = envelope.topic().substr(envelope.topic().rfind('/') + 1);
  const std::string& value = envelope.event().value();
  if (topic == "exit") {
    ev::TaskExit exit;
    exit.ParseFromString(value);
    const bool init = exit.id() == exit.container_id();
    return "exit " + exit.container_id() + (init ? "" : "/" + exit.id()) + " " +
           std::to_string(exit.exit_status());
  }
  if (topic == "delete") {
    ev::TaskDelete gone;
    gone.ParseFromString(value);
    return "delete " + gone.container_id() + " " + std::to_string(gone.exit_status());
  }
  if (topic.starts_with("exec-")) {
    ev::TaskExecAdded added;  // TaskExecStarted begins with the same fields
    added.ParseFromString(value);
    return topic + " " + added.container_id() + "/" + added.exec_id();
  }
  ev::TaskStart any;  // field 1 is the container's id in all of them
  any.ParseFromString(value);
  return topic + " " + any.container_id();
}

FakeEvents::FakeEvents(std::string path) : path_(std::move(path)) {
  Start();
}

FakeEvents::~FakeEvents() {
  Stop();
}

void FakeEvents::Start() {
  unlink(path_.c_str());
  auto listener = ListenUnix(path_, 0600);
  WV_CHECK(listener.has_value());
  auto thread = LoopThread::Start("fake-events");
  WV_CHECK(thread.has_value());
  thread_ = *std::move(thread);
  thread_->Call([&] {
    auto server = ttrpc::Server::Create(thread_->loop());
    WV_CHECK(server.has_value());
    server_ = *std::move(server);
    server_->RegisterUnary<ev::ForwardRequest, pb::Empty>(
        "containerd.services.events.ttrpc.v1.Events", "Forward",
        [this](const ev::ForwardRequest& request, const ttrpc::CallContext&,
               const ttrpc::Responder<pb::Empty>& responder) {
          const auto late =
              delay();  // before the event is there to be seen: a test changes it then
          // As a shared pointer: an Error is not copied, a task of the loop may be.
          auto answer = std::make_shared<Result<pb::Empty>>(Forward(request));
          if (late.count() > 0) {
            (void)thread_->loop().After(
                late, [responder, answer] { responder.Answer(std::move(*answer)); });
            return;
          }
          responder.Answer(std::move(*answer));
        });
    WV_CHECK(server_->Listen(*std::move(listener)).has_value());
  });
}

void FakeEvents::Stop() {
  if (thread_ == nullptr) {
    return;
  }
  thread_->Call([this] { server_.reset(); });
  thread_.reset();
  unlink(path_.c_str());
}

void FakeEvents::Refuse(int count, Code code) {
  const std::lock_guard lock(mu_);
  refuse_ = count;
  refuse_code_ = code;
}

void FakeEvents::Delay(std::chrono::milliseconds late) {
  const std::lock_guard lock(mu_);
  delay_ = late;
}

std::chrono::milliseconds FakeEvents::delay() {
  const std::lock_guard lock(mu_);
  return delay_;
}

Result<pb::Empty> FakeEvents::Forward(const ev::ForwardRequest& request) {
  const std::lock_guard lock(mu_);
  if (refuse_ > 0) {
    --refuse_;
    return Fail(refuse_code_, "refused by the test");
  }
  envelopes_.push_back(request.envelope());
  changed_.notify_all();
  return pb::Empty();
}

std::vector<ev::Envelope> FakeEvents::Envelopes() {
  const std::lock_guard lock(mu_);
  return envelopes_;
}

std::vector<std::string> FakeEvents::Lines() {
  std::vector<std::string> lines;
  for (const ev::Envelope& envelope : Envelopes()) {
    lines.push_back(DescribeEvent(envelope));
  }
  return lines;
}

std::vector<std::string> FakeEvents::LinesOf(const std::string& container_id) {
  std::vector<std::string> lines;
  for (const std::string& line : Lines()) {
    const std::string rest = line.substr(line.find(' ') + 1);
    if (rest.substr(0, rest.find_first_of("/ ")) == container_id) {
      lines.push_back(line);
    }
  }
  return lines;
}

bool FakeEvents::Await(size_t count, std::chrono::milliseconds patience) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, patience, [&] { return envelopes_.size() >= count; });
}

}  // namespace wyvern::shim
