/* virtio/in_order_core.h — holds back what a device has finished until all before it is, where the
 * driver relies on order (IN_ORDER), and joins into batches what becomes free at once. Plain C, so
 * that a model checker can prove it (proof/).
 * Spec:    VIRTIO 1.4 §2.7.9, §2.8.8: a batch is one used element, of its last chain; the skipped
 *          ones are taken to have been used completely, so a chain that was written in part ends its
 *          batch.
 * Shape:   a circle of the chains in flight, oldest first. The caller owns `entries`, as many as the
 *          queue has descriptors: no more chains are in flight.
 * Trust:   ids come from the guest and are only passed on.
 */
#ifndef WYVERN_VIRTIO_IN_ORDER_CORE_H_
#define WYVERN_VIRTIO_IN_ORDER_CORE_H_

#include <stdbool.h>
#include <stdint.h>

/* NOLINTBEGIN(readability-identifier-naming): a C interface, with the names of C. */

enum wv_progress { WV_IN_FLIGHT = 0, WV_USED_IN_PART = 1, WV_USED_WHOLE = 2 };

struct wv_in_order_entry {
  uint32_t written;
  uint16_t id;
  uint16_t slots; /* packed: descriptors of the ring; split: 1 */
  enum wv_progress progress;
};

struct wv_in_order {
  struct wv_in_order_entry* entries;
  uint16_t size;
  uint16_t first;
  uint16_t count;
};

/* One used element: of chain `id`, after which the device skips `slots`. */
struct wv_used_batch {
  uint32_t written;
  uint32_t slots;
  uint16_t id;
};

static inline void wv_in_order_init(struct wv_in_order* order, struct wv_in_order_entry* entries,
                                    uint16_t size) {
  order->entries = entries;
  order->size = size;
  order->first = 0;
  order->count = 0;
}

static inline uint16_t wv_in_order_place(const struct wv_in_order* order, uint16_t nth) {
  const uint32_t place = (uint32_t)order->first + nth;
  return (uint16_t)(place < order->size ? place : place - order->size);
}

/* A chain was popped: its place. Preconditions: count < size. */
static inline uint16_t wv_in_order_add(struct wv_in_order* order, uint16_t id, uint16_t slots) {
  const uint16_t place = wv_in_order_place(order, order->count);
  struct wv_in_order_entry* entry = &order->entries[place];
  entry->written = 0;
  entry->id = id;
  entry->slots = slots;
  entry->progress = WV_IN_FLIGHT;
  order->count++;
  return place;
}

/* Takes back wv_in_order_add, which gave `place`; false, and nothing changed, when it was not the
 * last one. */
static inline bool wv_in_order_undo(struct wv_in_order* order, uint16_t place) {
  if (order->count == 0U || wv_in_order_place(order, (uint16_t)(order->count - 1U)) != place) {
    return false;
  }
  order->count--;
  return true;
}

/* The chain at `place` was pushed; `whole`: its writable part is written to its end. */
static inline void wv_in_order_finish(struct wv_in_order* order, uint16_t place, uint32_t written,
                                      bool whole) {
  order->entries[place].written = written;
  order->entries[place].progress = whole ? WV_USED_WHOLE : WV_USED_IN_PART;
}

/* The next used element to write; false when the oldest chain is still in flight. */
static inline bool wv_in_order_next(struct wv_in_order* order, struct wv_used_batch* batch) {
  batch->slots = 0;
  while (order->count != 0U && order->entries[order->first].progress != WV_IN_FLIGHT) {
    const struct wv_in_order_entry* entry = &order->entries[order->first];
    batch->id = entry->id;
    batch->written = entry->written;
    batch->slots += entry->slots;
    order->first = wv_in_order_place(order, 1);
    order->count--;
    if (entry->progress == WV_USED_IN_PART) {
      break;
    }
  }
  return batch->slots != 0U;
}

/* NOLINTEND(readability-identifier-naming) */

#endif /* WYVERN_VIRTIO_IN_ORDER_CORE_H_ */
