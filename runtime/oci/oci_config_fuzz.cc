// config.json as anyone may write it: parsing and translating end in a value or an error, and what comes out parses again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "oci/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto spec = oci::Spec::Parse(text);
  if (spec.has_value()) {
    oci::TranslateOptions options{.container_id = "c", .bundle = "/b", .share_prefix = "c0"};
    options.disk_filesystems = {"ext4", "erofs"};
    constexpr std::string_view kGuests[] = {"x86_64", "aarch64", "riscv64"};
    options.arch = kGuests[size % 3];
    uint32_t minor = 0;
    for (const oci::BlockDevice& device : spec->facts().block_devices) {
      options.devices[device.number] = {254, minor++};
    }
    auto guest = spec->Translate(options);
    // Two of ours may come to the files that a container may name.
    if (guest.has_value() && spec->facts().limits.unified.size() < 60) {
      WV_CHECK(oci::Spec::Parse(guest->config_json).has_value());
    }
  }
  std::vector<std::string> notes;
  static_cast<void>(oci::TranslateProcess(text, true, &notes));
  // Update after update: what is checked once is in order for the guest and for the host.
  const auto limits = oci::ParseResources(text);
  if (limits.has_value() && runtime::CheckLimits(*limits).has_value()) {
    static_cast<void>(runtime::ControlWrites(*limits, false));
    static_cast<void>(runtime::UnitProperties(*limits));
    const auto resources = oci::TranslateResources(text, *limits, {{{8, 0}, {254, 0}}}, &notes);
    WV_CHECK(resources.has_value());
    WV_CHECK(oci::ParseResources(*resources).has_value());
  }
  return 0;
}
