// What containers may use: of the guest by their own cgroups there, of the host together.
#include "base/log.h"
#include "cgroup/sum.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {

Result<> SandboxImpl::ApplyHostLimits() {
  WV_CHECK(cgroup_.has_value());  // MakeCgroup came before
  {
    const std::lock_guard applying(limits_mu_);
    std::vector<Limits> limits;
    {
      const std::lock_guard lock(mu_);
      for (const auto& [id, container] : containers_) {
        if (container->counts && !container->Stopped()) {
          limits.push_back(container->limits);
        }
      }
    }
    WV_TRY_VOID_CONTEXT(host_limits_.Apply(*cgroup_, limits), "the sandbox's cgroup on the host");
  }
  PinVcpus();
  return {};
}

// Vcpus that are not bound are slower and no less right: that is a line in the log.
void SandboxImpl::PinVcpus() {
  if (!config_.sandbox.pin_vcpus) {
    return;
  }
  const std::lock_guard applying(limits_mu_);
  auto size = machine_->Size();
  auto cpus = host_limits_.cpus().empty() ? Result<std::vector<uint32_t>>()
                                          : ParseCpuList(host_limits_.cpus());
  auto done = !size.has_value()   ? tl::unexpected(std::move(size).error())
              : !cpus.has_value() ? tl::unexpected(std::move(cpus).error())
                                  : pins_.Apply(size->vcpus, *cpus);
  if (!done.has_value()) {
    WV_WARN("sandbox {}: sandbox.pin_vcpus: {}", options_.id, done.error().message());
  }
}

Result<> SandboxImpl::GrantHostLimits(const ContainerPtr& container) {
  const oci::Facts& facts = container->host->facts();
  {
    const std::lock_guard lock(mu_);
    container->limits = facts.limits;
    container->counts = !container->stands_for_pod;
  }
  WV_TRY_VOID(container->host->ShowMemoryLimit(facts.limits));
  return ApplyHostLimits();
}

// After one has gone, or was not made after all: what is granted in vain is no reason to fail.
void SandboxImpl::ReduceHostLimits() {
  {
    const std::lock_guard lock(mu_);
    if (death_.has_value() || stopping_) {
      return;
    }
  }
  if (auto applied = ApplyHostLimits(); !applied.has_value()) {
    WV_WARN("sandbox {}: {}", options_.id, applied.error().message());
  }
}

Result<> SandboxImpl::UpdateContainer(const std::string& id, const std::string& resources_json) {
  WV_TRY(const ContainerPtr container, FindContainer(id));
  WV_TRY_VOID(CheckAlive());
  if (container->host == nullptr) {
    return Fail(Code::kInvalidArgument, "the guest itself has no limits: name a container");
  }
  WV_TRY(const Limits update, oci::ParseResources(resources_json));
  const std::lock_guard updating(resize_mu_);
  Limits before;
  {
    const std::lock_guard lock(mu_);
    before = container->limits;
  }
  const Limits after = Merged(before, update);
  WV_TRY_VOID(CheckLimits(after));
  std::vector<std::string> notes;
  WV_TRY(const std::string resources,
         oci::TranslateResources(resources_json, after, container->host->devices(), &notes));
  for (const std::string& note : notes) {
    WV_INFO("container {}: update: {}", id, note);
  }
  const auto count_with = [&](const Limits& limits) {
    const std::lock_guard lock(mu_);
    container->limits = limits;
  };
  count_with(after);
  auto done = GrowTo(WantedSize());
  if (done.has_value()) {
    done = container->host->ShowMemoryLimit(after);
  }
  if (done.has_value()) {
    done = ApplyHostLimits();
  }
  if (done.has_value() && !container->stands_for_pod) {
    done = agent_->UpdateContainer(id, resources);
  }
  if (!done.has_value()) {
    count_with(before);
    static_cast<void>(container->host->ShowMemoryLimit(before));
    ReduceHostLimits();
  }
  ShrinkSoon();
  return done;
}

}  // namespace wyvern::runtime
