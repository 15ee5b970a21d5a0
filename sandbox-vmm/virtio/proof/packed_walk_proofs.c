/* A walk along a buffer of a packed ring: VIRTIO 1.4 §2.8.5 to §2.8.7. One step from any state that a
 * walk can be in, so that what is proved holds for chains of any length. */
#include "virtio/packed_ring_core.h"
#include "virtio/proof/proof.h"

typedef struct wv_packed_walk Walk;
typedef struct wv_packed_desc Desc;

static enum wv_walk_action WalkStep(Walk* walk, const Desc* desc) {
  return wv_packed_walk_step(walk, desc);
}

static bool WalkSound(const Walk* walk) {
  return wv_packed_size_valid(walk->limit) && walk->room <= walk->limit &&
         walk->slots <= walk->room && walk->seen <= walk->limit &&
         (!walk->in_table ||
          (walk->indirect_allowed && walk->slots == 1U && walk->seen <= walk->index &&
           walk->table_count >= 1U && walk->table_count <= walk->limit)) &&
         (walk->in_table || walk->done || walk->seen == walk->slots) &&
         (uint64_t)walk->lengths.readable + walk->lengths.writable <= UINT32_MAX &&
         (walk->done || walk->index < (walk->in_table ? walk->table_count : (uint32_t)walk->limit));
}

static void AnyOwnFields(Walk* walk) {
  walk->id = nondet_u16();
  walk->slots = nondet_u16();
  walk->room = nondet_u32();
}

static Desc AnyDesc(void) {
  const Desc desc = {
      .addr = nondet_u64(), .len = nondet_u32(), .id = nondet_u16(), .flags = nondet_u16()};
  return desc;
}

#include "virtio/proof/walk_proofs.h"

/* How many steps are left, at most: descriptors of the ring, or of a table. */
static uint32_t WalkMeasure(const Walk* walk) {
  return walk->in_table ? walk->table_count - walk->index
                        : WV_RING_SIZE_MAX + 2U + walk->limit - walk->slots;
}

/* A walk begins at the queue's position, with the room that is not in flight. */
void proof_2_8_6_walk_begin(void) {
  struct wv_packed queue;
  Walk walk;
  const bool made = wv_packed_init(&queue, nondet_u32(), nondet_u16(), nondet_u16(), nondet_bool());
  ASSUME(made);
  wv_packed_walk_begin(&walk, &queue, nondet_bool());
  PROVE(WalkSound(&walk) && !walk.done && walk.slots == 0U);
  PROVE(walk.index == (queue.next_available & 0x7fffU));
  PROVE(walk.room + queue.in_flight == queue.size);
  REACHED(walk.room == 0U);
  REACHED(walk.room == 32768U);
}

/* What is fetched next lies in the ring, or in its table, and everything else stays sound. */
void proof_2_8_5_index_stays_in_its_table(void) {
  const struct step step = AnyStep();
  PROVE(WalkSound(&step.walk) || step.action >= WV_WALK_FAULT);
  PROVE(step.action < WV_WALK_FAULT || step.walk.done);
  REACHED(!step.walk.done && step.walk.in_table && step.action == WV_WALK_WRITABLE);
  REACHED(!step.walk.done && !step.walk.in_table);
}

/* The slot after the ring's last one is its first (OpenVMM#2983), and the walk's slots are those that
 * the position goes on by. */
void proof_2_8_6_next_slot_wraps(void) {
  const struct step step = AnyStep();
  const Walk* before = &step.before;
  const Walk* walk = &step.walk;
  const uint16_t begin = nondet_u16();
  ASSUME(!before->in_table && wv_packed_position_valid(begin, before->limit));
  ASSUME(before->index == wv_packed_slot(wv_packed_advance(begin, before->slots, before->limit)));
  if (!walk->done && step.action != WV_WALK_TABLE) {
    PROVE(walk->index == wv_packed_slot(wv_packed_advance(begin, walk->slots, walk->limit)));
    REACHED(walk->index == 0U && walk->slots > 1U);
    REACHED(walk->index != 0U);
  }
}

/* Buffers end: each step that goes on leaves fewer to come (no loops, §2.8.17). */
void proof_2_8_17_walk_terminates(void) {
  const struct step step = AnyStep();
  PROVE(step.walk.done || WalkMeasure(&step.walk) < WalkMeasure(&step.before));
  REACHED(!step.walk.done && step.action == WV_WALK_TABLE);
  REACHED(!step.walk.done && step.action == WV_WALK_EMPTY);
  REACHED(step.action == WV_WALK_FAULT_LOOP);
}

