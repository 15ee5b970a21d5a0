// agent_client/agent_client.h — the agent in the guest: typed calls over ttrpc, stdio streams beside it.
// Errors:  the agent's status with its code; UNAVAILABLE when the guest is gone; DEADLINE_EXCEEDED after the call timeout.
// Trust:   the guest is not trusted: answers are bounded by ttrpc, numbers are checked here, texts go into messages only.
// Threads: any; callbacks run on the client's reader thread and must not block.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "proto/agent.pb.h"
#include "ttrpc/client.h"

namespace wyvern::runtime {

namespace agent_pb = wyvern::agent::v1;

inline constexpr uint32_t kAgentPort = 100;
inline constexpr uint32_t kStdioPort = 102;
inline constexpr size_t kStdioTokenSize = 32;

// Opens a stream to a port of the guest; UNAVAILABLE: nobody listens.
using GuestConnector = std::function<Result<UniqueFd>(uint32_t port)>;

struct StdioWanted {
  bool terminal = false;
  bool in = false, out = false, err = false;
  uint32_t rows = 0, columns = 0;
};

// Host ends, connected and announced to the agent; `message` goes into the call that makes the process.
struct StdioStreams {
  UniqueFd in, out, err;
  agent_pb::Stdio message;
};

struct AgentOptions {
  std::chrono::milliseconds boot_timeout{60000};
  std::chrono::milliseconds call_timeout{60000};
  std::function<void()> on_close;  // the connection ended by itself
  // The kernel killed something in the container: it had reached its limit, or the guest as a whole had no memory left.
  std::function<void(const std::string& container_id)> on_oom;
  std::function<void(const std::string& container_id)> on_guest_oom;
  // Somebody waits at that socket of AddSocket; the guest's word.
  std::function<void(const std::string& name)> on_socket;
  std::function<bool()> give_up;  // asked while connecting: true ends it at once
};

class AgentClient {
 public:
  // Connects with retries until the agent listens or boot_timeout is over, then says Hello (protocol, clock, entropy).
  static Result<std::unique_ptr<AgentClient>> Connect(GuestConnector connector,
                                                      AgentOptions options);
  ~AgentClient();
  AgentClient(const AgentClient&) = delete;
  AgentClient& operator=(const AgentClient&) = delete;

  const agent_pb::HelloResponse& hello() const { return hello_; }

  // Subscribes to events; call once. What the answer names is the guest's word.
  Result<agent_pb::CreateSandboxResponse> CreateSandbox(
      const agent_pb::CreateSandboxRequest& request);
  // A connection to a port of the guest's own loopback. UNAVAILABLE: nobody listens.
  Result<UniqueFd> DialTcp(uint16_t port);
  Result<> AddSocket(const agent_pb::AddSocketRequest& request);
  // Who has waited longest at that socket. UNAVAILABLE: nobody does.
  Result<UniqueFd> AcceptSocket(const std::string& name);
  // Of a sandbox that was created as a pod.
  Result<> SharePids();
  Result<StdioStreams> OpenStdio(const StdioWanted& wanted);
  Result<> CreateContainer(const std::string& id, const std::string& config_json,
                           const agent_pb::Stdio& stdio);
  Result<> AddProcess(const std::string& id, const std::string& exec_id,
                      const std::string& process_json, const agent_pb::Stdio& stdio);
  // Outside of every container; its id is empty in the other calls.
  Result<> AddGuestProcess(const std::string& exec_id, agent_pb::GuestCommand command,
                           const agent_pb::Stdio& stdio);
  Result<> StartProcess(const std::string& id, const std::string& exec_id);
  // `done` once: the exit status 0..255, or why it will never be known.
  void WaitProcess(const std::string& id, const std::string& exec_id,
                   std::function<void(Result<uint32_t>)> done);
  // `limit` 0: the call timeout.
  Result<> SignalProcess(const std::string& id, const std::string& exec_id, uint32_t signal,
                         bool all, std::chrono::milliseconds limit = {});
  Result<> ResizeTerminal(const std::string& id, const std::string& exec_id, uint32_t rows,
                          uint32_t columns);
  Result<> CloseStdin(const std::string& id, const std::string& exec_id);
  Result<> DeleteProcess(const std::string& id, const std::string& exec_id);
  Result<> PauseContainer(const std::string& id);
  Result<> ResumeContainer(const std::string& id);
  Result<> UpdateContainer(const std::string& id, const std::string& resources_json);
  // `limit` 0: the call timeout, here and below.
  Result<agent_pb::ContainerStatsResponse> ContainerStats(const std::string& id,
                                                          std::chrono::milliseconds limit = {});
  // Of the guest as a whole.
  Result<agent_pb::GuestUsageResponse> GuestUsage(std::chrono::milliseconds limit = {});
  Result<> SyncFilesystems(std::chrono::milliseconds timeout);
  Result<> DetachShare(const std::string& name);
  // INTERNAL: an answer that no guest of ours gives.
  Result<agent_pb::AddDiskResponse> AddDisk(const agent_pb::AddDiskRequest& request);
  Result<agent_pb::RemoveDiskResponse> RemoveDisk(const std::string& serial);
  // The guest's word. `limit` 0: the call timeout.
  Result<agent_pb::DiskUsageResponse> DiskUsage(const std::string& serial, bool grow,
                                                std::chrono::milliseconds limit);
  // The whole of the pod's network. May come before CreateSandbox, whose sysctls may be those of an interface by its name. Of an error that is not INVALID_ARGUMENT, DEADLINE_EXCEEDED or UNAVAILABLE, the rest of the request
  // is done: the same again, or the next change, tries what failed once more. `limit` 0: the call timeout; the agent itself gives
  // up after 10 s.
  Result<> SetNetwork(const agent_pb::SetNetworkRequest& request,
                      std::chrono::milliseconds limit = {});
  // Volumes in the guest's memory. Removing one that is not there: success.
  Result<> AddVolume(const agent_pb::AddVolumeRequest& request);
  Result<> SetVolumeFiles(const agent_pb::SetVolumeFilesRequest& request,
                          std::chrono::milliseconds limit = {});
  Result<> RemoveVolume(const std::string& name);
  // Ends the connection: calls in flight fail with UNAVAILABLE, no callback runs or comes after it returned. Not from a callback.
  void Close();

 private:
  struct Rep;
  explicit AgentClient(std::unique_ptr<Rep> rep);
  template <typename Response, typename Request>
  Result<Response> Call(const char* method, const Request& request,
                        std::chrono::milliseconds timeout);
  template <typename Request>
  Result<> CallEmpty(const char* method, const Request& request);
  Result<> Hello();
  Result<UniqueFd> OpenStream(std::string* token);
  void WatchEvents();

  std::unique_ptr<Rep> rep_;
  agent_pb::HelloResponse hello_;
};

}  // namespace wyvern::runtime
