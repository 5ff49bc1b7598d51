#ifndef MILONGA_DISPATCHER_CHORES_H
#define MILONGA_DISPATCHER_CHORES_H

/* The end of jobs that no worker will end: feedback into the store, then the state. On a thread of
 * its own, since it takes a disk. What it is asked to close is asked again by whoever found it as
 * long as it is true, so nothing is kept but a short list. */

struct dispatcher;
struct chores;

struct chores *chores_new(struct dispatcher *d);
void chores_start(struct chores *c);
void chores_stop(struct chores *c);
void chores_free(struct chores *c);

/* From any thread: close a job that waits ("why" a word for the log, `message` what the student
 * reads). */
void chores_close(struct chores *c, const char *id, const char *why, const char *message);

#endif
