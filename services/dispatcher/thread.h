#ifndef MILONGA_DISPATCHER_THREAD_H
#define MILONGA_DISPATCHER_THREAD_H

#include <pthread.h>

/* A thread that takes no signals: the main thread waits for them. Without threads there is no
 * dispatcher, so this ends the process with a sentence when there is none to be had. */
pthread_t thread_start(void *(*run)(void *arg), void *arg);

#endif
