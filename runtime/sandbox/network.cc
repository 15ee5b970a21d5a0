// The sandbox's network namespace, and what of it the guest has.
#include <fmt/format.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "hypervisor/passt.h"
#include "network/connect.h"
#include "network/guest_network.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

uint64_t BytesPerSecond(uint64_t bits) {
  return bits == 0 ? 0 : std::max<uint64_t>(bits / 8, 1);
}

// What a namespace with passt's interface would show.
NetworkScan UserScan() {
  Interface interface;
  interface.index = 1;
  interface.name = "eth0";
  interface.mac = kUserMac;
  interface.mtu = kUserMtu;
  interface.up = true;
  InterfaceAddress address;
  address.address = fmt::format("{}/{}", kUserAddress, kUserPrefix);
  interface.addresses.push_back(std::move(address));
  Route route;
  route.destination = "0.0.0.0/0";
  route.gateway = kUserGateway;
  route.interface = interface.name;
  route.type = RTN_UNICAST;
  NetworkScan scan;
  scan.interfaces.push_back(std::move(interface));
  scan.routes.push_back(std::move(route));
  return scan;
}

}  // namespace

Result<> SandboxImpl::OpenNetwork() {
  const std::string& path = facts_.network_namespace_path;
  if (!facts_.network_namespace) {
    return UseHostNetwork();
  }
  if (path.empty()) {
    WV_TRY(network_, MakeNetworkNamespace());
  } else {
    WV_TRY(network_, OpenNetworkNamespace(path));
    if (auto refused = RefuseHostNamespace(network_); !refused.has_value()) {
      return config_.network.host == Config::HostNetwork::kRefuse ? std::move(refused)
                                                                  : UseHostNetwork();
    }
  }
  if (!options_.published.empty()) {
    return Fail(Code::kInvalidArgument,
                "ports can be published of a user network only: this sandbox has a network "
                "namespace of its own");
  }
  return {};
}

// Of passt's sockets and of anchors: the guest gets nothing of that namespace.
Result<> SandboxImpl::UseHostNetwork() {
  if (config_.network.host == Config::HostNetwork::kRefuse) {
    return Fail(
        Code::kInvalidArgument,
        "config.json: the host's network was asked for (linux.namespaces has no network): a "
        "guest would have to take the host's interfaces away from it; give it a network "
        "namespace, or set network.host to passt");
  }
  WV_TRY(network_, OpenNetworkNamespace("/proc/self/ns/net"));
  user_network_ = true;
  return {};
}

std::optional<UserNetwork> SandboxImpl::UserNetworkOptions() const {
  if (!user_network_) {
    return std::nullopt;
  }
  return UserNetwork{.passt = config_.paths.passt,
                     .host_loopback = config_.network.host_loopback,
                     .published = options_.published};
}

Result<> SandboxImpl::ConnectNetwork() {
  WV_CHECK(sizer_.has_value());  // StartMachine came before
  if (user_network_) {
    return agent_->SetNetwork(ToSetNetwork(UserScan()));
  }
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
  if (pod_network_ == nullptr) {
    return {};  // passt's never changes
  }
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
