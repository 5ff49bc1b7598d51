#include "docker_hosts.h"

#include "../sync.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "docker_private.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BACKOFF_BASE_MS 500
#define OPEN_MS         15000 /* for the tunnel */
#define PROVED_MS       30000 /* up for so long: the next failure is a new one */
#define IMAGES_MS       10000

static bool stopping(const struct docker_host *h)
{
    struct pollfd p = {.fd = h->all->stop_fd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

void docker_hosts_wake(struct docker_hosts *all)
{
    for (struct docker_waiter *w = all->waiters; w; w = w->next)
        event_signal(w->fd);
}

/* ---- images ---- */

static void add_image(void *arg, const struct image_entry *e)
{
    json_object_set_new(arg, e->name, json_string(e->digest));
}

static int ask_images(struct docker_host *h, struct error *err)
{
    json_t *images = json_object();
    int r = docker_images(h->engine, add_image, images, err);

    if (r == 0) {
        pthread_mutex_lock(&h->all->lock);
        json_t *old = h->images;
        h->images = images;
        images = old;
        h->images_at = clock_mono_ms();
        pthread_mutex_unlock(&h->all->lock);
    }
    json_decref(images);
    return r;
}

void docker_host_look_images(struct docker_host *h)
{
    struct error err = ERROR_INIT;

    pthread_mutex_lock(&h->all->lock);
    uint64_t life = h->life;
    bool due = h->up && (h->images_at == 0 || clock_mono_ms() - h->images_at >= IMAGES_MS);
    pthread_mutex_unlock(&h->all->lock);
    if (due && ask_images(h, &err) < 0)
        docker_host_doom(h, life, err.msg);
}

/* ---- connecting ---- */

/* What the way there knows of it is nearer to the reason than what came of it here. */
static int explain(struct docker_host *h, int r, struct error *err)
{
    char why[400];

    tunnel_why(h->tunnel, why, sizeof(why));
    if (why[0] && err->code == EIO)
        err_set(err, err->class, err->code, "%s", why);
    return r;
}

static int connect_host(struct docker_host *h, struct error *err)
{
    int r = tunnel_open(h->tunnel, clock_mono_ms() + OPEN_MS, h->all->stop_fd, err);

    if (r < 0)
        return r;
    r = docker_check(h->engine, err);
    if (r == 0)
        r = docker_sweep(h->engine, err);
    if (r == 0)
        r = docker_put(h->engine, h->all->stop_fd, err);
    if (r == 0)
        r = ask_images(h, err);
    return r < 0 ? explain(h, r, err) : 0;
}

static void come_up(struct docker_host *h)
{
    pthread_mutex_lock(&h->all->lock);
    h->up = !h->doomed;
    h->tried = true;
    h->failures = 0;
    h->busy = 0;
    h->why[0] = '\0';
    size_t images = json_object_size(h->images);
    docker_hosts_wake(h->all);
    pthread_cond_broadcast(&h->all->tried);
    pthread_mutex_unlock(&h->all->lock);
    log_event(LOG_INFO_, "host.up", "host", h->spec->at.name, "address",
              h->spec->at.address[0] ? h->spec->at.address : h->spec->socket, "slots",
              LOG_NUM(h->spec->at.slots), "images", LOG_NUM(images), NULL);
}

void docker_host_doom(struct docker_host *h, uint64_t life, const char *why)
{
    pthread_mutex_lock(&h->all->lock);
    if (h->life == life && !h->doomed) {
        h->doomed = true;
        h->up = false;
        snprintf(h->why, sizeof(h->why), "%s", why);
    }
    pthread_mutex_unlock(&h->all->lock);
    event_signal(h->wake_fd);
}

void docker_host_suspect(struct docker_host *h)
{
    event_signal(h->wake_fd);
}

/* ---- the thread ---- */

/* Sleeps until it is time to ask, or there is a reason to; false when the connection is over. */
static bool watch(struct docker_host *h, int64_t until)
{
    struct pollfd p[3] = {{.fd = h->all->stop_fd, .events = POLLIN},
                          {.fd = h->wake_fd, .events = POLLIN},
                          {.fd = tunnel_fd(h->tunnel), .events = POLLIN}};

    poll(p, 3, clock_until_ms(until));
    event_clear(h->wake_fd);
    if (p[0].revents)
        return false;
    if (p[2].revents && !tunnel_lives(h->tunnel)) {
        char why[400];
        tunnel_why(h->tunnel, why, sizeof(why));
        docker_host_doom(h, h->life, why[0] ? why : "ssh has ended");
    }
    pthread_mutex_lock(&h->all->lock);
    bool doomed = h->doomed;
    pthread_mutex_unlock(&h->all->lock);
    return !doomed;
}

static void serve(struct docker_host *h)
{
    int64_t every = h->all->cfg->ssh_dead_ms / 4;

    while (watch(h, clock_mono_ms() + every)) {
        struct error err = ERROR_INIT;
        if (engine_ping(h->engine->engine, clock_mono_ms() + 3 * every, &err) < 0) {
            explain(h, -1, &err);
            docker_host_doom(h, h->life, err.msg);
        }
    }
}

/* Remembers why, and sleeps until it is tried again. */
static void stay_out(struct docker_host *h, const struct error *err, unsigned tries)
{
    int64_t ms = clock_backoff_ms(tries, BACKOFF_BASE_MS, h->all->cfg->retry_cap_ms);

    pthread_mutex_lock(&h->all->lock);
    if (err)
        snprintf(h->why, sizeof(h->why), "%s", err->msg);
    h->up = false;
    h->tried = true;
    docker_hosts_wake(h->all);
    pthread_cond_broadcast(&h->all->tried);
    cleanup_free char *why = xstrdup(h->why);
    pthread_mutex_unlock(&h->all->lock);
    log_event(LOG_WARN_, "host.out", "host", h->spec->at.name, "reason", why, "again_ms",
              LOG_NUM(ms), NULL);
    event_wait(h->all->stop_fd, clock_mono_ms() + ms);
}

static void *host_main(void *arg)
{
    struct docker_host *h = arg;
    unsigned tries = 0;

    while (!stopping(h)) {
        struct error err = ERROR_INIT;

        pthread_mutex_lock(&h->all->lock);
        h->life++;
        h->doomed = false;
        h->images_at = 0;
        pthread_mutex_unlock(&h->all->lock);
        int r = connect_host(h, &err);
        if (r == 0) {
            int64_t since = clock_mono_ms();
            come_up(h);
            serve(h);
            if (clock_mono_ms() - since > PROVED_MS)
                tries = 0;
        }
        pthread_mutex_lock(&h->all->lock);
        h->up = false;
        pthread_mutex_unlock(&h->all->lock);
        tunnel_close(h->tunnel);
        if (!stopping(h))
            stay_out(h, r < 0 ? &err : NULL, tries++);
    }
    return NULL;
}

int docker_host_new(struct docker_host *h, struct error *err)
{
    h->wake_fd = event_new();
    h->images = json_object();
    snprintf(h->why, sizeof(h->why), "not connected yet");
    h->tunnel = tunnel_new(h->all->cfg, h->spec, h->all->dir);
    int r = docker_new(h->all->cfg, tunnel_url(h->tunnel), &h->engine, err);
    return r < 0 ? r : docker_put_new(h->engine, err);
}

void docker_host_start(struct docker_host *h)
{
    h->thread = thread_start(host_main, h);
}

void docker_host_stop(struct docker_host *h)
{
    if (h->thread)
        pthread_join(h->thread, NULL);
    if (h->engine)
        docker_close(h->engine);
    tunnel_free(h->tunnel);
    json_decref(h->images);
    close(h->wake_fd);
}
