#ifndef MILONGA_DISPATCHER_PLAN_H
#define MILONGA_DISPATCHER_PLAN_H

/* Which heads go to which vmm. Pure: from what was observed to a list of moves; the script assign
 * makes them, as far as they still hold. */

#include "services/dispatcher/world.h"

#define PLAN_MOVES_MAX 256 /* pairs of placement and vmm */
#define PLAN_JOBS_MAX  512

struct move {
    uint32_t place; /* number */
    const struct vmm_view *vmm;
    unsigned count;
};

struct plan {
    struct move moves[PLAN_MOVES_MAX];
    size_t move_ct;
    unsigned jobs;
    bool cut;      /* a bound was reached: there is more to do at once */
    bool unplaced; /* there is room, and a queue that fits none of it */
};

/* The oldest head of all placements first (class, then age); a placement that fits nowhere is
 * passed over, so none stands in the way of another; among the vmms that fit, the one with most
 * free slots. Before that, jobs that run alone get vmms that are empty, or the emptiest is kept
 * from others until it is. */
void plan_make(const struct world *w, struct plan *ret);

#endif
