#ifndef MILONGA_DISPATCHER_GENERATION_H
#define MILONGA_DISPATCHER_GENERATION_H

/* Ids and tokens that are never given twice, whatever becomes of Redis. A record in the store,
 * "generation high_water", of which the highest counts, is written first: no id below the mark is
 * given by a Redis that has not been told the mark. A server with another run id than the one in
 * meta may have lost its past, so it gets the next generation and ids from the mark on. */

#include "base/err.h"

#include <stdint.h>

struct dispatcher;

/* Ids that are reserved ahead; more are when less than half is left. */
#define GENERATION_IDS_AHEAD 100000

/* What is to be written; pure. */
struct generation {
    int64_t generation;
    int64_t id_next;
    int64_t id_limit; /* the new mark */
};
#define GENERATION_ID_MAX INT64_C(2147483647)
/* For a server that is new to us: meta's generation and id_next, 0 where it has none, and the
 * record's. -EOVERFLOW when all ids are used up. */
int generation_new(int64_t meta_generation, int64_t meta_id_next, int64_t record_generation,
                   int64_t record_high, int64_t ahead, struct generation *ret);
/* "generation high_water"; -EPROTO when it is none. */
int generation_parse(const char *text, int64_t *ret_generation, int64_t *ret_high);

/* Brings meta up to date: 1 when something was written, 0 when all is well, or negative. */
int generation_check(struct dispatcher *d, struct error *err);

#endif
