#include "cli/verbs.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/direct_volume.h"
#include "cli/guest_verbs.h"
#include "cli/install_verbs.h"
#include "cli/keeper.h"
#include "cli/man.h"
#include "cli/observe_verbs.h"
#include "cli/size.h"
#include "cli/version.h"

namespace wyvern::cli {

namespace {

// One value each time it is given; CLI11 would take what follows, too: the image, the container.
void AddRepeated(CLI::App& verb, const char* name, std::vector<std::string>& values,
                 const char* help) {
  verb.add_option(name, values, help)->allow_extra_args(false);
}

// Ids are unique in a namespace of containerd, or in that of `wyvern run`.
CLI::Option* AddNamespace(CLI::App& verb, std::string& ns) {
  return verb.add_option("-n,--namespace", ns,
                         "of the sandbox, as `wyvern ps` prints it, where an id is in several");
}

void AddCheck(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "check", "Can this host run sandboxes? Each line says what to do about what is missing");
  auto options = std::make_shared<CheckOptions>();
  verb->add_flag("--json", options->json, "machine-readable");
  verb->add_flag("--kvm-only", options->kvm_only, "only whether KVM works, in one line");
  verb->footer("Examples:\n  wyvern check\n  wyvern check --json");
  verb->callback([options, &action] { action = [options] { return Check(*options); }; });
}

void AddEnv(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "env",
      "Prints versions, paths, host, configuration, guest and what check finds, for reports");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "machine-readable");
  verb->footer("Examples:\n  wyvern env\n  wyvern env --json");
  verb->callback([json, &action] { action = [json] { return Env(*json); }; });
}

void AddRun(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand("run", "Runs a container in a microVM, without containerd");
  auto options = std::make_shared<RunOptions>();
  verb->add_option("image", options->source, "root directory, OCI layout directory, or OCI archive")
      ->required();
  verb->add_option("command", options->command, "command and its arguments, after \"--\"");
  verb->add_option("--cpus", options->cpus, "vCPUs")->check(CLI::Range(1, 8));
  verb->add_option("--memory", options->memory, "guest memory, such as 512MiB");
  AddRepeated(*verb, "-v,--volume", options->volumes, "HOST:GUEST[:ro]; may be repeated");
  AddRepeated(*verb, "-e,--env", options->env, "K=V, or K to pass our own; may be repeated");
  verb->add_option("--net", options->net,
                   "none: loopback alone; user: out by the host's addresses (needs passt)")
      ->check(CLI::IsMember({"none", "user"}));
  AddRepeated(*verb, "-p,--publish", options->publish,
              "[ADDRESS:]HOST:GUEST[/udp], with --net user; may be repeated");
  verb->add_option("--guest", options->guest, "imported guest, see `wyvern guest list`");
  verb->add_option("--name", options->name, "name of the sandbox; random by default");
  verb->add_option("-u,--user", options->user, "UID, UID:GID, NAME or NAME:GROUP of the image");
  verb->add_option("-w,--cwd", options->cwd, "working directory in the container");
  verb->add_option("--hostname", options->hostname, "the container's host name");
  verb->add_flag("-t,--tty", options->tty, "give it a terminal, and pass our standard input");
  verb->add_flag("-i,--interactive", options->interactive, "pass our standard input");
  verb->add_flag("--read-only", options->read_only, "read-only root");
  verb->add_option("--timeline", options->timeline,
                   "write the start's timeline to this file (JSON)");
  verb->add_option("--config", options->config_file,
                   "configuration on top of /etc/wyvern/wyvern.yaml");
  verb->footer(
      "Examples:\n  wyvern run /opt/images/busybox -- uname -r\n"
      "  wyvern run -it --memory 1GiB --cpus 2 -v $PWD:/src image.tar -- sh");
  verb->callback([options, &action] { action = [options] { return Run(*options); }; });
}

