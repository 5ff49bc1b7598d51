#ifndef MILONGA_VMM_OUTPUT_H
#define MILONGA_VMM_OUTPUT_H

/* What a job wrote, as O frames bring it: kept whole here for the feedback (the autodriver has
 * bounded it: a head, and after it perhaps a tail), and its first bytes sent on to Redis for
 * whoever watches: coalesced, one message at a time, each at its offset so that it may be sent
 * again. */

#include "attempt.h"
#include "base/buf.h"

struct live;

struct output {
    struct attempt *a; /* borrowed */
    struct buf data;
    size_t live_max;  /* bytes that go to Redis: never past the place where the head may end */
    int64_t flush_at; /* mono; CLOCK_NEVER when nothing waits */
    struct live *live;
};

void output_init(struct output *o, struct attempt *a, uint64_t output_bytes, uint64_t watch_bytes);
void output_done(struct output *o);

void output_add(struct output *o, const void *data, size_t len);
/* Sends what is due. Call when flush_at has passed, and as often as one likes. */
void output_flush(struct output *o);

#endif
