/* A walk along a buffer of a packed ring: VIRTIO 1.3 §2.8.5 to §2.8.7. One step from any state that a
 * walk can be in, so that what is proved holds for chains of any length. */
#include "virtio/packed_ring_core.h"
#include "virtio/proof/proof.h"

static bool PackedWalkSound(const struct wv_packed_walk* walk) {
  return wv_packed_size_valid(walk->limit) && walk->room <= walk->limit &&
         walk->slots <= walk->room && walk->seen <= walk->limit &&
         (!walk->in_table ||
          (walk->indirect_allowed && walk->slots == 1U && walk->seen <= walk->index &&
           walk->table_count >= 1U && walk->table_count <= walk->limit)) &&
         (walk->in_table || walk->done || walk->seen == walk->slots) &&
         (uint64_t)walk->lengths.readable + walk->lengths.writable <= UINT32_MAX &&
         (walk->done || walk->index < (walk->in_table ? walk->table_count : (uint32_t)walk->limit));
}

static struct wv_packed_walk AnyPackedWalk(void) {
  struct wv_packed_walk walk;
  walk.limit = nondet_u16();
  walk.index = nondet_u16();
  walk.id = nondet_u16();
  walk.slots = nondet_u16();
  walk.room = nondet_u32();
  walk.table_count = nondet_u32();
  walk.seen = nondet_u32();
  walk.lengths.readable = nondet_u32();
  walk.lengths.writable = nondet_u32();
  walk.indirect_allowed = nondet_bool();
  walk.in_table = nondet_bool();
  walk.done = false;
  ASSUME(PackedWalkSound(&walk));
  return walk;
}

static struct wv_packed_desc AnyPackedDesc(void) {
  const struct wv_packed_desc desc = {
      .addr = nondet_u64(), .len = nondet_u32(), .id = nondet_u16(), .flags = nondet_u16()};
  return desc;
}

/* How many steps are left, at most: descriptors of the ring, or of a table. */
static uint32_t PackedWalkMeasure(const struct wv_packed_walk* walk) {
  return walk->in_table ? walk->table_count - walk->index
                        : WV_RING_SIZE_MAX + 2U + walk->limit - walk->slots;
}

/* A walk begins at the queue's position, with the room that is not in flight. */
void proof_2_8_6_walk_begin(void) {
  struct wv_packed queue;
  struct wv_packed_walk walk;
  const bool made = wv_packed_init(&queue, nondet_u32(), nondet_u16(), nondet_u16(), nondet_bool());
  ASSUME(made);
  wv_packed_walk_begin(&walk, &queue, nondet_bool());
  PROVE(PackedWalkSound(&walk) && !walk.done && walk.slots == 0U);
  PROVE(walk.index == (queue.next_available & 0x7fffU));
  PROVE(walk.room + queue.in_flight == queue.size);
  REACHED(walk.room == 0U);
  REACHED(walk.room == 32768U);
}

/* What is fetched next lies in the ring, or in its table, and everything else stays sound. */
void proof_2_8_5_index_stays_in_its_table(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(PackedWalkSound(&walk) || action >= WV_WALK_FAULT);
  PROVE(action < WV_WALK_FAULT || walk.done);
  REACHED(!walk.done && walk.in_table && action == WV_WALK_WRITABLE);
  REACHED(!walk.done && !walk.in_table);
}

/* The slot after the ring's last one is its first (OpenVMM#2983), and the walk's slots are those that
 * the position goes on by. */
void proof_2_8_6_next_slot_wraps(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const uint16_t begin = nondet_u16();
  ASSUME(!walk.in_table && wv_packed_position_valid(begin, walk.limit));
  ASSUME(walk.index == wv_packed_slot(wv_packed_advance(begin, walk.slots, walk.limit)));
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  if (!walk.done && action != WV_WALK_TABLE) {
    PROVE(walk.index == wv_packed_slot(wv_packed_advance(begin, walk.slots, walk.limit)));
    REACHED(walk.index == 0U && walk.slots > 1U);
    REACHED(walk.index != 0U);
  }
}

/* Buffers end: each step that goes on leaves fewer to come (no loops, §2.8.17). */
void proof_2_8_17_walk_terminates(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_desc desc = AnyPackedDesc();
  const uint32_t before = PackedWalkMeasure(&walk);
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(walk.done || PackedWalkMeasure(&walk) < before);
  REACHED(!walk.done && action == WV_WALK_TABLE);
  REACHED(!walk.done && action == WV_WALK_EMPTY);
  REACHED(action == WV_WALK_FAULT_LOOP);
}

/* A list is no longer than the queue (§2.8.17), and takes no descriptor that is in flight. */
void proof_2_8_17_no_longer_than_the_queue(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_walk before = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(walk.slots <= walk.room && walk.seen <= walk.limit);
  PROVE(action != WV_WALK_FAULT_OVERRUN ||
        (before.slots == before.room && before.room < before.limit));
  PROVE(before.in_table || before.slots < before.room || action >= WV_WALK_FAULT);
  REACHED(action == WV_WALK_FAULT_OVERRUN && walk.slots == 0U);
  REACHED(action < WV_WALK_FAULT && walk.seen == 32768U);
}