void AddExec(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand(
      "exec", "Runs a command in a living container, or in its guest outside of every container");
  auto options = std::make_shared<ExecOptions>();
  verb->add_option("id", options->id, "sandbox or container, as `wyvern ps` prints it")->required();
  verb->add_option("command", options->command,
                   "command and its arguments, after \"--\"; with --guest a shell by default");
  AddNamespace(*verb, options->ns);
  verb->add_flag("--guest", options->guest,
                 "in the guest itself, as its root; see guest.debug_exec in wyvern.yaml");
  verb->add_flag("-t,--tty", options->tty, "give it a terminal, and pass our standard input");
  verb->add_flag("-i,--interactive", options->interactive, "pass our standard input");
  AddRepeated(*verb, "-e,--env", options->env, "K=V, or K to pass our own; may be repeated");
  verb->add_option("-w,--cwd", options->cwd, "working directory");
  verb->add_option("-u,--user", options->user,
                   "UID, UID:GID, NAME or NAME:GROUP of the container; numbers with --guest");
  verb->footer(
      "Examples:\n  wyvern exec web -- ps\n  wyvern exec -t web -- sh\n"
      "  wyvern exec -i web -- tar x < files.tar\n"
      "  wyvern exec -n k8s.io -u www-data 4f1e -- id\n  wyvern exec --guest web\n"
      "  wyvern exec --guest web -- dmesg");
  verb->callback([options, &action] {
    if (options->command.empty() && !options->guest) {
      throw CLI::RequiredError("command");
    }
    action = [options] { return Exec(*options); };
  });
}

void AddInspection(CLI::App& app, std::function<Result<int>()>& action) {
  auto* ps = app.add_subcommand("ps", "Lists living sandboxes and their containers");
  auto json = std::make_shared<bool>(false);
  ps->add_flag("--json", *json, "machine-readable");
  ps->footer("Examples:\n  wyvern ps\n  wyvern ps --json");
  ps->callback([json, &action] { action = [json] { return Ps(*json); }; });

  auto* logs = app.add_subcommand("logs", "Prints the last 64 KiB of a guest's console");
  auto sandbox = std::make_shared<SandboxRef>();
  logs->add_option("id", sandbox->id, "sandbox, as `wyvern ps` prints it")->required();
  AddNamespace(*logs, sandbox->ns);
  logs->footer("Example:\n  wyvern logs web");
  logs->callback([sandbox, &action] { action = [sandbox] { return Logs(*sandbox); }; });

  auto* timeline = app.add_subcommand(
      "timeline", "Prints how long each step of a sandbox's start took, as JSON");
  timeline->add_option("id", sandbox->id, "sandbox, as `wyvern ps` prints it")->required();
  AddNamespace(*timeline, sandbox->ns);
  timeline->footer("Example:\n  wyvern timeline web");
  timeline->callback([sandbox, &action] { action = [sandbox] { return Timeline(*sandbox); }; });

  auto* config =
      app.add_subcommand("config", "Prints the default configuration, or the one in effect");
  auto options = std::make_shared<ConfigOptions>();
  auto* effective =
      config->add_flag("--effective", options->effective, "every value with its origin");
  auto* id =
      config->add_option("id", options->sandbox.id, "with --effective: of this living sandbox");
  AddNamespace(*config, options->sandbox.ns)->needs(id);
  auto* file = config->add_option("--config", options->file,
                                  "with --effective: configuration on top of "
                                  "/etc/wyvern/wyvern.yaml");
  id->needs(effective);
  file->needs(effective);
  file->excludes(id);  // a living sandbox has its configuration already
  config->footer(
      "Examples:\n  wyvern config > /etc/wyvern/wyvern.yaml\n  wyvern config --effective\n"
      "  wyvern config --effective web");
  auto* import = config->add_subcommand(
      "import",
      "Prints a configuration.toml of Kata Containers as wyvern.yaml, with a line for each "
      "setting that has no counterpart");
  auto kata = std::make_shared<std::string>();
  import->add_option("file", *kata, "such as /etc/kata-containers/configuration.toml")->required();
  import->footer(
      "Example:\n  wyvern config import /etc/kata-containers/configuration.toml > wyvern.yaml");
  import->callback([kata, &action] { action = [kata] { return ConfigImport(*kata); }; });
  config->callback([options, import, &action] {
    if (!import->parsed()) {
      action = [options] { return ShowConfig(*options); };
    }
  });

  auto* version = app.add_subcommand("version", "Prints the version");
  version->footer("Example:\n  wyvern version");
  version->callback([&action] { action = [] { return Version(); }; });
}

