// testing/stream_client.h — containerd's end of a stdio stream: grants, sends, receives.
#pragma once

#include <optional>
#include <string>

#include "ttrpc/client.h"

namespace wyvern::shim {

class StreamClient {
 public:
  static constexpr std::chrono::milliseconds kPatience{5000};

  // Names the stream and waits for the acknowledgement; the error of either.
  static Result<StreamClient> Open(ttrpc::Client& client, const std::string& id);
  // Without a word.
  static Result<StreamClient> OpenUnnamed(ttrpc::Client& client);

  Result<> SendInit(const std::string& id);
  Result<> Grant(int32_t bytes);
  Result<> SendData(const std::string& data);
  Result<> SendRaw(const std::string& message);
  Result<> CloseSend();

  // The data of the next message, nothing at the stream's end. A WindowUpdate is added to granted().
  Result<std::optional<std::string>> Read(std::chrono::milliseconds patience = kPatience);
  // As containerd reads: everything to the end, granting what it has taken.
  std::string ReadAll();

  int64_t granted() const { return granted_; }

 private:
  explicit StreamClient(ttrpc::RawClientStream stream) : stream_(std::move(stream)) {}

  Result<> SendAny(const std::string& type, const std::string& value);

  ttrpc::RawClientStream stream_;
  int64_t granted_ = 0;
};

}  // namespace wyvern::shim
