#include "agent/pci_hotplug.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <utility>

#include "agent/guest_device.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr char kDevices[] = "/sys/bus/pci/devices/";
constexpr char kPciDriver[] = "virtio-pci";

// "hhhh:hh:hh.d", as the kernel writes it: small letters, slot below 32, function below 8.
bool IsPciAddress(std::string_view text) {
  constexpr std::string_view kForm = "xxxx:xx:xx.o";
  if (text.size() != kForm.size()) {
    return false;
  }
  for (size_t i = 0; i < kForm.size(); ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    const bool fits = kForm[i] == 'x'   ? digit || (c >= 'a' && c <= 'f')
                      : kForm[i] == 'o' ? c >= '0' && c <= '7'
                                        : c == kForm[i];
    if (!fits) {
      return false;
    }
  }
  return text[8] == '0' || text[8] == '1';
}

}  // namespace

Result<PciPlace> ParsePciPlace(const std::string& address) {
  const size_t slash = address.find('/');
  const std::string first = address.substr(0, slash);
  if (!IsPciAddress(first) || first.substr(5, 2) != "00") {
    return Fail(Code::kInvalidArgument,
                "address: \"0000:00:05.0\" on bus 0, or \"0000:00:1e.3/0\" behind a port there");
  }
  if (slash == std::string::npos) {
    return PciPlace{.port = "", .function = first};
  }
  const std::string second = address.substr(slash + 1);
  if (second.size() != 1 || second[0] < '0' || second[0] > '7') {
    return Fail(Code::kInvalidArgument, "address: behind the port comes the function, 0 to 7");
  }
  return PciPlace{.port = first, .function = "00." + second};
}

std::optional<std::string> PciHotplug::Find(const PciPlace& place) const {
  if (place.port.empty()) {
    const std::string directory = kDevices + place.function;
    return files_.Exists(directory) ? std::optional(directory) : std::nullopt;
  }
  const std::string port = kDevices + place.port;
  for (const std::string& name : files_.List(port)) {
    if (IsPciAddress(name) && name.ends_with(":" + place.function)) {
      return fmt::format("{}/{}", port, name);
    }
  }
  return std::nullopt;
}

// The narrowest bus that shows it: what else is found there is found as well.
Result<> PciHotplug::RescanBus(const PciPlace& place) {
  std::string bus;
  if (place.port.empty()) {
    bus = "/sys/class/pci_bus/" + place.function.substr(0, 7);
  } else {
    const std::string port = kDevices + place.port;
    const auto behind = files_.List(port + "/pci_bus");
    if (!behind.empty()) {
      bus = port + "/pci_bus/" + behind.front();
    } else if (!files_.Exists(port)) {
      bus = "/sys/class/pci_bus/" + place.port.substr(0, 7);  // it comes with what is behind it
    } else {
      return Fail(Code::kNotFound, place.port + " is no port: it has no bus behind it");
    }
  }
  if (!files_.Exists(bus + "/rescan")) {
    bus = "/sys/bus/pci";
  }
  WV_TRY_VOID_CONTEXT(files_.Write(bus + "/rescan", "1"), "the guest's kernel rescans no PCI bus");
  for (const std::string& address : removed_) {
    const auto back =
        ParsePciPlace(address).and_then([this](const PciPlace& gone) -> Result<std::string> {
          auto directory = Find(gone);
          return directory ? Result<std::string>(*std::move(directory)) : Fail(Code::kNotFound, "");
        });
    if (back) {
      if (auto again = RemoveFunction(*back); !again) {
        WV_WARN_LIMITED("upcall: {}", again.error().message());
      }
    }
  }
  return {};
}

// Returns when its driver has let go. Gone meanwhile is as good.
Result<> PciHotplug::RemoveFunction(const std::string& directory) const {
  auto written = files_.Write(directory + "/remove", "1");
  if (!written && files_.Exists(directory + "/remove")) {
    return tl::unexpected(std::move(written).error().WithContext("remove " + BaseName(directory)));
  }
  return {};
}

class PciHotplug::RescanJob final : public Job {
 public:
  RescanJob(PciHotplug& hotplug, PciPlace place, v1::PciRescanRequest request,
            ttrpc::Responder<v1::PciRescanResponse> responder)
      : hotplug_(hotplug),
        place_(std::move(place)),
        request_(std::move(request)),
        responder_(std::move(responder)) {}

  Progress Step() override {
    auto found = Try();
    if (!found) {
      responder_.Fail(std::move(found).error());
      return Progress::kDone;
    }
    if (const auto& answer = *found; answer.has_value()) {
      responder_.Ok(*answer);
      return Progress::kDone;
    }
    return Progress::kWait;
  }

  void Expire() override {
    responder_.Fail(Error(Code::kDeadlineExceeded, fmt::format("{}: the deadline came while {}",
                                                               request_.address(), stage_.load())));
  }

