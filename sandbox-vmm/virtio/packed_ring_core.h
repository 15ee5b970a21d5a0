/* virtio/packed_ring_core.h — the arithmetic and the state of a packed virtqueue, as plain C so that
 * a model checker can prove it (proof/).
 * Spec:    VIRTIO 1.4 §2.8 (packed virtqueues).
 * Shape:   as ring_core.h. struct wv_packed is what the device knows of its queue: the caller reads
 *          the ring, tells it here, and writes what it is told.
 * Units:   lengths and offsets in bytes. A position is a slot of the ring in bits 0-14 and its wrap
 *          counter in bit 15: what an event suppression structure (§2.8.14) and vhost-user's vring
 *          base hold, too. A ring of N slots has 2N positions, one after the other in a circle.
 * Trust:   every value in struct wv_packed_desc, and the driver's event suppression structure, are
 *          guest-controlled; the other values are ours.
 */
#ifndef WYVERN_VIRTIO_PACKED_RING_CORE_H_
#define WYVERN_VIRTIO_PACKED_RING_CORE_H_

#include "virtio/ring_core.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WV_PACKED_F_AVAIL 0x80U /* VIRTIO §2.8.1 */
#define WV_PACKED_F_USED 0x8000U
#define WV_PACKED_WRAP 0x8000U   /* of a position */
#define WV_PACKED_START 0x8000U  /* the first position: slot 0, wrap counter 1 (§2.8.1) */
#define WV_PACKED_EVENT_BYTES 4U /* an event suppression structure: le16 position, le16 flags */
#define WV_PACKED_EVENT_FLAGS 2U /* offset of its flags */

#define WV_PACKED_EVENT_ENABLE 0U /* VIRTIO §2.8.10 */
#define WV_PACKED_EVENT_DISABLE 1U
#define WV_PACKED_EVENT_DESC 2U
#define WV_PACKED_EVENT_UNKNOWN 0xffffU /* ours: nothing was written yet */

/* Offsets in a descriptor (§2.8.13): what the device writes of a used one is the length and the id
 * after it, and then the flags, which publish. */
#define WV_PACKED_DESC_LEN 8U
#define WV_PACKED_DESC_FLAGS 14U

/* NOLINTBEGIN(readability-identifier-naming): a C interface, with the names of C. */

/* One descriptor as fetched from guest memory, in host byte order. */
struct wv_packed_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};

/* A walk along one buffer. After wv_packed_walk_begin: while !done, fetch descriptor `index` of the
 * ring, or of the table, and step. */
struct wv_packed_walk {
  uint16_t limit; /* the queue's size: the most buffers of a chain */
  uint16_t
      index;   /* to fetch next: a slot, which wraps at the ring's end, or an entry of the table */
  uint16_t id; /* the buffer's: of its last descriptor in the ring (§2.8.6) */
  uint16_t slots;       /* descriptors of the ring that it takes */
  uint32_t room;        /* slots that are not in flight */
  uint32_t table_count; /* entries of the indirect table, where there is one */
  uint32_t seen;        /* descriptors that were buffers, so far; never more than limit */
  struct wv_lengths lengths;
  bool indirect_allowed;
  bool in_table;
  bool done;
};

/* The device's side of one queue. */
struct wv_packed {
  uint32_t in_flight;      /* descriptors taken and not used yet; never more than size */
  uint32_t pending;        /* descriptors used since wv_packed_signal; stays at 2 * size there */
  uint16_t size;           /* any, 1..32768 */
  uint16_t next_available; /* position to take next */
  uint16_t next_used;      /* position to write next */
  uint16_t event;       /* position in the device's event suppression structure, as written last */
  uint16_t event_flags; /* and its flags */
  bool event_idx;
  bool signalled; /* wv_packed_signal has answered since the start */
};

/* 1..32768, no power of two (§2.8.10.1). */
static inline bool wv_packed_size_valid(uint32_t size) {
  return size >= 1U && size <= WV_RING_SIZE_MAX;
}

static inline uint64_t wv_packed_descriptor_bytes(uint16_t size) {
  return (uint64_t)WV_DESC_SIZE * size;
}

