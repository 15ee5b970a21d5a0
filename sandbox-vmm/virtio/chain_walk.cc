#include "virtio/chain_walk.h"

namespace wyvern::virtio {

ChainFault FaultOfWalk(wv_walk_action action) {
  switch (action) {
    case WV_WALK_FAULT_LOOP:
      return ChainFault::kLoop;
    case WV_WALK_FAULT_NESTED:
      return ChainFault::kIndirectNested;
    case WV_WALK_FAULT_TABLE:
      return ChainFault::kIndirectLength;
    case WV_WALK_FAULT_ORDER:
      return ChainFault::kWritableBeforeReadable;
    case WV_WALK_FAULT_TOTAL:
      return ChainFault::kTotalLength;
    case WV_WALK_FAULT_FLAGS:
      return ChainFault::kIndirectFlags;
    case WV_WALK_FAULT_OVERRUN:
      return ChainFault::kAvailIndexJump;
    default:
      return ChainFault::kDescriptorIndex;
  }
}

}  // namespace wyvern::virtio
