#include "pipe.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define READ_CHUNK 65536
#define IN_MAX     (2 * (FRAME_HEAD + FRAME_MAX) + READ_CHUNK)
#define OUT_MAX    (2 * (FRAME_HEAD + FRAME_MAX))

void pipe_init(struct pipe *p, struct machine *m, int stop_fd)
{
    *p = (struct pipe){.m = m, .stop_fd = stop_fd};
    buf_init(&p->in, IN_MAX);
    buf_init(&p->out, OUT_MAX);
    /* A blocking descriptor that polls writable may still block on a long write. */
    int flags = fcntl(m->in_fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(m->in_fd, F_SETFL, flags | O_NONBLOCK);
}

void pipe_done(struct pipe *p)
{
    buf_free(&p->in);
    buf_free(&p->out);
}

void pipe_beat(struct pipe *p, int64_t interval_ms)
{
    p->beat_ms = interval_ms;
    p->beat_at = clock_mono_ms() + interval_ms;
}

static int lost(const struct pipe *p, const char *what, struct error *err)
{
    return err_set(err, ERR_TEMPORARY, EPIPE, "machine %s %s", p->m->spec.name, what);
}

static int queue_frame(struct pipe *p, enum frame_type type, const void *data, uint32_t len,
                       struct error *err)
{
    uint8_t head[FRAME_HEAD];
    frame_head(head, type, len);
    if (len > FRAME_MAX || buf_append(&p->out, head, sizeof(head)) != 0 ||
        (len > 0 && buf_append(&p->out, data, len) != 0))
        return err_set(err, ERR_BUG, ENOSPC, "a frame of %u bytes does not fit", len);
    return 0;
}

/* A write that fails is no end yet: a final record, or the reason, may be on its way to us. */
static void flush_some(struct pipe *p)
{
    ssize_t n = write(p->m->in_fd, p->out.data, p->out.len);
    if (n >= 0) {
        buf_consume(&p->out, (size_t)n);
    } else if (errno != EAGAIN && errno != EINTR) {
        p->deaf = true;
        buf_clear(&p->out);
    }
}

static int read_some(struct pipe *p, struct error *err)
{
    char *at = buf_reserve(&p->in, READ_CHUNK);
    if (!at)
        return 0;
    ssize_t n = p->m->driver->read(p->m, at, READ_CHUNK);
    if (n > 0) {
        p->in.len += (size_t)n;
        return 0;
    }
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    return lost(p, n == 0 ? "has ended" : strerror((int)-n), err);
}

/* Queues a heartbeat that is due. */
static int beat(struct pipe *p, int64_t now, struct error *err)
{
    if (p->beat_ms <= 0 || now < p->beat_at)
        return 0;
    p->beat_at = now + p->beat_ms;
    /* Bytes that are still waiting are a sign of life just as good, once they are read. */
    return p->out.len > 0 || p->deaf ? 0 : queue_frame(p, FRAME_HEARTBEAT, NULL, 0, err);
}

/* One turn: waits until something can be done, and does it. */
static int turn(struct pipe *p, int64_t deadline, struct error *err)
{
    int rc = beat(p, clock_mono_ms(), err);
    if (rc < 0)
        return rc;
    int64_t until = p->beat_ms > 0 && p->beat_at < deadline ? p->beat_at : deadline;
    bool room = p->in.len < IN_MAX - READ_CHUNK;
    struct pollfd fds[3] = {
        {.fd = room ? p->m->out_fd : -1, .events = POLLIN},
        {.fd = p->out.len > 0 ? p->m->in_fd : -1, .events = POLLOUT},
        {.fd = p->stop_fd, .events = POLLIN},
    };
    int n = poll(fds, 3, clock_until_ms(until));
    if (n < 0)
        return errno == EINTR ? 0 : err_set_errno(err, ERR_BUG, errno, "poll");
    if (fds[2].revents)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    if (fds[0].revents)
        rc = read_some(p, err);
    if (fds[1].revents)
        flush_some(p);
    if (rc == 0 && n == 0 && clock_mono_ms() >= deadline)
        rc = err_set(err, ERR_TEMPORARY, ETIMEDOUT, "machine %s did not answer in time",
                     p->m->spec.name);
    return rc;
}

int pipe_send(struct pipe *p, enum frame_type type, const void *data, uint32_t len,
              int64_t deadline, struct error *err)
{
    int rc = 0;
    while (rc == 0 && p->out.len > FRAME_HEAD) /* a heartbeat may wait in front, a frame may not */
        rc = turn(p, deadline, err);
    if (rc == 0)
        rc = queue_frame(p, type, data, len, err);
    if (rc == 0 && !p->deaf)
        flush_some(p); /* most frames fit at once: no poll for them */
    while (rc == 0 && p->out.len > 0 && !p->deaf)
        rc = turn(p, deadline, err);
    if (rc == 0 && p->deaf)
        rc = lost(p, "does not read any more", err);
    return rc;
}

/* 1 when a whole frame is there. */
static int look(struct pipe *p, struct frame *ret, struct error *err)
{
    uint32_t len;
    enum frame_type type;
    int got = frame_peek((const uint8_t *)p->in.data, p->in.len, &type, &len);
    if (got < 0)
        return err_set(err, ERR_TEMPORARY, EPROTO, "machine %s does not speak our protocol",
                       p->m->spec.name);
    if (got > 0) {
        *ret = (struct frame){type, (const uint8_t *)p->in.data + FRAME_HEAD, len};
        p->taken = FRAME_HEAD + len;
    }
    return got;
}

int pipe_next(struct pipe *p, int64_t deadline, struct frame *ret, struct error *err)
{
    if (p->taken > 0)
        buf_consume(&p->in, p->taken);
    p->taken = 0;
    while (true) {
        int rc = look(p, ret, err);
        if (rc != 0)
            return rc > 0 ? 0 : rc;
        rc = turn(p, deadline, err);
        if (rc < 0)
            return rc;
    }
}

int pipe_ready(struct machine *m, int64_t deadline, int stop_fd, struct error *err)
{
    struct pipe p;
    struct frame f;
    pipe_init(&p, m, stop_fd);
    int rc = pipe_next(&p, deadline, &f, err);
    uint64_t version = 0;
    if (rc == 0 && f.type == FRAME_ERROR)
        rc = err_set(err, ERR_TEMPORARY, EPROTO, "autodriver of %s: %.*s", m->spec.name,
                     (int)(f.len > 300 ? 300 : f.len), (const char *)f.data);
    else if (rc == 0 && (f.type != FRAME_READY ||
                         frame_field_u64((const char *)f.data, f.len, "version", &version) < 0 ||
                         version != FRAME_VERSION))
        rc = err_set(
            err, ERR_PERMANENT, EPROTO,
            "autodriver of %s speaks version %u of the pipe, this vmm version %d; install the "
            "two from one build",
            m->spec.name, (unsigned)version, FRAME_VERSION);
    pipe_done(&p);
    if (rc == 0)
        m->ready = true;
    return rc;
}
