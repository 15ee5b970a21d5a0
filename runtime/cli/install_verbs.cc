// `wyvern install` and `uninstall`: this program's part in install/install.h.
#include "cli/install_verbs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "cli/check.h"
#include "cli/completion.h"
#include "cli/man.h"
#include "cli/version.h"
#include "config/config.h"
#include "install/install.h"

namespace wyvern::cli {

namespace {

struct Words {
  std::string root = "/";
  std::string from;
  InstallOptions options;
};

// The directory above that of this program, as deploy/install.sh and an installed version have it.
Result<std::string> OwnDirectory() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return SysErrorFrom(error.value(), "read /proc/self/exe");
  }
  return self.parent_path().parent_path().string();
}

// From here on the node's file system is ours: its symlinks lead to where they lead there, and its programs run in it.
Result<> EnterRoot(const std::string& root) {
  if (geteuid() != 0) {
    return Fail(Code::kPermissionDenied, "must be run as root");
  }
  if (root != "/" && (chroot(root.c_str()) != 0 || chdir("/") != 0)) {
    return SysError("chroot " + root);
  }
  return {};
}

void Print(const InstallReport& report) {
  for (const std::string& line : report.lines) {
    fmt::print("{}\n", line);
  }
}

Result<int> RunInstall(const CLI::App& app, const Words& words) {
  std::string from = words.from;
  if (from.empty()) {
    WV_TRY(from, OwnDirectory());
  }
  std::map<std::string, std::string> documents = ManPages(app);
  for (auto& [path, text] : Completions(app)) {
    documents.emplace(path, std::move(text));
  }
  documents.emplace("share/wyvern.yaml", runtime::DefaultYaml());
  WV_TRY(const Payload payload, OpenPayload(from, kVersion, std::move(documents)));
  WV_TRY_VOID(EnterRoot(words.root));
  WV_TRY(const InstallReport report, Install(payload, words.options));
  Print(report);
  if (report.restart_containerd) {
    fmt::print(
        "restart containerd, so that it knows the handler (containers go on): systemctl "
        "restart containerd\n");
  }
  if (const auto config = runtime::LoadConfig({})) {
    for (const Finding& finding : CheckHost(**config, api::ProbeKvm())) {
      if (finding.verdict != Verdict::kOk) {
        fmt::print("{}", Render({finding}, /*json=*/false));
      }
    }
  }
  return 0;
}

Result<int> RunUninstall(const Words& words) {
  WV_TRY_VOID(EnterRoot(words.root));
  WV_TRY(const InstallReport report, Uninstall(words.options));
  Print(report);
  fmt::print("version {} uninstalled\n", report.version);
  if (report.restart_containerd) {
    fmt::print(
        "restart containerd, so that it forgets the handler (containers go on): systemctl "
        "restart containerd\n");
  }
  return 0;
}

void AddRoot(CLI::App& verb, Words& words) {
  verb.add_option("--root", words.root,
                  "a whole system's root, such as a node's in a container; / by default")
      ->check(CLI::ExistingDirectory);
}

}  // namespace

void AddInstallation(CLI::App& app, std::function<Result<int>()>& action) {
  auto words = std::make_shared<Words>();
  auto* install = app.add_subcommand(
      "install",
      "Puts this version's programs, guest, configuration and containerd's handler in place; "
      "restarts nothing");
  AddRoot(*install, *words);
  install
      ->add_option("--from", words->from,
                   "directory with bin/, libexec/ and share/guest/; the one this program is in")
      ->check(CLI::ExistingDirectory);
  install->add_option("--containerd-config", words->options.containerd_config,
                      "containerd's config.toml, as the root has it; /etc/containerd/config.toml");
  install->add_flag_callback(
      "--without-containerd", [words] { words->options.containerd = false; },
      "leave containerd's configuration alone");
  install->footer(
      "Again and again does no harm; a later version takes the place of an earlier one while "
      "sandboxes live.\n"
      "Examples:\n  wyvern install\n  wyvern install --from /opt/wyvern-new --root /host");
  install->callback(
      [words, &app, &action] { action = [words, &app] { return RunInstall(app, *words); }; });

  auto* uninstall = app.add_subcommand(
      "uninstall", "Takes away what `wyvern install` has put in place, and says what it left");
  AddRoot(*uninstall, *words);
  uninstall->footer("Examples:\n  wyvern uninstall\n  wyvern uninstall --root /host");
  uninstall->callback([words, &action] { action = [words] { return RunUninstall(*words); }; });
}

}  // namespace wyvern::cli
