#include "stdio/stream_hub.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "proto/containerd_streaming.pb.h"

namespace wyvern::shim {

namespace {

namespace spb = containerd::streaming;

constexpr int kChunksPerTurn = 16;
constexpr char kInit[] = "containerd.services.streaming.v1.StreamInit";
constexpr char kData[] = "containerd.types.transfer.Data";
constexpr char kWindowUpdate[] = "containerd.types.transfer.WindowUpdate";
constexpr char kEmpty[] = "google.protobuf.Empty";

std::string Wrapped(const char* type, const std::string& value) {
  pb::Any any;
  any.set_type_url(type);
  any.set_value(value);
  return any.SerializeAsString();
}

// Some senders put an authority before the name.
bool Is(const pb::Any& any, std::string_view type) {
  const std::string_view url = any.type_url();
  return url.substr(url.rfind('/') + 1) == type;
}

}  // namespace

struct StreamHub::Client {
  ttrpc::RawStream stream;
  std::string id;  // empty before StreamInit
  int64_t granted =
      0;  // bytes: of an output, what it lets us send still; of stdin, what it may send still
  bool left = false;
  EndpointPtr endpoint;
};

struct StreamHub::Endpoint {
  std::string id;
  bool is_output = false;
  UniqueFd fd;  // an output's read end, stdin's write end; invalid once the pipe has ended
  ClientPtr client;
  EventLoop::Token token = EventLoop::Token::kNone;
  bool kicked = false;
  bool released = false;  // the process is done with it
  bool input_closed = false;
  std::string pending;  // of stdin: came, and is not in the pipe yet; at most kWindow
};

std::shared_ptr<StreamHub> StreamHub::Create(EventLoop& loop) {
  return std::shared_ptr<StreamHub>(new StreamHub(loop));
}

void StreamHub::Register(ttrpc::Server& server) {
  server.RegisterRawBidi(
      "containerd.services.streaming.v1.Streaming", "Stream",
      [hub = shared_from_this()](const ttrpc::CallContext&, ttrpc::RawStream stream) {
        return hub->Accept(std::move(stream));
      });
}

ttrpc::RawStream::Receiver StreamHub::Accept(ttrpc::RawStream stream) {
  auto client = std::make_shared<Client>();
  client->stream = std::move(stream);
  return [hub = shared_from_this(), client](const std::optional<std::string>& message) {
    const std::lock_guard lock(hub->mu_);
    if (!message) {
      hub->LeaveLocked(client);
    } else if (!client->left) {
      if (auto taken = hub->TakeLocked(client, *message); !taken) {
        WV_WARN_LIMITED("stream \"{}\": {}", client->id, taken.error().message());
        hub->LeaveLocked(client, std::move(taken).error());
      }
    }
  };
}

Result<> StreamHub::TakeLocked(const ClientPtr& client, const std::string& message) {
  pb::Any any;
  if (!any.ParseFromString(message)) {
    return Fail(Code::kInvalidArgument, "malformed message");
  }
  if (client->id.empty()) {
    return InitLocked(client, any);
  }
  if (Is(any, kData)) {
    return TakeDataLocked(client, any);
  }
  if (!Is(any, kWindowUpdate)) {
    return Fail(Code::kInvalidArgument, "a message that is neither Data nor WindowUpdate");
  }
  spb::WindowUpdate window;
  if (!window.ParseFromString(any.value()) || window.update() <= 0) {
    return Fail(Code::kInvalidArgument, "a window update that grants nothing");
  }
  if (client->endpoint == nullptr || client->endpoint->is_output) {
    client->granted =
        std::min<int64_t>(client->granted + window.update(), std::numeric_limits<int32_t>::max());
    if (client->endpoint != nullptr) {
      KickLocked(client->endpoint);
    }
  }
  return {};
}

Result<> StreamHub::InitLocked(const ClientPtr& client, const pb::Any& any) {
  spb::StreamInit init;
  if (!Is(any, kInit) || !init.ParseFromString(any.value()) || init.id().empty() ||
      init.id().size() > kMaxId) {
    return Fail(Code::kInvalidArgument, "the first message must be a StreamInit with an id");
  }
  const auto found = endpoints_.find(init.id());
  if (found == endpoints_.end() && waiting_.size() >= kMaxWaiting &&
      !waiting_.contains(init.id())) {
    return Fail(Code::kResourceExhausted, "too many streams wait for their process");
  }
  client->id = init.id();
  WV_TRY_VOID(client->stream.Send(Wrapped(kEmpty, {})));
  if (found != endpoints_.end()) {
    AttachLocked(found->second, client);
    return {};
  }
  ClientPtr& place = waiting_[client->id];
  if (const ClientPtr before = std::exchange(place, client); before != nullptr) {
    LeaveLocked(before);
  }
  return {};
}

Result<> StreamHub::TakeDataLocked(const ClientPtr& client, const pb::Any& any) {
  const EndpointPtr& endpoint = client->endpoint;
  if (endpoint != nullptr && endpoint->is_output) {
    return Fail(Code::kInvalidArgument, "data on the stream of an output");
  }
  spb::Data data;
  if (!data.ParseFromString(any.value())) {
    return Fail(Code::kInvalidArgument, "malformed data");
  }
  if (endpoint == nullptr || static_cast<int64_t>(data.data().size()) > client->granted) {
    return Fail(Code::kResourceExhausted, "more data than was granted");
  }
  client->granted -= static_cast<int64_t>(data.data().size());
  endpoint->pending += data.data();
  KickLocked(endpoint);
  return {};
}

void StreamHub::AttachLocked(const EndpointPtr& endpoint, const ClientPtr& client) {
  if (const ClientPtr before = endpoint->client; before != nullptr) {
    LeaveLocked(before);
  }
  endpoint->client = client;
  client->endpoint = endpoint;
  if (!endpoint->is_output) {
    client->granted = 0;
    GrantLocked(*endpoint);
  }
  KickLocked(endpoint);
}

void StreamHub::LeaveLocked(const ClientPtr& client, std::optional<Error> error) {
  if (std::exchange(client->left, true)) {
    return;
  }
  if (error) {
    client->stream.Fail(*std::move(error));
  } else {
    client->stream.Finish();
  }
  if (const auto found = waiting_.find(client->id);
      found != waiting_.end() && found->second == client) {
    waiting_.erase(found);
  }
  if (const EndpointPtr endpoint = std::exchange(client->endpoint, nullptr);
      endpoint != nullptr && endpoint->client == client) {
    endpoint->client.reset();
    KickLocked(endpoint);
  }
}

// What is in `pending` and what was granted are at most a window together; small grants wait until they are worth a message.
void StreamHub::GrantLocked(Endpoint& endpoint) {
  Client& client = *endpoint.client;
  const int64_t more = kWindow - client.granted - static_cast<int64_t>(endpoint.pending.size());
  if (more >= kChunk) {
    spb::WindowUpdate update;
    update.set_update(static_cast<int32_t>(more));
    if (client.stream.Send(Wrapped(kWindowUpdate, update.SerializeAsString()))) {
      client.granted += more;
    }
  }
}

StreamHub::Lease StreamHub::OpenLocked(EndpointPtr endpoint) {
  EndpointPtr& place = endpoints_[endpoint->id];
  if (const EndpointPtr before = std::exchange(place, endpoint); before != nullptr) {
    before->released = true;
    KickLocked(before);
  }
  if (const auto found = waiting_.find(endpoint->id); found != waiting_.end()) {
    const ClientPtr client = found->second;
    waiting_.erase(found);
    AttachLocked(endpoint, client);
  }
  return {shared_from_this(), std::move(endpoint)};
}

Result<StreamHub::Lease> StreamHub::OpenOutput(const std::string& id, OutputEnds* ends) {
  WV_TRY(PipePair pipe, MakePipe());
  WV_TRY_VOID(SetNonBlocking(pipe.read, true));
  WV_TRY(ends->own_reader, pipe.read.Duplicate());
  ends->writer = std::move(pipe.write);
  auto endpoint = std::make_shared<Endpoint>();
  endpoint->id = id;
  endpoint->is_output = true;
  endpoint->fd = std::move(pipe.read);
  const std::lock_guard lock(mu_);
  return OpenLocked(std::move(endpoint));
}

Result<StreamHub::Lease> StreamHub::OpenInput(const std::string& id, StdinEnds* ends) {
  WV_TRY(PipePair pipe, MakePipe());
  WV_TRY_VOID(SetNonBlocking(pipe.write, true));
  ends->reader = std::move(pipe.read);
  auto endpoint = std::make_shared<Endpoint>();
  endpoint->id = id;
  endpoint->fd = std::move(pipe.write);
  const std::lock_guard lock(mu_);
  return OpenLocked(std::move(endpoint));
}

void StreamHub::Release(const EndpointPtr& endpoint) {
  const std::lock_guard lock(mu_);
  endpoint->released = true;
  if (const auto found = endpoints_.find(endpoint->id);
      found != endpoints_.end() && found->second == endpoint) {
    endpoints_.erase(found);
  }
  KickLocked(endpoint);
}

void StreamHub::KickLocked(const EndpointPtr& endpoint) {
  if (!std::exchange(endpoint->kicked, true)) {
    loop_.Post([hub = shared_from_this(), endpoint] {
      {
        const std::lock_guard lock(hub->mu_);
        endpoint->kicked = false;
      }
      hub->Run(endpoint);
    });
  }
}

void StreamHub::Run(const EndpointPtr& endpoint) {
  const std::lock_guard lock(mu_);
  const bool wait = endpoint->is_output ? SendOutputLocked(*endpoint) : WriteInputLocked(*endpoint);
  if (wait == (endpoint->token != EventLoop::Token::kNone)) {
    return;
  }
  if (!wait) {
    // Out of the loop altogether: a hang-up would be told again and again.
    loop_.Remove(std::exchange(endpoint->token, EventLoop::Token::kNone));
    return;
  }
  auto token = loop_.Add(endpoint->fd, endpoint->is_output ? EPOLLIN : EPOLLOUT,
                         [hub = shared_from_this(), endpoint](uint32_t) { hub->Run(endpoint); });
  if (token) {
    endpoint->token = *token;
  } else {
    WV_WARN("stream \"{}\": {}", endpoint->id, token.error().message());
    CloseLocked(*endpoint);
  }
}

bool StreamHub::SendOutputLocked(Endpoint& endpoint) {
  std::array<char, kChunk> buffer;
  for (int i = 0; i < kChunksPerTurn; ++i) {
    const ClientPtr client = endpoint.client;
    if (!endpoint.fd.valid() || (endpoint.released && client == nullptr)) {
      CloseLocked(endpoint);
      return false;
    }
    if (client == nullptr || client->granted <= 0) {
      return false;
    }
    const auto most = static_cast<size_t>(std::min(client->granted, kChunk));
    const ssize_t got = read(endpoint.fd.get(), buffer.data(), most);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      return true;
    }
    if (got <= 0) {
      CloseLocked(endpoint);
      return false;
    }
    client->granted -= got;
    spb::Data data;
    data.set_data(buffer.data(), static_cast<size_t>(got));
    if (!client->stream.Send(Wrapped(kData, data.SerializeAsString()))) {
      LeaveLocked(client);
    }
  }
  return true;
}

