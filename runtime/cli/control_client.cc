#include "cli/control_client.h"

#include <filesystem>

#include "base/unix_socket.h"

namespace wyvern::cli {

namespace {

constexpr std::chrono::milliseconds kHelloTimeout(1000);

Result<LivingSandbox> Connect(const std::string& socket_path) {
  WV_TRY(UniqueFd socket, ConnectUnix(socket_path));
  LivingSandbox sandbox;
  WV_TRY(sandbox.client, ttrpc::Client::Create(std::move(socket), {.name = "control"}));
  control::v1::HelloRequest request;
  request.set_protocol(1);
  WV_TRY(sandbox.hello,
         (sandbox.client->Call<control::v1::HelloRequest, control::v1::HelloResponse>(
             kControlService, "Hello", request, {.timeout = kHelloTimeout})));
  return sandbox;
}

}  // namespace

Result<std::vector<LivingSandbox>> ListSandboxes(const std::string& state_dir) {
  std::vector<LivingSandbox> sandboxes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    auto sandbox = Connect(entry.path().string() + "/control.sock");
    if (sandbox) {
      sandboxes.push_back(*std::move(sandbox));
    }
  }
  if (error && error.value() != ENOENT) {
    return SysErrorFrom(error.value(), "list " + state_dir);
  }
  return sandboxes;
}

Result<FoundContainer> FindContainer(const std::string& state_dir, const std::string& id) {
  WV_TRY(std::vector<LivingSandbox> sandboxes, ListSandboxes(state_dir));
  FoundContainer found;
  int matches = 0;
  for (LivingSandbox& sandbox : sandboxes) {
    std::string match;
    bool matched = false;
    bool exact = false;
    for (const auto& container : sandbox.hello.containers()) {
      if (container.id() == id || (!exact && container.id().starts_with(id))) {
        match = container.id();
        matched = true;
        exact = container.id() == id;
      }
    }
    if (!matched && sandbox.hello.sandbox_id().starts_with(id)) {
      match = sandbox.hello.containers_size() > 0 ? sandbox.hello.containers(0).id() : "";
      matched = true;
      exact = sandbox.hello.sandbox_id() == id;
    }
    if (!matched) {
      continue;
    }
    found = {std::move(sandbox), match};
    if (exact) {
      return found;
    }
    ++matches;
  }
  if (matches == 0) {
    return Fail(Code::kNotFound,
                "no living sandbox or container \"" + id + "\"; `wyvern ps` lists them");
  }
  if (matches > 1) {
    return Fail(Code::kInvalidArgument,
                "\"" + id + "\" is the beginning of several ids; give more of it");
  }
  return found;
}

}  // namespace wyvern::cli
