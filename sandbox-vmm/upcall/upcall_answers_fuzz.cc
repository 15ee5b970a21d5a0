// What an agent may answer, as bytes: nothing that passes the checks is beyond the bounds of upcall.proto.
// Input:   1 B which answer, then its message.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/plain_text.h"
#include "base/testing/fuzz_input.h"
#include "upcall/answers.h"

namespace wyvern::upcall {
namespace {

using namespace agent::v1;  // NOLINT(google-build-using-namespace): all of it is what this is about

template <typename Message>
bool Parse(const std::string& bytes, Message& message) {
  return message.ParseFromString(bytes);
}

void FuzzHello(const std::string& bytes) {
  UpcallHelloResponse answer;
  if (Parse(bytes, answer) && CheckAnswer(answer)) {
    WV_CHECK(answer.protocol() == 1 && answer.boot_id().size() == 36);
    WV_CHECK(answer.agent_version().size() <= 64);
    WV_CHECK(PlainText(answer.agent_version(), kMaxGuestError) == answer.agent_version());
  }
}

void FuzzRescan(const std::string& bytes, bool behind_port, bool share) {
  PciRescanRequest request;
  request.set_address(behind_port ? "0000:00:1e.3/0" : "0000:00:05.0");
  if (share) {
    request.mutable_identity()->mutable_fs()->set_tag("tag");
  } else {
    request.mutable_identity()->mutable_blk()->set_serial("disk");
  }
  PciRescanResponse answer;
  if (Parse(bytes, answer) && CheckAnswer(request, answer)) {
    WV_CHECK(behind_port || answer.pci_address() == request.address());
    WV_CHECK(answer.node().size() <= 128 && answer.node().find('/') == std::string::npos);
    WV_CHECK(!share || answer.node() == "tag");
    WV_CHECK(PlainText(answer.pci_address(), kMaxGuestError) == answer.pci_address());
  }
}

void FuzzCpus(const std::string& bytes, bool online) {
  CpuRequest request;
  for (const uint32_t id : {1, 2, 3}) {
    request.add_id(id);
  }
  CpuResponse answer;
  if (Parse(bytes, answer) && CheckAnswer(request, answer, online)) {
    WV_CHECK(answer.online_size() <= 1024 && answer.refused_size() <= 3);
    WV_CHECK(std::ranges::is_sorted(answer.online()));
    for (const uint32_t id : request.id()) {
      const bool is_online = std::ranges::count(answer.online(), id) == 1;
      const bool refused = std::ranges::any_of(
          answer.refused(), [id](const CpuRefusal& refusal) { return refusal.id() == id; });
      WV_CHECK(is_online == online || refused);
    }
  }
}

void FuzzMemory(const std::string& bytes, bool online) {
  MemoryRequest request;
  request.set_size(1 << 30);
  request.set_bytes(512 << 20);
  MemoryResponse answer;
  if (Parse(bytes, answer) && CheckAnswer(request, answer, online)) {
    WV_CHECK(answer.online_bytes() <= request.size());
    WV_CHECK(!answer.complete() || (online ? answer.online_bytes() >= request.bytes()
                                           : answer.online_bytes() <= request.bytes()));
  }
}

}  // namespace
}  // namespace wyvern::upcall

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::FuzzInput input(data, size);
  const uint8_t which = input.Byte();
  const auto rest = input.Take(size);
  const std::string bytes(rest.begin(), rest.end());
  switch (which % 8) {
    case 0:
      wyvern::upcall::FuzzHello(bytes);
      break;
    case 1:
    case 2:
    case 3:
      wyvern::upcall::FuzzRescan(bytes, which % 8 == 1, which % 8 == 2);
      break;
    case 4:
    case 5:
      wyvern::upcall::FuzzCpus(bytes, which % 8 == 4);
      break;
    default:
      wyvern::upcall::FuzzMemory(bytes, which % 8 == 6);
      break;
  }
  return 0;
}
