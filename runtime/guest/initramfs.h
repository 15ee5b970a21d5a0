// guest/initramfs.h — what an imported kernel starts with: our agent as /init, and modules.
// Shape:   cpio "newc", not compressed (it is read once, by the VMM): /init; /modules/<name>.ko; /modules/list, one line
//          "<name>.ko required|optional" per module in the order of loading. Reader: agent/early_boot.h. Same input, same bytes.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "guest/modules.h"

namespace wyvern::guest {

Result<std::string> BuildInitramfs(std::string_view agent, std::span<const Module> modules);

}  // namespace wyvern::guest
