#include "cli/size.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/control_client.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

// A guest may take as long as its sandbox's timeouts.resize, several times; this only ends what has hung.
constexpr std::chrono::minutes kResizeTimeout(10);

Result<LivingSandbox> Find(const SandboxRef& ref) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  return FindSandbox(config->state_dir, ref);
}

Result<int> Resize(const ResizeOptions& options) {
  WV_TRY(const pb::ResizeRequest request, ToRequest(options));
  WV_TRY(const LivingSandbox sandbox, Find(options.sandbox));
  WV_TRY(const auto size, (sandbox.client->Call<pb::ResizeRequest, pb::SizeResponse>(
                              kControlService, "Resize", request, {.timeout = kResizeTimeout})));
  fmt::print("{}", SizeLine(size));
  return 0;
}

Result<int> Inspect(const SandboxRef& ref) {
  WV_TRY(const LivingSandbox sandbox, Find(ref));
  WV_TRY(const auto size, (sandbox.client->Call<pb::Empty, pb::SizeResponse>(
                              kControlService, "Size", {}, {.timeout = kQueryTimeout})));
  fmt::print("{}", InspectJson(sandbox.hello, size));
  return 0;
}

}  // namespace

Result<pb::ResizeRequest> ToRequest(const ResizeOptions& options) {
  pb::ResizeRequest request;
  request.set_vcpus(options.cpus);
  if (!options.memory.empty()) {
    WV_TRY_CONTEXT(const uint64_t bytes, runtime::ParseSize(options.memory), "--memory");
    if (bytes == 0) {
      return Fail(Code::kInvalidArgument, "--memory: a sandbox needs some");
    }
    request.set_memory_bytes(bytes);
  }
  if (request.vcpus() == 0 && request.memory_bytes() == 0) {
    return Fail(Code::kInvalidArgument, "nothing to resize: give --cpus, --memory, or both");
  }
  return request;
}

std::string SizeLine(const pb::SizeResponse& size) {
  return fmt::format("{} vCPU{}, {} MiB of memory\n", size.vcpus_size(),
                     size.vcpus_size() == 1 ? "" : "s", size.memory_bytes() >> 20U);
}

std::string InspectJson(const pb::HelloResponse& sandbox, const pb::SizeResponse& size) {
  nlohmann::json containers = nlohmann::json::array();
  for (const pb::ContainerInfo& container : sandbox.containers()) {
    containers.push_back({{"id", container.id()},
                          {"status", container.status()},
                          {"pid", container.anchor_pid()},
                          {"bundle", container.bundle()}});
  }
  nlohmann::json running = nlohmann::json::array();
  for (const pb::Vcpu& each : size.vcpus()) {
    running.push_back({{"vcpu", each.vcpu()}, {"thread", each.thread()}});
  }
  const nlohmann::json json = {
      {"sandbox", sandbox.sandbox_id()},
      {"namespace", sandbox.ns()},
      {"version", sandbox.version()},
      {"kernel", sandbox.kernel_release()},
      {"containers", std::move(containers)},
      {"vcpus", {{"running", std::move(running)}, {"max", size.max_vcpus()}}},
      {"memory",
       {{"bytes", size.memory_bytes()},
        {"boot_bytes", size.boot_memory_bytes()},
        {"max_bytes", size.max_memory_bytes()}}}};
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void AddSizes(CLI::App& app, std::function<Result<int>()>& action) {
  const auto add_sandbox = [](CLI::App& verb, SandboxRef& sandbox) {
    verb.add_option("id", sandbox.id, "sandbox, as `wyvern ps` prints it")->required();
    verb.add_option("-n,--namespace", sandbox.ns,
                    "of the sandbox, as `wyvern ps` prints it, where an id is in several");
  };
  auto* resize = app.add_subcommand(
      "resize", "Gives a living sandbox another number of vCPUs, or other memory, at once");
  auto options = std::make_shared<ResizeOptions>();
  resize->add_option("--cpus", options->cpus, "vCPUs, up to sandbox.max_vcpus")
      ->check(CLI::Range(1, 32));
  resize->add_option("--memory", options->memory,
                     "memory, such as 2GiB: from what it booted with to sandbox.max_memory");
  add_sandbox(*resize, options->sandbox);
  resize->footer(
      "Examples:\n  wyvern resize --cpus 4 --memory 2GiB web\n  wyvern resize --cpus 1 web");
  resize->callback([options, &action] { action = [options] { return Resize(*options); }; });

  auto* inspect = app.add_subcommand(
      "inspect", "Prints what a living sandbox is, as JSON: containers, vCPU threads, memory");
  auto sandbox = std::make_shared<SandboxRef>();
  add_sandbox(*inspect, *sandbox);
  inspect->footer("Example:\n  wyvern inspect web");
  inspect->callback([sandbox, &action] { action = [sandbox] { return Inspect(*sandbox); }; });
}

}  // namespace wyvern::cli
