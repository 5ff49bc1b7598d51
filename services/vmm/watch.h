#ifndef MILONGA_VMM_WATCH_H
#define MILONGA_VMM_WATCH_H

/* What the backend has and whether it works. One thread asks the backend every few seconds for its
 * images (told to Redis when they changed), its health, and strays; no engine that we know has an
 * event for the three that would survive its own restart. A backend that fails its health check, or
 * three makings of a machine in a row, stops taking jobs (the vmm drains, with the reason) and is
 * tried again with backoff. */

#include "base/buf.h"
#include "vmm.h"
#include "wire/job.h"

struct watch *watch_new(struct vmm *v);
void watch_start(struct watch *w);
void watch_stop(struct watch *w);
void watch_free(struct watch *w);

/* Looks at images and health now (after a build), or with `tell` sends Redis what was seen last,
 * even when unchanged (after registering). */
void watch_poke(struct watch *w, bool tell);

/* What is to run for a job: one of the digests that its image had when it was accepted, as far as
 * the backend has it now. Returns a copy for the caller to free; NULL when it has none. Asks the
 * backend again before it says so; *ret_asked is false when the backend could not be asked. */
char *watch_digest(struct watch *w, const struct job *job, bool *ret_asked);
/* The digest of an image by name, as last seen, or NULL; the caller's to free. */
char *watch_image(struct watch *w, const char *name);

/* False until the backend has told its images for the first time; builds are poked when it has. */
bool watch_knows_images(struct watch *w);

/* A machine was made. */
void watch_made(struct watch *w);
/* Making or keeping one failed for `why` (not refused, not cancelled). True when it is the backend
 * as a whole that is broken: then the vmm drains by the time this returns, and the attempt need not
 * be charged. */
bool watch_failed(struct watch *w, const struct error *why);
/* As above for a machine that was lost while it was in use, which says nothing about making them.
 */
bool watch_lost_machine(struct watch *w);
/* False while the backend is taken to be broken. */
bool watch_healthy(struct watch *w);

#endif
