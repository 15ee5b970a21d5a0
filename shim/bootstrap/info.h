// bootstrap/info.h — `-info`: what the runtime can do, as containerd.types.RuntimeInfo.
#pragma once

#include <string>

namespace wyvern::shim {

// OCI runtime-spec features document (JSON). Only what is implemented is in it: CRI offers to users what it finds here.
std::string FeaturesJson();

std::string EncodeRuntimeInfo(const std::string& version);

}  // namespace wyvern::shim
