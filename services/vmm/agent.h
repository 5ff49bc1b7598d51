#ifndef MILONGA_VMM_AGENT_H
#define MILONGA_VMM_AGENT_H

/* The vmm's side of its lease (docs/protocol.md): registers, beats with the list of attempts it
 * holds, starts what was assigned and stops what is no longer its own, by messages at once and by
 * each beat's answer for what a message did not reach. Its thread never waits for Redis once
 * registered, so it notices on time when the lease is gone: Redis out of sight for lease_ms stops
 * every attempt that still runs. */

#include "attempt.h"
#include "vmm.h"

#define AGENT_WHY_MAX 256

struct agent *agent_new(struct vmm *v);
void agent_start(struct agent *a);
/* Ends the thread; unregisters if it was registered and Redis is in sight. */
void agent_stop(struct agent *a);
void agent_free(struct agent *a);

/* For rlink's callbacks, on the link's thread. */
void agent_on_message(struct agent *a, const char *channel, const char *data, size_t len);
void agent_on_up(struct agent *a);
void agent_on_down(struct agent *a, const char *why);

/* No further jobs, and Redis is told so. What runs goes on. */
void agent_drain(struct agent *a);
/* After agent_drain or agent_leave: true when no attempt is held and none is on its way.
 * agent_idle_fd is readable whenever that may have come true; the caller clears it before it asks.
 */
bool agent_is_idle(struct agent *a);
int agent_idle_fd(const struct agent *a);
/* Takes nothing at all from now on; what runs is stopped and given back uncharged. */
void agent_leave(struct agent *a);

/* The backend takes no jobs, because ...; NULL: it does again. Never blocks, and Redis is told by:
 */
void agent_set_broken(struct agent *a, const char *why);
/* Tells Redis whether this vmm takes jobs, and why not, as it is now; by the time this returns, if
 * Redis is in sight. */
void agent_tell_drain(struct agent *a);

/* An attempt has ended and Redis knows. */
void agent_done(struct agent *a, struct attempt *x);

/* The epoch as text; false while not registered. */
bool agent_epoch(struct agent *a, char out[24]);
/* Waits until the connection to Redis is up; false at the deadline. */
bool agent_wait_up(struct agent *a, int64_t deadline);

#endif
