// The sandbox's network namespace, and what of it the guest has.
#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "network/connect.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

uint64_t BytesPerSecond(uint64_t bits) {
  return bits == 0 ? 0 : std::max<uint64_t>(bits / 8, 1);
}

}  // namespace

Result<> SandboxImpl::OpenNetwork() {
  const std::string& path = facts_.network_namespace_path;
  if (!facts_.network_namespace) {
    return Fail(
        Code::kInvalidArgument,
        "config.json: the host's network was asked for (linux.namespaces has no network): a "
        "guest would have to take the host's interfaces away from it; give it a network "
        "namespace");
  }
  if (path.empty()) {
    WV_TRY(network_, MakeNetworkNamespace());
    return {};
  }
  WV_TRY(network_, OpenNetworkNamespace(path));
  return RefuseHostNamespace(network_);
}

Result<> SandboxImpl::ConnectNetwork() {
  WV_CHECK(sizer_.has_value());  // StartMachine came before
  pod_network_ = std::make_unique<PodNetwork>(
      PodNetwork::Options{.id = options_.id,
                          .network_namespace = network_,
                          .machine = machine_.get(),
                          .agent = agent_.get(),
                          .queues = std::min(sizer_->plan().boot.vcpus, kMaxQueues),
                          .receive_rate = BytesPerSecond(config_.network.rx_rate),
                          .transmit_rate = BytesPerSecond(config_.network.tx_rate),
                          .record = [this](const std::vector<int>& connected) {
                            return state_->Update("network", [&](SandboxRecord& record) {
                              record.network = {facts_.network_namespace_path, connected};
                            });
                          }});
  const int64_t start = timeline_.Now();
  // Before the first look: what comes in between is seen by one of them.
  WV_TRY_VOID(pod_network_->Watch(*loop_, [this] {
    pool_->Run([this] {
      if (auto done = SyncNetwork(); !done.has_value() && CheckAlive().has_value()) {
        WV_WARN("sandbox {}: its network has changed: {}", options_.id, done.error().message());
      }
    });
  }));
  WV_TRY_VOID(SyncNetwork());
  ForwardLoopback();
  timeline_.Add("network", start);
  return {};
}

// Of a pod: other clients go by its addresses.
void SandboxImpl::ForwardLoopback() {
  if (!facts_.stands_for_pod) {
    return;
  }
  auto forward =
      PodForward::Start(*loop_, *pool_, network_, [this](uint16_t port) -> Result<UniqueFd> {
        WV_TRY_VOID(CheckAlive());
        return agent_->DialTcp(port);
      });
  if (forward.has_value()) {
    pod_forward_ = std::move(*forward);
  } else {
    WV_WARN("sandbox {}: there is no port-forward to it: {}", options_.id,
            forward.error().message());
  }
}

Result<> SandboxImpl::SyncNetwork() {
  const Busy busy(*this);  // Shutdown, which closes the namespace, waits
  WV_TRY_VOID(CheckAlive());
  return pod_network_->Sync();
}

Result<> SandboxImpl::CloseNetwork() {
  if (pod_forward_ != nullptr) {
    pod_forward_->Close();
  }
  return pod_network_ == nullptr ? Result<>() : pod_network_->Close();
}

}  // namespace wyvern::runtime