bool StreamHub::WriteInputLocked(Endpoint& endpoint) {
  while (endpoint.fd.valid() && !endpoint.pending.empty()) {
    const ssize_t put = write(endpoint.fd.get(), endpoint.pending.data(), endpoint.pending.size());
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0 && errno == EAGAIN) {
      return !endpoint.released;
    }
    if (put < 0) {
      CloseLocked(endpoint);  // nobody reads any more
      return false;
    }
    endpoint.pending.erase(0, static_cast<size_t>(put));
    if (endpoint.client != nullptr) {
      GrantLocked(endpoint);
    }
  }
  if (endpoint.released || !endpoint.fd.valid() ||
      (endpoint.input_closed && endpoint.client == nullptr)) {
    CloseLocked(endpoint);
  }
  return false;
}

void StreamHub::CloseLocked(Endpoint& endpoint) {
  loop_.Remove(std::exchange(endpoint.token, EventLoop::Token::kNone));
  endpoint.fd.Reset();
  endpoint.pending.clear();
  if (const ClientPtr client = endpoint.client; client != nullptr) {
    LeaveLocked(client);
  }
}

StreamHub::Lease::~Lease() {
  Release();
}

StreamHub::Lease& StreamHub::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    Release();
    hub_ = std::move(other.hub_);
    endpoint_ = std::move(other.endpoint_);
  }
  return *this;
}

void StreamHub::Lease::Release() {
  if (const auto hub = std::exchange(hub_, nullptr); hub != nullptr) {
    hub->Release(std::exchange(endpoint_, nullptr));
  }
}

void StreamHub::Lease::CloseInput() const {
  if (hub_ != nullptr) {
    const std::lock_guard lock(hub_->mu_);
    endpoint_->input_closed = true;
    hub_->KickLocked(endpoint_);
  }
}

}  // namespace wyvern::shim
