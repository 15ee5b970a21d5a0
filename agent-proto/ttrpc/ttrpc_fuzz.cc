// Bytes of a hostile client through a whole server connection: the answers are read and dropped.
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <cstdlib>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "ttrpc/server.h"
#include "ttrpc_wire.pb.h"

namespace {

using wyvern::ttrpc::CallContext;
using wyvern::ttrpc::RawStream;
using Message = wyvern::ttrpc::wire::KeyValue;

template <typename T>
T Must(wyvern::Result<T> result) {
  if (!result) {
    abort();
  }
  return *std::move(result);
}

struct Fixture {
  std::unique_ptr<wyvern::EventLoop> loop = Must(wyvern::EventLoop::Create());
  std::unique_ptr<wyvern::ttrpc::Server> server = Must(wyvern::ttrpc::Server::Create(*loop, {}));

  Fixture() {
    wyvern::SetLogLevel(wyvern::LogLevel::kError);
    server->RegisterUnary<Message, Message>(
        "s", "u",
        [](Message request, const CallContext&, wyvern::ttrpc::Responder<Message> answer) {
          answer.Ok(request);
        });
    server->RegisterServerStream<Message, Message>(
        "s", "o",
        [](Message request, const CallContext&, wyvern::ttrpc::ServerStream<Message> stream) {
          (void)stream.Send(request);
        });
    server->RegisterRawBidi("s", "b", [](const CallContext&, RawStream stream) {
      return [stream](std::optional<std::string> message) {
        if (message) {
          (void)stream.Send(*message);
        } else {
          stream.Finish();
        }
      };
    });
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Fixture fixture;
  auto pair = Must(wyvern::MakeSocketPair(SOCK_STREAM | SOCK_NONBLOCK));
  if (!fixture.server->Adopt(std::move(pair.first))) {
    abort();
  }
  std::array<std::byte, 4096> sink{};
  while (size > 0) {
    const ssize_t sent = send(pair.second.get(), data, size, MSG_NOSIGNAL);
    if (sent > 0) {
      data += sent;
      size -= static_cast<size_t>(sent);
    }
    (void)fixture.loop->RunOnce(std::chrono::milliseconds(0));
    while (wyvern::ReadSome(pair.second, sink).value_or(0) > 0) {
    }
    if (sent < 0 && errno != EAGAIN) {
      break;
    }
  }
  pair.second.Reset();
  while (fixture.server->connection_count() > 0) {
    (void)fixture.loop->RunOnce(std::chrono::milliseconds(0));
  }
  return 0;
}
