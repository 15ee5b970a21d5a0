/* virtio/proof/proof.h — what the harnesses say to CBMC. Two readings of each: PROVE must hold for
 * every input that ASSUME lets through; and, with -DWV_REACHED, each REACHED must be met by one, so that
 * no proof holds for want of inputs. */
#ifndef WYVERN_VIRTIO_PROOF_PROOF_H_
#define WYVERN_VIRTIO_PROOF_PROOF_H_

#include <stdbool.h>
#include <stdint.h>

#define ASSUME(condition) __CPROVER_assume(condition)

#ifdef WV_REACHED
#define PROVE(condition) ((void)(condition)) /* it may be a step of the harness, too */
#define REACHED(condition) __CPROVER_assert(!(condition), "reached " #condition)
#else
#define PROVE(condition) __CPROVER_assert(condition, #condition)
#define REACHED(condition) ((void)0)
#endif

/* Any value: CBMC gives no meaning to a function without a body. */
bool nondet_bool(void);
uint16_t nondet_u16(void);
uint32_t nondet_u32(void);
uint64_t nondet_u64(void);

#endif /* WYVERN_VIRTIO_PROOF_PROOF_H_ */
