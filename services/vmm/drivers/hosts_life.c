#include "services/vmm/drivers/hosts.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BACKOFF_BASE_MS 500
#define PROVED_MS       30000 /* up for so long: the next failure is a new one */
#define FAILURES_MAX    3     /* of machines in a row: is it the host? */

bool host_is_stopping(const struct host *h)
{
    return event_wait(h->set->stop_fd, 0);
}

bool host_is_up(struct host *h)
{
    pthread_mutex_lock(&h->set->lock);
    bool up = h->state != HOST_OUT;
    pthread_mutex_unlock(&h->set->lock);
    return up;
}

/* ---- images ---- */

void host_images_add(struct host_images *l, const char *name, size_t name_len, const char *digest)
{
    l->list = xrealloc(l->list, (l->ct + 1) * sizeof(*l->list));
    l->list[l->ct++] = (struct host_image){xstrndup(name, name_len), xstrdup(digest)};
}

void host_images_done(struct host_images *l)
{
    for (size_t i = 0; i < l->ct; i++) {
        free(l->list[i].name);
        free(l->list[i].digest);
    }
    free(l->list);
    *l = (struct host_images){0};
}

/* An engine that does not tell has its jobs all the same: its thread is to see what is wrong. */
int host_ask_images(struct host *h, struct error *err)
{
    struct host_images images = {0};

    if (h->images_fixed)
        return 0;
    int r = h->set->kind->ask_images(h, &images, err);
    pthread_mutex_lock(&h->set->lock);
    h->images_at = clock_mono_ms();
    if (r == 0) {
        h->images_known = true;
        struct host_images old = h->images;
        h->images = images;
        images = old;
    }
    pthread_mutex_unlock(&h->set->lock);
    host_images_done(&images);
    if (r < 0)
        event_signal(h->wake_fd);
    return r;
}

void host_forget_images(struct host *h)
{
    pthread_mutex_lock(&h->set->lock);
    h->images_at = 0;
    pthread_mutex_unlock(&h->set->lock);
}

/* ---- what is learned of it ---- */

void host_doom(struct host *h, uint64_t life, const char *why)
{
    pthread_mutex_lock(&h->set->lock);
    if (h->life == life && !h->doomed) {
        h->doomed = true;
        h->state = HOST_OUT;
        snprintf(h->why, sizeof(h->why), "%s", why);
        hosts_wake(h->set);
    }
    pthread_mutex_unlock(&h->set->lock);
    event_signal(h->wake_fd);
}

void host_judge(const struct host_place *at, bool made, const char *why)
{
    struct host *h = at->host;

    pthread_mutex_lock(&h->set->lock);
    if (h->life == at->life)
        h->failures = made ? 0 : h->failures + 1;
    if (h->life == at->life && h->state == HOST_UP && h->failures >= FAILURES_MAX) {
        h->state = HOST_DOUBTED;
        snprintf(h->why, sizeof(h->why), "%d machines in a row failed: %.300s", FAILURES_MAX, why);
    }
    pthread_mutex_unlock(&h->set->lock);
    if (!made)
        event_signal(h->wake_fd); /* is it still there at all? */
}

/* The proof that a host's own machine can be made says that those which failed had themselves to
 * blame. */
static void settle(struct host *h)
{
    struct error err = ERROR_INIT;
    char why[sizeof(h->why)];
    int r = h->set->kind->prove(h, &err);

    if (r == -ECANCELED)
        return;
    pthread_mutex_lock(&h->set->lock);
    bool good = r == 0 || err.class == ERR_REFUSED;
    snprintf(why, sizeof(why), "%.330s; nor can one be made as a proof: %.100s", h->why, err.msg);
    if (good && h->state == HOST_DOUBTED) {
        h->state = HOST_UP;
        h->failures = 0;
        h->why[0] = '\0';
        hosts_wake(h->set);
    }
    pthread_mutex_unlock(&h->set->lock);
    if (!good)
        host_doom(h, h->life, why);
    else
        log_event(LOG_INFO_, "host.not_to_blame", "host", h->spec->name, "failures",
                  LOG_NUM(FAILURES_MAX), NULL);
}

