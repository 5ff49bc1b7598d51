#ifndef MILONGA_DISPATCHER_CHORES_H
#define MILONGA_DISPATCHER_CHORES_H

/* What takes a disk: ids and generation (generation.h), and the end of jobs that no worker will
 * end: feedback into the store, then the state. On a thread of its own. What it is asked to close
 * is asked again by whoever found it as long as it is true, so nothing is kept but a short list. */

struct dispatcher;
struct chores;

/* Ids that are reserved ahead; more are when less than half is left. */
#define CHORES_IDS_AHEAD 100000

struct chores *chores_new(struct dispatcher *d);
void chores_start(struct chores *c);
void chores_stop(struct chores *c);
void chores_free(struct chores *c);

/* From any thread: look at the ids; close a job that waits ("why" a word for the log, `message`
 * what the student reads). */
void chores_look(struct chores *c);
void chores_close(struct chores *c, const char *id, const char *why, const char *message);

#endif
