#include "services/api/redis_h2o.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <sys/queue.h>
#include <sys/timerfd.h>

struct timer {
    TAILQ_ENTRY(timer) link;
    int64_t due; /* mono ms */
    void (*cb)(void *arg);
    void *arg;
};
TAILQ_HEAD(timer_list, timer);

struct hloop {
    h2o_loop_t *loop;
    h2o_socket_t *alarm;
    struct timer_list timers; /* by rising due time */
    int64_t armed;            /* what the timerfd is set to */
};

/* ---- Timers ---- */

static void alarm_set(struct hloop *l)
{
    struct timer *first = TAILQ_FIRST(&l->timers);
    int64_t due = first ? first->due : 0;
    struct itimerspec when = {.it_value = {due / 1000, due % 1000 * 1000000}};

    if (due == l->armed)
        return;
    l->armed = due;
    timerfd_settime(h2o_socket_get_fd(l->alarm), TFD_TIMER_ABSTIME, &when, NULL);
}

static void alarm_rang(h2o_socket_t *sock, const char *err)
{
    struct hloop *l = sock->data;
    int64_t now = clock_mono_ms();
    uint64_t count;
    struct timer *t;

    if (err || (read(h2o_socket_get_fd(sock), &count, sizeof(count)) < 0 && errno != EAGAIN))
        return;
    l->armed = -1;
    while ((t = TAILQ_FIRST(&l->timers)) && t->due <= now) {
        TAILQ_REMOVE(&l->timers, t, link);
        t->cb(t->arg);
        free(t);
    }
    alarm_set(l);
}

struct hloop *hloop_new(h2o_loop_t *loop)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct hloop *l;

    if (fd < 0)
        return NULL;
    l = xcalloc(1, sizeof(*l));
    l->loop = loop;
    TAILQ_INIT(&l->timers);
    l->alarm = h2o_evloop_socket_create(loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    l->alarm->data = l;
    h2o_socket_read_start(l->alarm, alarm_rang);
    return l;
}

h2o_loop_t *hloop_h2o(struct hloop *l)
{
    return l->loop;
}

void *hloop_timer_start(struct hloop *l, unsigned ms, void (*cb)(void *arg), void *arg)
{
    struct timer *t = xmalloc(sizeof(*t)), *at;

    *t = (struct timer){.due = clock_mono_ms() + ms, .cb = cb, .arg = arg};
    TAILQ_FOREACH_REVERSE(at, &l->timers, timer_list, link)
    {
        if (at->due <= t->due)
            break;
    }
    if (at)
        TAILQ_INSERT_AFTER(&l->timers, at, t, link);
    else
        TAILQ_INSERT_HEAD(&l->timers, t, link);
    if (l->armed >= 0)
        alarm_set(l);
    return t;
}

void hloop_timer_stop(struct hloop *l, void *timer)
{
    struct timer *t = timer;

    /* The alarm is left as it is: to ring once for nothing is cheaper than to set it anew. */
    TAILQ_REMOVE(&l->timers, t, link);
    free(t);
}

/* ---- hiredis on the loop ---- */

/* h2o's notify_write is one-shot and can not be taken back, so a wish that is over is a flag. */
struct link {
    redisAsyncContext *ac;
    h2o_socket_t *sock;
    bool want_write;
};

static void link_readable(h2o_socket_t *sock, const char *err)
{
    struct link *k = sock->data;

    (void)err; /* hiredis finds it out by itself */
    redisAsyncHandleRead(k->ac);
}

static void link_writable(h2o_socket_t *sock, const char *err)
{
    struct link *k = sock->data;

    (void)err;
    if (k->want_write) {
        k->want_write = false;
        redisAsyncHandleWrite(k->ac);
    }
}

static void link_add_read(void *p)
{
    struct link *k = p;

    if (!h2o_socket_is_reading(k->sock))
        h2o_socket_read_start(k->sock, link_readable);
}

static void link_del_read(void *p)
{
    struct link *k = p;

    if (h2o_socket_is_reading(k->sock))
        h2o_socket_read_stop(k->sock);
}

static void link_add_write(void *p)
{
    struct link *k = p;

    k->want_write = true;
    if (!h2o_socket_is_writing(k->sock))
        h2o_socket_notify_write(k->sock, link_writable);
}

static void link_del_write(void *p)
{
    struct link *k = p;

    k->want_write = false;
}

static void link_cleanup(void *p)
{
    struct link *k = p;

    k->ac->c.fd = -1; /* h2o closes it */
    k->ac->ev.data = NULL;
    k->ac->ev.addRead = k->ac->ev.delRead = k->ac->ev.addWrite = k->ac->ev.delWrite = NULL;
    k->ac->ev.cleanup = NULL;
    h2o_socket_close(k->sock);
    free(k);
}

static int hloop_attach(void *loop, redisAsyncContext *ac)
{
    struct hloop *l = loop;
    struct link *k = xcalloc(1, sizeof(*k));

    k->ac = ac;
    k->sock = h2o_evloop_socket_create(l->loop, ac->c.fd, H2O_SOCKET_FLAG_DONT_READ);
    k->sock->data = k;
    ac->ev.data = k;
    ac->ev.addRead = link_add_read;
    ac->ev.delRead = link_del_read;
    ac->ev.addWrite = link_add_write;
    ac->ev.delWrite = link_del_write;
    ac->ev.cleanup = link_cleanup;
    return 0;
}

static void *timer_start(void *loop, unsigned ms, void (*cb)(void *arg), void *arg)
{
    return hloop_timer_start(loop, ms, cb, arg);
}

static void timer_stop(void *loop, void *timer)
{
    hloop_timer_stop(loop, timer);
}

const struct rloop_ops hloop_ops = {hloop_attach, timer_start, timer_stop};
