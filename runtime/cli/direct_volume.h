// cli/direct_volume.h — `wyvern direct-volume`: directories of the host that stand for a block device (volume/direct_volumes.h), with the words of
//                       kata-runtime's direct-volume, so that a CSI driver that calls it can call us.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "base/error.h"
#include "proto/control.pb.h"

namespace wyvern::cli {

void AddDirectVolume(CLI::App& app, std::function<Result<int>()>& action);

// As CSI's NodeGetVolumeStatsResponse is written in JSON, which is what Kata prints.
std::string VolumeStatsJson(const control::v1::DirectVolumeResponse& usage);

}  // namespace wyvern::cli
