// cli/ps.h — what `wyvern ps` prints of living sandboxes and their containers.
#pragma once

#include <string>
#include <vector>

#include "proto/control.pb.h"

namespace wyvern::cli {

// A row for each container; a sandbox without one has a row with "-" for it, in JSON null.
std::string PsTable(const std::vector<control::v1::HelloResponse>& sandboxes);
std::string PsJson(const std::vector<control::v1::HelloResponse>& sandboxes);

}  // namespace wyvern::cli
