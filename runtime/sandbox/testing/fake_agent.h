// sandbox/testing/fake_agent.h — an agent without a guest: it says what a good one would, or what a test wants of a slow, hung or hostile one.
// Threads: any; it serves on a thread of its own.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/loop_thread.h"
#include "ttrpc/server.h"

namespace wyvern::runtime {

class FakeAgent {
 public:
  FakeAgent();
  ~FakeAgent();
  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;

  // For the machine; must not outlive the agent.
  GuestConnector Connector();

  // From now on calls of `method` fail with `code`, or are never answered.
  void Refuse(const std::string& method, Code code);
  void Hang(const std::string& method);
  // What Hello tells of a policy; before a sandbox starts.
  void Allow(const std::vector<std::string>& names);
  // SIGKILL is answered and does nothing.
  void Ignore(bool kills);
  // What AddDisk and RemoveDisk answer.
  void AnswerDisks(const agent_pb::AddDiskResponse& added,
                   const agent_pb::RemoveDiskResponse& removed);
  // From now on answers come this much later.
  void Delay(std::chrono::milliseconds delay);
  // What UpdateContainer brought, but for calls that were refused: "<id> <resources>".
  std::vector<std::string> Updates();
  // What SetNetwork brought, the last at the end, but for calls that were refused.
  std::vector<agent_pb::SetNetworkRequest> Networks();
  // The init of `id` ends.
  void Exit(const std::string& id, uint32_t status);
  // `count` events, one after the other.
  void SendOom(const std::string& id, int count, bool of_guest = false);
  // Of the last CreateSandbox.
  agent_pb::CreateSandboxRequest sandbox();

 private:
  template <typename Req, typename Resp>
  void Add(const char* method,
           std::function<void(const Req&, const ttrpc::Responder<Resp>&)> answer);
  void Register();
  void ExitNow(const std::string& id, uint32_t status);

  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::Server> server_;
  // The loop's thread only.
  std::map<std::string, Code> faults_;  // kOk: no answer
  agent_pb::CreateSandboxRequest sandbox_;
  std::optional<agent_pb::Policy> policy_;
  bool ignores_kills_ = false;
  std::vector<std::string> updates_;
  std::vector<agent_pb::SetNetworkRequest> networks_;
  agent_pb::AddDiskResponse disk_added_;
  agent_pb::RemoveDiskResponse disk_removed_;
  std::chrono::milliseconds delay_{0};
  std::vector<std::function<void()>> hung_;  // keeps their responders
  std::multimap<std::string, ttrpc::Responder<agent_pb::WaitProcessResponse>> waiters_;  // of inits
  std::map<std::string, uint32_t> exits_;
  std::vector<ttrpc::ServerStream<agent_pb::Event>> watchers_;
  std::vector<UniqueFd> stdio_;
};

}  // namespace wyvern::runtime
