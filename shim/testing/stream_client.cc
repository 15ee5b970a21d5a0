#include "testing/stream_client.h"

#include "proto/containerd_streaming.pb.h"
#include "proto/containerd_types.pb.h"

namespace wyvern::shim {

Result<StreamClient> StreamClient::OpenUnnamed(ttrpc::Client& client) {
  WV_TRY(
      ttrpc::RawClientStream raw,
      client.OpenRawStream("containerd.services.streaming.v1.Streaming", "Stream", {}, true, {}));
  return StreamClient(std::move(raw));
}

Result<StreamClient> StreamClient::Open(ttrpc::Client& client, const std::string& id) {
  WV_TRY(StreamClient stream, OpenUnnamed(client));
  WV_TRY_VOID(stream.SendInit(id));
  WV_TRY(const auto acknowledged, stream.stream_.Read(kPatience));
  if (!acknowledged) {
    return Fail(Code::kDataLoss, "the stream ended instead of an acknowledgement");
  }
  return stream;
}

Result<> StreamClient::SendAny(const std::string& type, const std::string& value) {
  pb::Any any;
  any.set_type_url(type);
  any.set_value(value);
  return SendRaw(any.SerializeAsString());
}

Result<> StreamClient::SendInit(const std::string& id) {
  containerd::streaming::StreamInit init;
  init.set_id(id);
  return SendAny("containerd.services.streaming.v1.StreamInit", init.SerializeAsString());
}

Result<> StreamClient::Grant(int32_t bytes) {
  containerd::streaming::WindowUpdate update;
  update.set_update(bytes);
  return SendAny("containerd.types.transfer.WindowUpdate", update.SerializeAsString());
}

Result<> StreamClient::SendData(const std::string& data) {
  containerd::streaming::Data message;
  message.set_data(data);
  granted_ -= static_cast<int64_t>(data.size());
  return SendAny("containerd.types.transfer.Data", message.SerializeAsString());
}

Result<> StreamClient::SendRaw(const std::string& message) {
  return stream_.Send(message);
}

Result<> StreamClient::CloseSend() {
  return stream_.CloseSend();
}

Result<std::optional<std::string>> StreamClient::Read(std::chrono::milliseconds patience) {
  while (true) {
    WV_TRY(const auto message, stream_.Read(patience));
    if (!message) {
      return std::optional<std::string>();
    }
    pb::Any any;
    if (!any.ParseFromString(*message)) {
      return Fail(Code::kDataLoss, "no Any");
    }
    if (any.type_url() == "containerd.types.transfer.WindowUpdate") {
      containerd::streaming::WindowUpdate update;
      update.ParseFromString(any.value());
      granted_ += update.update();
      return std::optional<std::string>(std::string());
    }
    containerd::streaming::Data data;
    if (any.type_url() != "containerd.types.transfer.Data" || !data.ParseFromString(any.value())) {
      return Fail(Code::kDataLoss, "neither Data nor WindowUpdate: " + any.type_url());
    }
    return std::optional<std::string>(data.data());
  }
}

std::string StreamClient::ReadAll() {
  constexpr int32_t kWindow = 64 << 10;
  std::string text;
  if (!Grant(kWindow)) {
    return text;
  }
  while (true) {
    const auto data = Read();
    if (!data || !*data) {
      return text + (data ? "" : "\n(" + data.error().message() + ")");
    }
    text += **data;
    if (!(*data)->empty()) {
      (void)Grant(static_cast<int32_t>((*data)->size()));
    }
  }
}

}  // namespace wyvern::shim
