#ifndef MILONGA_DISPATCHER_POOLS_H
#define MILONGA_DISPATCHER_POOLS_H

/* How many warm machines of which image each vmm should keep: what prealloc wished, else pool_size
 * of each image that was used in the last pool_idle_s, split over the vmms that have the image. A
 * wish in Redis, not a command: the vmm brings it about. */

#include "base/err.h"
#include "services/dispatcher/world.h"

struct dispatcher;

struct pool_target {
    const char *image;               /* lives in the world */
    unsigned want;                   /* of all vmms */
    unsigned cores_milli, memory_mb; /* 0: the default */
};

/* Targets by image, at most max; how many. `now` is wall ms. */
size_t pools_targets(const struct world *w, int64_t now, int64_t pool_size, int64_t idle_ms,
                     struct pool_target *out, size_t max);

/* Splits a target over the vmms; shares[v] by place in the world. Stable while the vmms that have
 * the image are. */
void pools_split(const struct world *w, const struct pool_target *t, unsigned *shares);

/* After a whole observation: tells each vmm whose wants differ. 0 or negative. */
int pools_pass(struct dispatcher *d, const struct world *w, struct error *err);

#endif
