// balloon/balloon_wire.h — numbers of the balloon's specification.
// Spec:    VIRTIO 1.4 §5.5.3 (feature bits), §5.5.4 (configuration), §5.5.6.5 (command ids).
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace wyvern::devices {

inline constexpr uint64_t kBalloonMustTellHost = uint64_t{1} << 0;
inline constexpr uint64_t kBalloonStatsQueue = uint64_t{1} << 1;
inline constexpr uint64_t kBalloonDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kBalloonFreePageHint = uint64_t{1} << 3;
inline constexpr uint64_t kBalloonPagePoison = uint64_t{1} << 4;
inline constexpr uint64_t kBalloonPageReporting = uint64_t{1} << 5;

// Reserved command ids of free page hinting, and the first that is none.
inline constexpr uint32_t kHintStop = 0;
inline constexpr uint32_t kHintDone = 1;
inline constexpr uint32_t kFirstHintCommand = 2;

// struct virtio_balloon_config
struct BalloonConfig {
  Le32 target;
  Le32 actual;
  Le32 hint_command;
  Le32 poison;
};

static_assert(sizeof(BalloonConfig) == 16);

}  // namespace wyvern::devices
