#ifndef MILONGA_VMM_POOL_H
#define MILONGA_VMM_POOL_H

/* Warm machines: made ahead of time for the images that the dispatcher wishes (hash vmm:V:want), of
 * the wished shape or the default one, with their READY read. One thread (the keeper) notices when
 * one dies, lets them go when they are no longer wished or have grown old, and reports what there
 * is (script pool); a few others make them. */

#include "machine.h"
#include "vmm.h"

struct pool *pool_new(struct vmm *v);
void pool_start(struct pool *p);
/* Joins, and hands all machines to the reaper. */
void pool_stop(struct pool *p);
void pool_free(struct pool *p);

/* Look again: at what is wished in Redis too, with `wishes`. Any thread; never blocks. */
void pool_poke(struct pool *p, bool wishes);

/* What an image's pool is wished to be like replaces cores and memory of a default shape of that
 * image: so that a job that gives no limits of its own gets the same whether or not a warm machine
 * is free. */
void pool_shape(struct pool *p, struct machine_shape *shape);

/* A warm machine of exactly that shape, with those labels, now the caller's; NULL when there is
 * none. Its successor is made. */
struct machine *pool_take(struct pool *p, const struct machine_spec *want);

/* Gives up the oldest warm machine, if there is one: somebody else needs its room. */
void pool_yield(struct pool *p);

#endif
