/* The packed virtqueue's state: VIRTIO 1.4 §2.8. Each harness is named after the section it is about. */
#include "virtio/packed_ring_core.h"
#include "virtio/proof/proof.h"

static uint16_t AnySize(void) {
  const uint16_t size = nondet_u16();
  ASSUME(wv_packed_size_valid(size));
  return size;
}

static uint16_t AnyPosition(uint16_t size) {
  const uint16_t position = nondet_u16();
  ASSUME(wv_packed_position_valid(position, size));
  return position;
}

/* What holds of every queue between two calls: the descriptors in flight are those from next_used on to
 * next_available (and wv_packed_distance is what counts them: proof_2_8_1_distance). */
static bool PackedSound(const struct wv_packed* queue) {
  return wv_packed_size_valid(queue->size) &&
         wv_packed_position_valid(queue->next_used, queue->size) &&
         queue->in_flight <= queue->size && queue->pending <= 2U * (uint32_t)queue->size &&
         wv_packed_advance(queue->next_used, queue->in_flight, queue->size) ==
             queue->next_available;
}

static struct wv_packed AnyPacked(void) {
  struct wv_packed queue;
  queue.size = AnySize();
  queue.next_used = AnyPosition(queue.size);
  queue.in_flight = nondet_u32();
  queue.pending = nondet_u32();
  ASSUME(queue.in_flight <= queue.size && queue.pending <= 2U * (uint32_t)queue.size);
  queue.next_available = wv_packed_advance(queue.next_used, queue.in_flight, queue.size);
  queue.event = nondet_u16();
  queue.event_flags = nondet_u16();
  queue.event_idx = nondet_bool();
  queue.signalled = nondet_bool();
  return queue;
}

static bool SamePacked(const struct wv_packed* a, const struct wv_packed* b) {
  return a->size == b->size && a->in_flight == b->in_flight && a->pending == b->pending &&
         a->next_available == b->next_available && a->next_used == b->next_used &&
         a->event == b->event && a->event_flags == b->event_flags && a->event_idx == b->event_idx &&
         a->signalled == b->signalled;
}

/* The position `steps` after `from`, less than two laps. Each number of steps leads to another position
 * (proof_2_8_1_distance), and there are as many: who takes any number of steps takes any position. */
static uint16_t After(uint16_t from, uint32_t steps, uint16_t size) {
  return steps < size ? wv_packed_advance(from, steps, size)
                      : wv_packed_advance((uint16_t)(from ^ 0x8000U), steps - size, size);
}

static uint32_t AnySteps(uint16_t size) {
  const uint32_t steps = nondet_u32();
  ASSUME(steps < 2U * (uint32_t)size);
  return steps;
}

/* Sizes need be no power of two, and 0 is none; a state to resume from must be one of the ring. */
void proof_2_8_10_1_checked_initialisation(void) {
  struct wv_packed queue;
  const uint32_t size = nondet_u32();
  const uint16_t available = nondet_u16();
  const uint16_t used = nondet_u16();
  const bool made = wv_packed_init(&queue, size, available, used, nondet_bool());
  PROVE(!made || (queue.in_flight <= size &&
                  queue.in_flight == wv_packed_distance(available, used, (uint16_t)size)));
  PROVE(!made || (queue.size == size && queue.next_available == available &&
                  queue.next_used == used && queue.pending == 0U));
  PROVE(made || size == 0U || size > 32768U || (available & 0x7fffU) >= size ||
        (used & 0x7fffU) >= size || wv_packed_distance(available, used, (uint16_t)size) > size);
  REACHED(made && size == 3U && queue.in_flight == 3U);
  REACHED(made && size == 32768U);
  REACHED(!made && size == 7U);
  REACHED(!made && size == 0U);
}

/* A queue that goes on where an earlier one stopped is sound: what that one had in flight, this one has. */
void proof_2_8_10_1_resumed_queue_is_sound(void) {
  struct wv_packed queue;
  const uint16_t size = AnySize();
  const uint16_t used = AnyPosition(size);
  const uint32_t in_flight = nondet_u32();
  ASSUME(in_flight <= size);
  const uint16_t available = wv_packed_advance(used, in_flight, size);
  ASSUME(wv_packed_distance(available, used, size) == in_flight); /* proof_2_8_1_distance */
  PROVE(wv_packed_init(&queue, size, available, used, nondet_bool()));
  PROVE(PackedSound(&queue) && queue.in_flight == in_flight);
  REACHED(in_flight == size && size == 7U);
  REACHED(in_flight == 0U);
}

