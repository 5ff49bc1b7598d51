#ifndef MILONGA_DISPATCHER_OUTBOX_H
#define MILONGA_DISPATCHER_OUTBOX_H

/* Callbacks, from the durable outbox in Redis, on a thread of its own. A record is made with the
 * final state of a job, is due again while it is being delivered, and goes only after a final
 * answer; so a callback may be sent twice after a crash, and never not at all. */

#include "base/err.h"

struct dispatcher;
struct outbox;

struct outbox *outbox_new(struct dispatcher *d);
/* After the dispatcher's link. Fails as rlink_start(). */
int outbox_start(struct outbox *o, struct error *err);
/* Gives what is under way a moment, and back what is not done then. Before the lead is given up. */
void outbox_stop(struct outbox *o);
void outbox_free(struct outbox *o);

/* A callback may be due; from any thread. */
void outbox_look(struct outbox *o);

#endif
