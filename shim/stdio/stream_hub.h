// stdio/stream_hub.h — containerd's streaming service: a process's stdio over ttrpc instead of FIFOs (ttrpc+unix://…?streaming_id=ID).
// Spec:    containerd api/services/streaming/v1, api/types/transfer: a bidirectional stream of Any. StreamInit names it, one message
//          acknowledges that; then Data and WindowUpdate. Who receives grants bytes by WindowUpdate, who sends stays within them.
// Shape:   behind each id is a pipe, which a process's pump sees as it sees a FIFO: a client may come first (containerd does), late, go and
//          come back; the last one to name an id has it. A client that does not grant leaves the pipe full: back-pressure, nothing else.
//          The end of a stream of stdin is no end of input: that is CloseInput, then the client's end. Output that its process has
//          ended is still read by the client that is there; without one it goes with the lease.
// Loss:    what was sent to a client that died (at most what it had granted, 64 KiB with containerd's).
// Errors:  to a client: INVALID_ARGUMENT for what is no such message, no StreamInit first, or data on an output's stream; RESOURCE_EXHAUSTED
//          for more data than was granted, and for too many that wait for an id nobody opens.
// Threads: any; bytes move on the loop's thread, which outlives the hub's users. Nothing blocks.
// Trust:   a client is root or ours (the server's accept filter); what it sends is bounded all the same.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "proto/containerd_types.pb.h"
#include "stdio/fifo.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

class StreamHub : public std::enable_shared_from_this<StreamHub> {
 public:
  static constexpr int64_t kWindow = 64
                                     << 10;  // what a client of stdin is granted: containerd's own
  static constexpr int64_t kChunk = 32 << 10;
  static constexpr size_t kMaxWaiting = 1024;
  static constexpr size_t kMaxId = 1024;

  static std::shared_ptr<StreamHub> Create(EventLoop& loop);
  StreamHub(const StreamHub&) = delete;
  StreamHub& operator=(const StreamHub&) = delete;
  ~StreamHub() = default;

  // containerd.services.streaming.v1.Streaming. Before the server serves.
  void Register(ttrpc::Server& server);

  struct Endpoint;

  // A process has an id as long as its lease lives.
  class Lease {
   public:
    Lease() = default;
    ~Lease();
    Lease(Lease&& other) noexcept = default;
    Lease& operator=(Lease&& other) noexcept;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    // Of stdin: its end follows when what came is read and no client is there.
    void CloseInput() const;

   private:
    friend class StreamHub;

    Lease(std::shared_ptr<StreamHub> hub, std::shared_ptr<Endpoint> endpoint)
        : hub_(std::move(hub)), endpoint_(std::move(endpoint)) {}

    void Release();

    std::shared_ptr<StreamHub> hub_;
    std::shared_ptr<Endpoint> endpoint_;
  };

  // For stdout or stderr. A lease of the same id that is still held gives it up.
  Result<Lease> OpenOutput(const std::string& id, OutputEnds* ends);
  // For stdin; ends->own_writer stays invalid: CloseInput takes its place.
  Result<Lease> OpenInput(const std::string& id, StdinEnds* ends);

 private:
  struct Client;
  using ClientPtr = std::shared_ptr<Client>;
  using EndpointPtr = std::shared_ptr<Endpoint>;

  explicit StreamHub(EventLoop& loop) : loop_(loop) {}

  ttrpc::RawStream::Receiver Accept(ttrpc::RawStream stream);
  Lease OpenLocked(EndpointPtr endpoint);
  void Release(const EndpointPtr& endpoint);
  Result<> TakeLocked(const ClientPtr& client, const std::string& message);
  Result<> InitLocked(const ClientPtr& client, const pb::Any& any);
  Result<> TakeDataLocked(const ClientPtr& client, const pb::Any& any);
  void AttachLocked(const EndpointPtr& endpoint, const ClientPtr& client);
  // The client has nothing more of us; `error`: why, if it is its fault.
  void LeaveLocked(const ClientPtr& client, std::optional<Error> error = {});
  void GrantLocked(Endpoint& endpoint);
  void KickLocked(const EndpointPtr& endpoint);
  // On the loop.
  void Run(const EndpointPtr& endpoint);
  // True: go on when the descriptor is ready.
  bool SendOutputLocked(Endpoint& endpoint);
  bool WriteInputLocked(Endpoint& endpoint);
  void CloseLocked(Endpoint& endpoint);

  EventLoop& loop_;
  std::mutex mu_;  // guards what follows and all clients and endpoints; before a connection's own
  std::map<std::string, EndpointPtr> endpoints_;
  std::map<std::string, ClientPtr> waiting_;  // for who opens their id
};

}  // namespace wyvern::shim
