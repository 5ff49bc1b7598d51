#ifndef MILONGA_VMM_REAPER_H
#define MILONGA_VMM_REAPER_H

/* The end of machines. A few threads destroy what slots and pool hand over, so that a slot does not
 * wait for it; and strays, which the backend has and nobody here knows (an earlier life's, or made
 * although the answer was lost), are removed. */

#include "machine.h"
#include "vmm.h"

struct reaper *reaper_new(struct vmm *v);
void reaper_start(struct reaper *r);
/* After the last hand: destroys all that is queued, and joins. */
void reaper_stop(struct reaper *r);
void reaper_free(struct reaper *r);

/* Takes m, whatever state it is in. Returns at once while fewer than a bounded number are waiting,
 * else destroys it on the calling thread: a slot is free only when its machine is gone or in good
 * hands. */
void reaper_hand(struct reaper *r, struct machine *m);

/* Lists the machines at the backend and removes those that nobody here knows and that were seen
 * before at least a grace ago. On watch's thread. Returns how many are suspects still, or negative.
 */
int reaper_sweep(struct reaper *r, struct error *err);
/* All of an earlier life, before anything is made. */
int reaper_sweep_all(const struct vmm *v, struct error *err);

#endif
