#include "services/api/sse.h"

#include "base/clock.h"
#include "base/mem.h"
#include "services/api/problem.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define SWEEP_MS     1000
#define HEARTBEAT_MS 5000

struct streams {
    struct loop *loop;
    TAILQ_HEAD(, sse) list;
    unsigned ct;
};

/* ---- Texts ---- */

struct sse_text *sse_text_new(const char *data, size_t len)
{
    struct sse_text *t = xmalloc(sizeof(*t) + len + 1);

    t->refs = 1;
    t->len = len;
    memcpy(t->data, data, len);
    return t;
}

struct sse_text *sse_text_ref(struct sse_text *t)
{
    t->refs++;
    return t;
}

void sse_text_unref(struct sse_text *t)
{
    if (t && --t->refs == 0)
        free(t);
}

/* ---- One stream ---- */

/* Last: an answer without chunks (HTTP/1.0) is over within the call, and `s` with it. */
static void finish(struct sse *s)
{
    s->ready = false;
    reply_stream_send(&s->stream, "", 0, true);
}

static void pump(struct sse *s)
{
    s->pumping = true;
    s->pump(s);
    s->pumping = false;
    if (s->ending && s->ready)
        finish(s);
}

static void next(struct reply_stream *stream)
{
    struct sse *s = (struct sse *)stream;

    sse_text_unref(s->sending);
    s->sending = NULL;
    s->ready = true;
    if (!s->greeted) { /* the head goes out with the first bytes */
        s->greeted = true;
        sse_send(s, sse_text_new(":\n\n", 3));
        return;
    }
    pump(s);
}

static void stopped(struct reply_stream *stream)
{
    struct sse *s = (struct sse *)stream;

    if (s->begun) {
        TAILQ_REMOVE(&s->loop->streams->list, s, link);
        s->loop->streams->ct--;
    }
    sse_text_unref(s->sending);
    s->stop(s);
}

bool sse_room(struct call *c)
{
    const struct server *server = c->loop->server;

    /* a quarter of the connections is left to those who only ask */
    if ((int64_t)c->loop->streams->ct * server->loop_ct < server->cfg->max_connections * 3 / 4) {
        c->holds_place = true;
        c->loop->streams->ct++;
        return true;
    }
    call_add_header(c, "retry-after", "5");
    problem(c, 429, "too-many-watchers", "This server has as many streams as it takes; try again");
    return false;
}

void sse_leave(struct call *c)
{
    c->holds_place = false;
    c->loop->streams->ct--;
}

void sse_begin(struct sse *s, struct call *c)
{
    unsigned stall = HEARTBEAT_MS;

    s->loop = c->loop;
    s->stream.next = next;
    s->stream.stop = stopped;
    if (c->req) {
        h2o_socket_t *sock = c->req->conn->callbacks->get_socket(c->req->conn);

        setsockopt(h2o_socket_get_fd(sock), IPPROTO_TCP, TCP_USER_TIMEOUT, &stall, sizeof(stall));
        call_add_header(c, "cache-control", "no-store");
        call_add_header(c, "x-accel-buffering", "no");
        s->begun = true;
        s->sent_ms = clock_mono_ms();
        TAILQ_INSERT_TAIL(&s->loop->streams->list, s, link);
        c->holds_place = false; /* it is the stream's now */
    }
    reply_stream_begin(c, &s->stream, 200, "text/event-stream", "", SIZE_MAX);
}

void sse_send(struct sse *s, struct sse_text *t)
{
    s->ready = false;
    s->sending = t;
    s->sent_ms = clock_mono_ms();
    reply_stream_send(&s->stream, t->data, t->len, false);
}

void sse_event(struct sse *s, const char *name, const char *id, const char *data, size_t len)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    buf_printf(&b, "event: %s\n", name);
    if (id)
        buf_printf(&b, "id: %s\n", id);
    buf_appends(&b, "data: ");
    buf_append(&b, data, len); /* JSON and base64 have no line feed */
    buf_appends(&b, "\n\n");
    sse_send(s, sse_text_new(b.data, b.len));
    buf_free(&b);
}

void sse_end(struct sse *s)
{
    s->ending = true;
    if (!s->pumping)
        finish(s);
}

void sse_poke(struct sse *s)
{
    if (s->begun && s->ready && !s->pumping)
        pump(s);
}

/* ---- All of a loop ---- */

/* h2o does not read while it answers, so it would learn of a client's end only by writing. */
static bool is_gone(const struct sse *s)
{
    h2o_socket_t *sock = s->stream.req->conn->callbacks->get_socket(s->stream.req->conn);
    char byte;
    ssize_t n = recv(h2o_socket_get_fd(sock), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static void sweep_one(struct sse *s, int64_t now, bool draining)
{
    if (!s->stream.req || s->ending)
        return;
    if (is_gone(s)) {
        h2o_socket_t *sock = s->stream.req->conn->callbacks->get_socket(s->stream.req->conn);

        if (s->ready)
            reply_stream_fail(&s->stream);
        else /* what is being written fails now */
            shutdown(h2o_socket_get_fd(sock), SHUT_RDWR);
    } else if (s->busy) {
        return;
    } else if (s->ready && draining) {
        sse_end(s);
    } else if (s->ready && now - s->sent_ms >= HEARTBEAT_MS) {
        sse_send(s, sse_text_new(":\n\n", 3));
    }
}

static void sweep(void *arg)
{
    struct streams *ss = arg;
    bool draining = atomic_load(&ss->loop->server->draining);
    int64_t now = clock_mono_ms();
    struct sse *s, *following;

    for (s = TAILQ_FIRST(&ss->list); s; s = following) {
        following = TAILQ_NEXT(s, link);
        sweep_one(s, now, draining);
    }
    hloop_timer_start(ss->loop->hloop, SWEEP_MS, sweep, ss);
}

struct streams *streams_new(struct loop *l)
{
    struct streams *ss = xcalloc(1, sizeof(*ss));

    ss->loop = l;
    TAILQ_INIT(&ss->list);
    hloop_timer_start(l->hloop, SWEEP_MS, sweep, ss);
    return ss;
}
