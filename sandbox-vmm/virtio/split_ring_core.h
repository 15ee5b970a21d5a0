/* virtio/split_ring_core.h — the arithmetic and the state of a split virtqueue, as plain C so that a
 * model checker can prove it (proof/).
 * Spec:    VIRTIO 1.4 §2.7 (split virtqueues).
 * Shape:   as ring_core.h. struct wv_split is what the device knows of its queue: the caller reads
 *          the ring, tells it here, and writes what it is told.
 * Units:   lengths and offsets in bytes; ring indices are free-running uint16_t.
 * Trust:   every value in struct wv_desc, the driver's index, its flags and used_event are guest-
 *          controlled; the other values are ours.
 */
#ifndef WYVERN_VIRTIO_SPLIT_RING_CORE_H_
#define WYVERN_VIRTIO_SPLIT_RING_CORE_H_

#include "virtio/ring_core.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WV_AVAIL_F_NO_INTERRUPT 1U /* VIRTIO §2.7.6 */
#define WV_USED_F_NO_NOTIFY 1U     /* VIRTIO §2.7.8 */

/* NOLINTBEGIN(readability-identifier-naming): a C interface, with the names of C. */

/* One descriptor as fetched from guest memory, in host byte order. */
struct wv_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};

/* A walk along one descriptor chain. After wv_walk_begin: while !done, fetch descriptor `index` of
 * the current table and step. */
struct wv_walk {
  uint16_t limit;       /* the queue's size: the most buffers of a chain */
  uint16_t index;       /* to fetch next; always < table_count while !done */
  uint32_t table_count; /* entries of the current table */
  uint32_t seen;        /* descriptors that were buffers, so far; never more than limit */
  struct wv_lengths lengths;
  bool indirect_allowed;
  bool in_table;
  bool done;
};

/* The device's side of one queue. */
struct wv_split {
  uint32_t pending;        /* used elements published since wv_split_signal; stays at 2^16 there */
  uint16_t size;           /* a power of two */
  uint16_t next_available; /* to take from the available ring */
  uint16_t available_seen; /* the driver's index when it was last read */
  uint16_t next_used;      /* to write in the used ring */
  uint16_t avail_event;    /* what was written there last (EVENT_IDX) */
  bool event_idx;
  bool signalled; /* wv_split_signal has answered since the start */
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

/* False, and nothing changed, when `size` is none of a split queue. The indices are those of an
 * earlier stop, 0 and 0 for a new queue. */
static inline bool wv_split_init(struct wv_split* queue, uint32_t size, uint16_t next_available,
                                 uint16_t next_used, bool event_idx) {
  if (!wv_ring_size_valid(size)) {
    return false;
  }
  queue->pending = 0;
  queue->size = (uint16_t)size;
  queue->next_available = next_available;
  queue->available_seen = next_available;
  queue->next_used = next_used;
  queue->avail_event = next_available;
  queue->event_idx = event_idx;
  queue->signalled = false;
  return true;
}

/* Whether an entry waits, as far as the driver's index has been seen. */
static inline bool wv_split_available(const struct wv_split* queue) {
  return queue->available_seen != queue->next_available;
}

/* Takes note of the driver's index, where no entry waits. False: it says that more entries are
 * available than the ring has, a fault (§2.7.6.1: no decrement; virtio-queue 0.6.1). */
static inline bool wv_split_see(struct wv_split* queue, uint16_t index) {
  if (wv_ring_distance(index, queue->next_available) > queue->size) {
    return false;
  }
  queue->available_seen = index;
  return true;
}

/* Where in the driver area the entry to take next is. */
static inline uint64_t wv_split_available_offset(const struct wv_split* queue) {
  return wv_ring_driver_slot(wv_ring_slot(queue->next_available, queue->size));
}

/* The entry that waits is taken; its index. */
static inline uint16_t wv_split_take(struct wv_split* queue) {
  return queue->next_available++;
}

/* Takes back wv_split_take, which gave `index`; false, and nothing changed, when others were taken
 * since. */
static inline bool wv_split_undo(struct wv_split* queue, uint16_t index) {
  if ((uint16_t)(index + 1U) != queue->next_available) {
    return false;
  }
  queue->next_available = index;
  return true;
}

/* Where in the device area the used element to write next is. */
static inline uint64_t wv_split_used_offset(const struct wv_split* queue) {
  return wv_ring_device_slot(wv_ring_slot(queue->next_used, queue->size));
}

/* `count` chains (1: one element; more: a batch in order, §2.7.9) are used: the index to publish. */
static inline uint16_t wv_split_use(struct wv_split* queue, uint16_t count) {
  const uint32_t pending = queue->pending + count;
  queue->pending = pending < 0x10000U ? pending : 0x10000U;
  queue->next_used = (uint16_t)(queue->next_used + count);
  return queue->next_used;
}

/* §2.7.7.2: whether the driver wants an interrupt for what was used since the last call. `wish`:
 * used_event with EVENT_IDX, the flags of the available ring without, read after a full barrier.
 * Preconditions: queue->pending != 0. */
static inline bool wv_split_signal(struct wv_split* queue, uint16_t wish) {
  const uint32_t pending = queue->pending;
  const bool first = !queue->signalled;
  queue->pending = 0;
  queue->signalled = true;
  if (!queue->event_idx) {
    return (wish & WV_AVAIL_F_NO_INTERRUPT) == 0U;
  }
  /* After a start the driver may have asked, and waited, before us. */
  return first || (uint16_t)(queue->next_used - wish - 1U) < pending;
}

/* With EVENT_IDX the flags stay 0 (§2.7.10.2): what asks for no notification is an avail_event that
 * the driver has passed. True: it has not, and queue->avail_event is to be written. `index`: the
 * driver's, as it stands. */
static inline bool wv_split_disarm(struct wv_split* queue, uint16_t index) {
  if (queue->avail_event != queue->next_available || index != queue->next_available) {
    return false;
  }
  queue->avail_event--;
  return true;
}

/* The avail_event that asks for a notification of the next entry. */
static inline uint16_t wv_split_arm(struct wv_split* queue) {
  queue->avail_event = queue->next_available;
  return queue->avail_event;
}

/* False when `head` is outside the descriptor table. `size` is valid (wv_ring_size_valid). */
bool wv_walk_begin(struct wv_walk* walk, uint16_t head, uint16_t size, bool indirect_allowed);

/* Consumes the descriptor at walk->index. After a fault the walk must not be stepped again.
 * Terminates: at most `limit` buffers and one table switch happen before done or a fault. */
enum wv_walk_action wv_walk_step(struct wv_walk* walk, const struct wv_desc* desc);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif /* WYVERN_VIRTIO_SPLIT_RING_CORE_H_ */
