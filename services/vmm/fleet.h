#ifndef MILONGA_VMM_FLEET_H
#define MILONGA_VMM_FLEET_H

/* The machines that exist by this process's doing, from before they are made until after they are
 * gone: what the reaper spares, what the pool page shows, and where machine ids come from. No
 * thread; any thread may call. */

#include "base/buf.h"
#include "machine.h"
#include "vmm.h"

enum fleet_role { FLEET_MAKING, FLEET_WARM, FLEET_BUSY, FLEET_DYING };

struct fleet *fleet_new(const struct vmm *v);
void fleet_free(struct fleet *f);

/* Enters a machine that is about to be made: an id from Redis (script machine_id, a few ahead) and
 * a name of its own. Fills *ret; its shape is borrowed. ERR_TEMPORARY when Redis is away. */
int fleet_begin(struct fleet *f, const struct machine_shape *shape, struct machine_spec *ret,
                struct error *err);
void fleet_role(struct fleet *f, const char *name, enum fleet_role role);
void fleet_end(struct fleet *f, const char *name);
bool fleet_knows(struct fleet *f, const char *name);

/* Adds 1 with each change of what the pool page shows. */
uint64_t fleet_version(struct fleet *f);
/* "ids;ids" of an image: all that are warm or busy, and the warm ones. False when there is none. */
bool fleet_text(struct fleet *f, const char *image, struct buf *out);
/* Calls each() once for every image that has a warm or busy machine. */
void fleet_images(struct fleet *f, void (*each)(void *arg, const char *image), void *arg);

#endif
