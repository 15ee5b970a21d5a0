#include "config/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/fd.h"
#include "config/keys.h"
#include "config/toml.h"
#include "config/yaml.h"

namespace wyvern::runtime {
namespace {

constexpr std::string_view kAnnotationPrefix = "io.wyvern.";

// Short names, and those that Kata Containers users have in their pods (MiB without a unit there).
struct Alias {
  std::string_view annotation;
  std::string_view key;
  std::string_view unit;
};

constexpr Alias kAliases[] = {
    {"io.wyvern.vcpus", "sandbox.vcpus", ""},
    {"io.wyvern.memory", "sandbox.memory", ""},
    {"io.katacontainers.config.hypervisor.default_vcpus", "sandbox.vcpus", ""},
    {"io.katacontainers.config.hypervisor.default_memory", "sandbox.memory", "MiB"},
    {"io.katacontainers.config.hypervisor.reclaim_guest_freed_memory", "memory.page_reporting", ""},
    {"io.katacontainers.config.hypervisor.rx_rate_limiter_max_rate", "network.rx_rate", ""},
    {"io.katacontainers.config.hypervisor.tx_rate_limiter_max_rate", "network.tx_rate", ""},
    // As the bandwidth plugin of CNI reads them: by the pod's side.
    {"kubernetes.io/ingress-bandwidth", "network.rx_rate", ""},
    {"kubernetes.io/egress-bandwidth", "network.tx_rate", ""},
};

RawValue ParseFallback(std::string_view text) {
  RawValue raw;
  if (!text.starts_with('[')) {
    raw.text = text;
    return raw;
  }
  raw.type = RawType::kList;
  std::string item;
  for (const char c : text.substr(1)) {
    if (c == ',' || c == ']') {
      if (!item.empty()) {
        raw.items.push_back(std::move(item));
      }
      item.clear();
    } else if (c != ' ') {
      item += c;
    }
  }
  return raw;
}

Result<> ApplyEntries(Config& config, const std::vector<ConfigEntry>& entries,
                      const std::string& name, bool from_options) {
  for (const ConfigEntry& entry : entries) {
    const Key* key = FindKey(entry.key);
    const std::string place = fmt::format("{}:{}", name, entry.line);
    if (from_options && key->system_only) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}: {}: can only be set below /etc/wyvern", place, entry.key));
    }
    WV_TRY_VOID_CONTEXT(key->set(config, entry.value), fmt::format("{}: {}", place, entry.key));
    config.origins[entry.key] = place;
  }
  return {};
}

Result<> ApplyFile(Config& config, const std::string& path, bool must_exist, bool from_options) {
  auto text = ReadFile(path, kMaxDocumentBytes);
  if (!text.has_value()) {
    if (text.error().code() == Code::kNotFound && !must_exist) {
      return {};
    }
    return tl::unexpected(std::move(text).error().WithContext("configuration"));
  }
  WV_TRY(const std::vector<ConfigEntry> entries, ParseYaml(*text, path));
  return ApplyEntries(config, entries, path, from_options);
}

Result<> ApplyDirectory(Config& config, const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() == ".yaml") {
      files.push_back(it->path().string());
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return SysErrorFrom(error.value(), "configuration: " + directory);
  }
  std::ranges::sort(files);
  for (const std::string& file : files) {
    WV_TRY_VOID(ApplyFile(config, file, /*must_exist=*/true, /*from_options=*/false));
  }
  return {};
}

Result<> ApplyCommandLine(Config& config, const std::string& name, const std::string& value) {
  static constexpr char kOrigin[] = "command line";
  const Key* key = FindKey(name);
  if (key == nullptr) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: {}: unknown key", kOrigin, name));
  }
  RawValue raw;
  raw.text = value;
  WV_TRY_VOID_CONTEXT(key->set(config, raw), fmt::format("{}: {}", kOrigin, name));
  config.origins[name] = kOrigin;
  return {};
}

Result<> ApplyAnnotation(Config& config, const std::string& name, const std::string& value) {
  const auto alias = std::ranges::find(kAliases, name, &Alias::annotation);
  const bool is_alias = alias != std::end(kAliases);
  if (!is_alias && !name.starts_with(kAnnotationPrefix)) {
    return {};
  }
  const std::string key_name(is_alias ? alias->key
                                      : std::string_view(name).substr(kAnnotationPrefix.size()));
  const Key* key = FindKey(key_name);
  if (key == nullptr) {
    return Fail(Code::kInvalidArgument,
                fmt::format("annotation {}: unknown key {}", name, key_name));
  }
  if (std::ranges::find(config.annotations.allow, key_name) == config.annotations.allow.end()) {
    return Fail(Code::kPermissionDenied,
                fmt::format("annotation {}: annotations.allow does not list {}", name, key_name));
  }
  RawValue raw;
  raw.text = is_alias ? value + std::string(alias->unit) : value;
  WV_TRY_VOID_CONTEXT(key->set(config, raw), fmt::format("annotation {}", name));
  config.origins[key_name] = "annotation " + name;
  return {};
}

namespace fs = std::filesystem;

// `there`, or the same file of the version that `program` is of: <versions>/<its version>/bin/<program>, beside a link <versions>/current.
fs::path InVersionOf(const fs::path& program, const fs::path& there) {
  std::error_code error;
  const fs::path own = program.parent_path().parent_path();
  const fs::path versions = own.parent_path();
  const fs::path relative = there.lexically_relative(versions);
  if (program.parent_path().filename() != "bin" || !fs::is_symlink(versions / "current", error) ||
      relative.empty() || *relative.begin() == "..") {
    return there;
  }
  const fs::path ours = own / relative.lexically_relative(*relative.begin());
  return fs::exists(ours, error) ? ours : there;
}

