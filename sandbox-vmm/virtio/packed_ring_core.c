/* The one place that decides what a buffer of a packed ring may look like. */
#include "virtio/packed_ring_core.h"

void wv_packed_walk_begin(struct wv_packed_walk* walk, const struct wv_packed* queue,
                          bool indirect_allowed) {
  walk->limit = queue->size;
  walk->index = wv_packed_slot(queue->next_available);
  walk->id = 0;
  walk->slots = 0;
  walk->room = queue->size - queue->in_flight;
  walk->table_count = 0;
  walk->seen = 0;
  walk->lengths.readable = 0;
  walk->lengths.writable = 0;
  walk->indirect_allowed = indirect_allowed;
  walk->in_table = false;
  walk->done = false;
}

/* A descriptor that refers to an indirect table (§2.8.7). It is a list of its own: not linked by
 * NEXT, neither to others nor by them (§2.8.19). Its WRITE flag is ignored. */
static enum wv_walk_action EnterPackedTable(struct wv_packed_walk* walk,
                                            const struct wv_packed_desc* desc) {
  if (!walk->indirect_allowed || (desc->flags & WV_DESC_F_NEXT) != 0U || walk->slots != 1U) {
    return WV_WALK_FAULT_FLAGS;
  }
  if (!wv_table_length_valid(desc->len)) {
    return WV_WALK_FAULT_TABLE;
  }
  if (desc->len / WV_DESC_SIZE > walk->limit) {
    return WV_WALK_FAULT_LOOP;
  }
  walk->in_table = true;
  walk->table_count = desc->len / WV_DESC_SIZE;
  walk->index = 0;
  return WV_WALK_TABLE;
}

/* In a table only WRITE is valid; the other flags and the id are ignored (§2.8.7). How many entries
 * there are is said by the table's length. */
static enum wv_walk_action StepInTable(struct wv_packed_walk* walk,
                                       const struct wv_packed_desc* desc) {
  walk->seen++;
  walk->index++;
  walk->done = walk->index >= walk->table_count;
  return wv_lengths_add(&walk->lengths, desc->len, desc->flags);
}

static enum wv_walk_action StepInRing(struct wv_packed_walk* walk,
                                      const struct wv_packed_desc* desc) {
  if (walk->slots >= walk->limit) {
    return WV_WALK_FAULT_LOOP;
  }
  if (walk->slots >= walk->room) {
    return WV_WALK_FAULT_OVERRUN;
  }
  walk->slots++;
  walk->index = (uint16_t)(walk->index + 1U == walk->limit ? 0U : walk->index + 1U);
  walk->id = desc->id;
  if ((desc->flags & WV_DESC_F_INDIRECT) != 0U) {
    return EnterPackedTable(walk, desc);
  }
  walk->seen++;
  walk->done = (desc->flags & WV_DESC_F_NEXT) == 0U;
  return wv_lengths_add(&walk->lengths, desc->len, desc->flags);
}

enum wv_walk_action wv_packed_walk_step(struct wv_packed_walk* walk,
                                        const struct wv_packed_desc* desc) {
  const enum wv_walk_action action =
      walk->in_table ? StepInTable(walk, desc) : StepInRing(walk, desc);
  if (action >= WV_WALK_FAULT) {
    walk->done = true;
  }
  return action;
}
