#include "services/dispatcher/thread.h"

#include "base/log.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

pthread_t thread_start(void *(*run)(void *arg), void *arg)
{
    sigset_t all, before;
    pthread_t t;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    error = pthread_create(&t, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        log_event(LOG_ERROR_, "thread.none", "reason", strerror(error), NULL);
        exit(1);
    }
    return t;
}
