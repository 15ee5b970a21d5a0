#include "upcall/answers.h"

#include <algorithm>
#include <bit>
#include <set>
#include <string>
#include <string_view>

#include "upcall/preamble.h"

namespace wyvern::upcall {

namespace {

constexpr size_t kMaxVersion = 64;
constexpr size_t kBootId = 36;
constexpr size_t kMaxPciAddress = 32;
constexpr size_t kMaxNode = 128;
constexpr int kMaxErrno = 4095;  // Linux: MAX_ERRNO

bool IsName(std::string_view text, size_t limit) {
  return text.size() <= limit &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~' && c != '/'; });
}

tl::unexpected<Error> Nonsense(const char* what) {
  return Fail(Code::kDataLoss, std::string("the guest's agent answered nonsense: ") + what);
}

}  // namespace

Result<> CheckAnswer(const agent::v1::UpcallHelloResponse& answer) {
  if (answer.protocol() != kProtocol) {
    return Fail(Code::kUnimplemented,
                "the guest's agent speaks upcall protocol " + std::to_string(answer.protocol()) +
                    ", this VMM speaks 1: use the guest image of the same release");
  }
  if (!IsName(answer.agent_version(), kMaxVersion) || answer.boot_id().size() != kBootId ||
      !IsName(answer.boot_id(), kBootId)) {
    return Nonsense("its version or its boot id");
  }
  return {};
}

Result<> CheckAnswer(const agent::v1::PciRescanRequest& request,
                     const agent::v1::PciRescanResponse& answer) {
  if (answer.pci_address().empty() || !IsName(answer.pci_address(), kMaxPciAddress)) {
    return Nonsense("the device's PCI address");
  }
  // On bus 0 the guest's numbers are ours.
  const bool behind_port = request.address().find('/') != std::string::npos;
  if (!behind_port && answer.pci_address() != request.address()) {
    return Nonsense("another PCI address than the device has");
  }
  if (request.identity().has_fs()) {
    return answer.node() == request.identity().fs().tag() ? Result<>() : Nonsense("another tag");
  }
  return IsName(answer.node(), kMaxNode) ? Result<>() : Nonsense("the device's node");
}

Result<> CheckAnswer(const agent::v1::PciRemoveRequest& /*request*/,
                     const agent::v1::PciRemoveResponse& /*answer*/) {
  return {};
}

Result<> CheckAnswer(const agent::v1::CpuRequest& request, const agent::v1::CpuResponse& answer,
                     bool online) {
  std::set<uint32_t> running;
  for (const uint32_t id : answer.online()) {
    if (id > kMaxCpu || (!running.empty() && id <= *running.rbegin())) {
      return Nonsense("its list of CPUs");
    }
    running.insert(running.end(), id);
  }
  const std::set<uint32_t> asked(request.id().begin(), request.id().end());
  std::set<uint32_t> refused;
  for (const auto& refusal : answer.refused()) {
    if (!asked.contains(refusal.id()) || !refused.insert(refusal.id()).second ||
        refusal.error() < 0 || refusal.error() > kMaxErrno) {
      return Nonsense("which CPUs it refused");
    }
  }
  for (const uint32_t id : asked) {
    if (running.contains(id) != online && !refused.contains(id)) {
      return Nonsense("a CPU that is neither as asked nor refused");
    }
  }
  return {};
}

Result<> CheckAnswer(const agent::v1::MemoryRequest& request,
                     const agent::v1::MemoryResponse& answer, bool online) {
  if (answer.online_bytes() > request.size()) {
    return Nonsense("more memory than the range has");
  }
  if (answer.block_bytes() != 0 && !std::has_single_bit(answer.block_bytes())) {
    return Nonsense("the size of a block of memory");
  }
  if (answer.error() < 0 || answer.error() > kMaxErrno) {
    return Nonsense("an error number");
  }
  const bool as_asked =
      online ? answer.online_bytes() >= request.bytes() : answer.online_bytes() <= request.bytes();
  return answer.complete() && !as_asked ? Nonsense("it is done, and it is not") : Result<>();
}

}  // namespace wyvern::upcall
