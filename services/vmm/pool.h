#ifndef MILONGA_VMM_POOL_H
#define MILONGA_VMM_POOL_H

/* Warm machines: made ahead of time for the images that the dispatcher wishes (hash vmm:V:want), of
 * the default shape, with their READY read. Its one thread (the keeper) makes and replaces them,
 * notices when one dies, lets them go when they are no longer wished or have grown old, and reports
 * what there is (script pool). */

#include "machine.h"
#include "vmm.h"

struct pool *pool_new(struct vmm *v);
void pool_start(struct pool *p);
/* Joins, and hands all machines to the reaper. */
void pool_stop(struct pool *p);
void pool_free(struct pool *p);

/* Look again: at what is wished in Redis too, with `wishes`. Any thread; never blocks. */
void pool_poke(struct pool *p, bool wishes);

/* A warm machine of exactly that shape, now the caller's; NULL when there is none. Its successor is
 * made. */
struct machine *pool_take(struct pool *p, const struct machine_shape *shape);

#endif
