// What a client sends on a stdio stream: messages of any bytes, in any order, on streams that wait for a process, feed one or read from one.
// Shape: records of one byte (low 2 bits: which stream; the rest: Step), for those with bytes one more of their number, and the bytes.
#include <google/protobuf/stubs/logging.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "proto/containerd_streaming.pb.h"
#include "stdio/stream_hub.h"
#include "ttrpc/frame.h"
#include "ttrpc/server.h"
#include "ttrpc_wire.pb.h"

namespace {

namespace shim = wyvern::shim;
namespace ttrpc = wyvern::ttrpc;
using wyvern::UniqueFd;

constexpr size_t kStreams = 4;
constexpr int kMaxSteps = 100;  // of an input: what is longer finds nothing more

enum Step : uint8_t {
  kRaw,      // bytes as they are
  kInit,     // StreamInit, the bytes are the id; none: that of the stream's process
  kData,     // Data of the bytes
  kGrant,    // WindowUpdate of as much as the first two bytes say
  kClose,    // the client sends no more
  kReopen,   // another client's stream in the place of this one
  kOutput,   // a process opens the stream as its output
  kInput,    // as its input
  kProduce,  // which writes the bytes
  kConsume,  // which reads
  kLeave,    // which ends
  kNoMore,   // CloseIO
  kSteps
};

template <typename T>
T Must(wyvern::Result<T> result) {
  if (!result) {
    abort();
  }
  return *std::move(result);
}

struct Process {
  shim::StreamHub::Lease lease;
  UniqueFd writer;
  UniqueFd reader;
};

std::string IdOf(size_t stream) {
  return "process-" + std::to_string(stream % 2);  // two clients for each
}

class Run {
 public:
  Run() : pair_(Must(wyvern::MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK))) {
    hub_->Register(*server_);
    WV_CHECK(server_->Adopt(std::move(pair_.first)).has_value());
    for (size_t stream = 0; stream < kStreams; ++stream) {
      Open(stream);
    }
  }

  ~Run() {
    pair_.second.Reset();
    while (server_->connection_count() > 0) {
      (void)loop_->RunOnce(std::chrono::milliseconds(0));
    }
    processes_ = {};
    for (int i = 0; i < 8; ++i) {  // what the hub left there refers to it
      (void)loop_->RunOnce(std::chrono::milliseconds(0));
    }
  }

  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void Do(Step step, size_t stream, std::string_view bytes) {
    Process& process = processes_[stream % 2];
    switch (step) {
      case kRaw:
        Send(stream, std::string(bytes));
        break;
      case kInit: {
        containerd::streaming::StreamInit init;
        init.set_id(bytes.empty() ? IdOf(stream) : std::string(bytes));
        Wrap(stream, "containerd.services.streaming.v1.StreamInit", init.SerializeAsString());
        break;
      }
      case kData: {
        containerd::streaming::Data data;
        data.set_data(bytes.data(), bytes.size());
        sent_ += bytes.size();
        Wrap(stream, "containerd.types.transfer.Data", data.SerializeAsString());
        break;
      }
      case kGrant: {
        containerd::streaming::WindowUpdate update;
        update.set_update(bytes.size() < 2 ? -1 : (bytes[0] << 8) | bytes[1]);
        Wrap(stream, "containerd.types.transfer.WindowUpdate", update.SerializeAsString());
        break;
      }
      case kClose:
        Frame(stream, ttrpc::FrameType::kData, ttrpc::kFlagRemoteClosed | ttrpc::kFlagNoData, "");
        break;
      case kReopen:
        Open(stream);
        break;
      case kOutput: {
        shim::OutputEnds ends;
        process.lease = Must(hub_->OpenOutput(IdOf(stream), &ends));
        WV_CHECK(wyvern::SetNonBlocking(ends.writer, true).has_value());
        process.writer = std::move(ends.writer);
        break;
      }
      case kInput: {
        shim::StdinEnds ends;
        process.lease = Must(hub_->OpenInput(IdOf(stream), &ends));
        WV_CHECK(wyvern::SetNonBlocking(ends.reader, true).has_value());
        process.reader = std::move(ends.reader);
        break;
      }
      case kProduce:
        if (process.writer.valid()) {
          (void)!write(process.writer.get(), bytes.data(), bytes.size());
        }
        break;
      case kConsume:
        Consume(process);
        break;
      case kLeave:
        process = {};
        break;
      case kNoMore:
        process.lease.CloseInput();
        break;
      case kSteps:
        break;
    }
    Turn();
  }

 private:
  void Open(size_t stream) {
    ids_[stream] = next_id_;
    next_id_ += 2;
    ttrpc::wire::Request request;
    request.set_service("containerd.services.streaming.v1.Streaming");
    request.set_method("Stream");
    Frame(stream, ttrpc::FrameType::kRequest, ttrpc::kFlagRemoteOpen, request.SerializeAsString());
  }

  void Wrap(size_t stream, const char* type, const std::string& value) {
    wyvern::shim::pb::Any any;
    any.set_type_url(type);
    any.set_value(value);
    Send(stream, any.SerializeAsString());
  }

  void Send(size_t stream, const std::string& message) {
    Frame(stream, ttrpc::FrameType::kData, 0, message);
  }

  void Frame(size_t stream, ttrpc::FrameType type, uint8_t flags, std::string_view data) {
    const std::string frame = ttrpc::EncodeFrame(ids_[stream], type, flags, data);
    (void)send(pair_.second.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
  }

  void Consume(const Process& process) {
    std::array<char, 4096> buffer{};
    const ssize_t got =
        process.reader.valid() ? read(process.reader.get(), buffer.data(), buffer.size()) : 0;
    received_ += static_cast<size_t>(std::max<ssize_t>(got, 0));
    WV_CHECK(received_ <= sent_);  // nothing twice, and nothing that was no data
  }

  void Turn() {
    std::array<std::byte, 4096> sink{};
    for (int i = 0; i < 2; ++i) {  // what arrived, and what it posted
      (void)loop_->RunOnce(std::chrono::milliseconds(0));
      while (wyvern::ReadSome(pair_.second, sink).value_or(0) > 0) {
      }
    }
  }

  std::unique_ptr<wyvern::EventLoop> loop_ = Must(wyvern::EventLoop::Create());
  std::shared_ptr<shim::StreamHub> hub_ = shim::StreamHub::Create(*loop_);
  std::unique_ptr<ttrpc::Server> server_ = Must(ttrpc::Server::Create(*loop_, {}));
  wyvern::SocketPair pair_;
  std::array<Process, 2> processes_;
  std::array<uint32_t, kStreams> ids_{};
  uint32_t next_id_ = 1;
  size_t sent_ = 0;
  size_t received_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const google::protobuf::LogSilencer silent;  // of bytes that are no UTF-8
  wyvern::SetLogLevel(wyvern::LogLevel::kError);
  (void)std::signal(SIGPIPE, SIG_IGN);  // as the shim does
  Run run;
  size_t at = 0;
  for (int i = 0; i < kMaxSteps && at < size; ++i) {
    const auto step = static_cast<Step>((data[at] >> 2) % kSteps);
    const size_t stream = data[at] % kStreams;
    ++at;
    std::string_view bytes;
    if (step <= kGrant || step == kProduce) {
      const size_t length = at < size ? std::min<size_t>(data[at], size - at - 1) : 0;
      at = std::min(at + 1, size);
      bytes = {reinterpret_cast<const char*>(data + at), length};
      at += length;
    }
    run.Do(step, stream, bytes);
  }
  return 0;
}
