#include "control/size_messages.h"

namespace wyvern::shim {

runtime::SizeWish WishOf(const control::v1::ResizeRequest& request) {
  runtime::SizeWish wish;
  if (request.vcpus() != 0) {
    wish.vcpus = request.vcpus();
  }
  if (request.memory_bytes() != 0) {
    wish.memory = request.memory_bytes();
  }
  return wish;
}

control::v1::SizeResponse ToMessage(const runtime::SandboxSize& size) {
  control::v1::SizeResponse response;
  for (const runtime::SandboxVcpu& each : size.vcpus) {
    auto& vcpu = *response.add_vcpus();
    vcpu.set_vcpu(each.vcpu);
    vcpu.set_thread(static_cast<uint32_t>(each.thread));
  }
  response.set_max_vcpus(size.max_vcpus);
  response.set_memory_bytes(size.memory);
  response.set_boot_memory_bytes(size.boot_memory);
  response.set_max_memory_bytes(size.max_memory);
  return response;
}

}  // namespace wyvern::shim