// An installation's programs are links into a version's directory, which an upgrade points elsewhere (cli/install): a sandbox goes on with those
// that it was started with, and a shim that an upgrade has overtaken before its first container takes those of its own version. What is
// not there stays as it is written, for the error of who opens it.
void ResolveLinks(Config& config, const std::string& program) {
  std::error_code error;
  const fs::path own = fs::canonical(program, error);
  for (std::string* path : {&config.paths.vmm, &config.paths.fs, &config.paths.anchor,
                            &config.sandbox.kernel, &config.sandbox.image}) {
    const fs::path resolved = fs::canonical(*path, error);
    if (!error) {
      *path = resolved == *path ? resolved : InVersionOf(own, resolved);
    }
  }
}

void AppendComment(std::string& out, std::string_view indent, std::string_view text) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    out += fmt::format("{}# {}\n", indent, text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// Writes `key`'s sections as they change; returns its own indent.
std::string OpenSections(std::string& out, std::string_view key, std::vector<std::string>& open) {
  std::vector<std::string> path;
  for (size_t dot = key.find('.'); dot != std::string_view::npos; dot = key.find('.')) {
    path.emplace_back(key.substr(0, dot));
    key.remove_prefix(dot + 1);
  }
  size_t same = 0;
  while (same < path.size() && same < open.size() && path[same] == open[same]) {
    ++same;
  }
  if (same == 0) {
    out += '\n';
  }
  for (size_t i = same; i < path.size(); ++i) {
    out += fmt::format("{}{}:\n", std::string(2 * i, ' '), path[i]);
  }
  open = std::move(path);
  return std::string(2 * open.size(), ' ');
}

}  // namespace

Config BuiltInConfig() {
  Config config;
  for (const Key& key : Keys()) {
    WV_CHECK(key.set(config, ParseFallback(key.fallback)).has_value());
    config.origins.emplace(key.name, "built-in");
  }
  return config;
}

Result<std::shared_ptr<const Config>> LoadConfig(const ConfigSources& sources) {
  auto config = std::make_shared<Config>(BuiltInConfig());
  if (!sources.file.empty()) {
    WV_TRY_VOID(ApplyFile(*config, sources.file, /*must_exist=*/false, /*from_options=*/false));
  }
  if (!sources.directory.empty()) {
    WV_TRY_VOID(ApplyDirectory(*config, sources.directory));
  }
  if (!sources.options_path.empty()) {
    WV_TRY_VOID(
        ApplyFile(*config, sources.options_path, /*must_exist=*/true, /*from_options=*/true));
  }
  if (!sources.options_body.empty()) {
    static constexpr char kName[] = "runtime options";
    WV_TRY(const std::vector<ConfigEntry> entries, ParseToml(sources.options_body, kName));
    WV_TRY_VOID(ApplyEntries(*config, entries, kName, /*from_options=*/true));
  }
  for (const auto& [name, value] : sources.command_line) {
    WV_TRY_VOID(ApplyCommandLine(*config, name, value));
  }
  for (const auto& [name, value] : sources.annotations) {
    WV_TRY_VOID(ApplyAnnotation(*config, name, value));
  }
  for (const std::string& path : config->sockets.proxy) {
    if (std::ranges::find(config->sockets.allow, path) == config->sockets.allow.end()) {
      return Fail(Code::kPermissionDenied,
                  fmt::format("sockets.proxy ({}): sockets.allow does not list {}",
                              config->origins["sockets.proxy"], path));
    }
  }
  ResolveLinks(*config, sources.program);
  return std::shared_ptr<const Config>(std::move(config));
}

std::vector<EffectiveValue> EffectiveValues(const Config& config) {
  std::vector<EffectiveValue> values;
  for (const Key& key : Keys()) {
    const auto origin = config.origins.find(std::string(key.name));
    values.push_back({std::string(key.name), key.get(config),
                      origin == config.origins.end() ? "set by the program" : origin->second});
  }
  return values;
}

std::string EffectiveYaml(const Config& config) {
  std::string out = "# The effective configuration; where each value came from stands behind it.";
  std::vector<std::string> open;
  for (const EffectiveValue& value : EffectiveValues(config)) {
    const std::string indent = OpenSections(out, value.name, open);
    out += fmt::format("{}{}: {}  # {}\n", indent, value.name.substr(value.name.rfind('.') + 1),
                       value.value, value.origin);
  }
  return out;
}

std::string DefaultYaml() {
  std::string out =
      "# /etc/wyvern/wyvern.yaml: every key with its default. Files in /etc/wyvern/conf.d/*.yaml "
      "come after it, then the runtime options\n"
      "# of containerd (ConfigPath: a file like this one; or the same keys in its TOML), then "
      "annotations io.wyvern.<key> that\n# annotations.allow lists. Unknown keys are errors.\n";
  std::vector<std::string> open;
  const Config config = BuiltInConfig();
  for (const Key& key : Keys()) {
    const std::string indent = OpenSections(out, key.name, open);
    AppendComment(out, indent, key.doc);
    out += fmt::format("{}{}: {}\n", indent, key.name.substr(key.name.rfind('.') + 1),
                       key.get(config));
  }
  return out;
}

std::vector<KeyDocument> KeyDocuments() {
  std::vector<KeyDocument> documents;
  for (const Key& key : Keys()) {
    documents.push_back({key.name, key.fallback, key.doc, key.system_only});
  }
  return documents;
}

}  // namespace wyvern::runtime
