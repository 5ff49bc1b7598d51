#ifndef MILONGA_DISPATCHER_BELL_H
#define MILONGA_DISPATCHER_BELL_H

/* How the threads of the dispatcher wait: for a ring, which is kept until it is heard, or for a
 * deadline. Any thread may ring; one thread waits. */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct bell {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool rung;
    bool quit;
};

void bell_init(struct bell *b);
void bell_done(struct bell *b);

void bell_ring(struct bell *b);
/* For good: every wait from now on returns false at once. */
void bell_quit(struct bell *b);

/* Until it was rung, `deadline` (monotonic ms) or the end; false when it is the end. */
bool bell_wait(struct bell *b, int64_t deadline);
/* So many ms whatever rings; false when it is the end. */
bool bell_pause(struct bell *b, int64_t ms);
bool bell_is_quitting(struct bell *b);

#endif
