/* A walk along a chain of a split ring: VIRTIO 1.4 §2.7.5. One step from any state that a walk can be
 * in, so that what is proved holds for chains of any length. */
#include "virtio/proof/proof.h"
#include "virtio/split_ring_core.h"

typedef struct wv_walk Walk;
typedef struct wv_desc Desc;

static enum wv_walk_action WalkStep(Walk* walk, const Desc* desc) {
  return wv_walk_step(walk, desc);
}

static bool WalkSound(const Walk* walk) {
  return wv_ring_size_valid(walk->limit) && walk->seen <= walk->limit && walk->table_count >= 1U &&
         walk->table_count <= WV_RING_SIZE_MAX &&
         (walk->in_table || walk->table_count == walk->limit) &&
         (!walk->in_table || walk->indirect_allowed) &&
         (uint64_t)walk->lengths.readable + walk->lengths.writable <= UINT32_MAX &&
         (walk->done || walk->index < walk->table_count);
}

static void AnyOwnFields(Walk* walk) {
  (void)walk; /* a packed ring's walk has all of them */
}

static Desc AnyDesc(void) {
  const Desc desc = {
      .addr = nondet_u64(), .len = nondet_u32(), .flags = nondet_u16(), .next = nondet_u16()};
  return desc;
}

#include "virtio/proof/walk_proofs.h"

/* How many steps are left, at most: buffers, and one table. */
static uint32_t WalkMeasure(const Walk* walk) {
  return 2U * ((uint32_t)walk->limit - walk->seen) + (walk->in_table ? 0U : 1U);
}

/* A walk begins in the table, or not at all. */
void proof_2_7_5_walk_begin(void) {
  Walk walk;
  const uint16_t head = nondet_u16();
  const uint16_t size = nondet_u16();
  ASSUME(wv_ring_size_valid(size));
  const bool begun = wv_walk_begin(&walk, head, size, nondet_bool());
  PROVE(begun == (head < size));
  PROVE(WalkSound(&walk) && walk.done == !begun && walk.index == head);
  REACHED(begun);
  REACHED(!begun);
}

/* What is fetched next lies in its table, and everything else stays sound. */
void proof_2_7_5_index_stays_in_its_table(void) {
  const struct step step = AnyStep();
  PROVE(WalkSound(&step.walk));
  PROVE(step.action < WV_WALK_FAULT || step.walk.done);
  REACHED(!step.walk.done && step.walk.in_table);
  REACHED(step.action == WV_WALK_FAULT_INDEX);
}

/* Chains end: each step that goes on leaves fewer to come (no loops, §2.7.5.2). */
void proof_2_7_5_2_walk_terminates(void) {
  const struct step step = AnyStep();
  PROVE(step.walk.done || WalkMeasure(&step.walk) < WalkMeasure(&step.before));
  REACHED(!step.walk.done && step.action == WV_WALK_TABLE);
  REACHED(!step.walk.done && step.action == WV_WALK_EMPTY);
  REACHED(step.action == WV_WALK_FAULT_LOOP);
}

/* The lengths are the sums of what was reported, and the whole never passes 2^32 - 1. */
void proof_2_7_5_2_total_length(void) {
  const struct step step = AnyStep();
  const uint64_t was = TotalLength(&step.before);
  const uint64_t is = TotalLength(&step.walk);
  PROVE(step.action >= WV_WALK_FAULT || is == was + (IsBuffer(step.action) ? step.desc.len : 0U));
  PROVE(is <= UINT32_MAX);
  PROVE(step.action != WV_WALK_FAULT_TOTAL || was + step.desc.len > UINT32_MAX);
  REACHED(is == UINT32_MAX);
  REACHED(step.action == WV_WALK_FAULT_TOTAL);
}

/* Writable after readable (§2.7.4.2), each as its flag says. */
void proof_2_7_4_2_readable_before_writable(void) {
  const struct step step = AnyStep();
  PROVE_READABLE_BEFORE_WRITABLE(step);
}

/* A table is entered where it was negotiated, once, last in its chain, and of whole descriptors; its
 * WRITE flag is ignored (§2.7.5.3.2). */
void proof_2_7_5_3_indirect_table(void) {
  const struct step step = AnyStep();
  const uint16_t flags = step.desc.flags;
  const uint32_t len = step.desc.len;
  const bool indirect = (flags & WV_DESC_F_INDIRECT) != 0U;
  const bool valid = step.before.indirect_allowed && !step.before.in_table &&
                     (flags & WV_DESC_F_NEXT) == 0U && len != 0U && len % 16U == 0U &&
                     len / 16U <= 32768U;
  const bool entered = step.action == WV_WALK_TABLE;
  PROVE(entered == (indirect && valid));
  PROVE(!indirect || valid || step.action >= WV_WALK_FAULT);
  PROVE(!entered || (step.walk.index == 0U && step.walk.table_count * 16U == len));
  PROVE(!entered || step.walk.seen == step.before.seen);
  REACHED(entered && (flags & WV_DESC_F_WRITE) != 0U);
  REACHED(step.action == WV_WALK_FAULT_NESTED);
  REACHED(step.action == WV_WALK_FAULT_TABLE);
  REACHED(step.action == WV_WALK_FAULT_FLAGS);
}

/* The whole walk of small rings, step by step. */
void proof_2_7_5_walk_of_a_ring_of_four(void) {
  Walk walk;
  uint32_t buffers = 0;
  uint32_t steps = 0;
  bool tabled = false;
  const bool begun = wv_walk_begin(&walk, nondet_u16(), 4, nondet_bool());
  ASSUME(begun);
  while (!walk.done) {
    const Desc desc = AnyDesc();
    const enum wv_walk_action action = wv_walk_step(&walk, &desc);
    steps++;
    buffers += action < WV_WALK_TABLE ? 1U : 0U;
    tabled = tabled || action == WV_WALK_TABLE;
  }
  PROVE(buffers <= 4U && steps <= 6U);
  REACHED(buffers == 4U && tabled);
  REACHED(steps == 6U);
}