/* A new queue starts at slot 0 with wrap counter 1 (§2.8.1), and is empty. */
void proof_2_8_1_start(void) {
  struct wv_packed queue;
  const uint16_t size = AnySize();
  PROVE(wv_packed_init(&queue, size, WV_PACKED_START, WV_PACKED_START, nondet_bool()));
  PROVE(wv_packed_slot(WV_PACKED_START) == 0U && wv_packed_wrap(WV_PACKED_START));
  PROVE(!wv_packed_is_available(0, WV_PACKED_START)); /* the ring is zero then (§2.8.13) */
  REACHED(size == 32767U);
}

/* Every descriptor lies in the area, at multiples of 16. */
void proof_2_8_10_1_ring_bounds(void) {
  const uint16_t size = AnySize();
  const uint16_t position = AnyPosition(size);
  const uint64_t offset = wv_packed_offset(position);
  PROVE(offset + WV_DESC_SIZE <= wv_packed_descriptor_bytes(size) && offset % WV_DESC_SIZE == 0U);
  PROVE(WV_PACKED_DESC_LEN + 4U + 2U == WV_PACKED_DESC_FLAGS);
  PROVE(WV_PACKED_DESC_FLAGS + 2U == WV_DESC_SIZE);
  REACHED(size == 32768U && wv_packed_slot(position) == 32767U);
}

/* The wrap counter changes with the last descriptor of the ring, and only there. */
void proof_2_8_1_wrap_counter(void) {
  const uint16_t size = AnySize();
  const uint16_t position = AnyPosition(size);
  const uint16_t next = wv_packed_advance(position, 1, size);
  const bool last = wv_packed_slot(position) + 1U == size;
  PROVE(wv_packed_position_valid(next, size));
  PROVE((wv_packed_wrap(next) != wv_packed_wrap(position)) == last);
  PROVE(wv_packed_slot(next) == (last ? 0U : wv_packed_slot(position) + 1U));
  REACHED(last && size == 1U);
  REACHED(last && !wv_packed_wrap(position));
  REACHED(!last);
}

/* Several steps at once are as many single ones; the whole ring is the same slot of the other lap. */
void proof_2_8_1_advance(void) {
  const uint16_t size = AnySize();
  const uint16_t position = AnyPosition(size);
  const uint32_t count = nondet_u32();
  ASSUME(count < size);
  const uint16_t to = wv_packed_advance(position, count, size);
  PROVE(wv_packed_position_valid(to, size));
  PROVE(wv_packed_advance(position, count + 1U, size) == wv_packed_advance(to, 1, size));
  PROVE(wv_packed_advance(position, size, size) == (position ^ 0x8000U));
  REACHED(count > 0U && wv_packed_slot(to) == 0U);
  REACHED(wv_packed_wrap(to) != wv_packed_wrap(position) && size == 5U);
}

/* Distance counts the steps, round the circle of two laps. */
void proof_2_8_1_distance(void) {
  const uint16_t size = AnySize();
  const uint16_t position = AnyPosition(size);
  const uint32_t steps = AnySteps(size);
  const uint16_t other = After(position, steps, size);
  PROVE(wv_packed_position_valid(other, size));
  PROVE(wv_packed_distance(other, position, size) == steps);
  REACHED(steps > size && wv_packed_slot(other) > wv_packed_slot(position));
  REACHED(steps == size);
  REACHED(steps == 0U);
}

/* No descriptor is both available and used, and each side reads what the other one writes. */
void proof_2_8_1_available_and_used_flags(void) {
  const uint16_t flags = nondet_u16();
  const uint16_t position = nondet_u16();
  PROVE(!wv_packed_is_available(flags, position) || !wv_packed_is_used(flags, position));
  PROVE(wv_packed_is_available(wv_packed_available_flags(position), position));
  PROVE(wv_packed_is_used(wv_packed_used_flags(position, nondet_u32()), position));
  REACHED(wv_packed_is_available(flags, position) && !wv_packed_wrap(position));
  REACHED(wv_packed_is_used(flags, position) && wv_packed_wrap(position));
}

