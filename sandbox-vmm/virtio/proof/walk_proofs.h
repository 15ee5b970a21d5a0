/* virtio/proof/walk_proofs.h — what the proofs of a walk begin with, in either format: any state that a
 * walk can be in, any descriptor, and the step from there.
 * Shape:   a file says what its format is before it includes this: the types Walk and Desc, WalkStep(),
 *          WalkSound(), AnyOwnFields() for the fields that the other format has not, and AnyDesc().
 */
#ifndef WYVERN_VIRTIO_PROOF_WALK_PROOFS_H_
#define WYVERN_VIRTIO_PROOF_WALK_PROOFS_H_

#include "virtio/proof/proof.h"
#include "virtio/ring_core.h"

static Walk AnyWalk(void) {
  Walk walk;
  AnyOwnFields(&walk);
  walk.limit = nondet_u16();
  walk.index = nondet_u16();
  walk.table_count = nondet_u32();
  walk.seen = nondet_u32();
  walk.lengths.readable = nondet_u32();
  walk.lengths.writable = nondet_u32();
  walk.indirect_allowed = nondet_bool();
  walk.in_table = nondet_bool();
  walk.done = false;
  ASSUME(WalkSound(&walk));
  return walk;
}

struct step {
  Walk before;
  Desc desc;
  Walk walk; /* after it */
  enum wv_walk_action action;
};

/* Any of them: a harness narrows them down by ASSUME, which may as well come after the step. */
static struct step AnyStep(void) {
  struct step step;
  step.before = AnyWalk();
  step.desc = AnyDesc();
  step.walk = step.before;
  step.action = WalkStep(&step.walk, &step.desc);
  return step;
}

static uint64_t TotalLength(const Walk* walk) {
  return (uint64_t)walk->lengths.readable + walk->lengths.writable;
}

static bool IsBuffer(enum wv_walk_action action) {
  return action == WV_WALK_READABLE || action == WV_WALK_WRITABLE;
}

/* §2.7.4.2 and §2.8.17: writable after readable, each as its flag says. A macro, since prove.py counts
 * what stands in the harness itself. */
#define PROVE_READABLE_BEFORE_WRITABLE(step)                                   \
  do {                                                                         \
    const bool writable_seen = (step).before.lengths.writable != 0U;           \
    const bool writable = ((step).desc.flags & WV_DESC_F_WRITE) != 0U;         \
    PROVE((step).action != WV_WALK_READABLE || (!writable_seen && !writable)); \
    PROVE((step).action != WV_WALK_WRITABLE || writable);                      \
    PROVE((step).action != WV_WALK_FAULT_ORDER || writable_seen);              \
    REACHED((step).action == WV_WALK_READABLE);                                \
    REACHED((step).action == WV_WALK_WRITABLE && writable_seen);               \
    REACHED((step).action == WV_WALK_FAULT_ORDER);                             \
  } while (false)

#endif /* WYVERN_VIRTIO_PROOF_WALK_PROOFS_H_ */
