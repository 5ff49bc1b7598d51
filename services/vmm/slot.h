#ifndef MILONGA_VMM_SLOT_H
#define MILONGA_VMM_SLOT_H

/* Room for running attempts: a thread a slot, so that an attempt and its driver read from top to
 * bottom. */

#include "attempt.h"
#include "vmm.h"

struct slots *slots_new(struct vmm *v);
void slots_start(struct slots *s);
/* Ends the threads once each has finished what it runs; what waits in the queue is dropped
 * (unregistering gives it back). */
void slots_stop(struct slots *s);
void slots_free(struct slots *s);

/* Takes the reference. Never blocks; the agent bounds how many there are. */
void slots_push(struct slots *s, struct attempt *a);

#endif
