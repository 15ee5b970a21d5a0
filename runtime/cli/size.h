// cli/size.h — `wyvern resize` and `wyvern inspect`: their options, and what they print.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "cli/sandbox_ref.h"
#include "proto/control.pb.h"

namespace wyvern::cli {

struct ResizeOptions {
  SandboxRef sandbox;
  uint32_t cpus = 0;   // 0: as it is
  std::string memory;  // "2GiB"; empty: as it is
};

// INVALID_ARGUMENT: neither of them, or no size.
Result<control::v1::ResizeRequest> ToRequest(const ResizeOptions& options);
// "4 vCPUs, 2048 MiB of memory", a line.
std::string SizeLine(const control::v1::SizeResponse& size);
// JSON: the sandbox, its containers, its vCPUs with their threads, its memory in bytes.
std::string InspectJson(const control::v1::HelloResponse& sandbox,
                        const control::v1::SizeResponse& size);

// `action` becomes what the parsed command line asks for. Preconditions: it outlives the parsing.
void AddSizes(CLI::App& app, std::function<Result<int>()>& action);

}  // namespace wyvern::cli
