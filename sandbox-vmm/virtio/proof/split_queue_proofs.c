/* The split virtqueue's state: VIRTIO 1.4 §2.7. Each harness is named after the section it is about. */
#include "virtio/proof/proof.h"
#include "virtio/split_ring_core.h"

/* Any state that a queue can have. */
static struct wv_split AnySplit(void) {
  struct wv_split queue;
  queue.size = nondet_u16();
  queue.pending = nondet_u32();
  queue.next_available = nondet_u16();
  queue.available_seen = nondet_u16();
  queue.next_used = nondet_u16();
  queue.avail_event = nondet_u16();
  queue.event_idx = nondet_bool();
  queue.signalled = nondet_bool();
  ASSUME(wv_ring_size_valid(queue.size));
  ASSUME(queue.pending <= 0x10000U);
  ASSUME(wv_ring_distance(queue.available_seen, queue.next_available) <= queue.size);
  return queue;
}

static bool SameSplit(const struct wv_split* a, const struct wv_split* b) {
  return a->size == b->size && a->pending == b->pending && a->next_available == b->next_available &&
         a->available_seen == b->available_seen && a->next_used == b->next_used &&
         a->avail_event == b->avail_event && a->event_idx == b->event_idx &&
         a->signalled == b->signalled;
}

/* Whether `event` is one of the `count` indices from `first` on: the spec's words, without its formula. */
static bool Among(uint16_t event, uint16_t first, uint32_t count) {
  return (uint16_t)(event - first) < count;
}

/* Only powers of two from 1 to 32768 become a queue, which is then empty. */
void proof_2_7_checked_initialisation(void) {
  struct wv_split queue;
  const uint32_t size = nondet_u32();
  const uint16_t available = nondet_u16();
  const uint16_t used = nondet_u16();
  const bool made = wv_split_init(&queue, size, available, used, nondet_bool());
  bool power = false;
  for (uint32_t bit = 0; bit < 16U; bit++) {
    power = power || size == (1U << bit);
  }
  PROVE(made == power);
  PROVE(!made || (queue.size == size && queue.next_available == available &&
                  queue.next_used == used && !wv_split_available(&queue) && queue.pending == 0U));
  REACHED(made && size == 32768U);
  REACHED(!made && size == 24U);
}

/* The areas have room for every slot and for the event field behind the last one. */
void proof_2_7_ring_bounds(void) {
  const uint16_t size = nondet_u16();
  const uint16_t slot = nondet_u16();
  ASSUME(wv_ring_size_valid(size) && slot < size);
  PROVE(wv_ring_driver_slot(slot) + 2U <= wv_ring_used_event(size));
  PROVE(wv_ring_used_event(size) + 2U == wv_ring_driver_bytes(size));
  PROVE(wv_ring_device_slot(slot) + 8U <= wv_ring_avail_event(size));
  PROVE(wv_ring_avail_event(size) + 2U == wv_ring_device_bytes(size));
  PROVE(wv_ring_driver_slot(slot) % 2U == 0U && wv_ring_device_slot(slot) % 4U == 0U);
  PROVE((uint64_t)WV_DESC_SIZE * slot + WV_DESC_SIZE <= wv_ring_descriptor_bytes(size));
  REACHED(size == 32768U && slot == 32767U);
  REACHED(size == 1U);
}

/* Reading the available ring: the slot of the index modulo the size, inside the area. */
void proof_2_7_6_avail_ring_get(void) {
  const struct wv_split queue = AnySplit();
  const uint64_t offset = wv_split_available_offset(&queue);
  PROVE(offset >= 4U && offset + 2U <= wv_ring_used_event(queue.size));
  PROVE(offset == 4U + 2U * (uint64_t)(queue.next_available % queue.size));
  REACHED(queue.next_available > queue.size);
}

/* Writing the used ring: the same. */
void proof_2_7_8_used_ring_set(void) {
  const struct wv_split queue = AnySplit();
  const uint64_t offset = wv_split_used_offset(&queue);
  PROVE(offset >= 4U && offset + 8U <= wv_ring_avail_event(queue.size));
  PROVE(offset == 4U + 8U * (uint64_t)(queue.next_used % queue.size));
  REACHED(queue.next_used > queue.size);
}

/* Entries of one lap have slots of their own, also where the index wraps at 2^16. */
void proof_2_7_13_index_wrap(void) {
  const uint16_t size = nondet_u16();
  const uint16_t first = nondet_u16();
  const uint16_t ahead = nondet_u16();
  ASSUME(wv_ring_size_valid(size) && ahead <= size);
  const uint16_t later = (uint16_t)(first + ahead);
  PROVE(wv_ring_slot(first, size) < size);
  PROVE((wv_ring_slot(first, size) == wv_ring_slot(later, size)) == (ahead == 0U || ahead == size));
  PROVE(wv_ring_distance(later, first) == ahead);
  REACHED(later < first);
  REACHED(ahead == size);
}

