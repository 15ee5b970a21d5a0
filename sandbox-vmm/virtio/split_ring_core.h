/* virtio/split_ring_core.h — the arithmetic of a split virtqueue, as plain C so that a model
 * checker can prove it.
 * Spec:    VIRTIO 1.3 §2.7 (split virtqueues).
 * Shape:   no pointers to guest memory, no allocation, no calls out: values in, values out. The
 *          caller fetches each guest field once
 *          and hands the copy in.
 * Units:   lengths in bytes; ring indices are free-running uint16_t.
 * Trust:   every value in struct wv_desc, and avail_idx, is guest-controlled; the other values are
 *          ours.
 */
#ifndef WYVERN_VIRTIO_SPLIT_RING_CORE_H_
#define WYVERN_VIRTIO_SPLIT_RING_CORE_H_

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WV_DESC_F_NEXT 1U /* VIRTIO §2.7.5 */
#define WV_DESC_F_WRITE 2U
#define WV_DESC_F_INDIRECT 4U
#define WV_DESC_SIZE 16U
#define WV_RING_SIZE_MAX 32768U

/* NOLINTBEGIN(readability-identifier-naming): a C interface, with the names of C. */

/* One descriptor as fetched from guest memory, in host byte order. */
struct wv_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};

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
  WV_WALK_FAULT_NESTED = 18, /* an indirect descriptor inside an indirect table */
  WV_WALK_FAULT_TABLE = 19,  /* table length zero, no multiple of 16, or too long */
  WV_WALK_FAULT_ORDER = 20,  /* a readable buffer after a writable one */
  WV_WALK_FAULT_TOTAL = 21,  /* more than 2^32 - 1 bytes */
  WV_WALK_FAULT_FLAGS = 22   /* INDIRECT together with NEXT, or INDIRECT that was not negotiated */
};

/* A walk along one descriptor chain. After wv_walk_begin: while !done, fetch descriptor `index` of
 * the current table and step. */
struct wv_walk {
  uint16_t limit;       /* the queue's size: the most buffers of a chain */
  uint16_t index;       /* to fetch next; always < table_count while !done */
  uint32_t table_count; /* entries of the current table */
  uint32_t seen;        /* descriptors that were buffers, so far; never more than limit */
  uint32_t readable_length;
  uint32_t writable_length;
  bool indirect_allowed;
  bool in_table;
  bool done;
};

/* Power of two, 1..32768 (§2.7). */
static inline bool wv_ring_size_valid(uint32_t size) {
  return size >= 1U && size <= WV_RING_SIZE_MAX && (size & (size - 1U)) == 0U;
}

/* Slot of a free-running index. `size` is a power of two. */
static inline uint16_t wv_ring_slot(uint16_t index, uint16_t size) {
  return (uint16_t)(index & (uint16_t)(size - 1U));
}

/* Entries between two free-running indices; modulo 2^16. */
static inline uint16_t wv_ring_distance(uint16_t newer, uint16_t older) {
  return (uint16_t)(newer - older);
}

/* §2.7.7.1, §2.7.10: notify when `event` lies in [old, new). */
static inline bool wv_ring_need_event(uint16_t event, uint16_t new_index, uint16_t old_index) {
  return (uint16_t)(new_index - event - 1U) < (uint16_t)(new_index - old_index);
}

/* Bytes of the three areas (§2.7); the event fields are always counted, whether negotiated or not.
 * */
static inline uint64_t wv_ring_descriptor_bytes(uint16_t size) {
  return (uint64_t)WV_DESC_SIZE * size;
}

static inline uint64_t wv_ring_driver_bytes(uint16_t size) {
  return 6U + 2U * (uint64_t)size;
}

static inline uint64_t wv_ring_device_bytes(uint16_t size) {
  return 6U + 8U * (uint64_t)size;
}

/* Offsets: flags 0, idx 2, ring 4 in both; the event field is last. */
static inline uint64_t wv_ring_driver_slot(uint16_t slot) {
  return 4U + 2U * (uint64_t)slot;
}

static inline uint64_t wv_ring_used_event(uint16_t size) {
  return 4U + 2U * (uint64_t)size;
}

static inline uint64_t wv_ring_device_slot(uint16_t slot) {
  return 4U + 8U * (uint64_t)slot;
}

static inline uint64_t wv_ring_avail_event(uint16_t size) {
  return 4U + 8U * (uint64_t)size;
}

/* False when `head` is outside the descriptor table. `size` is valid (wv_ring_size_valid). */
bool wv_walk_begin(struct wv_walk* walk, uint16_t head, uint16_t size, bool indirect_allowed);

/* Consumes the descriptor at walk->index. After a fault the walk must not be stepped again.
 * Terminates: at most `limit` buffers and one
 * table switch happen before done or a fault. */
enum wv_walk_action wv_walk_step(struct wv_walk* walk, const struct wv_desc* desc);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif /* WYVERN_VIRTIO_SPLIT_RING_CORE_H_ */
