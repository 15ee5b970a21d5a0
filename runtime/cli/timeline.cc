#include "cli/timeline.h"

#include <nlohmann/json.hpp>

namespace wyvern::cli {

std::string TimelineJson(const std::vector<runtime::TimelinePoint>& points) {
  nlohmann::json list = nlohmann::json::array();
  for (const runtime::TimelinePoint& point : points) {
    list.push_back({{"name", point.name}, {"start_ns", point.start_ns}, {"end_ns", point.end_ns}});
  }
  return list.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace wyvern::cli
