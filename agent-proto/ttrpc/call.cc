#include "ttrpc/call.h"

#include <atomic>

namespace wyvern::ttrpc {

std::string_view CallContext::MetadataValue(std::string_view key) const {
  for (const auto& [name, value] : metadata) {
    if (name == key) {
      return value;
    }
  }
  return {};
}

bool CallContext::connected() const {
  const auto sink = connection.lock();
  return sink != nullptr && sink->alive();
}

struct RawResponder::Call {
  std::shared_ptr<CallSink> sink;
  uint32_t stream_id;
  std::atomic<bool> answered{false};

  Call(std::shared_ptr<CallSink> call_sink, uint32_t id)
      : sink(std::move(call_sink)), stream_id(id) {}

  ~Call() {
    if (!answered.exchange(true)) {
      sink->SendResponse(stream_id,
                         wyvern::Fail(Code::kInternal, "the call was dropped unanswered"));
    }
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
};

RawResponder::RawResponder(std::shared_ptr<CallSink> sink, uint32_t stream_id)
    : call_(std::make_shared<Call>(std::move(sink), stream_id)) {}

void RawResponder::Answer(Result<std::string> payload) const {
  if (call_ && !call_->answered.exchange(true)) {
    call_->sink->SendResponse(call_->stream_id, std::move(payload));
  }
}

bool RawResponder::alive() const {
  return call_ && !call_->answered.load() && call_->sink->alive();
}

struct RawStream::Call {
  std::shared_ptr<CallSink> sink;
  uint32_t stream_id;
  std::atomic<bool> ended{false};

  Call(std::shared_ptr<CallSink> call_sink, uint32_t id)
      : sink(std::move(call_sink)), stream_id(id) {}

  ~Call() {
    if (!ended.exchange(true)) {
      sink->EndStream(stream_id);
    }
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
};

RawStream::RawStream(std::shared_ptr<CallSink> sink, uint32_t stream_id)
    : call_(std::make_shared<Call>(std::move(sink), stream_id)) {}

Result<> RawStream::Send(std::string_view payload) const {
  if (!call_ || call_->ended.load()) {
    return wyvern::Fail(Code::kUnavailable, "the ttrpc stream has ended");
  }
  return call_->sink->SendData(call_->stream_id, payload);
}

void RawStream::Finish() const {
  if (call_ && !call_->ended.exchange(true)) {
    call_->sink->EndStream(call_->stream_id);
  }
}

void RawStream::Fail(Error error) const {
  if (call_ && !call_->ended.exchange(true)) {
    call_->sink->SendResponse(call_->stream_id, tl::unexpected(std::move(error)));
  }
}

bool RawStream::alive() const {
  return call_ && !call_->ended.load() && call_->sink->alive();
}

}  // namespace wyvern::ttrpc
