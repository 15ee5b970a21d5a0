/* IN_ORDER: VIRTIO 1.4 §2.7.9 (split), §2.8.8 (packed). Chains in flight, three at most, at every place
 * of the circle and in every state. */
#include "virtio/in_order_core.h"

#include "virtio/proof/proof.h"

#define CHAINS 3U

static struct wv_in_order_entry entries[CHAINS];

static struct wv_in_order AnyOrder(void) {
  struct wv_in_order order;
  wv_in_order_init(&order, entries, CHAINS);
  order.first = nondet_u16();
  order.count = nondet_u16();
  ASSUME(order.first < CHAINS && order.count <= CHAINS);
  for (uint32_t i = 0; i < CHAINS; i++) {
    const uint32_t progress = nondet_u32();
    ASSUME(progress <= 2U);
    entries[i].written = nondet_u32();
    entries[i].id = nondet_u16();
    entries[i].slots = nondet_u16();
    entries[i].progress = (enum wv_progress)progress;
    ASSUME(entries[i].slots >= 1U && entries[i].slots <= 32768U);
  }
  return order;
}

static const struct wv_in_order_entry* Nth(const struct wv_in_order* order, uint16_t nth) {
  return &entries[(order->first + nth) % CHAINS];
}

/* Nothing is used before the oldest chain is. */
void proof_2_7_9_oldest_first(void) {
  struct wv_in_order order = AnyOrder();
  const struct wv_in_order before = order;
  struct wv_used_batch batch;
  const bool any = wv_in_order_next(&order, &batch);
  PROVE(any == (before.count != 0U && Nth(&before, 0)->progress != WV_IN_FLIGHT));
  PROVE(any || (order.first == before.first && order.count == before.count));
  REACHED(any);
  REACHED(!any && before.count == CHAINS && Nth(&before, 1)->progress == WV_USED_WHOLE);
}

/* The element names the last chain of its batch, with what was written into that one. */
void proof_2_7_9_batch_is_named_after_its_last_chain(void) {
  struct wv_in_order order = AnyOrder();
  const struct wv_in_order before = order;
  struct wv_used_batch batch;
  if (wv_in_order_next(&order, &batch)) {
    const uint16_t chains = (uint16_t)(before.count - order.count);
    const struct wv_in_order_entry* last = Nth(&before, (uint16_t)(chains - 1U));
    PROVE(chains >= 1U && chains <= before.count);
    PROVE(order.first == (before.first + chains) % CHAINS);
    PROVE(batch.id == last->id && batch.written == last->written);
    REACHED(chains == CHAINS);
    REACHED(order.first < before.first);
  }
}

/* Skipped chains are taken to have been used completely: only such ones are skipped. */
void proof_2_8_8_skipped_chains_are_whole(void) {
  struct wv_in_order order = AnyOrder();
  const struct wv_in_order before = order;
  struct wv_used_batch batch;
  if (wv_in_order_next(&order, &batch)) {
    const uint16_t chains = (uint16_t)(before.count - order.count);
    for (uint16_t i = 0; i < CHAINS; i++) {
      PROVE(i + 1U >= chains || Nth(&before, i)->progress == WV_USED_WHOLE);
      PROVE(i >= chains || Nth(&before, i)->progress != WV_IN_FLIGHT);
    }
    REACHED(chains == 2U && Nth(&before, 1)->progress == WV_USED_IN_PART);
    REACHED(chains == CHAINS);
  }
}

/* The device skips forward by the size of the batch. */
void proof_2_8_8_batch_skips_its_descriptors(void) {
  struct wv_in_order order = AnyOrder();
  const struct wv_in_order before = order;
  struct wv_used_batch batch;
  uint32_t slots = 0;
  const bool any = wv_in_order_next(&order, &batch);
  for (uint16_t i = 0; i < CHAINS; i++) {
    slots += i < before.count - order.count ? Nth(&before, i)->slots : 0U;
  }
  PROVE(batch.slots == slots && any == (slots != 0U));
  REACHED(slots == 3U * 32768U);
}

/* A popped chain is the newest, in flight, and leaves the others alone. */
void proof_2_7_9_pop_joins_the_end(void) {
  struct wv_in_order order = AnyOrder();
  const struct wv_in_order before = order;
  const uint16_t id = nondet_u16();
  ASSUME(order.count < CHAINS);
  const struct wv_in_order_entry oldest = *Nth(&before, 0);
  const uint16_t place = wv_in_order_add(&order, id, 1);
  PROVE(place < CHAINS && order.count == before.count + 1U && order.first == before.first);
  PROVE(&entries[place] == Nth(&order, before.count));
  PROVE(entries[place].id == id && entries[place].progress == WV_IN_FLIGHT);
  PROVE(before.count == 0U ||
        (Nth(&order, 0)->id == oldest.id && Nth(&order, 0)->progress == oldest.progress));
  REACHED(place == 0U && before.count == 2U);
}

/* Undo takes back the newest pop, and no other. */
void proof_2_7_9_undo_pop(void) {
  struct wv_in_order order = AnyOrder();
  const uint16_t place = nondet_u16();
  ASSUME(order.count < CHAINS);
  const struct wv_in_order before = order;
  const uint16_t added = wv_in_order_add(&order, nondet_u16(), 1);
  const bool undone = wv_in_order_undo(&order, place);
  PROVE(undone == (place == added));
  PROVE(order.first == before.first && order.count == before.count + (undone ? 0U : 1U));
  REACHED(undone && added == 0U);
  REACHED(!undone);
}

/* Pops and pushes in any order: elements come out in the order of the pops. */
void proof_2_7_9_random_completion_keeps_the_order(void) {
  struct wv_in_order order;
  struct wv_used_batch batch;
  uint16_t places[CHAINS];
  uint16_t next = 0; /* the id that is to come */
  wv_in_order_init(&order, entries, CHAINS);
  order.first = nondet_u16();
  ASSUME(order.first < CHAINS);
  for (uint16_t id = 0; id < CHAINS; id++) {
    places[id] = wv_in_order_add(&order, id, 1);
  }
  for (uint32_t step = 0; step < CHAINS; step++) {
    const uint16_t id = nondet_u16();
    ASSUME(id < CHAINS && entries[places[id]].progress == WV_IN_FLIGHT);
    wv_in_order_finish(&order, places[id], id, nondet_bool());
    for (uint32_t i = 0; i < CHAINS && wv_in_order_next(&order, &batch); i++) {
      PROVE(batch.id + 1U == next + batch.slots && batch.written == batch.id);
      next = (uint16_t)(next + batch.slots);
      REACHED(step == 2U && batch.slots == 3U);
    }
  }
  PROVE(next == CHAINS && order.count == 0U);
  REACHED(next == CHAINS);
}
