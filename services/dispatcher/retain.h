#ifndef MILONGA_DISPATCHER_RETAIN_H
#define MILONGA_DISPATCHER_RETAIN_H

/* Forgets by age and count what would only grow (dead and rejected jobs, labs, callbacks, builds,
 * placements, vmms), and removes what nobody names any more from the store; in slices, on a slow
 * timer, on a thread of its own. */

struct dispatcher;
struct retain;

struct retain *retain_new(struct dispatcher *d);
void retain_start(struct retain *t);
void retain_stop(struct retain *t);
void retain_free(struct retain *t);

/* The lead was gained. */
void retain_look(struct retain *t);

#endif
