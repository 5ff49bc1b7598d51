#ifndef MILONGA_VMM_SYNC_H
#define MILONGA_VMM_SYNC_H

/* Waiting, by the monotonic clock: condition variables with deadlines, and eventfds, which a thread
 * that polls descriptors can wait on too. */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

void cond_init(pthread_cond_t *c);
/* False once the deadline (clock_mono_ms) has passed. Wakes for nothing now and then, as any
 * condition. */
bool cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ms);

int event_try(void); /* negative errno when there is no descriptor to be had */
int event_new(void); /* aborts when there are no descriptors left at all */
void event_signal(int fd);
void event_clear(int fd);
/* Sleeps until the deadline, or until the event is signalled: then true. */
bool event_wait(int fd, int64_t deadline_ms);

/* A joinable thread with all signals blocked; negative errno when there is none to be had. */
int thread_try(void *(*fn)(void *), void *arg, pthread_t *ret);
/* The same; aborts when there is none to be had (start-up only).
 */
pthread_t thread_start(void *(*fn)(void *), void *arg);

#endif
