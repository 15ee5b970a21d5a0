/* A walk along a chain of a split ring: VIRTIO 1.3 §2.7.5. One step from any state that a walk can be
 * in, so that what is proved holds for chains of any length. */
#include "virtio/proof/proof.h"
#include "virtio/split_ring_core.h"

static bool SplitWalkSound(const struct wv_walk* walk) {
  return wv_ring_size_valid(walk->limit) && walk->seen <= walk->limit && walk->table_count >= 1U &&
         walk->table_count <= WV_RING_SIZE_MAX &&
         (walk->in_table || walk->table_count == walk->limit) &&
         (!walk->in_table || walk->indirect_allowed) &&
         (uint64_t)walk->lengths.readable + walk->lengths.writable <= UINT32_MAX &&
         (walk->done || walk->index < walk->table_count);
}

static struct wv_walk AnySplitWalk(void) {
  struct wv_walk walk;
  walk.limit = nondet_u16();
  walk.index = nondet_u16();
  walk.table_count = nondet_u32();
  walk.seen = nondet_u32();
  walk.lengths.readable = nondet_u32();
  walk.lengths.writable = nondet_u32();
  walk.indirect_allowed = nondet_bool();
  walk.in_table = nondet_bool();
  walk.done = false;
  ASSUME(SplitWalkSound(&walk));
  return walk;
}

static struct wv_desc AnyDesc(void) {
  const struct wv_desc desc = {
      .addr = nondet_u64(), .len = nondet_u32(), .flags = nondet_u16(), .next = nondet_u16()};
  return desc;
}

/* How many steps are left, at most: buffers, and one table. */
static uint32_t SplitWalkMeasure(const struct wv_walk* walk) {
  return 2U * ((uint32_t)walk->limit - walk->seen) + (walk->in_table ? 0U : 1U);
}

/* A walk begins in the table, or not at all. */
void proof_2_7_5_walk_begin(void) {
  struct wv_walk walk;
  const uint16_t head = nondet_u16();
  const uint16_t size = nondet_u16();
  ASSUME(wv_ring_size_valid(size));
  const bool begun = wv_walk_begin(&walk, head, size, nondet_bool());
  PROVE(begun == (head < size));
  PROVE(SplitWalkSound(&walk) && walk.done == !begun && walk.index == head);
  REACHED(begun);
  REACHED(!begun);
}

/* What is fetched next lies in its table, and everything else stays sound. */
void proof_2_7_5_index_stays_in_its_table(void) {
  struct wv_walk walk = AnySplitWalk();
  const struct wv_desc desc = AnyDesc();
  const enum wv_walk_action action = wv_walk_step(&walk, &desc);
  PROVE(SplitWalkSound(&walk));
  PROVE(action < WV_WALK_FAULT || walk.done);
  REACHED(!walk.done && walk.in_table);
  REACHED(action == WV_WALK_FAULT_INDEX);
}

/* Chains end: each step that goes on leaves fewer to come (no loops, §2.7.5.2). */
void proof_2_7_5_2_walk_terminates(void) {
  struct wv_walk walk = AnySplitWalk();
  const struct wv_desc desc = AnyDesc();
  const uint32_t before = SplitWalkMeasure(&walk);
  const enum wv_walk_action action = wv_walk_step(&walk, &desc);
  PROVE(walk.done || SplitWalkMeasure(&walk) < before);
  REACHED(!walk.done && action == WV_WALK_TABLE);
  REACHED(!walk.done && action == WV_WALK_EMPTY);
  REACHED(action == WV_WALK_FAULT_LOOP);
}

