#include "services/dispatcher/bell.h"

#include "base/clock.h"

#include <time.h>

void bell_init(struct bell *b)
{
    pthread_condattr_t attr;

    b->rung = false;
    b->quit = false;
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->cond, &attr);
    pthread_condattr_destroy(&attr);
}

void bell_done(struct bell *b)
{
    pthread_cond_destroy(&b->cond);
    pthread_mutex_destroy(&b->lock);
}

void bell_ring(struct bell *b)
{
    pthread_mutex_lock(&b->lock);
    b->rung = true;
    pthread_cond_signal(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

void bell_quit(struct bell *b)
{
    pthread_mutex_lock(&b->lock);
    b->quit = true;
    pthread_cond_signal(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

bool bell_wait(struct bell *b, int64_t deadline)
{
    struct timespec at = {.tv_sec = deadline / 1000, .tv_nsec = deadline % 1000 * 1000000};
    bool go_on;

    pthread_mutex_lock(&b->lock);
    while (!b->rung && !b->quit && clock_mono_ms() < deadline) {
        if (deadline == CLOCK_NEVER)
            pthread_cond_wait(&b->cond, &b->lock);
        else
            pthread_cond_timedwait(&b->cond, &b->lock, &at);
    }
    b->rung = false;
    go_on = !b->quit;
    pthread_mutex_unlock(&b->lock);
    return go_on;
}

bool bell_pause(struct bell *b, int64_t ms)
{
    int64_t deadline = clock_mono_ms() + ms;
    struct timespec at = {.tv_sec = deadline / 1000, .tv_nsec = deadline % 1000 * 1000000};
    bool go_on;

    pthread_mutex_lock(&b->lock);
    while (!b->quit && clock_mono_ms() < deadline)
        pthread_cond_timedwait(&b->cond, &b->lock, &at);
    go_on = !b->quit;
    pthread_mutex_unlock(&b->lock);
    return go_on;
}

bool bell_is_quitting(struct bell *b)
{
    bool quit;

    pthread_mutex_lock(&b->lock);
    quit = b->quit;
    pthread_mutex_unlock(&b->lock);
    return quit;
}
