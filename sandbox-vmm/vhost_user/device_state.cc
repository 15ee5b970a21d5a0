#include "vhost_user/device_state.h"

namespace wyvern::vhost_user {

namespace {

class EmptyState final : public DeviceState {
 public:
  Result<std::vector<std::byte>> Save() override { return std::vector<std::byte>(); }

  Result<> Load(std::span<const std::byte> state) override {
    if (!state.empty()) {
      return Fail(Code::kInvalidArgument, "the state of another device: this one has none");
    }
    return {};
  }
};

}  // namespace

std::shared_ptr<DeviceState> NoDeviceState() {
  return std::make_shared<EmptyState>();
}

}  // namespace wyvern::vhost_user
