#ifndef MILONGA_DISPATCHER_LEAD_H
#define MILONGA_DISPATCHER_LEAD_H

/* The lease of the active dispatcher, (holder, epoch, beat) in Redis, on a thread of its own. The
 * holder, a name that no other life of a dispatcher has, renews it each beat_ms. A standby watches;
 * when epoch and beat are unchanged for leader_lease_ms by its own monotonic clock, it takes over
 * by compare-and-set; at once when the holder gave it up. After any gap in its view of Redis the
 * time starts afresh: the holder may have had the same gap. */

#include <stdbool.h>

struct dispatcher;
struct lead;

/* "epoch@holder" */
#define LEAD_FENCE_TEXT 80

struct lead *lead_new(struct dispatcher *d);
void lead_start(struct lead *l);
/* Gives the lease up, so that a standby takes over at once, and ends the thread. */
void lead_stop(struct lead *l);
void lead_free(struct lead *l);

/* True, with the fence of our scripts, while this is the active dispatcher as far as it knows. */
bool lead_fence(struct lead *l, char out[LEAD_FENCE_TEXT]);
bool lead_is_ours(struct lead *l);

/* A script was refused: not active until the lease itself has been looked at. */
void lead_doubt(struct lead *l);

/* From the link's thread: the view of Redis had a gap; the lease was given up. */
void lead_gap(struct lead *l);
void lead_look(struct lead *l);

#endif
