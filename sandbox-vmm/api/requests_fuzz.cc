// The service's calls with requests of any bytes, or built field by field from values around their
// limits: what reaches the machine is within the limits that vmm.proto and requests.h tell, and
// what is within them does.
// Input:   1 B what follows: even a message, as Create and as AttachDevice; odd a script of operations,
//          1 B each: donate (1 B kind, 1 B name), a field of Create (1 B which, 1 B value), a field of
//          AttachDevice (the same), a string of it (1 B which, 1 B length, bytes), then the calls:
//          Create, AttachDevice, ConnectVsock (1 B port, 1 B name), others (1 B which).
#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "api/requests.h"
#include "api/vmm_service.h"
#include "base/check.h"
#include "base/testing/fuzz_input.h"

namespace wyvern::api {
namespace {

using vmm::v1::AttachDeviceRequest;
using vmm::v1::CreateRequest;

constexpr size_t kMaxOperations = 64;
constexpr std::array<const char*, 8> kNames = {"a", "b", "c", "d", "e", "f", "", "none"};

std::string NameOf(uint8_t byte) {
  return kNames[byte % kNames.size()];
}

bool Printable(const std::string& text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

// --- What was donated, and what the rules say of a request then ---

using Donated = std::map<std::string, DonationKind>;

bool Has(const Donated& donated, DonationKind kind, const std::string& name) {
  const auto found = donated.find(name);
  return found != donated.end() && found->second == kind;
}

bool HasOrNone(const Donated& donated, DonationKind kind, const std::string& name) {
  return name.empty() || Has(donated, kind, name);
}

bool IsFine(const CreateRequest& request, const Donated& donated) {
  constexpr uint64_t kMiB = 1 << 20;
  return request.vcpus() >= 1 && request.vcpus() <= 8 && request.memory_bytes() >= 32 * kMiB &&
         request.memory_bytes() <= kMiB * kMiB && request.memory_bytes() % (2 * kMiB) == 0 &&
         request.cmdline().size() <= kMaxCmdline && Printable(request.cmdline()) &&
         request.hotplug_memory_bytes() <= kMiB * kMiB &&
         request.hotplug_memory_bytes() % (2 * kMiB) == 0 &&
         (request.max_vcpus() == 0 ||
          (request.max_vcpus() >= request.vcpus() && request.max_vcpus() <= 32)) &&
         request.ram_pages() >= 0 && request.ram_pages() <= 3 &&
         Has(donated, DonationKind::kKvm, request.kvm_fd()) &&
         Has(donated, DonationKind::kKernel, request.kernel_fd()) &&
         HasOrNone(donated, DonationKind::kInitrd, request.initrd_fd()) &&
         HasOrNone(donated, DonationKind::kConsoleRing, request.console_fd());
}

bool IsFine(const vmm::v1::Pmem& pmem, const Donated& donated) {
  const std::set<std::string> names(pmem.fd().begin(), pmem.fd().end());
  return !names.empty() && names.size() == static_cast<size_t>(pmem.fd_size()) &&
         names.size() <= 16 && std::ranges::all_of(names, [&](const std::string& name) {
           return Has(donated, DonationKind::kImage, name);
         });
}

bool IsFine(const vmm::v1::VhostUserFs& fs, const Donated& donated) {
  std::set<uint64_t> windows = {0};
  for (uint64_t size = 2 << 20; size <= uint64_t{16} << 30U; size *= 2) {
    windows.insert(size);
  }
  const std::set<uint32_t> sizes = {2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  return !fs.tag().empty() && fs.tag().size() <= 36 && fs.tag().find('\0') == std::string::npos &&
         fs.request_queues() >= 1 && fs.request_queues() <= 16 && sizes.contains(fs.queue_size()) &&
         windows.contains(fs.dax_window_bytes()) &&
         Has(donated, DonationKind::kVhostUser, fs.socket_fd());
}

template <typename Message>
bool IsFineInterface(const Message& net) {
  const std::set<uint32_t> sizes = {2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  return net.mac().size() == 6 && sizes.contains(net.queue_size()) &&
         (net.mtu() == 0 || (net.mtu() >= 68 && net.mtu() <= 65535));
}

bool IsFine(const vmm::v1::Net& net, const Donated& donated) {
  const std::set<std::string> names(net.fd().begin(), net.fd().end());
  return !names.empty() && names.size() == static_cast<size_t>(net.fd_size()) &&
         names.size() <= 8 && IsFineInterface(net) &&
         std::ranges::all_of(names, [&](const std::string& name) {
           return Has(donated, DonationKind::kTap, name);
         });
}

bool IsFine(const vmm::v1::Console& console, const Donated& donated) {
  std::set<std::string> names;
  std::set<std::string> sockets;
  for (const auto& port : console.port()) {
    const bool own = port.name() == "wyvern.upcall";
    if (port.name().empty() || port.name().size() > 63 || !names.insert(port.name()).second ||
        port.name().find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") !=
            std::string::npos ||
        own != port.fd().empty() ||
        (!own &&
         (!Has(donated, DonationKind::kStream, port.fd()) || !sockets.insert(port.fd()).second))) {
      return false;
    }
  }
  return !names.empty() && names.size() <= 16;
}

bool IsFine(const std::string& id, uint32_t deadline_ms) {
  return !id.empty() && id.size() <= 63 && Printable(id) && deadline_ms <= 600'000;
}

bool IsFine(const AttachDeviceRequest& request, const Donated& donated) {
  if (!IsFine(request.id(), request.deadline_ms())) {
    return false;
  }
  switch (request.device_case()) {
    case AttachDeviceRequest::kPmem:
      return IsFine(request.pmem(), donated);
    case AttachDeviceRequest::kRng:
      return true;
    case AttachDeviceRequest::kVsock:
      return request.vsock().guest_cid() >= 3 && request.vsock().guest_cid() < 0xffffffff;
    case AttachDeviceRequest::kBlk:
      return request.blk().serial().size() <= 20 && Printable(request.blk().serial()) &&
             Has(donated, DonationKind::kBlock, request.blk().fd());
    case AttachDeviceRequest::kVhostUserFs:
      return IsFine(request.vhost_user_fs(), donated);
    case AttachDeviceRequest::kNet:
      return IsFine(request.net(), donated);
    case AttachDeviceRequest::kBalloon:
    case AttachDeviceRequest::kMem:
      return true;
    case AttachDeviceRequest::kConsole:
      return IsFine(request.console(), donated);
    case AttachDeviceRequest::kVhostUserNet:
      return IsFineInterface(request.vhost_user_net()) &&
             Has(donated, DonationKind::kVhostUser, request.vhost_user_net().socket_fd());
    case AttachDeviceRequest::DEVICE_NOT_SET:
      return false;
  }
  return false;
}

// --- The machine: what it is told is what the request says ---

class CheckedMachine final : public VirtualMachine {
 public:
  Result<> Create(MachineSpec spec) override {
    ++calls;
    WV_CHECK(spec.vcpus == create->vcpus() && spec.memory_bytes == create->memory_bytes());
    WV_CHECK(spec.shared_memory == create->shared_memory() && spec.cmdline == create->cmdline());
    return {};
  }

  Result<AttachedDevice> Attach(const std::string& id, DeviceSpec spec,
                                std::chrono::milliseconds patience) override {
    ++calls;
    WV_CHECK(id == attach->id());
    WV_CHECK(patience > std::chrono::milliseconds(0) && patience <= kMaxPatience);
    WV_CHECK(spec.index() + 2 == static_cast<size_t>(attach->device_case()));
    if (const auto* pmem = std::get_if<PmemSpec>(&spec); pmem != nullptr) {
      WV_CHECK(pmem->images.size() == static_cast<size_t>(attach->pmem().fd_size()));
    } else if (const auto* vsock = std::get_if<VsockSpec>(&spec); vsock != nullptr) {
      WV_CHECK(vsock->guest_cid == attach->vsock().guest_cid());
    } else if (const auto* blk = std::get_if<BlkSpec>(&spec); blk != nullptr) {
      WV_CHECK(blk->read_only == attach->blk().read_only());
      WV_CHECK(blk->serial == attach->blk().serial());
    } else if (const auto* net = std::get_if<NetSpec>(&spec); net != nullptr) {
      WV_CHECK(net->taps.size() == static_cast<size_t>(attach->net().fd_size()));
      WV_CHECK(net->mtu == attach->net().mtu() && net->queue_size == attach->net().queue_size());
      WV_CHECK(net->receive_rate == attach->net().receive_rate() &&
               net->transmit_rate == attach->net().transmit_rate());
    } else if (const auto* console = std::get_if<ConsoleSpec>(&spec); console != nullptr) {
      WV_CHECK(console->ports.size() == static_cast<size_t>(attach->console().port_size()));
    } else if (const auto* other = std::get_if<VhostUserNetSpec>(&spec); other != nullptr) {
      const auto& asked = attach->vhost_user_net();
      WV_CHECK(other->mtu == asked.mtu() && other->queue_size == asked.queue_size());
    } else if (const auto* fs = std::get_if<VhostUserFsSpec>(&spec); fs != nullptr) {
      const auto& asked = attach->vhost_user_fs();
      WV_CHECK(fs->tag == asked.tag() && fs->request_queues == asked.request_queues());
      WV_CHECK(fs->queue_size == asked.queue_size());
      WV_CHECK(fs->dax_window == asked.dax_window_bytes());
    }
    return Fails<AttachedDevice>(AttachedDevice{"0000:00:01.0", "vda", 253, 16});
  }

  Result<> Detach(const DetachOptions& options) override {
    ++calls;
    WV_CHECK(!options.id.empty() && options.id.size() <= kMaxIdLength);
    WV_CHECK(options.patience > std::chrono::milliseconds(0) && options.patience <= kMaxPatience);
    return Fails<void>();
  }

  Result<ResizedMemory> ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience) override {
    ++calls;
    WV_CHECK(patience > std::chrono::milliseconds(0) && patience <= kMaxPatience);
    return Fails<ResizedMemory>(ResizedMemory{bytes, 0, ""});
  }

  Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus,
                                   std::chrono::milliseconds /*patience*/) override {
    ++calls;
    return Fails<ResizedVcpus>(ResizedVcpus{vcpus, ""});
  }

  Result<MachineSize> Size() override { return Fails<MachineSize>(MachineSize{}); }

  void EndWaits() override {}

  Result<> Boot() override {
    for (int i = 0; i < 3; ++i) {
      listener_({EventKind::kGuestPanic, "panic"});
    }
    return {};
  }

  Result<> ConnectVsock(uint32_t /*port*/, UniqueFd /*socket*/) override {
    ++calls;
    return {};
  }

  Result<> ResizeDisk(const std::string& id) override {
    WV_CHECK(!id.empty() && id.size() <= 64);
    return Fails<void>();
  }

  Result<> Pause() override { return Fails<void>(); }

  Result<> Resume() override { return {}; }

  MachineMetrics Metrics() override {
    return {.counters = {{"calls", calls}}, .devices = {}, .vcpus = {}};
  }

  void SetEventListener(std::function<void(MachineEvent)> listener) override {
    listener_ = std::move(listener);
  }

  const CreateRequest* create = nullptr;
  const AttachDeviceRequest* attach = nullptr;
  bool failing = false;
  uint64_t calls = 0;

 private:
  template <typename T, typename... Value>
  Result<T> Fails(Value... value) const {
    if (failing) {
      return Fail(Code::kFailedPrecondition, "not now");
    }
    return Result<T>(value...);
  }

  std::function<void(MachineEvent)> listener_;
};

// --- Calls, and the same judged by the rules ---

class Caller {
 public:
  void Donate(DonationKind kind, const std::string& name) {
    const bool added = store_.Add(kind, name, UniqueFd()).has_value();
    WV_CHECK(added == donated_.emplace(name, kind).second);
  }

  void Create(const CreateRequest& request) {
    machine_.create = &request;
    vmm::v1::CreateResponse response;
    const auto status = Judge(IsFine(request, donated_),
                              [&] { return service_.Create(nullptr, &request, &response); });
    WV_CHECK(status.ok() == !response.version().empty());
    TakeBack({request.kvm_fd(), request.kernel_fd(), request.initrd_fd(), request.console_fd()});
  }

  void Attach(const AttachDeviceRequest& request) {
    machine_.attach = &request;
    vmm::v1::AttachDeviceResponse response;
    const auto status = Judge(IsFine(request, donated_),
                              [&] { return service_.AttachDevice(nullptr, &request, &response); });
    WV_CHECK(status.ok() == !response.pci_address().empty());
    std::vector<std::string> names(request.pmem().fd().begin(), request.pmem().fd().end());
    names.push_back(request.blk().fd());
    names.push_back(request.vhost_user_fs().socket_fd());
    names.push_back(request.vhost_user_net().socket_fd());
    names.insert(names.end(), request.net().fd().begin(), request.net().fd().end());
    for (const auto& port : request.console().port()) {
      names.push_back(port.fd());
    }
    TakeBack(names);
  }

  void Detach(const vmm::v1::DetachDeviceRequest& request) {
    vmm::v1::Empty response;
    (void)Judge(IsFine(request.id(), request.deadline_ms()),
                [&] { return service_.DetachDevice(nullptr, &request, &response); });
  }

  void Connect(FuzzInput& input) {
    vmm::v1::ConnectVsockRequest request;
    request.set_port(input.Byte());
    request.set_fd(NameOf(input.Byte()));
    vmm::v1::Empty response;
    (void)Judge(Has(donated_, DonationKind::kStream, request.fd()),
                [&] { return service_.ConnectVsock(nullptr, &request, &response); });
    TakeBack({request.fd()});
  }

  void Other(uint8_t which) {
    const vmm::v1::Empty request;
    vmm::v1::Empty response;
    vmm::v1::MetricsResponse metrics;
    switch (which % 6) {
      case 0:
        WV_CHECK(service_.Boot(nullptr, &request, &response).ok());
        break;
      case 1:
        WV_CHECK(service_.Pause(nullptr, &request, &response).ok() == !machine_.failing);
        break;
      case 2:
        WV_CHECK(service_.Resume(nullptr, &request, &response).ok());
        break;
      case 3:
        WV_CHECK(service_.Metrics(nullptr, &request, &metrics).ok());
        WV_CHECK(metrics.counters().at("calls") == machine_.calls);
        break;
      case 4:
        WV_CHECK(service_.Shutdown(nullptr, &request, &response).ok());
        WV_CHECK(std::exchange(shut_down_, false));
        break;
      default:
        machine_.failing = !machine_.failing;
        break;
    }
  }

 private:
  template <typename Call>
  grpc::Status Judge(bool fine, Call call) {
    const uint64_t before = machine_.calls;
    grpc::Status status = call();
    WV_CHECK((machine_.calls == before + 1) == fine);
    WV_CHECK(fine || status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ||
             status.error_code() == grpc::StatusCode::NOT_FOUND);
    WV_CHECK(fine || !status.error_message().empty());
    return status;
  }

  // A refused request may have taken some: none that it names is there afterwards.
  void TakeBack(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (const auto found = donated_.find(name); found != donated_.end()) {
        (void)store_.Take(found->second, name);
        donated_.erase(found);
      }
    }
  }

  CheckedMachine machine_;
  DonationStore store_;
  bool shut_down_ = false;
  VmmService service_{machine_, store_, "fuzz", [this] { shut_down_ = true; }};
  Donated donated_;
};

// --- Requests by fields ---

template <size_t kCount>
uint64_t Pick(const std::array<uint64_t, kCount>& values, uint8_t byte) {
  return values[byte % kCount];
}

void SetField(CreateRequest& request, uint8_t which, uint8_t value) {
  constexpr std::array<uint64_t, 6> kVcpus = {1, 2, 8, 0, 9, 0xffffffff};
  constexpr uint64_t kMiB = 1 << 20;
  constexpr std::array<uint64_t, 10> kMemory = {
      256 * kMiB, 32 * kMiB,    kMiB * kMiB,  34 * kMiB, 0, 30 * kMiB, kMiB * kMiB + 2 * kMiB,
      33 * kMiB,  ~uint64_t{0}, 32 * kMiB + 1};
  constexpr std::array<uint64_t, 6> kLengths = {0, 1, 1999, 2000, 2001, 4096};
  switch (which % 8) {
    case 0:
      return request.set_vcpus(static_cast<uint32_t>(Pick(kVcpus, value)));
    case 1:
      return request.set_memory_bytes(Pick(kMemory, value));
    case 2:
      return request.set_shared_memory((value & 1U) != 0);
    case 3:
      return request.set_kvm_fd(NameOf(value));
    case 4:
      return request.set_kernel_fd(NameOf(value));
    case 5:
      return request.set_initrd_fd(NameOf(value));
    case 6:
      return request.set_console_fd(NameOf(value));
    default:
      return request.set_cmdline(std::string(Pick(kLengths, value), 'c'));
  }
}

void SetFsField(vmm::v1::VhostUserFs& fs, uint8_t which, uint8_t value) {
  constexpr std::array<uint64_t, 5> kTags = {1, 36, 37, 0, 5};
  constexpr std::array<uint64_t, 5> kQueues = {1, 16, 17, 0, 0xffffffff};
  constexpr std::array<uint64_t, 8> kSizes = {128, 1024, 2, 2048, 1, 0, 96, 0x80000000};
  constexpr std::array<uint64_t, 9> kWindows = {
      0,       2 << 20, uint64_t{16} << 30U, 1 << 20,           uint64_t{32} << 30U,
      3 << 20, 1,       ~uint64_t{0},        uint64_t{1} << 63U};
  switch (which % 5) {
    case 0:
      return fs.set_socket_fd(NameOf(value));
    case 1:
      return fs.set_tag(std::string(Pick(kTags, value), (value & 0x80U) != 0 ? '\0' : 't'));
    case 2:
      return fs.set_request_queues(static_cast<uint32_t>(Pick(kQueues, value)));
    case 3:
      return fs.set_queue_size(static_cast<uint32_t>(Pick(kSizes, value)));
    default:
      return fs.set_dax_window_bytes(Pick(kWindows, value));
  }
}

void SetField(AttachDeviceRequest& request, uint8_t which, uint8_t value) {
  constexpr std::array<uint64_t, 5> kIds = {1, 63, 64, 0, 7};
  constexpr std::array<uint64_t, 7> kCids = {3, 0xfffffffe, 2, 0xffffffff, 0, 0x100000003, 100};
  constexpr std::array<uint64_t, 5> kSerials = {0, 20, 21, 1, 5};
  switch (which % 16) {
    case 0:
    case 1:
      return request.set_id(std::string(Pick(kIds, value), (value & 0x80U) != 0 ? '\n' : 'i'));
    case 2:
    case 3:
      return request.mutable_pmem()->add_fd(NameOf(value));
    case 4:
      return request.mutable_pmem()->clear_fd();
    case 5:
      return (void)request.mutable_rng();
    case 6:
      return request.mutable_vsock()->set_guest_cid(Pick(kCids, value));
    case 7:
      return request.mutable_blk()->set_fd(NameOf(value));
    case 8:
      return request.mutable_blk()->set_read_only((value & 1U) != 0);
    case 9:
      return request.mutable_blk()->set_serial(
          std::string(Pick(kSerials, value), (value & 0x80U) != 0 ? '\x7f' : 's'));
    case 10:
      return request.clear_device();
    default:
      return SetFsField(*request.mutable_vhost_user_fs(), static_cast<uint8_t>(which % 16 - 11),
                        value);
  }
}

void SetString(CreateRequest& create, AttachDeviceRequest& attach, FuzzInput& input) {
  const uint8_t which = input.Byte();
  const auto bytes = input.Take(input.Byte());
  const std::string text(bytes.begin(), bytes.end());
  switch (which % 5) {
    case 0:
      return create.set_cmdline(text);
    case 1:
      return create.set_kvm_fd(text);
    case 2:
      return attach.set_id(text);
    case 3:
      return attach.mutable_blk()->set_serial(text);
    default:
      return attach.mutable_vhost_user_fs()->set_tag(text);
  }
}

void FuzzScript(FuzzInput& input) {
  Caller caller;
  CreateRequest create;
  AttachDeviceRequest attach;
  for (size_t i = 0; i < kMaxOperations && !input.empty(); ++i) {
    switch (input.Byte() % 9) {
      case 0:
      case 1: {
        const auto kind = DonationKind{1 + input.Byte() % 9U};
        caller.Donate(kind, NameOf(input.Byte()));
        break;
      }
      case 2: {
        const uint8_t which = input.Byte();
        SetField(create, which, input.Byte());
        break;
      }
      case 3: {
        const uint8_t which = input.Byte();
        SetField(attach, which, input.Byte());
        break;
      }
      case 4:
        SetString(create, attach, input);
        break;
      case 5:
        caller.Create(create);
        break;
      case 6:
        caller.Attach(attach);
        break;
      case 7:
        caller.Connect(input);
        break;
      default:
        caller.Other(input.Byte());
        break;
    }
  }
}

// Names are those of the seeds.
void FuzzMessage(const std::string& message) {
  for (const bool whole : {true, false}) {
    Caller caller;
    for (const auto& [kind, name] : {std::pair{DonationKind::kKvm, "kvm"},
                                     {DonationKind::kKernel, "kernel"},
                                     {DonationKind::kBlock, "b"},
                                     {DonationKind::kImage, "i"},
                                     {DonationKind::kImage, "j"},
                                     {DonationKind::kTap, "t"},
                                     {DonationKind::kStream, "s"},
                                     {DonationKind::kVhostUser, "v"}}) {
      if (whole || name != std::string_view("j")) {
        caller.Donate(kind, name);
      }
    }
    CreateRequest create;
    if (create.ParseFromString(message)) {
      caller.Create(create);
    }
    AttachDeviceRequest attach;
    if (attach.ParseFromString(message)) {
      caller.Attach(attach);
    }
    vmm::v1::DetachDeviceRequest detach;
    if (detach.ParseFromString(message)) {
      caller.Detach(detach);
    }
  }
}

}  // namespace
}  // namespace wyvern::api

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  wyvern::FuzzInput input(data + 1, size - 1);
  if ((data[0] & 1U) != 0) {
    wyvern::api::FuzzScript(input);
  } else {
    const auto bytes = input.Take(size);
    wyvern::api::FuzzMessage(std::string(bytes.begin(), bytes.end()));
  }
  return 0;
}
