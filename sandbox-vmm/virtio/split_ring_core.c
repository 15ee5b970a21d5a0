/* The one place that decides what a chain of a split ring may look like. */
#include "virtio/split_ring_core.h"

bool wv_walk_begin(struct wv_walk* walk, uint16_t head, uint16_t size, bool indirect_allowed) {
  walk->limit = size;
  walk->index = head;
  walk->table_count = size;
  walk->seen = 0;
  walk->lengths.readable = 0;
  walk->lengths.writable = 0;
  walk->indirect_allowed = indirect_allowed;
  walk->in_table = false;
  walk->done = head >= size;
  return head < size;
}

/* A descriptor that refers to an indirect table (§2.7.5.3). It must be the last of its chain; its
 * WRITE flag is ignored. */
static enum wv_walk_action EnterSplitTable(struct wv_walk* walk, const struct wv_desc* desc) {
  if (walk->in_table) {
    return WV_WALK_FAULT_NESTED;
  }
  if (!walk->indirect_allowed || (desc->flags & WV_DESC_F_NEXT) != 0U) {
    return WV_WALK_FAULT_FLAGS;
  }
  if (!wv_table_length_valid(desc->len)) {
    return WV_WALK_FAULT_TABLE;
  }
  walk->in_table = true;
  walk->table_count = desc->len / WV_DESC_SIZE;
  walk->index = 0;
  return WV_WALK_TABLE;
}

enum wv_walk_action wv_walk_step(struct wv_walk* walk, const struct wv_desc* desc) {
  enum wv_walk_action action;
  if ((desc->flags & WV_DESC_F_INDIRECT) != 0U) {
    action = EnterSplitTable(walk, desc);
    if (action >= WV_WALK_FAULT) {
      walk->done = true;
    }
    return action;
  }
  if (walk->seen >= walk->limit) {
    walk->done = true;
    return WV_WALK_FAULT_LOOP;
  }
  walk->seen++;
  action = wv_lengths_add(&walk->lengths, desc->len, desc->flags);
  if (action >= WV_WALK_FAULT || (desc->flags & WV_DESC_F_NEXT) == 0U) {
    walk->done = true;
    return action;
  }
  if (desc->next >= walk->table_count) {
    walk->done = true;
    return WV_WALK_FAULT_INDEX;
  }
  walk->index = desc->next;
  return action;
}
