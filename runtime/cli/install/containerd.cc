#include "install/containerd.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/fd.h"
#include "base/subprocess.h"
#include "install/containerd_config.h"
#include "install/places.h"
#include "install/tree.h"

namespace wyvern::cli {

namespace {

constexpr int kRunMs = 10000;
constexpr char kHandler[] = "wyvern";

Result<CommandOutput> RunContainerd(const std::string& root, const Containerd& containerd,
                                    std::vector<std::string> words) {
  SpawnOptions options;
  options.argv = {root + containerd.program};
  options.argv.insert(options.argv.end(), words.begin(), words.end());
  options.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  options.cwd = "/";
  return RunCommand(options, kRunMs);
}

// The handlers of the CRI plugin, as containerd understands its configuration. Nothing: it cannot be run here.
Result<std::optional<std::vector<std::string>>> HandlersOf(const std::string& root,
                                                           const std::string& config_path,
                                                           const Containerd& containerd) {
  if (containerd.version.empty()) {
    return std::nullopt;
  }
  WV_TRY(const CommandOutput output,
         RunContainerd(root, containerd, {"--config", root + config_path, "config", "dump"}));
  if (output.status.AsShell() != 0) {
    std::string_view said = output.err;
    said = said.substr(0, said.find_last_not_of(" \n") + 1);
    said = said.substr(said.rfind('\n') + 1);
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} does not take {}: {}", containerd.program, config_path, said));
  }
  return ReadContainerdConfig(output.out).handlers;
}

// A file that is to be written, and what it was before.
struct Edit {
  std::string path;
  std::optional<std::string> before;
  std::string after;
  PlacedKind kind = PlacedKind::kFile;
  std::string mark;
};

struct Plan {
  std::vector<Edit> edits;
  std::string place;   // where the handler is then
  std::string reason;  // nothing is to be done, because …
};

Result<std::optional<std::string>> TextOf(const std::string& path) {
  auto text = ReadFile(path);
  if (!text && text.error().code() == Code::kNotFound) {
    return std::nullopt;
  }
  WV_TRY(std::string there, std::move(text));
  return there;
}

bool IsAtLeast2(const Containerd& containerd) {
  return !containerd.version.empty() && containerd.version[0] != '0' &&
         !containerd.version.starts_with("1.");
}

// A file of ours alone: a drop-in, or a config.toml where there was none.
Result<> PlanFile(const std::string& root, const std::string& path, std::string text,
                  const Manifest& manifest, Plan& plan) {
  WV_TRY(std::optional<std::string> before, TextOf(root + path));
  const Placed* ours = manifest.Find(PlacedKind::kFile, path);
  if (before && *before != text && (ours == nullptr || ours->mark != HexDigest(*before))) {
    if (ours == nullptr) {
      return Fail(Code::kAlreadyExists,
                  path +
                      " is there and not of `wyvern install`: move it away, or install with "
                      "--without-containerd");
    }
    plan.reason = path + " was edited since it was installed";
    return {};
  }
  plan.edits.push_back({path, std::move(before), std::move(text), PlacedKind::kFile, ""});
  plan.edits.back().mark = HexDigest(plan.edits.back().after);
  return {};
}

Result<Plan> MakePlan(const std::string& root, const std::string& config_path,
                      const Containerd& containerd, const Manifest& manifest) {
  Plan plan;
  const std::string directory = std::filesystem::path(config_path).parent_path();
  const std::string drop_in = directory + "/conf.d/wyvern.toml";
  WV_TRY(std::optional<std::string> before, TextOf(root + config_path));
  const bool whole_is_ours =
      before && manifest.Find(PlacedKind::kFile, config_path) != nullptr &&
      manifest.Find(PlacedKind::kFile, config_path)->mark == HexDigest(*before);
  if (!before && !IsAtLeast2(containerd)) {
    plan.place = config_path;
    WV_TRY_VOID(PlanFile(root, config_path, WithHandler("version = 2\n"), manifest, plan));
    return plan;
  }
  if (!before) {
    plan.place = drop_in;
    WV_TRY_VOID(PlanFile(root, config_path,
                         fmt::format("version = 3\nimports = ['{}/conf.d/*.toml']\n", directory),
                         manifest, plan));
    WV_TRY_VOID(PlanFile(root, drop_in, HandlerToml(3), manifest, plan));
    return plan;
  }
  const ContainerdConfig config = ReadContainerdConfig(WithoutHandler(*before).value_or(*before));
  if (config.version < 2) {
    plan.reason = config_path +
                  " is of version 1, where no handler for pods can be added (docker, nerdctl and "
                  "ctr need none); `containerd config default` shows how version 2 is written";
  } else if (config.cri_disabled) {
    plan.reason = config_path +
                  " disables the CRI plugin, so there are no pods (docker, nerdctl "
                  "and ctr need no handler)";
  } else if (std::ranges::find(config.handlers, kHandler) != config.handlers.end()) {
    plan.reason = config_path + " defines a handler of that name itself";
  } else if (config.version >= 3 && ImportsPath(config, directory, drop_in)) {
    plan.place = drop_in;
    WV_TRY_VOID(PlanFile(root, drop_in, HandlerToml(3), manifest, plan));
  } else {
    plan.place = config_path;
    std::string after = WithHandler(*before);
    const std::string mark = HexDigest(whole_is_ours ? after : HandlerLines(after));
    plan.edits.push_back({config_path, std::move(before), std::move(after),
                          whole_is_ours ? PlacedKind::kFile : PlacedKind::kLines, mark});
  }
  return plan;
}

// As it was; the error that led here is what is told.
void Undo(const std::string& root, const Plan& plan) {
  for (const Edit& edit : plan.edits) {
    if (edit.before) {
      (void)ReplaceFile(root + edit.path, *edit.before);
    } else {
      unlink((root + edit.path).c_str());
    }
  }
}

Result<> CheckHandlers(const std::string& root, const std::string& config_path,
                       const Containerd& containerd,
                       const std::optional<std::vector<std::string>>& before) {
  WV_TRY(const auto after, HandlersOf(root, config_path, containerd));
  if (!after) {
    return {};
  }
  for (const std::string& name : before.value_or(std::vector<std::string>())) {
    if (std::ranges::find(*after, name) == after->end()) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("with our handler containerd {} would lose the handler {}",
                              containerd.version, name));
    }
  }
  if (std::ranges::find(*after, kHandler) == after->end()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("containerd {} does not see our handler", containerd.version));
  }
  return {};
}

}  // namespace

