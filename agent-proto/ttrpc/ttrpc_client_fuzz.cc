// Bytes of a hostile server (for the host: the guest) to a client with a call and two streams open: every one of them ends.
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "ttrpc/client.h"
#include "ttrpc_wire.pb.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  using Message = ttrpc::wire::KeyValue;
  SetLogLevel(LogLevel::kError);
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  auto client = *ttrpc::Client::Create(std::move(pair.first));
  std::atomic<int> answers = 0;
  client->CallAsync<Message, Message>("s", "u", Message(), {},
                                      [&answers](const Result<Message>&) { ++answers; });
  auto stream = client->OpenStream<Message, Message>("s", "o", Message());
  auto raw = client->OpenRawStream("s", "b", {}, true, {});
  WV_CHECK(stream.has_value() && raw.has_value());
  (void)raw->Send("hello");
  // The client may have ended the connection by now.
  while (size > 0) {
    const ssize_t sent = send(pair.second.get(), data, size, MSG_NOSIGNAL);
    if (sent < 0) {
      break;
    }
    data += sent;
    size -= static_cast<size_t>(sent);
  }
  shutdown(pair.second.get(), SHUT_WR);
  for (bool more = true; more;) {
    const auto message = stream->Read();
    more = message.has_value() && message->has_value();
  }
  for (bool more = true; more;) {
    const auto message = raw->Read();
    more = message.has_value() && message->has_value();
  }
  client.reset();
  WV_CHECK(answers == 1);
  return 0;
}