/* Empty: what was made available, or used, in one lap is not available in the next one. */
void proof_2_8_2_is_empty(void) {
  const uint16_t size = AnySize();
  const uint16_t position = AnyPosition(size);
  const uint16_t lap_later = wv_packed_advance(position, size, size);
  const uint16_t flags = nondet_u16();
  if (wv_packed_is_available(flags, position) || wv_packed_is_used(flags, position)) {
    PROVE(!wv_packed_is_available(flags, lap_later));
    REACHED(wv_packed_is_available(flags, position));
    REACHED(wv_packed_is_used(flags, position));
  }
}

/* WRITE in a used descriptor says that something was written (§2.8.3); NEXT and INDIRECT nothing. */
void proof_2_8_3_write_flag(void) {
  const uint16_t position = nondet_u16();
  const uint32_t written = nondet_u32();
  const uint16_t flags = wv_packed_used_flags(position, written);
  PROVE(((flags & WV_DESC_F_WRITE) != 0U) == (written != 0U));
  PROVE((flags & (uint16_t) ~(WV_PACKED_F_AVAIL | WV_PACKED_F_USED | WV_DESC_F_WRITE)) == 0U);
  REACHED(written == 0U);
  REACHED(written != 0U);
}

/* A pop takes the slots of its chain, in ring order, and nothing that is in flight. */
void proof_2_8_12_pop(void) {
  struct wv_packed queue = AnyPacked();
  struct wv_packed before = queue;
  const uint16_t slots = nondet_u16();
  ASSUME(slots >= 1U && slots + queue.in_flight <= queue.size);
  PROVE(wv_packed_take(&queue, slots) == before.next_available);
  PROVE(PackedSound(&queue) && queue.in_flight == before.in_flight + slots);
  before.in_flight = queue.in_flight;
  before.next_available = queue.next_available;
  PROVE(SamePacked(&queue, &before));
  REACHED(queue.in_flight == queue.size && slots == 3U);
  REACHED(wv_packed_slot(queue.next_available) < wv_packed_slot(queue.next_used));
}

/* Undo of the last pop makes the queue what it was; of another one nothing. */
void proof_2_8_12_undo_pop(void) {
  struct wv_packed queue = AnyPacked();
  const struct wv_packed before = queue;
  const uint16_t slots = nondet_u16();
  ASSUME(slots >= 1U && slots + queue.in_flight <= queue.size);
  const uint16_t taken = wv_packed_take(&queue, slots);
  const struct wv_packed popped = queue;
  const uint16_t position = AnyPosition(queue.size);
  const bool undone = wv_packed_undo(&queue, position, slots);
  PROVE(undone == (position == taken));
  PROVE(SamePacked(&queue, undone ? &before : &popped));
  REACHED(undone && wv_packed_wrap(taken) != wv_packed_wrap(popped.next_available));
  REACHED(!undone);
}

/* A used descriptor goes where the last one ended, and skips the whole chain (§2.8.6). */
void proof_2_8_6_add_used(void) {
  struct wv_packed queue = AnyPacked();
  struct wv_packed before = queue;
  const uint32_t slots = nondet_u32();
  ASSUME(slots >= 1U && slots <= queue.in_flight);
  PROVE(wv_packed_use(&queue, slots) == before.next_used);
  PROVE(PackedSound(&queue) && queue.in_flight == before.in_flight - slots);
  PROVE(queue.pending >= before.pending && queue.pending >= 1U);
  before.in_flight = queue.in_flight;
  before.next_used = queue.next_used;
  before.pending = queue.pending;
  PROVE(SamePacked(&queue, &before));
  REACHED(wv_packed_wrap(queue.next_used) && wv_packed_slot(queue.next_used) == 1U && slots == 3U);
  REACHED(queue.pending == 2U * (uint32_t)queue.size);
}

