// virtio/ring_wire.h — what lies in a ring's memory, little-endian; private to this component.
// Spec:    VIRTIO 1.4 §2.7.5, §2.7.8 (split), §2.8.13 (packed).
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>

#include "base/endian.h"
#include "virtio/ring_core.h"

namespace wyvern::virtio {

// For what lies in memory as an integer; the other way round is the same.
template <std::unsigned_integral T>
T FromLe(T wire) {
  return std::endian::native == std::endian::little ? wire : ByteSwap(wire);
}

// A descriptor of either format; they differ in its last two fields. Not initialised: a walk keeps
// several.
struct WireDescriptor {
  uint64_t wire_address;
  uint32_t wire_length;
  uint16_t wire_field12;  // split: flags; packed: buffer id
  uint16_t wire_field14;  // split: next; packed: flags

  uint64_t address() const { return FromLe(wire_address); }

  uint32_t length() const { return FromLe(wire_length); }

  uint16_t field12() const { return FromLe(wire_field12); }

  uint16_t field14() const { return FromLe(wire_field14); }
};

static_assert(sizeof(WireDescriptor) == WV_DESC_SIZE);

// An element of the split ring's used ring.
struct WireUsed {
  Le32 id;
  Le32 length;
};

// The part of a packed ring's used descriptor before its flags.
struct WirePackedUsed {
  Le32 length;
  Le16 id;
};

static_assert(sizeof(WirePackedUsed) == 6);

}  // namespace wyvern::virtio
