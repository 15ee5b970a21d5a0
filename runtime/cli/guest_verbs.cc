#include "cli/guest_verbs.h"

#include <memory>
#include <string>

#include "cli/guest.h"

namespace wyvern::cli {

namespace {

void AddImport(CLI::App& guest, std::function<Result<int>()>& action) {
  auto* verb = guest.add_subcommand(
      "import", "Makes a distribution's kernel a guest; prints the configuration that selects it");
  auto options = std::make_shared<GuestImportOptions>();
  verb->add_option("--kernel", options->kernel, "boot image (vmlinuz) or unpacked kernel (vmlinux)")
      ->required();
  verb->add_option("--modules", options->modules,
                   "its modules: /lib/modules/RELEASE or what holds RELEASE; /lib/modules");
  verb->add_option("--name", options->name, "name of the guest; the kernel's release by default");
  verb->add_option("--module", options->extra_modules,
                   "load this module, too, with what it depends on; may be repeated");
  verb->add_option("--cmdline", options->cmdline, "words for the kernel's command line");
  verb->add_option("--agent", options->agent, "another wyvern-agent than the guest image's");
  verb->add_option("--config", options->config_file,
                   "configuration on top of /etc/wyvern/wyvern.yaml");
  verb->footer(
      "Examples:\n  wyvern guest import --kernel /boot/vmlinuz-6.1.0-50-cloud-amd64\n"
      "  wyvern guest import --kernel vmlinuz --modules root/lib/modules --name debian-12 \\\n"
      "      --module nf_tables > /etc/wyvern/conf.d/guest.yaml");
  verb->callback([options, &action] { action = [options] { return GuestImport(*options); }; });
}

}  // namespace

void AddGuest(CLI::App& app, std::function<Result<int>()>& action) {
  auto* guest = app.add_subcommand("guest", "Kernels of distributions as guests");
  guest->require_subcommand(1);
  AddImport(*guest, action);

  auto config_file = std::make_shared<std::string>();
  auto* list = guest->add_subcommand("list", "Lists them; * is the one in use");
  auto json = std::make_shared<bool>(false);
  list->add_flag("--json", *json, "machine-readable");
  list->add_option("--config", *config_file, "configuration on top of /etc/wyvern/wyvern.yaml");
  list->footer("Examples:\n  wyvern guest list\n  wyvern run --guest debian-12 IMAGE -- uname -r");
  list->callback([json, config_file, &action] {
    action = [json, config_file] { return GuestList(*config_file, *json); };
  });

  auto* remove = guest->add_subcommand("remove", "Removes one; living sandboxes are not touched");
  auto name = std::make_shared<std::string>();
  remove->add_option("name", *name, "as `wyvern guest list` prints it")->required();
  remove->add_option("--config", *config_file, "configuration on top of /etc/wyvern/wyvern.yaml");
  remove->footer("Example:\n  wyvern guest remove debian-12");
  remove->callback([name, config_file, &action] {
    action = [name, config_file] { return GuestRemove(*config_file, *name); };
  });
  // After its verbs, which would inherit it.
  guest->footer(
      "Examples:\n  wyvern guest import --kernel /boot/vmlinuz-6.1.0-50-cloud-amd64\n"
      "  wyvern guest list\n`wyvern guest VERB --help` has more.");
}

}  // namespace wyvern::cli
