#include "sandbox/testing/fake_agent.h"

#include <sys/socket.h>

#include <csignal>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::runtime {
namespace {

constexpr char kAgentService[] = "wyvern.agent.v1.Agent";

}  // namespace

FakeAgent::FakeAgent() {
  disk_added_.set_major(254);
  auto loop = LoopThread::Start("fake-agent");
  WV_CHECK(loop.has_value());
  loop_ = std::move(*loop);
  loop_->Call([this] {
    auto server = ttrpc::Server::Create(loop_->loop());
    WV_CHECK(server.has_value());
    server_ = std::move(*server);
    Register();
  });
}

FakeAgent::~FakeAgent() {
  loop_->Call([this] {
    hung_.clear();
    waiters_.clear();
    watchers_.clear();
    server_.reset();
  });
}

GuestConnector FakeAgent::Connector() {
  return [this](uint32_t port) -> Result<UniqueFd> {
    WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
    loop_->Call([&] {
      if (port == kAgentPort) {
        WV_CHECK(server_->Adopt(std::move(pair.first)).has_value());
      } else {
        stdio_.push_back(std::move(pair.first));
      }
    });
    return std::move(pair.second);
  };
}

template <typename Req, typename Resp>
void FakeAgent::Add(const char* method,
                    std::function<void(const Req&, const ttrpc::Responder<Resp>&)> answer) {
  server_->RegisterUnary<Req, Resp>(
      kAgentService, method,
      [this, name = std::string(method), answer = std::move(answer)](
          const Req& request, const ttrpc::CallContext&, const ttrpc::Responder<Resp>& responder) {
        const auto fault = faults_.find(name);
        if (fault != faults_.end() && fault->second == Code::kOk) {
          hung_.push_back([responder] {});
        } else if (fault != faults_.end()) {
          responder.Fail(Error(fault->second, "the agent refuses"));
        } else if (delay_.count() > 0) {
          loop_->loop().After(delay_, [answer, request, responder] { answer(request, responder); });
        } else {
          answer(request, responder);
        }
      });
}

void FakeAgent::Register() {
  const auto empty = [](const auto&, const ttrpc::Responder<agent_pb::Empty>& responder) {
    responder.Ok({});
  };
  Add<agent_pb::HelloRequest, agent_pb::HelloResponse>("Hello", [this](const auto&, const auto& r) {
    agent_pb::HelloResponse response;
    response.set_protocol(1);
    response.add_block_filesystems("ext4");
    if (policy_.has_value()) {
      *response.mutable_policy() = *policy_;
    }
    r.Ok(response);
  });
  Add<agent_pb::CreateSandboxRequest, agent_pb::CreateSandboxResponse>(
      "CreateSandbox", [this](const agent_pb::CreateSandboxRequest& request, const auto& r) {
        sandbox_ = request;
        r.Ok({});
      });
  Add<agent_pb::CreateContainerRequest, agent_pb::CreateContainerResponse>(
      "CreateContainer", [](const auto&, const auto& r) { r.Ok({}); });
  Add<agent_pb::AddProcessRequest, agent_pb::Empty>("AddProcess", empty);
  Add<agent_pb::ProcessRef, agent_pb::StartProcessResponse>(
      "StartProcess", [](const auto&, const auto& r) { r.Ok({}); });
  Add<agent_pb::ProcessRef, agent_pb::WaitProcessResponse>(
      "WaitProcess", [this](const agent_pb::ProcessRef& request, const auto& responder) {
        waiters_.emplace(request.exec_id().empty() ? request.id() : "", responder);
        if (const auto exit = exits_.find(request.id()); exit != exits_.end()) {
          ExitNow(request.id(), exit->second);
        }
      });
  Add<agent_pb::SignalRequest, agent_pb::Empty>(
      "SignalProcess", [this](const agent_pb::SignalRequest& request, const auto& responder) {
        responder.Ok({});
        if (request.signal() == SIGKILL && !ignores_kills_) {
          ExitNow(request.id(), 128 + SIGKILL);
        }
      });
  Add<agent_pb::ProcessRef, agent_pb::WaitProcessResponse>(
      "DeleteProcess", [this](const agent_pb::ProcessRef& request, const auto& responder) {
        exits_.erase(request.id());
        responder.Ok({});
      });
  Add<agent_pb::ContainerRef, agent_pb::ContainerStatsResponse>(
      "ContainerStats", [](const auto&, const auto& r) { r.Ok({}); });
  Add<agent_pb::UpdateRequest, agent_pb::Empty>(
      "UpdateContainer", [this](const agent_pb::UpdateRequest& request, const auto& responder) {
        updates_.push_back(request.id() + " " + request.resources_json());
        responder.Ok({});
      });
  Add<agent_pb::Empty, agent_pb::GuestUsageResponse>("GuestUsage", [](const auto&, const auto& r) {
    agent_pb::GuestUsageResponse response;
    response.set_memory_total(256U << 20U);
    response.set_memory_available(uint64_t{1} << 40U);  // nothing is in use
    r.Ok(response);
  });
  Add<agent_pb::Empty, agent_pb::Empty>("SyncFilesystems", empty);
  Add<agent_pb::DetachShareRequest, agent_pb::Empty>("DetachShare", empty);
  Add<agent_pb::AddDiskRequest, agent_pb::AddDiskResponse>(
      "AddDisk", [this](const auto&, const auto& r) { r.Ok(disk_added_); });
  Add<agent_pb::RemoveDiskRequest, agent_pb::RemoveDiskResponse>(
      "RemoveDisk", [this](const auto&, const auto& r) { r.Ok(disk_removed_); });
  Add<agent_pb::SetNetworkRequest, agent_pb::Empty>(
      "SetNetwork", [this](const agent_pb::SetNetworkRequest& request, const auto& r) {
        networks_.push_back(request);
        r.Ok({});
      });
  Add<agent_pb::AddVolumeRequest, agent_pb::Empty>("AddVolume", empty);
  Add<agent_pb::SetVolumeFilesRequest, agent_pb::Empty>("SetVolumeFiles", empty);
  Add<agent_pb::RemoveVolumeRequest, agent_pb::Empty>("RemoveVolume", empty);
  server_->RegisterServerStream<agent_pb::Empty, agent_pb::Event>(
      kAgentService, "WatchEvents",
      [this](const agent_pb::Empty&, const ttrpc::CallContext&,
             ttrpc::ServerStream<agent_pb::Event> stream) {
        watchers_.push_back(std::move(stream));
      });
}