/* Used descriptors never overtake: next_used reaches next_available when nothing is in flight. */
void proof_2_8_2_used_never_passes_available(void) {
  struct wv_packed queue = AnyPacked();
  const uint32_t slots = nondet_u32();
  ASSUME(slots >= 1U && slots <= queue.in_flight);
  wv_packed_use(&queue, slots);
  PROVE((queue.next_used == queue.next_available) == (queue.in_flight == 0U));
  REACHED(queue.in_flight == 0U);
  REACHED(queue.in_flight != 0U);
}

/* A batch in order is one descriptor for all its chains (§2.8.8). */
void proof_2_8_8_add_used_batch(void) {
  struct wv_packed one = AnyPacked();
  struct wv_packed batch = one;
  const uint32_t a = nondet_u32();
  const uint32_t b = nondet_u32();
  ASSUME(a >= 1U && b >= 1U && a <= one.size && b <= one.size && a + b <= one.in_flight);
  const uint16_t first = wv_packed_use(&one, a);
  wv_packed_use(&one, b);
  PROVE(wv_packed_use(&batch, a + b) == first);
  PROVE(SamePacked(&one, &batch));
  REACHED(a == 2U && b == 3U);
}

/* Flags: 0 always, 1 never; with EVENT_IDX or not. */
void proof_2_8_10_flags(void) {
  struct wv_packed queue = AnyPacked();
  const uint16_t flags = nondet_u16();
  ASSUME(queue.pending != 0U && (flags & 3U) <= 1U);
  const bool notify = wv_packed_signal(&queue, flags, nondet_u16());
  PROVE(notify == ((flags & 3U) == 0U));
  PROVE(queue.pending == 0U);
  REACHED(notify && queue.event_idx);
  REACHED(!notify);
}

/* A queue that has used `pending` descriptors, the last of them `steps` - 1 after `event`: there is one
 * such position for each number of steps (proof_2_8_1_distance). */
static struct wv_packed UsedUpTo(struct wv_packed queue, uint16_t event, uint32_t steps,
                                 uint32_t pending) {
  queue.next_used = AnyPosition(queue.size);
  queue.pending = pending;
  ASSUME(wv_packed_distance(queue.next_used, event, queue.size) == steps);
  return queue;
}

/* Flag 2: exactly when the event's descriptor is among those that were used since. So it does not matter
 * whether one asks after each chain or once for several. */
void proof_2_8_10_descriptor_event(void) {
  struct wv_packed queue = AnyPacked();
  const uint16_t event = AnyPosition(queue.size);
  const uint32_t steps = AnySteps(queue.size);
  const uint32_t used = nondet_u32();
  ASSUME(queue.event_idx && queue.signalled && used >= 1U && used <= queue.size);
  queue = UsedUpTo(queue, event, steps, used);
  const bool notify = wv_packed_signal(&queue, WV_PACKED_EVENT_DESC, event);
  PROVE(notify == (steps >= 1U && steps <= used));
  PROVE(queue.pending == 0U);
  REACHED(notify && wv_packed_wrap(event) != wv_packed_wrap(queue.next_used));
  REACHED(!notify && event == queue.next_used);
  REACHED(!notify && wv_packed_slot(event) == wv_packed_slot(queue.next_used) && steps != 0U);
}

/* The device MUST notify when what it used reaches the event. */
void proof_2_8_10_must_notify_at_the_event(void) {
  struct wv_packed queue = AnyPacked();
  const uint16_t event = queue.next_used;
  const uint32_t slots = nondet_u32();
  ASSUME(queue.pending == 0U && slots >= 1U && slots <= queue.in_flight);
  wv_packed_use(&queue, slots);
  PROVE(wv_packed_signal(&queue, WV_PACKED_EVENT_DESC, event));
  REACHED(queue.event_idx && queue.signalled && slots == queue.size);
}

/* What a driver asked for before we started is not known to us: the first time counts as asked. */
void proof_2_8_10_first_time(void) {
  struct wv_packed queue = AnyPacked();
  const bool made = wv_packed_init(&queue, queue.size, queue.next_available, queue.next_used, true);
  ASSUME(made && queue.in_flight != 0U);
  wv_packed_use(&queue, 1);
  PROVE(wv_packed_signal(&queue, WV_PACKED_EVENT_DESC, nondet_u16()));
  REACHED(queue.size == 100U);
}

