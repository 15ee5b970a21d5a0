// volume/host_sockets.h — unix sockets of the host that containers have by bind mounts: who connects in the guest reaches who listens on the host.
// Method:  a socket of the guest's stands for it (AddSocket of agent.proto), with its mode and owner. The guest tells that somebody waits; we take
//          him, connect on the host, and pass on bytes and the ends of either way (base/stream_relay.h).
// Which:   those of sockets.proxy, by the very path that a mount names. Any other is on a share, where nobody answers.
// Bounds:  kMaxProxied connections of a sandbox; more wait in the guest, as those do for which we have no descriptor.
// Limits:  streams only: no datagrams, no descriptors, no credentials: the server sees root of the host, whoever it is in the guest. A connection is
//          taken before the host's server is asked: where that refuses, it ends at once.
// Trust:   the guest names sockets that it knows, as often as it likes: each is asked for one at a time.
// Threads: any, but for the loop's.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/loop_thread.h"
#include "base/stream_relay.h"
#include "oci/spec.h"

namespace wyvern::runtime {

inline constexpr size_t kMaxProxied = 128;

class HostSockets {
 public:
  struct Options {
    std::string id;                    // of the sandbox, for log lines
    std::vector<std::string> sources;  // sockets.proxy
    std::function<Result<>(const agent_pb::AddSocketRequest& request)> add;
    std::function<Result<UniqueFd>(const std::string& name)> accept;
    LoopThread* loop = nullptr;  // outlives Close
    std::function<void(std::function<void()> work)> run =
        {};  // on another thread than the loop's; what it began is done before this ends
  };

  explicit HostSockets(Options options) : options_(std::move(options)) {}

  ~HostSockets() { Close(); }

  HostSockets(const HostSockets&) = delete;
  HostSockets& operator=(const HostSockets&) = delete;

  // Where the guest has `source`; nullopt: it is none of ours. FAILED_PRECONDITION: it is no socket. The guest's errors.
  Result<std::optional<oci::GuestSource>> Take(const std::string& source);
  // Somebody waits at the guest's socket `name`. Does not block.
  void Pending(const std::string& name);
  // Connections end, and there are no more. Idempotent; before the loop's end.
  void Close();

 private:
  struct Socket {
    std::string source;
    bool asked = false;    // Pending came, and nobody has looked since
    bool serving = false;  // somebody looks
  };

  void Serve(const std::string& name);
  bool Next(const std::string& name);
  void Join(const std::string& source, UniqueFd stream);
  void Ended();

  const Options options_;
  std::mutex add_mu_;  // held while the guest is waited for
  std::mutex mu_;
  std::map<std::string, Socket> sockets_;  // by the guest's name
  std::set<std::shared_ptr<StreamRelay>> relays_;
  uint64_t next_ = 0;
  size_t count_ = 0;  // connections, and those that are being made
  bool closed_ = false;
};

}  // namespace wyvern::runtime