/* Empty is: the driver's index is where we are. */
void proof_2_7_6_is_empty(void) {
  struct wv_split queue = AnySplit();
  const uint16_t index = nondet_u16();
  ASSUME(!wv_split_available(&queue));
  if (wv_split_see(&queue, index)) {
    PROVE(wv_split_available(&queue) == (index != queue.next_available));
    REACHED(wv_split_available(&queue));
    REACHED(!wv_split_available(&queue));
  }
}

/* More entries than the ring has: refused, and nothing changed. Nothing else is refused. */
void proof_2_7_6_1_available_index_jump(void) {
  struct wv_split queue = AnySplit();
  const struct wv_split before = queue;
  const uint16_t index = nondet_u16();
  const bool fits = wv_split_see(&queue, index);
  PROVE(fits == ((uint16_t)(index - before.next_available) <= before.size));
  PROVE(fits || SameSplit(&queue, &before));
  REACHED(fits && index < before.next_available);
  REACHED(!fits);
}

/* A pop takes one entry, and as many are left as were made available less one. */
void proof_2_7_14_pop(void) {
  struct wv_split queue = AnySplit();
  struct wv_split before = queue;
  ASSUME(wv_split_available(&queue));
  const uint16_t taken = wv_split_take(&queue);
  PROVE(taken == before.next_available);
  PROVE(wv_ring_distance(queue.available_seen, queue.next_available) + 1U ==
        wv_ring_distance(before.available_seen, before.next_available));
  before.next_available = queue.next_available;
  PROVE(SameSplit(&queue, &before));
  REACHED(wv_split_available(&queue));
  REACHED(!wv_split_available(&queue));
}

/* Undo of the last pop makes the queue what it was; of another one nothing. */
void proof_2_7_14_undo_pop(void) {
  struct wv_split queue = AnySplit();
  const struct wv_split before = queue;
  const uint16_t index = nondet_u16();
  ASSUME(wv_split_available(&queue));
  const uint16_t taken = wv_split_take(&queue);
  const struct wv_split popped = queue;
  const bool undone = wv_split_undo(&queue, index);
  PROVE(undone == (index == taken));
  PROVE(SameSplit(&queue, undone ? &before : &popped));
  PROVE(!undone || wv_split_available(&queue));
  REACHED(undone && taken == 0xffffU);
  REACHED(!undone);
}

/* A used element is one: the index goes on by one, and the next element has another slot. */
void proof_2_7_8_add_used(void) {
  struct wv_split queue = AnySplit();
  struct wv_split before = queue;
  const uint64_t written = wv_split_used_offset(&queue);
  const uint16_t published = wv_split_use(&queue, 1);
  PROVE(published == (uint16_t)(before.next_used + 1U) && published == queue.next_used);
  PROVE(queue.pending >= 1U && queue.pending <= 0x10000U);
  PROVE(before.size == 1U || wv_split_used_offset(&queue) != written);
  before.next_used = queue.next_used;
  before.pending = queue.pending;
  PROVE(SameSplit(&queue, &before));
  REACHED(queue.next_used == 0U);
  REACHED(queue.pending == 0x10000U);
}

/* A batch in order skips as many entries as it has chains (§2.7.9). */
void proof_2_7_9_add_used_batch(void) {
  struct wv_split one = AnySplit();
  struct wv_split batch = one;
  const uint16_t count = nondet_u16();
  ASSUME(count >= 1U && count <= 4U);
  for (uint16_t i = 0; i < count; i++) {
    wv_split_use(&one, 1);
  }
  wv_split_use(&batch, count);
  PROVE(SameSplit(&one, &batch));
  REACHED(count == 4U && batch.next_used < 4U);
}

/* Without EVENT_IDX the flag decides, and nothing else; the device MUST ignore used_event. */
void proof_2_7_7_2_flags(void) {
  struct wv_split queue = AnySplit();
  const uint16_t flags = nondet_u16();
  ASSUME(!queue.event_idx && queue.pending != 0U);
  const bool notify = wv_split_signal(&queue, flags);
  PROVE(notify == (flags % 2U == 0U));
  PROVE(queue.pending == 0U);
  REACHED(notify);
  REACHED(!notify);
}

/* With EVENT_IDX: exactly when used_event is among the indices that were written since. */
void proof_2_7_7_2_event_idx(void) {
  struct wv_split queue = AnySplit();
  const uint16_t event = nondet_u16();
  ASSUME(queue.event_idx && queue.signalled && queue.pending != 0U);
  const uint16_t first = (uint16_t)(queue.next_used - queue.pending);
  const uint32_t count = queue.pending;
  const bool notify = wv_split_signal(&queue, event);
  PROVE(notify == Among(event, first, count));
  REACHED(notify && queue.next_used < first);
  REACHED(!notify);
}

