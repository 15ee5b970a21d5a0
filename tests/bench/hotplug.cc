#include "bench/hotplug.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "base/fd.h"

namespace wyvern::bench {

namespace pb = wyvern::vmm::v1;

namespace {

constexpr uint64_t kDiskBytes = uint64_t{8} << 20U;

void Print(const char* what, const std::string& id, const std::string& node, int64_t start) {
  fmt::print("{{\"hotplug\": \"{}\", \"device\": \"{}\", \"node\": \"{}\", \"ms\": {:.3f}}}\n",
             what, id, node, static_cast<double>(NowNs() - start) / 1e6);
  fflush(stdout);
}

Result<> Come(VmmProcess& vmm, const pb::AttachDeviceRequest& request) {
  const int64_t start = NowNs();
  WV_TRY(const pb::AttachDeviceResponse attached, vmm.Attach(request));
  Print("attach", request.id(), attached.node(), start);
  return {};
}

Result<> Go(VmmProcess& vmm, const std::string& id) {
  pb::DetachDeviceRequest request;
  request.set_id(id);
  const int64_t start = NowNs();
  WV_TRY_VOID(vmm.Detach(request));
  Print("detach", id, "", start);
  return {};
}

Result<> Disk(VmmProcess& vmm, int round) {
  pb::AttachDeviceRequest request;
  request.set_id("hot-disk");
  WV_TRY(const UniqueFd disk, MakeMemfd("disk", kDiskBytes));
  WV_TRY(*request.mutable_blk()->mutable_fd(), vmm.Donate(api::DonationKind::kBlock, disk));
  request.mutable_blk()->set_serial(fmt::format("hot{}", round));
  return Come(vmm, request);
}

Result<> Random(VmmProcess& vmm) {
  pb::AttachDeviceRequest request;
  request.set_id("hot-rng");
  request.mutable_rng();
  return Come(vmm, request);
}

Result<> Image(VmmProcess& vmm, const std::string& path) {
  pb::AttachDeviceRequest request;
  request.set_id("hot-pmem");
  WV_TRY(const UniqueFd image, Open(path, O_RDONLY));
  WV_TRY(*request.mutable_pmem()->add_fd(), vmm.Donate(api::DonationKind::kImage, image));
  return Come(vmm, request);
}

}  // namespace

Result<> ComeAndGo(VmmProcess& vmm, const std::string& image, int rounds) {
  static constexpr std::array kDevices = {"hot-disk", "hot-rng", "hot-pmem"};
  for (int round = 0; round < rounds; ++round) {
    WV_TRY_VOID(Disk(vmm, round));
    WV_TRY_VOID(Random(vmm));
    WV_TRY_VOID(Image(vmm, image));
    for (size_t i = 0; i < kDevices.size(); ++i) {
      WV_TRY_VOID(Go(vmm, kDevices.at((i + static_cast<size_t>(round)) % kDevices.size())));
    }
  }
  return {};
}

}  // namespace wyvern::bench