/* The lengths are the sums of what was reported, and the whole never passes 2^32 - 1. */
void proof_2_7_5_2_total_length(void) {
  struct wv_walk walk = AnySplitWalk();
  const struct wv_walk before = walk;
  const struct wv_desc desc = AnyDesc();
  const enum wv_walk_action action = wv_walk_step(&walk, &desc);
  const uint64_t was = (uint64_t)before.lengths.readable + before.lengths.writable;
  const uint64_t is = (uint64_t)walk.lengths.readable + walk.lengths.writable;
  const bool buffer = action == WV_WALK_READABLE || action == WV_WALK_WRITABLE;
  PROVE(action >= WV_WALK_FAULT || is == was + (buffer ? desc.len : 0U));
  PROVE(is <= UINT32_MAX);
  PROVE(action != WV_WALK_FAULT_TOTAL || was + desc.len > UINT32_MAX);
  REACHED(is == UINT32_MAX);
  REACHED(action == WV_WALK_FAULT_TOTAL);
}

/* Writable after readable (§2.7.4.2), each as its flag says. */
void proof_2_7_4_2_readable_before_writable(void) {
  struct wv_walk walk = AnySplitWalk();
  const bool writable_seen = walk.lengths.writable != 0U;
  const struct wv_desc desc = AnyDesc();
  const enum wv_walk_action action = wv_walk_step(&walk, &desc);
  PROVE(action != WV_WALK_READABLE || (!writable_seen && (desc.flags & WV_DESC_F_WRITE) == 0U));
  PROVE(action != WV_WALK_WRITABLE || (desc.flags & WV_DESC_F_WRITE) != 0U);
  PROVE(action != WV_WALK_FAULT_ORDER || writable_seen);
  REACHED(action == WV_WALK_READABLE);
  REACHED(action == WV_WALK_WRITABLE && writable_seen);
  REACHED(action == WV_WALK_FAULT_ORDER);
}

/* A table is entered where it was negotiated, once, last in its chain, and of whole descriptors; its
 * WRITE flag is ignored (§2.7.5.3.2). */
void proof_2_7_5_3_indirect_table(void) {
  struct wv_walk walk = AnySplitWalk();
  const struct wv_walk before = walk;
  const struct wv_desc desc = AnyDesc();
  const bool indirect = (desc.flags & WV_DESC_F_INDIRECT) != 0U;
  const bool valid = before.indirect_allowed && !before.in_table &&
                     (desc.flags & WV_DESC_F_NEXT) == 0U && desc.len != 0U &&
                     desc.len % 16U == 0U && desc.len / 16U <= 32768U;
  const enum wv_walk_action action = wv_walk_step(&walk, &desc);
  PROVE((action == WV_WALK_TABLE) == (indirect && valid));
  PROVE(!indirect || valid || action >= WV_WALK_FAULT);
  PROVE(action != WV_WALK_TABLE || (walk.index == 0U && walk.table_count * 16U == desc.len));
  PROVE(action != WV_WALK_TABLE || walk.seen == before.seen);
  REACHED(action == WV_WALK_TABLE && (desc.flags & WV_DESC_F_WRITE) != 0U);
  REACHED(action == WV_WALK_FAULT_NESTED);
  REACHED(action == WV_WALK_FAULT_TABLE);
  REACHED(action == WV_WALK_FAULT_FLAGS);
}

/* The whole walk of small rings, step by step. */
void proof_2_7_5_walk_of_a_ring_of_four(void) {
  struct wv_walk walk;
  uint32_t buffers = 0;
  uint32_t steps = 0;
  bool tabled = false;
  const bool begun = wv_walk_begin(&walk, nondet_u16(), 4, nondet_bool());
  ASSUME(begun);
  while (!walk.done) {
    const struct wv_desc desc = AnyDesc();
    const enum wv_walk_action action = wv_walk_step(&walk, &desc);
    steps++;
    buffers += action < WV_WALK_TABLE ? 1U : 0U;
    tabled = tabled || action == WV_WALK_TABLE;
  }
  PROVE(buffers <= 4U && steps <= 6U);
  REACHED(buffers == 4U && tabled);
  REACHED(steps == 6U);
}
