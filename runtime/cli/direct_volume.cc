#include "cli/direct_volume.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/control_client.h"
#include "config/config.h"
#include "volume/direct_volumes.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

// A file system that grows writes to its disk.
constexpr std::chrono::minutes kGrowTimeout(3);

struct Options {
  std::string path;
  std::string mount_info;
  std::string size;
};

struct Answer {
  std::string sandbox;
  pb::DirectVolumeResponse usage;
};

// Of the sandbox that has it; nullopt: none.
Result<std::optional<Answer>> Ask(const std::string& state_dir,
                                  const pb::DirectVolumeRequest& request) {
  WV_TRY(const std::vector<LivingSandbox> sandboxes, ListSandboxes(state_dir));
  for (const LivingSandbox& sandbox : sandboxes) {
    auto usage = sandbox.client->Call<pb::DirectVolumeRequest, pb::DirectVolumeResponse>(
        kControlService, "DirectVolume", request,
        {.timeout =
             request.grow_to() > 0 ? std::chrono::milliseconds(kGrowTimeout) : kQueryTimeout});
    if (usage.has_value()) {
      return Answer{sandbox.hello.sandbox_id(), *std::move(usage)};
    }
    // A sandbox of an earlier version has none.
    const Code code = usage.error().code();
    if (code != Code::kNotFound && code != Code::kUnimplemented) {
      return tl::unexpected(
          std::move(usage).error().WithContext("sandbox " + sandbox.hello.sandbox_id()));
    }
  }
  return std::nullopt;
}

Result<int> Add(const Options& options) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  WV_TRY_VOID(runtime::DirectVolumes(config->state_dir).Add(options.path, options.mount_info));
  return 0;
}

Result<int> Remove(const Options& options) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  pb::DirectVolumeRequest request;
  request.set_path(options.path);
  WV_TRY(const auto used, Ask(config->state_dir, request));
  if (used.has_value()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is in use by sandbox {}", options.path, used->sandbox));
  }
  WV_TRY_VOID(runtime::DirectVolumes(config->state_dir).Remove(options.path));
  return 0;
}

Result<pb::DirectVolumeResponse> OfLiving(const pb::DirectVolumeRequest& request) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  WV_TRY(auto answer, Ask(config->state_dir, request));
  if (answer.has_value()) {
    return std::move(answer->usage);
  }
  WV_TRY(const auto registered, runtime::DirectVolumes(config->state_dir).Find(request.path()));
  if (registered.has_value()) {
    return Fail(Code::kFailedPrecondition,
                request.path() + ": no living sandbox has it: it is looked at from within");
  }
  return Fail(Code::kNotFound, request.path() + " is no direct volume");
}

Result<int> Stats(const Options& options) {
  pb::DirectVolumeRequest request;
  request.set_path(options.path);
  WV_TRY(const auto usage, OfLiving(request));
  fmt::print("{}\n", VolumeStatsJson(usage));
  return 0;
}

Result<int> Resize(const Options& options) {
  pb::DirectVolumeRequest request;
  request.set_path(options.path);
  WV_TRY_CONTEXT(const uint64_t bytes, runtime::ParseSize(options.size), "--size");
  if (bytes == 0) {
    return Fail(Code::kInvalidArgument, "--size: a volume has some");
  }
  request.set_grow_to(bytes);
  WV_TRY_VOID(OfLiving(request));
  return 0;
}

using Verb = Result<int> (*)(const Options&);

CLI::App* AddVerb(CLI::App& app, const char* name, const char* what,
                  const std::shared_ptr<Options>& options, std::function<Result<int>()>& action,
                  Verb run) {
  auto* verb = app.add_subcommand(name, what);
  verb->add_option("--volume-path", options->path,
                   "the directory that containers bind-mount; absolute")
      ->required();
  std::string more;
  if (run == Add) {
    more = R"( --mount-info '{"volume-type":"block","device":"/dev/vdb","fstype":"ext4"}')";
  } else if (run == Resize) {
    more = " --size 2GiB";
  }
  verb->footer(
      fmt::format("Examples:\n  wyvern direct-volume {} --volume-path /srv/volume{}", name, more));
  verb->callback([options, &action, run] { action = [options, run] { return run(*options); }; });
  return verb;
}

}  // namespace

void AddDirectVolume(CLI::App& app, std::function<Result<int>()>& action) {
  auto* group = app.add_subcommand(
      "direct-volume", "Directories of the host that stand for a block device, as Kata's");
  group->require_subcommand(1);
  auto options = std::make_shared<Options>();
  AddVerb(*group, "add", "From now on a container that mounts the directory gets the device",
          options, action, Add)
      ->add_option("--mount-info", options->mount_info,
                   R"({"volume-type":"block","device":"/dev/vdb","fstype":"ext4","options":[]})")
      ->required();
  AddVerb(*group, "remove", "The directory stands for itself again; not while a sandbox has it",
          options, action, Remove)
      ->alias("delete");
  AddVerb(*group, "stats", "Prints bytes and inodes of the mounted volume, as CSI has them",
          options, action, Stats);
  AddVerb(*group, "resize",
          "The device has grown: so does the disk of the guest, and its files' "
          "place",
          options, action, Resize)
      ->add_option("--size", options->size, "that it must have at least: bytes, or 2GiB")
      ->required();
  group->footer(
      "The device becomes a disk of the guest, whose kernel alone reads its file system (ext2,\n"
      "ext3, ext4, xfs, erofs, squashfs).\n"
      "Examples:\n  wyvern direct-volume add --volume-path /var/lib/kubelet/pods/…/mount \\\n"
      "    --mount-info '{\"volume-type\":\"block\",\"device\":\"/dev/vdb\",\"fstype\":\"ext4\"}'\n"
      "  wyvern direct-volume stats --volume-path /var/lib/kubelet/pods/…/mount");
}

std::string VolumeStatsJson(const pb::DirectVolumeResponse& usage) {
  // CSI's VolumeUsage.Unit, as Go writes it.
  constexpr int kBytes = 1, kInodes = 2;
  const auto entry = [](uint64_t total, uint64_t available, uint64_t used, int unit) {
    return nlohmann::json{
        {"available", available}, {"total", total}, {"used", used}, {"unit", unit}};
  };
  const nlohmann::json json = {
      {"usage",
       {entry(usage.bytes(), usage.bytes_available(), usage.bytes_used(), kBytes),
        entry(usage.inodes(), usage.inodes_available(), usage.inodes_used(), kInodes)}},
      {"volume_condition", {{"abnormal", false}, {"message", ""}}}};
  return json.dump(2);
}

}  // namespace wyvern::cli
