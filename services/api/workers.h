#ifndef MILONGA_API_WORKERS_H
#define MILONGA_API_WORKERS_H

/* Threads for what may block: hashing, reading and fsync in the store, rendering of long lists. A
 * loop hands a piece of work over and gets it back, on the same loop, when it is done. */

#include <h2o.h>
#include <sys/queue.h>

struct workers;

/* Where finished work comes back to; one a loop. */
struct work_gate {
    h2o_multithread_receiver_t receiver; /* first */
};

/* The first member of whatever a caller wants done. The caller owns it again in done(). */
struct work {
    h2o_multithread_message_t message; /* first */
    STAILQ_ENTRY(work) link;
    void (*run)(struct work *w);  /* on a worker; touches nothing but what is the work's own */
    void (*done)(struct work *w); /* on the loop */
    struct work_gate *gate;
};

struct workers *workers_start(unsigned threads, unsigned max_waiting);

void work_gate_open(struct work_gate *g, h2o_multithread_queue_t *queue);

/* 0, or -EAGAIN when too much is waiting: then nothing was begun and done() is not called. */
int workers_run(struct workers *ws, struct work_gate *g, struct work *w);

/* Ends the threads once all work is done. Nobody may call workers_run() from then on. */
void workers_stop(struct workers *ws);

#endif
