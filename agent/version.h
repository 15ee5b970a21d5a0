// agent/version.h — the version that Hello tells.
#pragma once

namespace wyvern::agent {

inline constexpr char kVersion[] = WYVERN_VERSION;

}  // namespace wyvern::agent