/* However long nobody asked: two laps or more have passed every event. */
void proof_2_8_10_two_laps_pass_every_event(void) {
  struct wv_packed queue = AnyPacked();
  const uint32_t before = queue.pending;
  ASSUME(before == 2U * (uint32_t)queue.size && queue.in_flight != 0U);
  wv_packed_use(&queue, 1);
  PROVE(queue.pending == before);
  PROVE(wv_packed_signal(&queue, WV_PACKED_EVENT_DESC, nondet_u16()));
  REACHED(queue.event_idx && queue.size == 32768U);
}

/* What makes no sense costs an interrupt, never the lack of one. */
void proof_2_8_10_nonsense_is_notified(void) {
  struct wv_packed queue = AnyPacked();
  const uint16_t flags = nondet_u16();
  const uint16_t event = nondet_u16();
  const bool not_negotiated = (flags & 3U) == 2U && !queue.event_idx;
  const bool reserved = (flags & 3U) == 3U;
  const bool outside = (flags & 3U) == 2U && (event & 0x7fffU) >= queue.size;
  ASSUME(queue.pending != 0U && (not_negotiated || reserved || outside));
  PROVE(wv_packed_signal(&queue, flags, event));
  REACHED(not_negotiated);
  REACHED(reserved);
  REACHED(outside && queue.event_idx);
}

/* The driver's side of it (§2.8.21.2): whether it notifies after making `more` available, where the
 * event is `steps` ahead of the first of them. */
static bool DriverNotifies(uint16_t event_flags, uint32_t steps, uint32_t more) {
  return event_flags == WV_PACKED_EVENT_DESC ? steps < more : event_flags == WV_PACKED_EVENT_ENABLE;
}

/* Disarmed, a driver that has passed the event or sees the flag is quiet about what comes. */
void proof_2_8_10_disarm(void) {
  struct wv_packed queue = AnyPacked();
  const uint32_t passed = nondet_u32();  /* steps from the event to next_available: a lap at most */
  const uint32_t waiting = nondet_u32(); /* steps from there to where the driver is */
  const uint32_t more = nondet_u32();    /* what it makes available then */
  const uint32_t lap = queue.size;
  ASSUME(queue.event_flags <= 2U || queue.event_flags == WV_PACKED_EVENT_UNKNOWN);
  ASSUME(passed <= lap && waiting <= lap && more >= 1U && more <= lap);
  ASSUME(waiting + more + queue.in_flight <= lap);
  queue.event = AnyPosition(queue.size);
  queue.next_available = wv_packed_advance(queue.event, passed, queue.size);
  const struct wv_packed before = queue;
  const uint32_t behind = passed + waiting;
  const bool write = wv_packed_disarm(&queue, waiting != 0U);
  PROVE(!DriverNotifies(queue.event_flags, behind != 0U ? 2U * lap - behind : 0U, more));
  PROVE(!write || queue.event_flags == WV_PACKED_EVENT_DISABLE);
  PROVE(write || SamePacked(&queue, &before));
  REACHED(write);
  REACHED(!write && before.event_flags == WV_PACKED_EVENT_DESC);
  REACHED(!write && before.event_flags == WV_PACKED_EVENT_DISABLE);
}

/* No wake-up is lost: after arm, a descriptor is either seen by us or notified by the driver. */
void proof_2_8_10_arm_loses_no_descriptor(void) {
  struct wv_packed queue = AnyPacked();
  const uint32_t waiting = nondet_u32(); /* what we see as available after arm */
  const uint32_t more = nondet_u32();    /* what the driver adds when it can see our wish */
  ASSUME(waiting <= queue.size && more >= 1U && more <= queue.size);
  wv_packed_arm(&queue);
  PROVE(queue.event == queue.next_available);
  PROVE(waiting != 0U || DriverNotifies(queue.event_flags, 0, more));
  PROVE(queue.event_idx || queue.event_flags == WV_PACKED_EVENT_ENABLE);
  REACHED(waiting == 0U && queue.event_idx);
  REACHED(waiting == 0U && !queue.event_idx);
  REACHED(waiting != 0U);
}
