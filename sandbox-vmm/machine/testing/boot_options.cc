#include "machine/testing/boot_options.h"

#include <charconv>
#include <map>
#include <string_view>

namespace wyvern::machine {

const char* BootUsage() {
  return R"(usage: wyvern-boot-test --kernel VMLINUX [--initrd FILE] [--image FILE[,FILE]...]...
         [--cmdline TEXT]
         [--memory MiB] [--cpus N [--max-cpus N]] [--seconds N] [--pauses N] [--shared] [--split]
         [--disk FILE]... [--read-only-disk FILE]... [--queues N] [--lanes N] [--pool]
         [--balloon [--no-reporting]] [--hotplug MiB] [--tap NAME [--pairs N] [--vhost-net]]
         [--port NAME:FIFO:FILE]...
       wyvern-boot-test --probe
On standard input: type TEXT, pause MS, resize DISK MiB, balloon MiB, hint 0|1, stats, plug MiB,
window COLUMNS ROWS, link 0|1, counters, start-vcpu N, stop-vcpu N, vcpus; each is answered on standard error, at the end with
"COMMAND: done" or what is wrong.
)";
}

namespace {

bool ParseNumber(std::string_view text, uint64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

bool ParsePort(std::string_view text, BootPort* port) {
  const size_t first = text.find(':');
  const size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
  if (second == std::string_view::npos) {
    return false;
  }
  port->name = text.substr(0, first);
  port->in = text.substr(first + 1, second - first - 1);
  port->out = text.substr(second + 1);
  return true;
}

std::vector<std::string> SplitAtCommas(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const size_t comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    if (comma == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(comma + 1);
  }
}

// An option with a value.
bool TakeOption(std::string_view name, std::string_view value, BootOptions* options) {
  const std::map<std::string_view, std::string*> texts = {{"--kernel", &options->kernel},
                                                          {"--initrd", &options->initrd},
                                                          {"--tap", &options->tap},
                                                          {"--cmdline", &options->command_line}};
  if (auto it = texts.find(name); it != texts.end()) {
    *it->second = value;
    return true;
  }
  if (name == "--disk" || name == "--read-only-disk") {
    options->disks.push_back({std::string(value), name != "--disk"});
    return true;
  }
  if (name == "--image") {
    options->images.push_back(SplitAtCommas(value));
    return true;
  }
  if (name == "--port") {
    return ParsePort(value, &options->ports.emplace_back());
  }
  const std::map<std::string_view, uint64_t*> sizes = {{"--memory", &options->memory_mib},
                                                       {"--hotplug", &options->hotplug_mib}};
  const std::map<std::string_view, uint32_t*> counts = {
      {"--cpus", &options->cpus},     {"--max-cpus", &options->max_cpus},
      {"--queues", &options->queues}, {"--lanes", &options->lanes},
      {"--pairs", &options->pairs},   {"--seconds", &options->seconds},
      {"--pauses", &options->pauses}};
  uint64_t number = 0;
  if (!ParseNumber(value, &number)) {
    return false;
  }
  if (auto it = sizes.find(name); it != sizes.end()) {
    *it->second = number;
    return true;
  }
  if (auto it = counts.find(name); it != counts.end()) {
    *it->second = static_cast<uint32_t>(number);
    return true;
  }
  return false;
}

}  // namespace

std::optional<BootOptions> ParseBootOptions(int argc, char** argv) {
  BootOptions options;
  bool no_reporting = false;
  const std::map<std::string_view, bool*> flags = {
      {"--shared", &options.shared},   {"--split", &options.split},
      {"--pool", &options.pool},       {"--vhost-net", &options.vhost_net},
      {"--balloon", &options.balloon}, {"--no-reporting", &no_reporting}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (auto it = flags.find(name); it != flags.end()) {
      *it->second = true;
      continue;
    }
    if (i + 1 >= argc || !TakeOption(name, argv[++i], &options)) {
      return std::nullopt;
    }
  }
  options.reporting = !no_reporting;
  return options.kernel.empty() ? std::nullopt : std::optional(options);
}

}  // namespace wyvern::machine
