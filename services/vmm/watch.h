#ifndef MILONGA_VMM_WATCH_H
#define MILONGA_VMM_WATCH_H

/* What the backend has. One thread asks the backend every few seconds for its images (told to Redis
 * when they changed), its health (health.h), and strays; no engine that we know has an event for
 * the three that would survive its own restart. */

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
/* False when the backend, asked again, has no image of that digest. */
bool watch_has(struct watch *w, const char *digest);
/* Sends Redis what was seen last, at once; what it has by the time this returns, if Redis is in
 * sight. */
void watch_tell_images(struct watch *w);
/* Asks the backend and tells Redis, at once, as far as both can be had; else soon. */
void watch_refresh(struct watch *w);
/* The digest of an image by name, as last seen, or NULL; the caller's to free. */
char *watch_image(struct watch *w, const char *name);
/* Calls each() for the names of what lost its own name to another (base/image_name.h). */
void watch_kept(struct watch *w, void (*each)(void *arg, const char *name), void *arg);
/* The name of some image that is not `name`, or NULL; the caller's to free. */
char *watch_other_image(struct watch *w, const char *name);

/* False until the backend has told its images for the first time; builds are poked when it has. */
bool watch_knows_images(struct watch *w);

#endif
