#include "docker_hosts.h"

#include "../sync.h"
#include "base/clock.h"
#include "docker_private.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define OPEN_MS 15000 /* for the tunnel */

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

/* Two lines that lead to one engine would have their machines swept by each other. */
static int claim_engine(struct docker_host *h, struct error *err)
{
    struct hosts *set = h->at.set;
    const struct docker_host *other = NULL;

    pthread_mutex_lock(&set->lock);
    for (size_t i = 0; i < set->ct && h->engine->identity[0] && !other; i++)
        if (set->list[i] != &h->at &&
            strcmp(docker_host(set->list[i])->identity, h->engine->identity) == 0)
            other = docker_host(set->list[i]);
    if (!other)
        snprintf(h->identity, sizeof(h->identity), "%s", h->engine->identity);
    pthread_mutex_unlock(&set->lock);
    return other ? err_set(err, ERR_PERMANENT, EEXIST,
                           "its engine is that of host %s, too; remove one of the two lines",
                           other->spec->at.name)
                 : 0;
}

int docker_host_connect(struct host *at, struct error *err)
{
    struct docker_host *h = docker_host(at);
    int stop_fd = at->set->stop_fd;
    int r = tunnel_open(h->tunnel, clock_mono_ms() + OPEN_MS, stop_fd, err);

    if (r < 0)
        return r;
    r = docker_check(h->engine, err);
    if (r == 0)
        r = claim_engine(h, err);
    if (r == 0)
        r = docker_sweep(h->engine, err);
    if (r == 0)
        r = docker_put(h->engine, stop_fd, err);
    if (r == 0)
        r = host_ask_images(at, err);
    return r < 0 ? explain(h, r, err) : 0;
}

/* All that makes it fit for use, anew. */
int docker_host_prove(struct host *at, struct error *err)
{
    struct docker_host *h = docker_host(at);
    int r = docker_put(h->engine, at->set->stop_fd, err);

    return r < 0 ? explain(h, r, err) : 0;
}

void docker_host_disconnect(struct host *at, bool kindly, const struct error *why)
{
    (void)kindly, (void)why;
    pthread_mutex_lock(&at->set->lock);
    docker_host(at)->identity[0] = '\0';
    pthread_mutex_unlock(&at->set->lock);
    tunnel_close(docker_host(at)->tunnel);
}

static void add_image(void *arg, const struct image_entry *e)
{
    host_images_add(arg, e->name, strlen(e->name), e->digest);
}

int docker_host_images(struct host *at, struct host_images *ret, struct error *err)
{
    return docker_images(docker_host(at)->engine, add_image, ret, err);
}

/* ---- connected ---- */

/* Sleeps until it is time to ask, or there is a reason to; false when the connection is over. */
static bool watch(struct docker_host *h, int64_t until)
{
    struct pollfd p[3] = {{.fd = h->at.set->stop_fd, .events = POLLIN},
                          {.fd = h->at.wake_fd, .events = POLLIN},
                          {.fd = tunnel_fd(h->tunnel), .events = POLLIN}};

    poll(p, 3, clock_until_ms(until));
    event_clear(h->at.wake_fd);
    if (p[0].revents)
        return false;
    if (p[2].revents && !tunnel_lives(h->tunnel)) {
        char why[400];
        tunnel_why(h->tunnel, why, sizeof(why));
        host_doom(&h->at, h->at.life, why[0] ? why : "ssh has ended");
    }
    return host_is_good(&h->at);
}

bool docker_host_serve(struct host *at)
{
    struct docker_host *h = docker_host(at);
    int64_t every = at->set->cfg->ssh_dead_ms / 4;

    while (watch(h, clock_mono_ms() + every)) {
        struct error err = ERROR_INIT;
        if (engine_ping(h->engine->engine, clock_mono_ms() + 3 * every, &err) < 0) {
            explain(h, -1, &err);
            host_doom(at, at->life, err.msg);
        }
    }
    return false;
}

/* ---- the object ---- */

int docker_host_new(struct docker_host *h, const struct config *cfg, const char *dir,
                    struct error *err)
{
    h->at.address = h->spec->at.address[0] ? h->spec->at.address : h->spec->socket;
    h->tunnel = tunnel_new(cfg, h->spec, dir);
    int r = docker_new(cfg, tunnel_url(h->tunnel), &h->engine, err);
    if (r < 0)
        return r;
    engine_stop_fd(h->engine->engine, h->at.set->stop_fd);
    return docker_put_new(h->engine, err);
}

void docker_host_done(struct docker_host *h)
{
    if (h->engine)
        docker_close(h->engine);
    tunnel_free(h->tunnel);
}
