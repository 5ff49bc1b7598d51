#ifndef MILONGA_RPOLL_H
#define MILONGA_RPOLL_H

/* A small loop over poll(2) for rconns, where no other loop is at hand: a few connections, timers
 * and one wake-up descriptor. One thread, except for rpoll_wake(). */

#include "wire/rconn.h"

struct rpoll;

extern const struct rloop_ops rpoll_ops; /* `loop` is a struct rpoll */

/* NULL (errno says why) when there is no descriptor left. on_wake may be NULL. */
struct rpoll *rpoll_new(void (*on_wake)(void *arg), void *arg);
/* Every connection and timer on it must be gone. */
void rpoll_free(struct rpoll *p);

/* One turn: waits at most max_ms (-1: no bound) for an event, then runs what is due. */
void rpoll_turn(struct rpoll *p, int max_ms);

/* Ends the wait of the turn and has on_wake run. From any thread. */
void rpoll_wake(struct rpoll *p);

#endif
