#ifndef MILONGA_API_REDIS_H2O_H
#define MILONGA_API_REDIS_H2O_H

/* What h2o's loop lacks and the rest needs: one-shot timers of any length on the monotonic clock
 * (one timerfd a loop; h2o's own timeouts have a list per duration and jump with the wall clock),
 * and the loop as rconns want it. One thread. */

#include "wire/rconn.h"

#include <h2o.h>

struct hloop;

/* NULL (errno says why) when there is no descriptor left. Lives as long as its thread. */
struct hloop *hloop_new(h2o_loop_t *loop);
h2o_loop_t *hloop_h2o(struct hloop *l);

/* The handle is dead once cb has run or the timer was stopped. Callbacks run inside the loop's
 * turn, so they may write to sockets. */
void *hloop_timer_start(struct hloop *l, unsigned ms, void (*cb)(void *arg), void *arg);
void hloop_timer_stop(struct hloop *l, void *timer);

extern const struct rloop_ops hloop_ops; /* `loop` is a struct hloop */

#endif
