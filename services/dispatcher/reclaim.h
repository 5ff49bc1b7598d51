#ifndef MILONGA_DISPATCHER_RECLAIM_H
#define MILONGA_DISPATCHER_RECLAIM_H

/* What goes back to the queue, and what in the queue has no future. */

#include "base/err.h"
#include "services/dispatcher/world.h"

struct dispatcher;

/* Vmms whose epoch and beat were unchanged for lease_ms are judged lost; 0 or negative. */
int reclaim_silent(struct dispatcher *d, const struct world *w, struct error *err);

/* Delays that have ended; jobs that are too old or lose all their workers go to the chores to be
 * closed. */
struct due {
    int64_t offset; /* among the live jobs that are over age but run */
};
int due_pass(struct dispatcher *d, struct due *s, struct error *err);

/* Placements whose image has been on no live vmm for GONE_MS, while vmms are up: their jobs go to
 * the chores. While a vmm that is away was last seen with it, they wait for AWAY_MS. */
#define GONE_MS 60000
#define AWAY_MS 600000
void gone_pass(struct dispatcher *d, struct world *w, int64_t now);

#endif