static inline uint16_t wv_packed_slot(uint16_t position) {
  return (uint16_t)(position & (WV_PACKED_WRAP - 1U));
}

static inline bool wv_packed_wrap(uint16_t position) {
  return (position & WV_PACKED_WRAP) != 0U;
}

static inline bool wv_packed_position_valid(uint16_t position, uint16_t size) {
  return wv_packed_slot(position) < size;
}

/* Where in the descriptor area the descriptor at `position` is. */
static inline uint64_t wv_packed_offset(uint16_t position) {
  return (uint64_t)WV_DESC_SIZE * wv_packed_slot(position);
}

/* The position `count` descriptors on, at most a ring's worth. */
static inline uint16_t wv_packed_advance(uint16_t position, uint32_t count, uint16_t size) {
  uint32_t slot = wv_packed_slot(position) + count;
  uint32_t wrap = position & WV_PACKED_WRAP;
  if (slot >= size) {
    slot -= size;
    wrap ^= WV_PACKED_WRAP;
  }
  return (uint16_t)(wrap | slot);
}

/* Descriptors from `older` on to `newer`, 0..2N-1. */
static inline uint32_t wv_packed_distance(uint16_t newer, uint16_t older, uint16_t size) {
  const uint32_t circle = 2U * (uint32_t)size;
  const uint32_t steps = circle + wv_packed_slot(newer) - wv_packed_slot(older) +
                         (wv_packed_wrap(newer) != wv_packed_wrap(older) ? (uint32_t)size : 0U);
  return steps < circle ? steps : steps - circle;
}

/* §2.8.1: whether flags say "available" to the wrap counter of `position`. */
static inline bool wv_packed_is_available(uint16_t flags, uint16_t position) {
  const bool wrap = wv_packed_wrap(position);
  return ((flags & WV_PACKED_F_AVAIL) != 0U) == wrap && ((flags & WV_PACKED_F_USED) != 0U) != wrap;
}

/* §2.8.1: the same for "used", which is the driver's question. */
static inline bool wv_packed_is_used(uint16_t flags, uint16_t position) {
  const bool wrap = wv_packed_wrap(position);
  return ((flags & WV_PACKED_F_AVAIL) != 0U) == wrap && ((flags & WV_PACKED_F_USED) != 0U) == wrap;
}

/* The two bits of an available descriptor at `position`. */
static inline uint16_t wv_packed_available_flags(uint16_t position) {
  return (uint16_t)(wv_packed_wrap(position) ? WV_PACKED_F_AVAIL : WV_PACKED_F_USED);
}

/* Flags of a used descriptor at `position` (§2.8.1; WRITE: something was written, §2.8.3). */
static inline uint16_t wv_packed_used_flags(uint16_t position, uint32_t written) {
  const uint32_t both =
      wv_packed_wrap(position) ? WV_PACKED_F_AVAIL | WV_PACKED_F_USED : (uint32_t)0;
  return (uint16_t)(both | (written != 0U ? WV_DESC_F_WRITE : 0U));
}

/* False, and nothing changed, when `size` is none of a packed queue, or the positions are none of
 * it or further apart than it is long. The positions are those of an earlier stop, WV_PACKED_START
 * for a new queue. */
static inline bool wv_packed_init(struct wv_packed* queue, uint32_t size, uint16_t next_available,
                                  uint16_t next_used, bool event_idx) {
  if (!wv_packed_size_valid(size) || !wv_packed_position_valid(next_available, (uint16_t)size) ||
      !wv_packed_position_valid(next_used, (uint16_t)size)) {
    return false;
  }
  const uint32_t in_flight = wv_packed_distance(next_available, next_used, (uint16_t)size);
  if (in_flight > size) {
    return false;
  }
  queue->in_flight = in_flight;
  queue->pending = 0;
  queue->size = (uint16_t)size;
  queue->next_available = next_available;
  queue->next_used = next_used;
  queue->event = next_available;
  queue->event_flags = WV_PACKED_EVENT_UNKNOWN;
  queue->event_idx = event_idx;
  queue->signalled = false;
  return true;
}

