#include "services/dispatcher/ids.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/generation.h"
#include "services/dispatcher/thread.h"

#include <errno.h>

#define RETRY_BASE_MS 100
#define RETRY_CAP_MS  10000

struct ids {
    struct dispatcher *d;
    struct bell bell;
    pthread_t thread;
};

struct ids *ids_new(struct dispatcher *d)
{
    struct ids *i = xcalloc(1, sizeof(*i));

    i->d = d;
    bell_init(&i->bell);
    return i;
}

void ids_free(struct ids *i)
{
    if (!i)
        return;
    bell_done(&i->bell);
    free(i);
}

void ids_look(struct ids *i)
{
    bell_ring(&i->bell);
}

static void *run(void *arg)
{
    struct ids *i = arg;
    int64_t next = CLOCK_NEVER;
    unsigned tries = 0;

    while (bell_wait(&i->bell, next)) {
        struct error err = ERROR_INIT;

        next = CLOCK_NEVER;
        if (!lead_is_ours(i->d->lead))
            continue;
        if (generation_check(i->d, &err) >= 0) {
            tries = 0;
            continue;
        }
        if (err.code != EPERM && err.code != ENOTCONN && err.code != ECONNRESET)
            log_event(LOG_ERROR_, "ids.failed", "reason", err.msg, NULL);
        /* rings come with each pass meanwhile */
        if (!bell_pause(&i->bell, clock_backoff_ms(tries++, RETRY_BASE_MS, RETRY_CAP_MS)))
            break;
        next = clock_mono_ms();
    }
    return NULL;
}

void ids_start(struct ids *i)
{
    i->thread = thread_start(run, i);
}

void ids_stop(struct ids *i)
{
    bell_quit(&i->bell);
    pthread_join(i->thread, NULL);
}
