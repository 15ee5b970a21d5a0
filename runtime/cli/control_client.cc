#include "cli/control_client.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <utility>

#include "base/unix_socket.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

constexpr std::chrono::milliseconds kHelloTimeout(1000);

constexpr size_t kMaxListed = 10;

struct Match {
  size_t sandbox = 0;  // its place in the list
  std::string container;
  bool exact = false;
};

// What the user may mean of one sandbox.
std::vector<Match> MatchesIn(const pb::HelloResponse& hello, size_t place, const std::string& id) {
  std::vector<Match> matches;
  for (const auto& container : hello.containers()) {
    if (container.id() == id) {
      return {{place, id, true}};
    }
    if (container.id().starts_with(id)) {
      matches.push_back({place, container.id(), false});
    }
  }
  const std::string first = hello.containers().empty() ? "" : hello.containers(0).id();
  if (hello.sandbox_id() == id) {
    return {{place, first, true}};
  }
  if (matches.empty() && hello.sandbox_id().starts_with(id)) {
    matches.push_back({place, first, false});
  }
  return matches;
}

// Those of one sandbox come one after another. An id that is given whole is no beginning of others.
std::vector<Match> FindMatches(const std::vector<LivingSandbox>& sandboxes, const SandboxRef& ref) {
  std::vector<Match> matches;
  for (size_t place = 0; place < sandboxes.size(); ++place) {
    const pb::HelloResponse& hello = sandboxes[place].hello;
    if (ref.ns.empty() || ref.ns == hello.ns()) {
      std::ranges::move(MatchesIn(hello, place, ref.id), std::back_inserter(matches));
    }
  }
  if (std::ranges::any_of(matches, &Match::exact)) {
    std::erase_if(matches, [](const Match& match) { return !match.exact; });
  }
  return matches;
}

// "default/web, wyvern-run/web"
std::string Listed(const std::vector<LivingSandbox>& sandboxes, const std::vector<Match>& matches) {
  std::string text;
  for (size_t i = 0; i < std::min(matches.size(), kMaxListed); ++i) {
    const pb::HelloResponse& hello = sandboxes[matches[i].sandbox].hello;
    text += (i == 0 ? "" : ", ") + hello.ns() + "/" +
            (matches[i].container.empty() ? hello.sandbox_id() : matches[i].container);
  }
  return text + (matches.size() > kMaxListed ? ", ..." : "");
}

Result<Match> OnlyOne(const std::vector<LivingSandbox>& sandboxes, const SandboxRef& ref,
                      const std::vector<Match>& matches) {
  const std::string quoted = "\"" + ref.id + "\"";
  if (matches.empty()) {
    return Fail(Code::kNotFound, "no living sandbox or container " + quoted +
                                     (ref.ns.empty() ? "" : " in the namespace " + ref.ns) +
                                     "; `wyvern ps` lists them");
  }
  if (matches.size() > 1) {
    return Fail(Code::kInvalidArgument,
                quoted +
                    (matches[0].exact
                         ? " is in several namespaces; choose one with --namespace: "
                         : " is the beginning of several ids; give more of it, or --namespace: ") +
                    Listed(sandboxes, matches));
  }
  return matches[0];
}

}  // namespace

Result<LivingSandbox> ConnectSandbox(const std::string& directory) {
  WV_TRY(UniqueFd socket, ConnectUnix(directory + "/control.sock"));
  LivingSandbox sandbox;
  sandbox.directory = directory;
  WV_TRY(sandbox.client, ttrpc::Client::Create(std::move(socket), {.name = "control"}));
  pb::HelloRequest request;
  request.set_protocol(1);
  WV_TRY(sandbox.hello, (sandbox.client->Call<pb::HelloRequest, pb::HelloResponse>(
                            kControlService, "Hello", request, {.timeout = kHelloTimeout})));
  return sandbox;
}

Result<std::vector<LivingSandbox>> ListSandboxes(const std::string& state_dir) {
  std::vector<LivingSandbox> sandboxes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    auto sandbox = ConnectSandbox(entry.path().string());
    if (sandbox) {
      sandboxes.push_back(*std::move(sandbox));
    }
  }
  if (error && error.value() != ENOENT) {
    return SysErrorFrom(error.value(), "list " + state_dir);
  }
  std::ranges::sort(sandboxes, {}, [](const LivingSandbox& sandbox) {
    return std::pair(sandbox.hello.ns(), sandbox.hello.sandbox_id());
  });
  return sandboxes;
}

Result<FoundContainer> FindContainer(const std::string& state_dir, const SandboxRef& ref) {
  WV_TRY(std::vector<LivingSandbox> sandboxes, ListSandboxes(state_dir));
  WV_TRY(const Match match, OnlyOne(sandboxes, ref, FindMatches(sandboxes, ref)));
  return FoundContainer{std::move(sandboxes[match.sandbox]), match.container};
}

Result<LivingSandbox> FindSandbox(const std::string& state_dir, const SandboxRef& ref) {
  WV_TRY(std::vector<LivingSandbox> sandboxes, ListSandboxes(state_dir));
  std::vector<Match> matches = FindMatches(sandboxes, ref);
  const auto same = std::ranges::unique(matches, {}, &Match::sandbox);
  matches.erase(same.begin(), same.end());
  WV_TRY(const Match match, OnlyOne(sandboxes, ref, matches));
  return std::move(sandboxes[match.sandbox]);
}

}  // namespace wyvern::cli
