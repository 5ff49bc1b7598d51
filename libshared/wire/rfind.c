#include "wire/rfind.h"

#include "base/clock.h"
#include "base/mem.h"
#include "wire/resolve.h"
#include "wire/rsentinel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RESOLVE_POLL_MS    20
#define RESOLVE_TIMEOUT_MS 20000

struct rfind {
    const struct rurl *url;
    const struct rloop_ops *ops;
    void *loop;
    struct rfind_owner owner;

    char *host; /* the URL's or that of the master named last; NULL before the first */
    int port;
    bool wanted; /* rfind_next() is unanswered */

    struct rsentinel *sentinel; /* NULL: the URL names the server itself */
    struct resolve *resolve;
    int64_t resolve_at; /* mono: its begin */
    void *timer;        /* a look at the resolver */
    struct resolve_addrs addrs;
    size_t addr_next;
};

static void tell(struct rfind *f, const char *address, const char *why)
{
    f->wanted = false;
    f->owner.found(address, f->port, why, f->owner.arg);
}

/* ---- names ---- */

static void on_time(void *arg)
{
    struct rfind *f = arg;
    char why[RCONN_WHY] = "";
    int r;

    f->timer = NULL;
    r = resolve_poll(f->resolve, &f->addrs);
    if (r == -EAGAIN && clock_mono_ms() - f->resolve_at < RESOLVE_TIMEOUT_MS) {
        f->timer = f->ops->timer_start(f->loop, RESOLVE_POLL_MS, on_time, f);
        return;
    }
    if (r < 0)
        snprintf(why, sizeof(why), "host %.100s: %.100s", f->host,
                 r == -EAGAIN ? "name servers do not answer" : resolve_error(f->resolve));
    resolve_free(f->resolve);
    f->resolve = NULL;
    f->addr_next = 1;
    tell(f, r < 0 ? NULL : f->addrs.text[0], why);
}

static void find_host(struct rfind *f)
{
    if (f->addr_next < f->addrs.ct) {
        tell(f, f->addrs.text[f->addr_next++], "");
    } else if (resolve_numeric(f->host)) {
        tell(f, f->host, "");
    } else {
        f->resolve_at = clock_mono_ms();
        f->resolve = resolve_start(f->host);
        if (f->resolve)
            f->timer = f->ops->timer_start(f->loop, RESOLVE_POLL_MS, on_time, f);
        else
            tell(f, NULL, "no thread could be started to look up the host of Redis");
    }
}

/* ---- Sentinels ---- */

/* An answer to a search, or to a look. */
static void on_told(const char *host, int port, const char *why, void *arg)
{
    struct rfind *f = arg;
    bool moved = host && (!f->host || port != f->port || strcmp(host, f->host) != 0);

    if (f->wanted && !f->resolve) {
        if (!host) {
            tell(f, NULL, why);
            return;
        }
        if (moved) {
            free(f->host);
            f->host = xstrdup(host);
            f->port = port;
            f->addrs.ct = 0;
        }
        find_host(f);
    } else if (moved) {
        f->owner.moved(f->owner.arg);
    }
}

/* ---- the search ---- */

void rfind_next(struct rfind *f)
{
    f->wanted = true;
    if (f->sentinel)
        rsentinel_ask(f->sentinel);
    else
        find_host(f);
}

void rfind_stop(struct rfind *f)
{
    f->wanted = false;
    if (f->timer)
        f->ops->timer_stop(f->loop, f->timer);
    f->timer = NULL;
    resolve_free(f->resolve);
    f->resolve = NULL;
}

void rfind_served(struct rfind *f)
{
    f->addr_next = 0;
    f->addrs.ct = 0;
}

bool rfind_can_move(const struct rfind *f)
{
    return f->sentinel != NULL;
}

void rfind_look(struct rfind *f)
{
    rsentinel_ask(f->sentinel);
}

struct rfind *rfind_new(const struct rurl *url, unsigned timeout_ms, const struct rloop_ops *ops,
                        void *loop, const struct rfind_owner *owner)
{
    struct rfind *f = xcalloc(1, sizeof(*f));

    f->url = url;
    f->ops = ops;
    f->loop = loop;
    f->owner = *owner;
    if (url->sentinel_ct) {
        f->sentinel = rsentinel_new(url, timeout_ms, ops, loop, on_told, f);
    } else {
        f->host = xstrdup(url->host);
        f->port = url->port;
    }
    return f;
}

void rfind_free(struct rfind *f)
{
    if (!f)
        return;
    rfind_stop(f);
    rsentinel_free(f->sentinel);
    free(f->host);
    free(f);
}