bool host_is_good(struct host *h)
{
    for (;;) {
        pthread_mutex_lock(&h->set->lock);
        bool doomed = h->doomed, doubt = h->state == HOST_DOUBTED;
        pthread_mutex_unlock(&h->set->lock);
        if (doomed || !doubt || host_is_stopping(h))
            return !doomed;
        settle(h);
    }
}

/* ---- the thread ---- */

static void tell_tried(struct host *h)
{
    h->tried = true;
    event_signal(h->set->tried_fd);
}

void host_begin_life(struct host *h)
{
    pthread_mutex_lock(&h->set->lock);
    h->life++;
    h->doomed = false;
    h->images_at = 0;
    pthread_mutex_unlock(&h->set->lock);
}

static void come_up(struct host *h)
{
    pthread_mutex_lock(&h->set->lock);
    h->state = h->doomed ? HOST_OUT : HOST_UP;
    h->failures = 0;
    h->busy = 0;
    if (!h->doomed)
        h->why[0] = '\0';
    if (h->set->kind->came)
        h->set->kind->came(h);
    size_t images = h->images.ct;
    tell_tried(h);
    hosts_wake(h->set);
    pthread_mutex_unlock(&h->set->lock);
    log_event(LOG_INFO_, "host.up", "host", h->spec->name, "address",
              h->address ? h->address : h->spec->address, "slots", LOG_NUM(h->spec->slots),
              "images", LOG_NUM(images), NULL);
}

/* Remembers why, and sleeps until it is tried again. */
static void stay_out(struct host *h, const struct error *err, unsigned tries)
{
    int64_t ms = clock_backoff_ms(tries, BACKOFF_BASE_MS, h->set->cfg->retry_cap_ms);

    pthread_mutex_lock(&h->set->lock);
    if (err)
        snprintf(h->why, sizeof(h->why), "%s", err->msg);
    tell_tried(h);
    hosts_wake(h->set);
    cleanup_free char *why = xstrdup(h->why);
    pthread_mutex_unlock(&h->set->lock);
    log_event(LOG_WARN_, "host.out", "host", h->spec->name, "reason", why, "again_ms", LOG_NUM(ms),
              NULL);
    event_wait(h->set->stop_fd, clock_mono_ms() + ms);
}

/* One connection, from the first try to its end. True: it ended as it should. */
static bool live(struct host *h, unsigned *tries, struct error *err)
{
    const struct host_kind *kind = h->set->kind;
    bool well = false;

    host_begin_life(h);
    int r = kind->connect(h, err);
    if (r == 0) {
        int64_t since = clock_mono_ms();
        *err = (struct error)ERROR_INIT; /* of a try before */
        come_up(h);
        well = kind->serve(h);
        if (clock_mono_ms() - since > PROVED_MS)
            *tries = 0;
    }
    pthread_mutex_lock(&h->set->lock);
    h->state = HOST_OUT;
    pthread_mutex_unlock(&h->set->lock);
    kind->disconnect(h, well || host_is_stopping(h), r < 0 && r != -ECANCELED ? err : NULL);
    return well;
}

static void *host_main(void *arg)
{
    struct host *h = arg;
    unsigned tries = 0;

    while (!host_is_stopping(h)) {
        struct error err = ERROR_INIT;
        bool well = live(h, &tries, &err);
        if (well)
            tries = 0;
        else if (!host_is_stopping(h))
            stay_out(h, err.code != 0 ? &err : NULL, tries++);
    }
    return NULL;
}

int host_start(struct host *h, struct error *err)
{
    int r = thread_try(host_main, h, &h->thread);

    h->started = r == 0;
    return r < 0 ? err_set_errno(err, ERR_TEMPORARY, -r, "no thread for host %s", h->spec->name)
                 : 0;
}

void host_stop(struct host *h)
{
    if (h->started)
        pthread_join(h->thread, NULL);
    h->started = false;
    host_images_done(&h->images);
    close(h->wake_fd);
}