 private:
  Result<std::optional<v1::PciRescanResponse>> Try() {
    const KernelFiles& files = hotplug_.files_;
    WV_TRY(const std::string function, Appear());
    stage_ = "no driver of PCI devices had taken it";
    WV_TRY_VOID(DrivePci(BaseName(function)));
    const auto virtio = VirtioBelow(files, function);
    if (!virtio) {
      return std::nullopt;
    }
    stage_ = "its virtio driver had not taken it: it probes the device, or waits for something";
    WV_TRY(const bool driven, DriveVirtio(files, *virtio, request_.identity()));
    if (!driven) {
      return std::nullopt;
    }
    stage_ = "its driver had taken it, but the node had not appeared";
    WV_TRY(const auto node, FindNode(files, *virtio, request_.identity()));
    if (!node) {
      return std::nullopt;
    }
    v1::PciRescanResponse response;
    response.set_pci_address(BaseName(function));
    response.set_node(node->name);
    response.set_major(node->major);
    response.set_minor(node->minor);
    return response;
  }

  // The function's directory: there already, or after one rescan.
  Result<std::string> Appear() {
    const bool first = !std::exchange(looked_, true);
    if (first) {
      hotplug_.removed_.erase(request_.address());
    }
    auto function = hotplug_.Find(place_);
    if (!function && first) {
      stage_ = "the kernel scanned the bus, or a driver the device";
      WV_TRY_VOID(hotplug_.RescanBus(place_));
      function = hotplug_.Find(place_);
    }
    // One that goes away later was taken away.
    if (!function) {
      return Fail(Code::kNotFound,
                  request_.address() + ": the guest's kernel found no device there");
    }
    return *std::move(function);
  }

  Result<> DrivePci(const std::string& function) {
    const KernelFiles& files = hotplug_.files_;
    const std::string driver = files.LinkName(kDevices + function + "/driver");
    if (driver == kPciDriver) {
      return {};
    }
    if (!driver.empty()) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("{}: it is no virtio device, {} drives it", function, driver));
    }
    if (!files.Exists(std::string("/sys/bus/pci/drivers/") + kPciDriver)) {
      return Fail(Code::kUnimplemented,
                  "the guest's kernel has no driver virtio-pci (CONFIG_VIRTIO_PCI)");
    }
    return Bind(files, "pci", kPciDriver, function);
  }

  PciHotplug& hotplug_;
  const PciPlace place_;
  const v1::PciRescanRequest request_;
  const ttrpc::Responder<v1::PciRescanResponse> responder_;
  bool looked_ = false;
  std::atomic<const char*> stage_{"it waited for calls before it"};
};

class PciHotplug::RemoveJob final : public Job {
 public:
  RemoveJob(PciHotplug& hotplug, PciPlace place, v1::PciRemoveRequest request,
            ttrpc::Responder<v1::PciRemoveResponse> responder)
      : hotplug_(hotplug),
        place_(std::move(place)),
        request_(std::move(request)),
        responder_(std::move(responder)) {}

  Progress Step() override {
    const auto function = hotplug_.Find(place_);
    if (!function) {
      hotplug_.removed_.insert(request_.address());
      responder_.Ok({});
      return Progress::kDone;
    }
    if (!request_.force() && !asked_) {
      stage_ = "the kernel was asked whether it is in use";
      if (const auto use = Use(*function)) {
        responder_.Fail(Error(Code::kFailedPrecondition,
                              request_.address() + ": " + *use + "; free it there, or use force"));
        return Progress::kDone;
      }
    }
    asked_ = true;
    hotplug_.removed_.insert(request_.address());
    stage_ = "its driver had not let go of it";
    if (auto removed = hotplug_.RemoveFunction(*function); !removed) {
      responder_.Fail(std::move(removed).error().WithCode(Code::kUnavailable));
      return Progress::kDone;
    }
    // Another's removal of it may be on its way still: then the write has returned at once.
    return hotplug_.Find(place_) ? Progress::kWait : Step();
  }

  void Expire() override {
    responder_.Fail(Error(Code::kDeadlineExceeded, fmt::format("{}: the deadline came while {}",
                                                               request_.address(), stage_.load())));
  }

 private:
  std::optional<std::string> Use(const std::string& function) const {
    const auto virtio = VirtioBelow(hotplug_.files_, function);
    return virtio ? InUse(hotplug_.files_, *virtio) : std::nullopt;
  }

  PciHotplug& hotplug_;
  const PciPlace place_;
  const v1::PciRemoveRequest request_;
  const ttrpc::Responder<v1::PciRemoveResponse> responder_;
  bool asked_ = false;
  std::atomic<const char*> stage_{"it waited for calls before it"};
};

Result<std::shared_ptr<Job>> PciHotplug::Rescan(v1::PciRescanRequest request,
                                                ttrpc::Responder<v1::PciRescanResponse> responder) {
  WV_TRY(PciPlace place, ParsePciPlace(request.address()));
  WV_TRY_VOID(CheckIdentity(request.identity()));
  return std::make_shared<RescanJob>(*this, std::move(place), std::move(request),
                                     std::move(responder));
}

Result<std::shared_ptr<Job>> PciHotplug::Remove(v1::PciRemoveRequest request,
                                                ttrpc::Responder<v1::PciRemoveResponse> responder) {
  WV_TRY(PciPlace place, ParsePciPlace(request.address()));
  return std::make_shared<RemoveJob>(*this, std::move(place), std::move(request),
                                     std::move(responder));
}

}  // namespace wyvern::agent
