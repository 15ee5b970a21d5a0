/* virtio/ring_core.h — what both ring formats have in common: a descriptor's flags, what a step along
 * a chain asks for, and the account of a chain's lengths. Plain C, so that a model checker can prove
 * it.
 * Spec:    VIRTIO 1.4 §2.7.5 and §2.8.13 (descriptors), §2.7.4.2 and §2.8.17 (order and length of a
 *          chain).
 * Shape:   no pointers to guest memory, no allocation, no calls out: values in, values out. The
 *          caller fetches each guest field once and hands the copy in.
 * Units:   lengths in bytes.
 * Trust:   flags, addresses and lengths are guest-controlled.
 */
#ifndef WYVERN_VIRTIO_RING_CORE_H_
#define WYVERN_VIRTIO_RING_CORE_H_

#include <stdbool.h>
#include <stdint.h>

#define WV_DESC_F_NEXT 1U /* VIRTIO §2.7.5, §2.8.6 */
#define WV_DESC_F_WRITE 2U
#define WV_DESC_F_INDIRECT 4U
#define WV_DESC_SIZE 16U
#define WV_RING_SIZE_MAX 32768U

/* NOLINTBEGIN(readability-identifier-naming): a C interface, with the names of C. */

/* What one step of a walk asks of the caller. Values from WV_WALK_FAULT on are faults. */
enum wv_walk_action {
  WV_WALK_READABLE =
      0, /* record desc (addr, len) as device-readable; zero lengths are never reported */
  WV_WALK_WRITABLE = 1,
  WV_WALK_EMPTY = 2, /* a descriptor without bytes: nothing to record */
  WV_WALK_TABLE =
      3, /* indices now refer to the indirect table at desc.addr, walk->table_count entries */
  WV_WALK_FAULT = 16,
  WV_WALK_FAULT_INDEX = 16,  /* next is outside its table */
  WV_WALK_FAULT_LOOP = 17,   /* more buffers than the queue has descriptors */
  WV_WALK_FAULT_NESTED = 18, /* an indirect descriptor inside an indirect table (split) */
  WV_WALK_FAULT_TABLE = 19,  /* table length zero, no multiple of 16, or too long */
  WV_WALK_FAULT_ORDER = 20,  /* a readable buffer after a writable one */
  WV_WALK_FAULT_TOTAL = 21,  /* more than 2^32 - 1 bytes */
  WV_WALK_FAULT_FLAGS = 22,  /* INDIRECT together with NEXT, or INDIRECT that was not negotiated */
  WV_WALK_FAULT_OVERRUN = 23 /* descriptors that are in flight were made available again (packed) */
};

/* Bytes of a chain so far; their sum never passes 2^32 - 1. */
struct wv_lengths {
  uint32_t readable;
  uint32_t writable;
};

/* One more buffer of `len` bytes: READABLE, WRITABLE, EMPTY, or the fault ORDER or TOTAL. */
static inline enum wv_walk_action wv_lengths_add(struct wv_lengths* lengths, uint32_t len,
                                                 uint16_t flags) {
  const uint64_t total = (uint64_t)lengths->readable + lengths->writable + (uint64_t)len;
  if (len == 0U) {
    return WV_WALK_EMPTY;
  }
  if (total > UINT32_MAX) {
    return WV_WALK_FAULT_TOTAL;
  }
  if ((flags & WV_DESC_F_WRITE) != 0U) {
    lengths->writable += len;
    return WV_WALK_WRITABLE;
  }
  if (lengths->writable != 0U) {
    return WV_WALK_FAULT_ORDER;
  }
  lengths->readable += len;
  return WV_WALK_READABLE;
}

/* Whether `len` bytes are an indirect table: whole descriptors, one or more, no more than any queue
 * has (§2.7.5.3, §2.8.7). */
static inline bool wv_table_length_valid(uint32_t len) {
  return len != 0U && len % WV_DESC_SIZE == 0U && len / WV_DESC_SIZE <= WV_RING_SIZE_MAX;
}

/* NOLINTEND(readability-identifier-naming) */

#endif /* WYVERN_VIRTIO_RING_CORE_H_ */