/* The buffer at next_available is taken, `slots` descriptors of the ring; its position.
 * Preconditions: slots is what a walk without a fault says, so in_flight stays within size. */
static inline uint16_t wv_packed_take(struct wv_packed* queue, uint16_t slots) {
  const uint16_t position = queue->next_available;
  queue->next_available = wv_packed_advance(position, slots, queue->size);
  queue->in_flight += slots;
  return position;
}

/* Takes back wv_packed_take, which gave `position` for `slots`; false, and nothing changed, when
 * others were taken since. */
static inline bool wv_packed_undo(struct wv_packed* queue, uint16_t position, uint16_t slots) {
  if (wv_packed_advance(position, slots, queue->size) != queue->next_available ||
      slots > queue->in_flight) {
    return false;
  }
  queue->next_available = position;
  queue->in_flight -= slots;
  return true;
}

/* A buffer, or a batch in order (§2.8.8), of `slots` descriptors is used: the position of the one
 * used descriptor to write for it.
 * Preconditions: slots <= in_flight. */
static inline uint16_t wv_packed_use(struct wv_packed* queue, uint32_t slots) {
  const uint16_t position = queue->next_used;
  const uint32_t pending = queue->pending + slots;
  const uint32_t most = 2U * (uint32_t)queue->size;
  queue->next_used = wv_packed_advance(position, slots, queue->size);
  queue->in_flight -= slots;
  queue->pending = pending < most ? pending : most;
  return position;
}

/* §2.8.10: whether the driver wants an interrupt for what was used since the last call. `flags` and
 * `event`: its event suppression structure, read after a full barrier. What makes no sense there
 * costs an interrupt, never the lack of one.
 * Preconditions: queue->pending != 0. */
static inline bool wv_packed_signal(struct wv_packed* queue, uint16_t flags, uint16_t event) {
  const uint32_t pending = queue->pending;
  const bool first = !queue->signalled;
  queue->pending = 0;
  queue->signalled = true;
  if ((flags & 3U) == WV_PACKED_EVENT_DISABLE) {
    return false;
  }
  if ((flags & 3U) != WV_PACKED_EVENT_DESC || !queue->event_idx || first ||
      !wv_packed_position_valid(event, queue->size)) {
    return true;
  }
  /* The event is among the `pending` positions before next_used; 2N behind and 0 behind are one. */
  const uint32_t behind = wv_packed_distance(queue->next_used, event, queue->size);
  return behind != 0U ? behind <= pending : pending == 2U * (uint32_t)queue->size;
}

/* Asks for no notifications. True: queue->event_flags is to be written. An event that the driver has
 * passed suppresses by itself. `available`: whether the descriptor at next_available is. */
static inline bool wv_packed_disarm(struct wv_packed* queue, bool available) {
  if (queue->event_flags == WV_PACKED_EVENT_DISABLE) {
    return false;
  }
  if (queue->event_flags == WV_PACKED_EVENT_DESC &&
      (queue->event != queue->next_available || available)) {
    return false;
  }
  queue->event_flags = WV_PACKED_EVENT_DISABLE;
  return true;
}

/* Asks for a notification of the next descriptor: queue->event, then queue->event_flags are to be
 * written. */
static inline void wv_packed_arm(struct wv_packed* queue) {
  queue->event = queue->next_available;
  queue->event_flags = queue->event_idx ? WV_PACKED_EVENT_DESC : WV_PACKED_EVENT_ENABLE;
}

/* At the descriptor at queue->next_available. */
void wv_packed_walk_begin(struct wv_packed_walk* walk, const struct wv_packed* queue,
                          bool indirect_allowed);

/* Consumes the descriptor at walk->index. After a fault the walk must not be stepped again.
 * Terminates: at most `limit` buffers and one table switch happen before done or a fault. */
enum wv_walk_action wv_packed_walk_step(struct wv_packed_walk* walk,
                                        const struct wv_packed_desc* desc);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif /* WYVERN_VIRTIO_PACKED_RING_CORE_H_ */
