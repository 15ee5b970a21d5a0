#include "cli/ps.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

using Row = std::array<std::string, 6>;

std::string Line(const Row& row) {
  return fmt::format("{:<24} {:<24} {:<12} {:<9} {:>8}  {}\n", row[0], row[1], row[2], row[3],
                     row[4], row[5]);
}

Row RowOf(const pb::HelloResponse& sandbox, const pb::ContainerInfo* container) {
  Row row = {sandbox.sandbox_id(), "-", sandbox.ns(), "-", "-", sandbox.kernel_release()};
  if (container != nullptr) {
    row[1] = container->id();
    row[3] = container->status();
    row[4] = fmt::format("{}", container->anchor_pid());
  }
  return row;
}

nlohmann::json ObjectOf(const pb::HelloResponse& sandbox, const pb::ContainerInfo* container) {
  nlohmann::json object = {{"sandbox", sandbox.sandbox_id()},
                           {"namespace", sandbox.ns()},
                           {"container", nullptr},
                           {"status", nullptr},
                           {"pid", nullptr},
                           {"bundle", nullptr},
                           {"kernel", sandbox.kernel_release()},
                           {"metrics_socket", nullptr}};
  if (!sandbox.metrics_socket().empty()) {
    object["metrics_socket"] = sandbox.metrics_socket();
  }
  if (container != nullptr) {
    object["container"] = container->id();
    object["status"] = container->status();
    object["pid"] = container->anchor_pid();
    object["bundle"] = container->bundle();
  }
  return object;
}

template <typename Each>
void ForEach(const std::vector<pb::HelloResponse>& sandboxes, const Each& each) {
  for (const pb::HelloResponse& sandbox : sandboxes) {
    if (sandbox.containers().empty()) {
      each(sandbox, nullptr);
    }
    for (const pb::ContainerInfo& container : sandbox.containers()) {
      each(sandbox, &container);
    }
  }
}

}  // namespace

std::string PsTable(const std::vector<pb::HelloResponse>& sandboxes) {
  std::string text = Line({"SANDBOX", "CONTAINER", "NAMESPACE", "STATUS", "PID", "KERNEL"});
  ForEach(sandboxes, [&](const pb::HelloResponse& sandbox, const pb::ContainerInfo* container) {
    text += Line(RowOf(sandbox, container));
  });
  return text;
}

std::string PsJson(const std::vector<pb::HelloResponse>& sandboxes) {
  nlohmann::json list = nlohmann::json::array();
  ForEach(sandboxes, [&](const pb::HelloResponse& sandbox, const pb::ContainerInfo* container) {
    list.push_back(ObjectOf(sandbox, container));
  });
  return list.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace wyvern::cli
