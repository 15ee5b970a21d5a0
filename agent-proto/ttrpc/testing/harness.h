// ttrpc/testing/harness.h — a server on a loop of its own thread, and raw sockets to feed it bytes.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/server.h"
#include "ttrpc_wire.pb.h"

namespace wyvern::ttrpc {

using namespace std::chrono_literals;

// The messages of the tests' service.
using Message = wire::KeyValue;

inline Message MakeMessage(std::string value) {
  Message message;
  message.set_value(std::move(value));
  return message;
}

// "test.Echo" with Echo, Fail (NOT_FOUND), Garble (the text `garbled`), Never (keeps the responder), Drop, Count (stream of `value` messages), Reverse (bidi).
class TestServer {
 public:
  explicit TestServer(ServerOptions options = {}) {
    loop_ = Must(LoopThread::Start("test-server"));
    OnLoop([&] { server_ = Must(Server::Create(loop_->loop(), std::move(options))); });
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Echo",
        [this](const Message& request, const CallContext& context,
               const Responder<Message>& answer) {
          last_context = context;
          answer.Ok(request);
        });
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Fail",
        [](const Message&, const CallContext&, const Responder<Message>& answer) {
          answer.Fail(Error(Code::kNotFound, "no such thing"));
        });
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Garble",
        [this](const Message&, const CallContext&, const Responder<Message>& answer) {
          answer.Fail(Error(Code::kAborted, garbled));
        });
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Never",
        [this](const Message&, const CallContext&, Responder<Message> answer) {
          kept.push_back(std::move(answer));
        });
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Drop", [](const Message&, const CallContext&, const Responder<Message>&) {});
    server_->RegisterUnary<Message, Message>(
        "test.Echo", "Big",
        [](const Message& request, const CallContext&, const Responder<Message>& answer) {
          answer.Ok(MakeMessage(std::string(std::stoul(request.value()), 'x')));
        });
    server_->RegisterServerStream<Message, Message>(
        "test.Echo", "Count",
        [](const Message& request, const CallContext&, const ServerStream<Message>& stream) {
          for (unsigned long i = 0; i < std::stoul(request.value()); ++i) {
            (void)stream.Send(MakeMessage(std::to_string(i)));
          }
          if (request.key() == "fail") {
            stream.Fail(Error(Code::kAborted, "enough"));
          }
        });
    server_->RegisterRawBidi(
        "test.Echo", "Reverse", [](const CallContext&, const RawStream& stream) {
          return [stream](std::optional<std::string> message) {
            if (message) {
              (void)stream.Send(std::string(message->rbegin(), message->rend()));
            } else {
              stream.Finish();
            }
          };
        });
  }

  ~TestServer() {
    OnLoop([this] {
      kept.clear();
      server_.reset();
    });
  }

  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  // Runs on the loop's thread and waits for it.
  void OnLoop(const EventLoop::Task& work) { loop_->Call(work); }

  // A new connection's client end, blocking, with a receive timeout so that no test hangs.
  UniqueFd Connect() {
    auto pair = Must(MakeSocketPair(SOCK_STREAM));
    OnLoop([&] { EXPECT_TRUE(server_->Adopt(std::move(pair.first)).has_value()); });
    const timeval timeout{.tv_sec = 10, .tv_usec = 0};
    (void)setsockopt(pair.second.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    return std::move(pair.second);
  }

  size_t Connections() {
    size_t count = 0;
    OnLoop([&] { count = server_->connection_count(); });
    return count;
  }

  // Waits until `count` connections are left.
  bool WaitForConnections(size_t count) {
    for (int i = 0; i < 1000; ++i) {
      if (Connections() == count) {
        return true;
      }
      std::this_thread::sleep_for(5ms);
    }
    return false;
  }

  Server& server() { return *server_; }

  CallContext last_context;              // loop's thread
  std::vector<Responder<Message>> kept;  // loop's thread
  std::string garbled;                   // set between calls

 private:
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<Server> server_;
};

inline std::string Hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size();) {
    if (text[i] == ' ') {
      ++i;
      continue;
    }
    bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
    i += 2;
  }
  return bytes;
}

inline std::string ReadBytes(FdRef fd, size_t count) {
  std::string bytes(count, '\0');
  const auto read = ReadExact(fd, std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(read.has_value()) << read.error().message();
  return bytes;
}

struct Frame {
  FrameHeader header;
  std::string data;
};

inline Frame ReadFrame(FdRef fd) {
  const std::string head = ReadBytes(fd, kHeaderSize);
  Frame frame;
  frame.header =
      DecodeHeader(std::as_bytes(std::span<const char, kHeaderSize>(head.data(), kHeaderSize)));
  EXPECT_LE(frame.header.length, kMaxData);
  if (frame.header.length > 0 && frame.header.length <= kMaxData) {
    frame.data = ReadBytes(fd, frame.header.length);
  }
  return frame;
}

inline std::string RequestFrame(uint32_t id, const std::string& service, const std::string& method,
                                const Message& message, uint8_t flags = 0) {
  wire::Request request;
  request.set_service(service);
  request.set_method(method);
  request.set_payload(message.SerializeAsString());
  return EncodeFrame(id, FrameType::kRequest, flags, request.SerializeAsString());
}

// The status code of a response frame.
inline Code ResponseCode(const Frame& frame) {
  wire::Response response;
  EXPECT_TRUE(response.ParseFromString(frame.data));
  return static_cast<Code>(response.status().code());
}

}  // namespace wyvern::ttrpc
