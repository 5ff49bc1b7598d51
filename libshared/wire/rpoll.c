#include "wire/rpoll.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

/* Two rconns a link, each with its connection, one that is being replaced, and 15 Sentinels. */
#define RPOLL_CONNS_MAX 34

struct rpoll_conn {
    redisAsyncContext *ac; /* NULL: free place */
    bool read, write;
};

struct rpoll_timer {
    LIST_ENTRY(rpoll_timer) link; /* earliest first; equal ones in the order of their start */
    int64_t due;
    uint64_t turn; /* in which it was started */
    void (*cb)(void *arg);
    void *arg;
};

struct rpoll {
    struct rpoll_conn conns[RPOLL_CONNS_MAX];
    LIST_HEAD(, rpoll_timer) timers;
    uint64_t turn;
    int wake_fd;
    void (*on_wake)(void *arg);
    void *arg;
};

static void conn_add_read(void *data)
{
    ((struct rpoll_conn *)data)->read = true;
}

static void conn_del_read(void *data)
{
    ((struct rpoll_conn *)data)->read = false;
}

static void conn_add_write(void *data)
{
    ((struct rpoll_conn *)data)->write = true;
}

static void conn_del_write(void *data)
{
    ((struct rpoll_conn *)data)->write = false;
}

static void conn_cleanup(void *data)
{
    *(struct rpoll_conn *)data = (struct rpoll_conn){0};
}

static int rpoll_attach(void *loop, redisAsyncContext *ac)
{
    struct rpoll *p = loop;

    for (size_t i = 0; i < RPOLL_CONNS_MAX; i++) {
        struct rpoll_conn *conn = &p->conns[i];

        if (conn->ac)
            continue;
        *conn = (struct rpoll_conn){.ac = ac};
        ac->ev.data = conn;
        ac->ev.addRead = conn_add_read;
        ac->ev.delRead = conn_del_read;
        ac->ev.addWrite = conn_add_write;
        ac->ev.delWrite = conn_del_write;
        ac->ev.cleanup = conn_cleanup;
        return 0;
    }
    return -ENOSPC;
}

static void *rpoll_timer_start(void *loop, unsigned ms, void (*cb)(void *arg), void *arg)
{
    struct rpoll *p = loop;
    struct rpoll_timer *t = xcalloc(1, sizeof(*t)), *at, *before = NULL;

    t->due = clock_mono_ms() + ms;
    t->turn = p->turn;
    t->cb = cb;
    t->arg = arg;
    LIST_FOREACH(at, &p->timers, link)
    {
        if (at->due > t->due)
            break;
        before = at;
    }
    if (before)
        LIST_INSERT_AFTER(before, t, link);
    else
        LIST_INSERT_HEAD(&p->timers, t, link);
    return t;
}

static void rpoll_timer_stop(void *loop, void *timer)
{
    struct rpoll_timer *t = timer;

    (void)loop;
    LIST_REMOVE(t, link);
    free(t);
}

const struct rloop_ops rpoll_ops = {
    .attach = rpoll_attach,
    .timer_start = rpoll_timer_start,
    .timer_stop = rpoll_timer_stop,
};

struct rpoll *rpoll_new(void (*on_wake)(void *arg), void *arg)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct rpoll *p;

    if (fd < 0)
        return NULL;
    p = xcalloc(1, sizeof(*p));
    p->wake_fd = fd;
    p->on_wake = on_wake;
    p->arg = arg;
    LIST_INIT(&p->timers);
    return p;
}

void rpoll_free(struct rpoll *p)
{
    if (!p)
        return;
    close(p->wake_fd);
    free(p);
}

void rpoll_wake(struct rpoll *p)
{
    uint64_t one = 1;

    /* Fails only when the count is at its end, and then the loop is going to wake anyway. */
    if (write(p->wake_fd, &one, sizeof(one)) < 0)
        return;
}

static void timers_run(struct rpoll *p)
{
    struct rpoll_timer *t;
    int64_t now = clock_mono_ms();

    /* What is started from here on waits for the next turn, so that a timer that starts itself anew
     * with 0 ms does not keep the connections from being served. */
    p->turn++;
    while ((t = LIST_FIRST(&p->timers)) && t->due <= now && t->turn != p->turn) {
        void (*cb)(void *arg) = t->cb;
        void *arg = t->arg;

        rpoll_timer_stop(p, t);
        cb(arg);
    }
}

static int turn_timeout(const struct rpoll *p, int max_ms)
{
    const struct rpoll_timer *t = LIST_FIRST(&p->timers);
    int ms = clock_until_ms(t ? t->due : CLOCK_NEVER);

    if (ms < 0 || (max_ms >= 0 && max_ms < ms))
        return max_ms;
    return ms;
}

static void conn_run(struct rpoll *p, size_t place, const redisAsyncContext *ac, short events)
{
    struct rpoll_conn *conn = &p->conns[place];

    /* A callback of this turn may have ended this connection, or the first half of this one the
     * second; and nothing takes its place before a later turn's timer, so the pointer tells. */
    if (conn->ac != ac)
        return;
    if (conn->read && (events & (POLLIN | POLLERR | POLLHUP)))
        redisAsyncHandleRead(conn->ac);
    if (conn->ac == ac && conn->write && (events & (POLLOUT | POLLERR | POLLHUP)))
        redisAsyncHandleWrite(conn->ac);
}

void rpoll_turn(struct rpoll *p, int max_ms)
{
    struct pollfd fds[RPOLL_CONNS_MAX + 1] = {{.fd = p->wake_fd, .events = POLLIN}};
    redisAsyncContext *acs[RPOLL_CONNS_MAX];

    for (size_t i = 0; i < RPOLL_CONNS_MAX; i++) {
        const struct rpoll_conn *conn = &p->conns[i];

        acs[i] = conn->ac;
        fds[i + 1].fd = conn->ac ? conn->ac->c.fd : -1;
        fds[i + 1].events = (short)((conn->read ? POLLIN : 0) | (conn->write ? POLLOUT : 0));
    }
    if (poll(fds, RPOLL_CONNS_MAX + 1, turn_timeout(p, max_ms)) > 0) {
        /* Replies before timers: what has come in time is not taken for late. */
        for (size_t i = 0; i < RPOLL_CONNS_MAX; i++)
            if (acs[i] && fds[i + 1].revents)
                conn_run(p, i, acs[i], fds[i + 1].revents);
        if (fds[0].revents) {
            uint64_t count;

            if (read(p->wake_fd, &count, sizeof(count)) > 0 && p->on_wake)
                p->on_wake(p->arg);
        }
    }
    timers_run(p);
}
