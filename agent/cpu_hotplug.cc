#include "agent/cpu_hotplug.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

namespace wyvern::agent {
namespace {

constexpr int kMaxIds = 1024;
constexpr uint32_t kMaxCpu = 8191;  // CONFIG_NR_CPUS of x86 at most
constexpr size_t kMaxText = 128;
constexpr char kCpus[] = "/sys/devices/system/cpu/";

// A number at the front of `text`, which it is taken off.
std::optional<uint32_t> TakeNumber(std::string_view& text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value > kMaxCpu) {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

class CpuJob final : public Job {
 public:
  CpuJob(const KernelFiles& files, std::vector<uint32_t> ids, bool online,
         ttrpc::Responder<v1::CpuResponse> responder)
      : files_(files), ids_(std::move(ids)), online_(online), responder_(std::move(responder)) {}

  // One CPU at a time, so that others' calls are not held up by all of ours.
  Progress Step() override {
    if (next_ < ids_.size()) {
      Change(ids_[next_++]);
    }
    if (next_ < ids_.size()) {
      return Progress::kMore;
    }
    Answer();
    return Progress::kDone;
  }

  void Expire() override { Answer(); }

 private:
  void Change(uint32_t id) {
    const std::string cpu = kCpus + ("cpu" + std::to_string(id));
    const std::string file = cpu + "/online";
    const std::string wanted = online_ ? "1" : "0";
    const auto now = files_.Read(file);
    if (now == wanted) {
      return;
    }
    if (!now) {
      const bool exists = files_.Exists(cpu);
      Refused(id, exists ? v1::CpuRefusal::PERMANENT : v1::CpuRefusal::NO_SUCH_CPU, 0,
              exists ? "the guest's kernel cannot change this CPU"
                     : "the guest has no such CPU: it has those that were there at boot");
      return;
    }
    if (auto written = files_.Write(file, wanted); !written) {
      const int number = written.error().sys_errno();
      Refused(id, v1::CpuRefusal::KERNEL, number, std::generic_category().message(number));
    }
  }

  void Refused(uint32_t id, v1::CpuRefusal::Reason reason, int number, const std::string& text) {
    v1::CpuRefusal refusal;
    refusal.set_id(id);
    refusal.set_reason(reason);
    refusal.set_error(number);
    refusal.set_text(text.substr(0, kMaxText));
    const std::lock_guard lock(mu_);
    refused_[id] = std::move(refusal);
  }

  // What is, not what was done: a CPU that permanently is as it should be was not refused.
  void Answer() {
    const auto online = ParseCpuList(files_.Read(std::string(kCpus) + "online").value_or(""));
    if (!online) {
      responder_.Fail(Error(Code::kUnimplemented,
                            "the guest's kernel does not show its CPUs in /sys/devices/system"));
      return;
    }
    v1::CpuResponse response;
    for (const uint32_t id : *online) {
      response.add_online(id);
    }
    const std::lock_guard lock(mu_);
    for (const uint32_t id : ids_) {
      if (online->contains(id) == online_) {
        continue;
      }
      const auto known = refused_.find(id);
      if (known != refused_.end()) {
        *response.add_refused() = known->second;
        continue;
      }
      v1::CpuRefusal* late = response.add_refused();
      late->set_id(id);
      late->set_reason(v1::CpuRefusal::DEADLINE);
      late->set_text("the deadline came first, or another call changed it back");
    }
    responder_.Ok(response);
  }

  const KernelFiles& files_;
  const std::vector<uint32_t> ids_;
  const bool online_;
  const ttrpc::Responder<v1::CpuResponse> responder_;
  size_t next_ = 0;  // the lane's
  std::mutex mu_;
  std::map<uint32_t, v1::CpuRefusal> refused_;  // guarded by mu_
};

}  // namespace

std::optional<std::set<uint32_t>> ParseCpuList(std::string_view text) {
  std::set<uint32_t> cpus;
  while (!text.empty()) {
    const auto first = TakeNumber(text);
    auto last = first;
    if (first && text.starts_with('-')) {
      text.remove_prefix(1);
      last = TakeNumber(text);
    }
    if (!first || !last || *last < *first) {
      return std::nullopt;
    }
    for (uint32_t cpu = *first; cpu <= *last; ++cpu) {
      cpus.insert(cpu);
    }
    if (text.empty()) {
      return cpus;
    }
    if (!text.starts_with(',')) {
      return std::nullopt;
    }
    text.remove_prefix(1);
  }
  return std::nullopt;  // no machine is without one
}

Result<std::shared_ptr<Job>> MakeCpuJob(const KernelFiles& files, const v1::CpuRequest& request,
                                        bool online, ttrpc::Responder<v1::CpuResponse> responder) {
  if (request.id_size() < 1 || request.id_size() > kMaxIds) {
    return Fail(Code::kInvalidArgument, "id: 1 to 1024 CPUs");
  }
  std::vector<uint32_t> ids;
  for (const uint32_t id : request.id()) {
    if (std::ranges::find(ids, id) == ids.end()) {
      ids.push_back(id);
    }
  }
  return std::make_shared<CpuJob>(files, std::move(ids), online, std::move(responder));
}

}  // namespace wyvern::agent
