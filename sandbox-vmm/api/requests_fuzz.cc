// Every byte string as Create and AttachDevice: a spec within its limits, or a typed refusal.
#include <fcntl.h>

#include "api/requests.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  api::DonationStore store;
  for (const auto& [kind, name] : {std::pair{api::DonationKind::kKvm, "kvm"},
                                   {api::DonationKind::kKernel, "kernel"},
                                   {api::DonationKind::kBlock, "b"},
                                   {api::DonationKind::kImage, "i"},
                                   {api::DonationKind::kImage, "j"},
                                   {api::DonationKind::kVhostUser, "v"}}) {
    WV_CHECK(store.Add(kind, name, UniqueFd()).has_value());
  }
  vmm::v1::CreateRequest create;
  if (create.ParseFromArray(data, static_cast<int>(size))) {
    const auto spec = api::ParseCreate(create, store);
    WV_CHECK(!spec || (spec->vcpus >= 1 && spec->vcpus <= api::kMaxVcpus &&
                       spec->memory_bytes <= api::kMaxMemory));
  }
  vmm::v1::AttachDeviceRequest attach;
  if (attach.ParseFromArray(data, static_cast<int>(size))) {
    const auto spec = api::ParseDevice(attach, store);
    WV_CHECK(spec || spec.error().code() == Code::kInvalidArgument ||
             spec.error().code() == Code::kNotFound);
    const auto* fs = spec ? std::get_if<api::VhostUserFsSpec>(&*spec) : nullptr;
    WV_CHECK(fs == nullptr || fs->dax_window <= api::kMaxDaxWindow);
    const auto* pmem = spec ? std::get_if<api::PmemSpec>(&*spec) : nullptr;
    WV_CHECK(pmem == nullptr || (!pmem->images.empty() && pmem->images.size() <= 2));
  }
  return 0;
}