Result<Containerd> FindContainerd(const std::string& root) {
  for (const char* directory :
       {"/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin", "/opt/bin", "/bin"}) {
    Containerd found{std::string(directory) + "/containerd", ""};
    if (access((root + found.program).c_str(), X_OK) != 0) {
      continue;
    }
    // "containerd github.com/containerd/containerd v1.7.24 <commit>"
    if (const auto output = RunContainerd(root, found, {"--version"});
        output && output->status.AsShell() == 0) {
      const std::string& out = output->out;
      const size_t second = out.find(' ', out.find(' ') + 1);
      std::string version =
          second == std::string::npos
              ? ""
              : out.substr(second + 1, out.find_first_of(" \n", second + 1) - second - 1);
      found.version = version.starts_with('v') ? version.substr(1) : version;
    }
    return found;
  }
  return Fail(Code::kNotFound,
              fmt::format("no containerd in {}/usr/bin and the like: install it first, or install "
                          "with --without-containerd",
                          root));
}

Result<> PlanHandler(const std::string& root, const std::string& config_path,
                     const Containerd& containerd, Manifest& manifest) {
  WV_TRY(const Plan plan, MakePlan(root, config_path, containerd, manifest));
  for (const Edit& edit : plan.edits) {
    // Of what is there the mark holds until it is replaced.
    if (manifest.Find(edit.kind, edit.path) == nullptr) {
      manifest.Put({edit.kind, edit.path, edit.mark});
    }
  }
  return {};
}

Result<HandlerChange> AddHandler(const std::string& root, const std::string& config_path,
                                 const Containerd& containerd, Manifest& manifest) {
  WV_TRY(const Plan plan, MakePlan(root, config_path, containerd, manifest));
  HandlerChange change;
  const std::string name =
      containerd.version.empty() ? "containerd" : "containerd " + containerd.version;
  if (!plan.reason.empty()) {
    change.lines.push_back(
        fmt::format("{}: handler {} not added: {}", name, kHandler, plan.reason));
    return change;
  }
  if (std::ranges::all_of(plan.edits, [](const Edit& edit) { return edit.before == edit.after; })) {
    change.lines.push_back(fmt::format("{}: handler {} is in {}", name, kHandler, plan.place));
    return change;
  }
  std::optional<std::vector<std::string>> handlers;
  if (access((root + config_path).c_str(), F_OK) == 0) {
    WV_TRY_CONTEXT(handlers, HandlersOf(root, config_path, containerd), "before any change");
  }
  for (const Edit& edit : plan.edits) {
    std::vector<std::string> made;
    auto done = MakeDirectories(root, std::filesystem::path(edit.path).parent_path(), made);
    for (const std::string& path : made) {
      manifest.Put({PlacedKind::kDirectory, path, ""});
    }
    if (done) {
      done = ReplaceFile(root + edit.path, edit.after);
    }
    if (!done) {
      Undo(root, plan);
      return tl::unexpected(std::move(done).error());
    }
  }
  if (auto checked = CheckHandlers(root, config_path, containerd, handlers); !checked) {
    Undo(root, plan);
    return tl::unexpected(
        std::move(checked).error().WithContext("containerd's configuration is as it was"));
  }
  for (const Edit& edit : plan.edits) {
    manifest.Put({edit.kind, edit.path, edit.mark});
  }
  change.restart = true;
  change.lines.push_back(fmt::format(
      "{}: handler {} added in {}{}", name, kHandler, plan.place,
      containerd.version.empty() ? " (containerd cannot be run here, so it was not asked)" : ""));
  return change;
}

}  // namespace wyvern::cli