/* The lengths are the sums of what was reported, and the whole never passes 2^32 - 1. */
void proof_2_8_4_total_length(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_walk before = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  const uint64_t was = (uint64_t)before.lengths.readable + before.lengths.writable;
  const uint64_t is = (uint64_t)walk.lengths.readable + walk.lengths.writable;
  const bool buffer = action == WV_WALK_READABLE || action == WV_WALK_WRITABLE;
  PROVE(is == was + (buffer ? desc.len : 0U) && is <= UINT32_MAX);
  REACHED(is == UINT32_MAX);
  REACHED(action == WV_WALK_FAULT_TOTAL);
}

/* Writable after readable (§2.8.17), each as its flag says. */
void proof_2_8_17_readable_before_writable(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const bool writable_seen = walk.lengths.writable != 0U;
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(action != WV_WALK_READABLE || (!writable_seen && (desc.flags & WV_DESC_F_WRITE) == 0U));
  PROVE(action != WV_WALK_WRITABLE || (desc.flags & WV_DESC_F_WRITE) != 0U);
  PROVE(action != WV_WALK_FAULT_ORDER || writable_seen);
  REACHED(action == WV_WALK_READABLE);
  REACHED(action == WV_WALK_WRITABLE && writable_seen);
  REACHED(action == WV_WALK_FAULT_ORDER);
}

/* A table is entered where it was negotiated, as a list of its own, of whole descriptors and no more
 * than the queue has; its WRITE flag is ignored (§2.8.7, §2.8.19). */
void proof_2_8_7_indirect_table(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_walk before = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  ASSUME(!before.in_table && (desc.flags & WV_DESC_F_INDIRECT) != 0U);
  ASSUME(before.slots < before.room);
  const bool valid = before.indirect_allowed && before.slots == 0U &&
                     (desc.flags & WV_DESC_F_NEXT) == 0U && desc.len != 0U &&
                     desc.len % 16U == 0U && desc.len / 16U <= before.limit;
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE((action == WV_WALK_TABLE) == valid);
  PROVE(valid || action >= WV_WALK_FAULT);
  PROVE(!valid || (walk.index == 0U && walk.table_count * 16U == desc.len && walk.id == desc.id));
  REACHED(valid && (desc.flags & WV_DESC_F_WRITE) != 0U);
  REACHED(action == WV_WALK_FAULT_TABLE);
  REACHED(action == WV_WALK_FAULT_FLAGS && before.slots != 0U);
}

/* In a table only WRITE means something (OpenVMM#2983): two descriptors that differ in other flags, or
 * in their id, do the same. */
void proof_2_8_7_flags_in_a_table_are_ignored(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  struct wv_packed_walk other = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  struct wv_packed_desc twin = desc;
  ASSUME(walk.in_table);
  twin.id = nondet_u16();
  twin.flags = nondet_u16();
  ASSUME((twin.flags & WV_DESC_F_WRITE) == (desc.flags & WV_DESC_F_WRITE));
  PROVE(wv_packed_walk_step(&walk, &desc) == wv_packed_walk_step(&other, &twin));
  PROVE(walk.done == other.done && walk.index == other.index && walk.id == other.id &&
        walk.lengths.readable == other.lengths.readable &&
        walk.lengths.writable == other.lengths.writable);
  REACHED(!walk.done && (desc.flags & 5U) == 5U && (twin.flags & 5U) == 0U);
  REACHED(walk.done);
}

/* A table has as many entries as its length says: it ends with the last one, and not before. */
void proof_2_8_7_table_ends_with_its_length(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_walk before = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  ASSUME(before.in_table);
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(action >= WV_WALK_FAULT || walk.done == (before.index + 1U == before.table_count));
  REACHED(walk.done && walk.index == 32768U);
  REACHED(!walk.done);
}

/* The buffer id is that of the last descriptor in the ring. */
void proof_2_8_6_buffer_id_of_the_last_descriptor(void) {
  struct wv_packed_walk walk = AnyPackedWalk();
  const struct wv_packed_walk before = walk;
  const struct wv_packed_desc desc = AnyPackedDesc();
  const enum wv_walk_action action = wv_packed_walk_step(&walk, &desc);
  PROVE(action >= WV_WALK_FAULT || walk.id == (before.in_table ? before.id : desc.id));
  REACHED(walk.done && action == WV_WALK_READABLE && !before.in_table);
}

/* The whole walk of a ring of three, from every place and with any number in flight. */
void proof_2_8_5_walk_of_a_ring_of_three(void) {
  struct wv_packed queue;
  struct wv_packed_walk walk;
  uint32_t buffers = 0;
  uint32_t steps = 0;
  enum wv_walk_action action = WV_WALK_EMPTY;
  const bool made = wv_packed_init(&queue, 3, nondet_u16(), nondet_u16(), true);
  ASSUME(made);
  wv_packed_walk_begin(&walk, &queue, nondet_bool());
  while (!walk.done) {
    const struct wv_packed_desc desc = AnyPackedDesc();
    action = wv_packed_walk_step(&walk, &desc);
    steps++;
    buffers += action < WV_WALK_TABLE ? 1U : 0U;
  }
  PROVE(buffers <= 3U && steps <= 4U);
  if (action < WV_WALK_FAULT) {
    PROVE(walk.slots >= 1U && walk.slots + queue.in_flight <= 3U);
    REACHED(buffers == 3U && walk.slots == 1U && queue.in_flight == 2U);
    REACHED(walk.slots == 3U);
  }
}
