// `wyvern image prune`.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_store.h"

namespace wyvern::cli {

Result<int> ImagePrune() {
  if (geteuid() != 0) {
    return Fail(Code::kPermissionDenied, "images are root's: run this as root");
  }
  WV_TRY(const Pruned pruned, PruneStore(kImageStore));
  fmt::print("{} layers removed, {:.1f} MiB freed; {} in use\n", pruned.removed,
             static_cast<double>(pruned.bytes) / (1 << 20U), pruned.in_use);
  if (!pruned.left.empty()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("not removed: {}; then run `wyvern image prune` again",
                            fmt::join(pruned.left, "; ")));
  }
  return 0;
}

}  // namespace wyvern::cli