/* A list is no longer than the queue (§2.8.17), and takes no descriptor that is in flight. */
void proof_2_8_17_no_longer_than_the_queue(void) {
  const struct step step = AnyStep();
  const Walk* before = &step.before;
  const Walk* walk = &step.walk;
  PROVE(walk->slots <= walk->room && walk->seen <= walk->limit);
  PROVE(step.action != WV_WALK_FAULT_OVERRUN ||
        (before->slots == before->room && before->room < before->limit));
  PROVE(before->in_table || before->slots < before->room || step.action >= WV_WALK_FAULT);
  REACHED(step.action == WV_WALK_FAULT_OVERRUN && walk->slots == 0U);
  REACHED(step.action < WV_WALK_FAULT && walk->seen == 32768U);
}

/* The lengths are the sums of what was reported, and the whole never passes 2^32 - 1. */
void proof_2_8_4_total_length(void) {
  const struct step step = AnyStep();
  const uint64_t was = TotalLength(&step.before);
  const uint64_t is = TotalLength(&step.walk);
  PROVE(is == was + (IsBuffer(step.action) ? step.desc.len : 0U) && is <= UINT32_MAX);
  REACHED(is == UINT32_MAX);
  REACHED(step.action == WV_WALK_FAULT_TOTAL);
}

/* Writable after readable (§2.8.17), each as its flag says. */
void proof_2_8_17_readable_before_writable(void) {
  const struct step step = AnyStep();
  PROVE_READABLE_BEFORE_WRITABLE(step);
}

/* A table is entered where it was negotiated, as a list of its own, of whole descriptors and no more
 * than the queue has; its WRITE flag is ignored (§2.8.7, §2.8.19). */
void proof_2_8_7_indirect_table(void) {
  const struct step step = AnyStep();
  const Walk* before = &step.before;
  const Walk* walk = &step.walk;
  const uint16_t flags = step.desc.flags;
  const uint32_t len = step.desc.len;
  ASSUME(!before->in_table && (flags & WV_DESC_F_INDIRECT) != 0U);
  ASSUME(before->slots < before->room);
  const bool valid = before->indirect_allowed && before->slots == 0U &&
                     (flags & WV_DESC_F_NEXT) == 0U && len != 0U && len % 16U == 0U &&
                     len / 16U <= before->limit;
  PROVE((step.action == WV_WALK_TABLE) == valid);
  PROVE(valid || step.action >= WV_WALK_FAULT);
  PROVE(!valid ||
        (walk->index == 0U && walk->table_count * 16U == len && walk->id == step.desc.id));
  REACHED(valid && (flags & WV_DESC_F_WRITE) != 0U);
  REACHED(step.action == WV_WALK_FAULT_TABLE);
  REACHED(step.action == WV_WALK_FAULT_FLAGS && before->slots != 0U);
}

/* In a table only WRITE means something (OpenVMM#2983): two descriptors that differ in other flags, or
 * in their id, do the same. */
void proof_2_8_7_flags_in_a_table_are_ignored(void) {
  const struct step step = AnyStep();
  Walk other = step.before;
  Desc twin = step.desc;
  ASSUME(step.before.in_table);
  twin.id = nondet_u16();
  twin.flags = nondet_u16();
  ASSUME((twin.flags & WV_DESC_F_WRITE) == (step.desc.flags & WV_DESC_F_WRITE));
  PROVE(step.action == WalkStep(&other, &twin));
  PROVE(step.walk.done == other.done && step.walk.index == other.index &&
        step.walk.id == other.id && step.walk.lengths.readable == other.lengths.readable &&
        step.walk.lengths.writable == other.lengths.writable);
  REACHED(!step.walk.done && (step.desc.flags & 5U) == 5U && (twin.flags & 5U) == 0U);
  REACHED(step.walk.done);
}

/* A table has as many entries as its length says: it ends with the last one, and not before. */
void proof_2_8_7_table_ends_with_its_length(void) {
  const struct step step = AnyStep();
  ASSUME(step.before.in_table);
  PROVE(step.action >= WV_WALK_FAULT ||
        step.walk.done == (step.before.index + 1U == step.before.table_count));
  REACHED(step.walk.done && step.walk.index == 32768U);
  REACHED(!step.walk.done);
}

/* The buffer id is that of the last descriptor in the ring. */
void proof_2_8_6_buffer_id_of_the_last_descriptor(void) {
  const struct step step = AnyStep();
  const bool in_table = step.before.in_table;
  PROVE(step.action >= WV_WALK_FAULT || step.walk.id == (in_table ? step.before.id : step.desc.id));
  REACHED(step.walk.done && step.action == WV_WALK_READABLE && !in_table);
}

/* The whole walk of a ring of three, from every place and with any number in flight. */
void proof_2_8_5_walk_of_a_ring_of_three(void) {
  struct wv_packed queue;
  Walk walk;
  uint32_t buffers = 0;
  uint32_t steps = 0;
  enum wv_walk_action action = WV_WALK_EMPTY;
  const bool made = wv_packed_init(&queue, 3, nondet_u16(), nondet_u16(), true);
  ASSUME(made);
  wv_packed_walk_begin(&walk, &queue, nondet_bool());
  while (!walk.done) {
    const Desc desc = AnyDesc();
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