void AddImage(CLI::App& app, std::function<Result<int>()>& action) {
  auto* image = app.add_subcommand("image", "What `wyvern run` unpacked of OCI images");
  image->require_subcommand(1);
  image->footer("Example:\n  wyvern image prune");
  auto* prune = image->add_subcommand(
      "prune", "Removes the layers that no run uses; they are unpacked again when one needs them");
  prune->footer("Example:\n  wyvern image prune");
  prune->callback([&action] { action = [] { return ImagePrune(); }; });
}

// What the command line says of itself; `app` has all verbs by the time that it is asked.
void AddPapers(CLI::App& app, std::function<Result<int>()>& action) {
  const auto print = [](Result<std::string> made) -> Result<int> {
    WV_TRY(const std::string text, std::move(made));
    fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  };
  auto word = std::make_shared<std::string>();
  auto* completion = app.add_subcommand("completion", "Prints the completion script of a shell");
  completion->add_option("shell", *word, "bash, zsh or fish")->required();
  completion->footer(
      "Examples:\n  source <(wyvern completion bash)\n"
      "  wyvern completion fish > ~/.config/fish/completions/wyvern.fish");
  completion->callback(
      [=, &app, &action] { action = [=, &app] { return print(CompletionScript(app, *word)); }; });

  auto* man = app.add_subcommand("man", "Prints a manual page");
  auto page = std::make_shared<std::string>("wyvern");
  man->add_option("page", *page, "verb, such as run or guest-import, or wyvern.yaml; wyvern's own");
  man->footer("Examples:\n  wyvern man run | man -l -\n  wyvern man wyvern.yaml | man -l -");
  man->callback([=, &app, &action] { action = [=, &app] { return print(ManPage(app, *page)); }; });
}

// Not for people: `wyvern run` starts it (cli/keeper.h).
void AddKeepRun(CLI::App& app, std::function<Result<int>()>& action) {
  auto* verb = app.add_subcommand("keep-run", "");
  verb->group("");
  auto run = std::make_shared<KeptRun>();
  verb->add_option("state", run->places.state_dir)->required();
  verb->add_option("cgroup", run->places.cgroup_root)->required();
  verb->add_option("namespace", run->ns)->required();
  verb->add_option("name", run->name)->required();
  verb->add_option("scratch", run->scratch)->required();
  verb->callback([run, &action] { action = [run] { return KeepRun(*run); }; });
}

}  // namespace

void AddVerbs(CLI::App& app, std::function<Result<int>()>& action) {
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("wyvern ") + kVersion, "Prints the version");
  AddCheck(app, action);
  AddEnv(app, action);
  AddRun(app, action);
  AddExec(app, action);
  AddInspection(app, action);
  AddObservation(app, action);
  AddImage(app, action);
  AddInstallation(app, action);
  AddPapers(app, action);
  AddKeepRun(app, action);
  AddGuest(app, action);
  AddSizes(app, action);
  AddDirectVolume(app, action);
  // After the verbs, which would inherit it.
  app.footer(
      "Examples:\n  wyvern check\n  wyvern run /opt/images/busybox -- uname -r\n"
      "  wyvern exec -t web -- sh\n`wyvern VERB --help` has more.");
}

}  // namespace wyvern::cli