void FakeAgent::Refuse(const std::string& method, Code code) {
  loop_->Call([&] { faults_[method] = code; });
}

void FakeAgent::Hang(const std::string& method) {
  Refuse(method, Code::kOk);
}

void FakeAgent::Allow(const std::vector<std::string>& names) {
  loop_->Call([&] {
    policy_.emplace();
    policy_->mutable_allow()->Assign(names.begin(), names.end());
  });
}

void FakeAgent::Ignore(bool kills) {
  loop_->Call([&] { ignores_kills_ = kills; });
}

void FakeAgent::AnswerDisks(const agent_pb::AddDiskResponse& added,
                            const agent_pb::RemoveDiskResponse& removed) {
  loop_->Call([&] {
    disk_added_ = added;
    disk_removed_ = removed;
  });
}

std::vector<std::string> FakeAgent::Updates() {
  std::vector<std::string> updates;
  loop_->Call([&] { updates = updates_; });
  return updates;
}

std::vector<agent_pb::SetNetworkRequest> FakeAgent::Networks() {
  std::vector<agent_pb::SetNetworkRequest> networks;
  loop_->Call([&] { networks = networks_; });
  return networks;
}

void FakeAgent::Delay(std::chrono::milliseconds delay) {
  loop_->Call([&] { delay_ = delay; });
}

void FakeAgent::ExitNow(const std::string& id, uint32_t status) {
  exits_[id] = status;
  agent_pb::WaitProcessResponse response;
  response.set_exit_status(status);
  const auto [first, last] = waiters_.equal_range(id);
  for (auto it = first; it != last; ++it) {
    it->second.Ok(response);
  }
  waiters_.erase(first, last);
}

void FakeAgent::Exit(const std::string& id, uint32_t status) {
  loop_->Call([&] { ExitNow(id, status); });
}

agent_pb::CreateSandboxRequest FakeAgent::sandbox() {
  agent_pb::CreateSandboxRequest copy;
  loop_->Call([&] { copy = sandbox_; });
  return copy;
}

void FakeAgent::SendOom(const std::string& id, int count, bool of_guest) {
  agent_pb::Event event;
  event.set_container_id(id);
  if (of_guest) {
    event.mutable_guest_oom();
  } else {
    event.mutable_oom();
  }
  loop_->Call([&] {
    for (int i = 0; i < count; ++i) {
      for (const auto& watcher : watchers_) {
        static_cast<void>(watcher.Send(event));
      }
    }
  });
}

}  // namespace wyvern::runtime
