#include "bench/drive.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <nlohmann/json.hpp>

#include "api/console_ring.h"
#include "base/fd.h"
#include "bench/driven_devices.h"
#include "bench/guest_shell.h"
#include "bench/vmm_process.h"

namespace wyvern::bench {

namespace pb = wyvern::vmm::v1;
using nlohmann::json;

namespace {

constexpr uint32_t kPatienceMs = 60000;

class Driver {
 public:
  explicit Driver(const DriveOptions& options) : options_(options) {}

  Result<> Start();
  void Answer(const std::string& line);

 private:
  using Step = Result<json> (Driver::*)(const json&);

  Result<json> Attach(const json& words);
  Result<json> Detach(const json& words);
  Result<json> Boot(const json& words);
  Result<json> Connect(const json& words);
  Result<json> Run(const json& words);
  Result<json> Vcpus(const json& words);
  Result<json> Memory(const json& words);
  Result<json> Metrics(const json& words);
  Result<json> Console(const json& words);
  Result<json> Do(const json& words);
  void Print(const json& answer);

  const DriveOptions& options_;
  std::unique_ptr<VmmProcess> vmm_;
  std::unique_ptr<GuestShell> shell_;
  UniqueFd console_;
  std::mutex mu_;
  std::map<std::string, std::unique_ptr<Behind>> behind_;  // by device; guarded by mu_
  std::mutex print_mu_;
};

Result<> Driver::Start() {
  WV_TRY(vmm_, VmmProcess::Spawn(options_.vmm));
  pb::CreateRequest request;
  request.set_vcpus(options_.vcpus);
  request.set_max_vcpus(options_.max_vcpus);
  request.set_memory_bytes(options_.memory);
  request.set_hotplug_memory_bytes(options_.hotplug_memory);
  request.set_shared_memory(true);  // a share may come at any time
  request.set_cmdline(options_.cmdline);
  WV_TRY(console_, vmm_->Create(std::move(request), options_.kernel, options_.initrd));
  shell_ = std::make_unique<GuestShell>([this](uint32_t port) { return vmm_->ConnectVsock(port); });
  Print({{"vmm", vmm_->process().pid()}});
  return {};
}

Result<json> Driver::Attach(const json& words) {
  WV_TRY(DrivenDevice device, MakeDevice(*vmm_, words, options_.fs));
  const int64_t begin = NowNs();
  WV_TRY(const pb::AttachDeviceResponse attached, vmm_->Attach(device.request));
  const int64_t end = NowNs();
  const std::lock_guard lock(mu_);
  if (device.behind != nullptr) {
    behind_[device.request.id()] = std::move(device.behind);
  }
  return json{{"begin_ns", begin},
              {"end_ns", end},
              {"pci_address", attached.pci_address()},
              {"node", attached.node()},
              {"major", attached.major()},
              {"minor", attached.minor()}};
}

Result<json> Driver::Detach(const json& words) {
  pb::DetachDeviceRequest request;
  request.set_id(words.value("id", ""));
  request.set_force(words.value("force", false));
  request.set_deadline_ms(words.value("deadline_ms", 0U));
  const int64_t begin = NowNs();
  WV_TRY_VOID(vmm_->Detach(request));
  const int64_t end = NowNs();
  std::unique_ptr<Behind> gone;
  {
    const std::lock_guard lock(mu_);
    if (const auto found = behind_.find(request.id()); found != behind_.end()) {
      gone = std::move(found->second);
      behind_.erase(found);
    }
  }
  return json{{"begin_ns", begin}, {"end_ns", end}};
}

Result<json> Driver::Boot(const json& /*words*/) {
  return vmm_->Boot().map([] { return json::object(); });
}

Result<json> Driver::Connect(const json& words) {
  const std::chrono::milliseconds patience(words.value("patience_ms", kPatienceMs));
  return shell_->Connect(patience).map([] { return json::object(); });
}

Result<json> Driver::Run(const json& words) {
  UniqueFd out;
  if (words.contains("out")) {
    WV_TRY(out, Open(words.value("out", ""), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  }
  const std::chrono::milliseconds patience(words.value("patience_ms", kPatienceMs));
  WV_TRY(const CommandResult result, shell_->Run(words.value("script", ""), out, patience));
  return json{{"status", result.status}, {"bytes", result.bytes}, {"text", result.text}};
}

Result<json> Driver::Vcpus(const json& words) {
  pb::ResizeVcpusRequest request;
  request.set_vcpus(words.value("count", 0U));
  request.set_deadline_ms(words.value("deadline_ms", 0U));
  const int64_t begin = NowNs();
  WV_TRY(const pb::ResizeVcpusResponse reached, vmm_->ResizeVcpus(request));
  return json{
      {"begin_ns", begin}, {"end_ns", NowNs()}, {"vcpus", reached.vcpus()}, {"why", reached.why()}};
}

Result<json> Driver::Memory(const json& words) {
  pb::ResizeMemoryRequest request;
  request.set_memory_bytes(words.value("bytes", uint64_t{0}));
  request.set_deadline_ms(words.value("deadline_ms", 0U));
  const int64_t begin = NowNs();
  WV_TRY(const pb::ResizeMemoryResponse reached, vmm_->ResizeMemory(request));
  return json{{"begin_ns", begin},
              {"end_ns", NowNs()},
              {"bytes", reached.memory_bytes()},
              {"online_bytes", reached.online_bytes()},
              {"why", reached.why()}};
}

Result<json> Driver::Metrics(const json& /*words*/) {
  WV_TRY(const auto counters, vmm_->Metrics());
  return json{{"counters", counters}};
}

Result<json> Driver::Console(const json& /*words*/) {
  WV_TRY(const auto console, api::ReadConsoleRing(console_));
  return json{{"text", console.text}};
}

Result<json> Driver::Do(const json& words) {
  static const std::map<std::string, Step> kSteps = {
      {"attach", &Driver::Attach},   {"detach", &Driver::Detach},   {"boot", &Driver::Boot},
      {"connect", &Driver::Connect}, {"run", &Driver::Run},         {"vcpus", &Driver::Vcpus},
      {"memory", &Driver::Memory},   {"metrics", &Driver::Metrics}, {"console", &Driver::Console}};
  const auto found = kSteps.find(words.value("do", ""));
  if (found == kSteps.end()) {
    return Fail(Code::kInvalidArgument, "no such word in \"do\"");
  }
  return (this->*found->second)(words);
}

void Driver::Print(const json& answer) {
  // What a guest says may be no UTF-8.
  const std::string text = answer.dump(-1, ' ', true, json::error_handler_t::replace);
  const std::lock_guard lock(print_mu_);
  fmt::print("{}\n", text);
  fflush(stdout);
}

void Driver::Answer(const std::string& line) {
  const json words = json::parse(line, nullptr, false);
  if (!words.is_object()) {
    Print({{"ok", false}, {"code", "INVALID_ARGUMENT"}, {"error", "not a JSON object: " + line}});
    return;
  }
  Result<json> done = json::object();
  try {
    done = Do(words);
  } catch (const json::exception& error) {  // a value of another type
    done = Fail(Code::kInvalidArgument, error.what());
  }
  json answer = done ? *std::move(done) : json::object();
  answer["n"] = words.value("n", 0);
  answer["ok"] = done.has_value();
  if (!done) {
    answer["code"] = CodeName(done.error().code());
    answer["error"] = done.error().message();
  }
  Print(answer);
}

}  // namespace

Result<> Drive(const DriveOptions& options) {
  Driver driver(options);
  WV_TRY_VOID(driver.Start());
  std::vector<std::future<void>> steps;  // each waits for its own end
  for (std::string line; std::getline(std::cin, line);) {
    std::erase_if(steps, [](const auto& step) {
      return step.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    });
    steps.push_back(std::async(std::launch::async, [&driver, line] { driver.Answer(line); }));
  }
  return {};
}

}  // namespace wyvern::bench
