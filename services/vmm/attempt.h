#ifndef MILONGA_VMM_ATTEMPT_H
#define MILONGA_VMM_ATTEMPT_H

/* One try at a job, from its assignment to the answer of Redis that it is over. Shared, and
 * counted, between the agent (which may stop it), the slot that runs it, and messages under way. */

#include "vmm.h"
#include "wire/job.h"

#include <pthread.h>
#include <stdatomic.h>

/* Why an attempt is to stop; a later one wins when it is greater. */
enum attempt_kill {
    KILL_NONE,
    KILL_CANCEL,   /* somebody wishes the job to end: it is stopped, and its verdict says so */
    KILL_LEASE,    /* the vmm lost sight of Redis for longer than its lease: goes back uncharged */
    KILL_HANDBACK, /* the vmm ends now: goes back uncharged */
    KILL_FENCED,   /* it is somebody else's by now: nothing may be written any more */
};

struct attempt {
    struct vmm *v;
    struct attempt *next;       /* agent's list */
    struct attempt *queue_next; /* slots' queue */
    atomic_uint refs;
    char id[24]; /* decimal */
    char token[JOB_TOKEN_TEXT];
    unsigned tries;   /* n: attempts begun, this one included */
    unsigned charged; /* c: how many before it infrastructure has spoilt */
    char *body;
    size_t body_len;
    int stop_fd; /* eventfd: readable once it is to stop */
    atomic_int kill;
    struct trace *trace; /* trace.c */
};

/* Copies all; one reference. */
struct attempt *attempt_new(struct vmm *v, const char *id, const char *token, unsigned tries,
                            unsigned charged, const void *body, size_t body_len);
struct attempt *attempt_ref(struct attempt *a);
void attempt_unref(struct attempt *a);

/* Any thread; never blocks. */
void attempt_stop(struct attempt *a, enum attempt_kill why);
enum attempt_kill attempt_killed(const struct attempt *a);

/* All of it, on the calling (slot's) thread: returns when Redis has taken what came of it, or when
 * it is not ours to tell. */
void attempt_run(struct attempt *a);

#endif
