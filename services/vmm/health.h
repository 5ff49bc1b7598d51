#ifndef MILONGA_VMM_HEALTH_H
#define MILONGA_VMM_HEALTH_H

/* Whether the backend works, and whose fault it is when a machine could not be made.
 *
 *            a making fails                     three failures in a row, or
 *            (probed at once)                   the driver's own check fails
 *   sound ------------------> in doubt ---------------------------------> broken
 *     ^                          |                                           |
 *     +------ a machine is made -+------ a probe makes a machine (backoff) --+
 *
 * Failures in a row are those of different jobs (or images of the pool) and of probes: one job that
 * no backend could run does not stop a worker. While broken the vmm takes no jobs, and Redis is
 * told why. A job is charged only for what it did where machines could be made: for a failure after
 * one that a probe, or another's machine, has shown to be its own. Any thread. */

#include "base/err.h"
#include "vmm.h"

#define HEALTH_WHO_MAX 280

struct health *health_new(struct vmm *v);
void health_free(struct health *h);
/* No probe from here on; one that is under way ends at once. */
void health_stop(struct health *h);

/* `who` ("job 7", "image a") made a machine just now; image and digest are what it is of. */
void health_made(struct health *h, const char *who, const char *image);
/* `who` could not (not refused, not cancelled). True when it is `who`'s own fault, as far as is
 * known; false: not to be charged. When the backend is broken the vmm drains by the time this
 * returns. */
bool health_failed(struct health *h, const char *who, const char *image, const struct error *why);
/* A machine was lost while it was in use, which says nothing about making them. True when the
 * backend is away as a whole. */
bool health_lost_machine(struct health *h);

/* False while the backend is taken to be broken. */
bool health_ok(struct health *h);

/* For watch's thread: checks, and probes what is in doubt or broken once it is time. */
void health_look(struct health *h);
/* When health_look is due by its own, mono; CLOCK_NEVER while there is no doubt. */
int64_t health_due(struct health *h);

#endif
