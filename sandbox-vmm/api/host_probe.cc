#include "api/host_probe.h"

#include "kvm/probe.h"

namespace wyvern::api {

namespace {

KvmState ToState(kvm::KvmVerdict verdict) {
  switch (verdict) {
    case kvm::KvmVerdict::kWorks:
      return KvmState::kWorks;
    case kvm::KvmVerdict::kInterprets:
      return KvmState::kInterprets;
    case kvm::KvmVerdict::kUnusable:
      return KvmState::kUnusable;
    case kvm::KvmVerdict::kAbsent:
      break;
  }
  return KvmState::kAbsent;
}

}  // namespace

KvmAnswer ProbeKvm(const std::string& path) {
  const kvm::KvmProbe probe = kvm::ProbeKvm(path);
  return {ToState(probe.verdict), probe.detail, probe.remedy};
}

}  // namespace wyvern::api
