// JSON to records and back; nlohmann's exceptions end here.
#include <fmt/format.h>

#include "oci/json.h"
#include "state/state.h"

namespace wyvern::runtime {
namespace {

using oci::Json;

Json ToJson(const ProcessRecord& process) {
  return {{"role", process.role}, {"pid", process.pid}, {"start_time", process.start_time}};
}

Json ToJson(const std::vector<ProcessRecord>& processes) {
  Json out = Json::array();
  for (const ProcessRecord& process : processes) {
    out.push_back(ToJson(process));
  }
  return out;
}

ProcessRecord ReadProcess(const Json& json) {
  return {json.at("role").get<std::string>(), json.at("pid").get<pid_t>(),
          json.at("start_time").get<uint64_t>()};
}

std::vector<ProcessRecord> ReadProcesses(const Json& json) {
  std::vector<ProcessRecord> out;
  for (const Json& item : json) {
    out.push_back(ReadProcess(item));
  }
  return out;
}

ContainerRecord ReadContainer(const Json& json) {
  ContainerRecord out;
  out.bundle = json.at("bundle").get<std::string>();
  out.index = json.at("index").get<uint32_t>();
  out.mounts = json.at("mounts").get<std::vector<std::string>>();
  out.exports = json.at("exports").get<std::vector<std::string>>();
  // Not there in a file of an earlier version, which had none.
  for (const Json& disk : json.value("disks", Json::array())) {
    out.disks.push_back({disk.at("id").get<std::string>(), disk.at("source").get<std::string>()});
  }
  out.cgroup = json.at("cgroup").get<std::string>();
  out.hooked = json.value("hooked", false);  // the same
  out.processes = ReadProcesses(json.at("processes"));
  return out;
}

}  // namespace

std::string FormatState(const SandboxRecord& record) {
  Json containers = Json::object();
  for (const auto& [id, c] : record.containers) {
    Json disks = Json::array();
    for (const DiskRecord& disk : c.disks) {
      disks.push_back({{"id", disk.id}, {"source", disk.source}});
    }
    containers[id] = {{"bundle", c.bundle},        {"index", c.index},
                      {"mounts", c.mounts},        {"exports", c.exports},
                      {"disks", std::move(disks)}, {"cgroup", c.cgroup},
                      {"hooked", c.hooked},        {"processes", ToJson(c.processes)}};
  }
  const Json json = {
      {"version", kStateVersion},
      {"namespace", record.ns},
      {"id", record.id},
      {"bundle", record.bundle},
      {"owner", ToJson(record.owner)},
      {"processes", ToJson(record.processes)},
      {"cgroups", record.cgroups},
      {"network", {{"path", record.network.path}, {"interfaces", record.network.interfaces}}},
      {"containers", std::move(containers)}};
  return oci::Dump(json) + "\n";
}

Result<SandboxRecord> ParseState(std::string_view text) {
  auto parsed = oci::ParseJson(text, kMaxStateBytes);
  if (!parsed.has_value()) {
    return tl::unexpected(
        std::move(parsed).error().WithContext("state.json").WithCode(Code::kDataLoss));
  }
  try {
    const Json& json = *parsed;
    const auto version = json.at("version").get<int64_t>();
    if (version > kStateVersion) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("state.json is of format {}, and this version of Wyvern knows up to "
                              "{}: only the version "
                              "that wrote it, or a later one, can undo the sandbox. Install that, "
                              "then delete it again",
                              version, kStateVersion));
    }
    if (version < 1) {
      return Fail(Code::kDataLoss, "state.json: no version");
    }
    SandboxRecord out;
    out.ns = json.at("namespace").get<std::string>();
    out.id = json.at("id").get<std::string>();
    out.bundle = json.at("bundle").get<std::string>();
    out.owner = ReadProcess(json.at("owner"));
    out.processes = ReadProcesses(json.at("processes"));
    out.cgroups = json.at("cgroups").get<std::vector<std::string>>();
    // Not there in a file of an earlier version, which connected none.
    if (const auto network = json.find("network"); network != json.end()) {
      out.network = {network->at("path").get<std::string>(),
                     network->at("interfaces").get<std::vector<int>>()};
    }
    for (const auto& [id, container] : json.at("containers").items()) {
      out.containers.emplace(id, ReadContainer(container));
    }
    return out;
  } catch (const Json::exception& e) {
    return Fail(Code::kDataLoss, fmt::format("state.json: {}", e.what()));
  }
}

}  // namespace wyvern::runtime