/* The device MUST notify when what it added reaches used_event (rust-vmm's proof). */
void proof_2_7_7_2_must_notify_at_used_event(void) {
  struct wv_split queue = AnySplit();
  const uint16_t old_used = queue.next_used;
  const uint16_t count = nondet_u16();
  ASSUME(queue.event_idx && queue.pending == 0U && count >= 1U);
  wv_split_use(&queue, count);
  PROVE(wv_split_signal(&queue, old_used));
  REACHED(count == 0xffffU);
}

/* What a driver asked for before we started is not known to us: the first time counts as asked. */
void proof_2_7_7_2_first_time(void) {
  struct wv_split queue;
  const bool made = wv_split_init(&queue, nondet_u32(), nondet_u16(), nondet_u16(), true);
  ASSUME(made);
  wv_split_use(&queue, 1);
  PROVE(wv_split_signal(&queue, nondet_u16()));
  REACHED(queue.size == 256U);
}

/* Asking after each element or once for all of them: the same, but for where it is said. */
void proof_2_7_7_2_batches_lose_nothing(void) {
  struct wv_split queue = AnySplit();
  const uint16_t a = nondet_u16();
  const uint16_t b = nondet_u16();
  const uint16_t event = nondet_u16();
  ASSUME(queue.event_idx && queue.signalled && queue.pending == 0U && a >= 1U && b >= 1U);
  struct wv_split whole = queue;
  wv_split_use(&queue, a);
  const bool first = wv_split_signal(&queue, event);
  wv_split_use(&queue, b);
  const bool second = wv_split_signal(&queue, event);
  wv_split_use(&whole, a);
  wv_split_use(&whole, b);
  PROVE((first || second) == wv_split_signal(&whole, event));
  REACHED(first && !second);
  REACHED(!first && second);
  REACHED(!first && !second);
}

/* The formula that §2.7.10 gives the driver is what its words say. */
void proof_2_7_10_need_event(void) {
  const uint16_t event = nondet_u16();
  const uint16_t old_index = nondet_u16();
  const uint16_t new_index = nondet_u16();
  const bool notify = wv_ring_need_event(event, new_index, old_index);
  PROVE(notify == Among(event, old_index, wv_ring_distance(new_index, old_index)));
  REACHED(notify && new_index < old_index);
  REACHED(!notify && event == new_index);
}

/* Disarmed, a driver that has published nothing of late is quiet about the next entries. */
void proof_2_7_10_2_disarm(void) {
  struct wv_split queue = AnySplit();
  const uint16_t index = queue.next_available;
  const uint16_t more = nondet_u16();
  ASSUME(queue.event_idx && more >= 1U && more <= queue.size);
  ASSUME(queue.avail_event == index);
  PROVE(wv_split_disarm(&queue, index));
  PROVE(!wv_ring_need_event(queue.avail_event, (uint16_t)(index + more), index));
  REACHED(index == 0U);
}

/* Where disarm writes nothing, an avail_event that the driver has passed is quiet by itself. */
void proof_2_7_10_2_disarm_of_a_passed_event(void) {
  struct wv_split queue = AnySplit();
  const struct wv_split before = queue;
  const uint16_t index = nondet_u16(); /* the driver's */
  const uint16_t more = nondet_u16();
  const uint32_t waiting = wv_ring_distance(index, queue.next_available);
  const uint32_t passed = wv_ring_distance(queue.next_available, queue.avail_event);
  ASSUME(queue.event_idx && more >= 1U && waiting + more <= queue.size);
  /* It was asked for less than a lap of the index ago. */
  ASSUME(passed + queue.size <= 0xffffU);
  if (!wv_split_disarm(&queue, index)) {
    PROVE(SameSplit(&queue, &before));
    PROVE(!wv_ring_need_event(queue.avail_event, (uint16_t)(index + more), index));
    REACHED(passed == 0U);
    REACHED(passed != 0U && index < queue.avail_event);
  }
}

/* No wake-up is lost: after arm, an entry is either seen by us or notified by the driver. */
void proof_2_7_10_2_arm_loses_no_entry(void) {
  struct wv_split queue = AnySplit();
  const uint16_t seen = nondet_u16(); /* the driver's index as we see it after arm */
  const uint16_t more = nondet_u16(); /* what it publishes when it can see our wish */
  ASSUME(queue.event_idx && more >= 1U && more <= queue.size);
  ASSUME(wv_ring_distance(seen, queue.next_available) <= queue.size);
  const uint16_t event = wv_split_arm(&queue);
  PROVE(seen != queue.next_available || wv_ring_need_event(event, (uint16_t)(seen + more), seen));
  PROVE(event == queue.avail_event);
  REACHED(seen == queue.next_available);
  REACHED(seen != queue.next_available);
}
