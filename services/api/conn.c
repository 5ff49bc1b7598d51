#include "services/api/conn.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/api/call.h"
#include "services/api/head.h"
#include "services/api/problem.h"
#include "services/api/reply.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>

#define SWEEP_MS         1000
#define HEAD_MS          10000
#define GRACE_MS         10000
#define LINGER_MS        2000
#define LAST_CALL_MS     2000 /* while draining, for a caller who has connected to ask */
#define WRITE_STALL_MS   30000
#define ACCEPTS_PER_TURN 16
#define BACKLOG_MAX      1024  /* as listen.c gives */
#define EARLY_BYTES      65536 /* a body up to this is not worth an answer before it is there */

enum conn_state { CONN_IDLE, CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_REFUSED };

struct conn {
    TAILQ_ENTRY(conn) link;
    TAILQ_ENTRY(conn) loose; /* while `is_loose`: h2o may set its read callback anew */
    struct conns *cs;
    h2o_socket_t *sock;
    h2o_socket_cb inner; /* h2o's read callback */
    enum conn_state state;
    bool is_loose, served, chunked, writing;
    bool asked;    /* a request has begun, sometime */
    int64_t since; /* mono ms: of the state */
    size_t head_len;
    uint64_t limit;      /* bytes of body */
    long long reserved;  /* of server->body_bytes */
    int64_t pace_at;     /* mono ms: when the window began in which the client's pace is measured */
    uint64_t pace_bytes; /* what had come, or was acknowledged, by then */
    char *refusal;
    struct route_match match; /* of the request whose body is coming; its parameters may be gone */
};
TAILQ_HEAD(conn_list, conn);

/* glibc's <sys/queue.h> has no such loop */
#define FOREACH_SAFE(var, head, field, next)                                                       \
    for ((var) = TAILQ_FIRST(head); (var) && ((next) = TAILQ_NEXT(var, field), 1); (var) = (next))

struct conns {
    struct loop *loop;
    h2o_accept_ctx_t accept;
    h2o_socket_t *listener; /* NULL while draining */
    struct conn_list all, loose;
    unsigned ct;
    struct conn *current; /* inside h2o's callback; NULL when that closed it */
    bool recheck;
    bool open; /* accepts, while there is room */
};

static void guard_read(h2o_socket_t *sock, const char *err);

unsigned conns_count(const struct conns *cs)
{
    return cs->ct;
}

/* ---- The end of a connection ---- */

static void release(struct conn *c)
{
    atomic_fetch_sub_explicit(&c->cs->loop->server->body_bytes, c->reserved, memory_order_relaxed);
    c->reserved = 0;
}

static void set_loose(struct conn *c, bool loose)
{
    if (loose && !c->is_loose)
        TAILQ_INSERT_TAIL(&c->cs->loose, c, loose);
    else if (!loose && c->is_loose)
        TAILQ_REMOVE(&c->cs->loose, c, loose);
    c->is_loose = loose;
}

static void conn_closed(void *p)
{
    struct conn *c = p;

    if (c->cs->current == c)
        c->cs->current = NULL;
    release(c);
    set_loose(c, false);
    TAILQ_REMOVE(&c->cs->all, c, link);
    c->cs->ct--;
    atomic_fetch_sub(&c->cs->loop->server->conn_ct, 1);
    free(c->refusal);
    free(c);
}

/* Only while h2o reads from it. Frees c. */
static void conn_close(struct conn *c)
{
    c->inner(c->sock, h2o_socket_error_closed);
}

/* ---- Refusing ---- */

static void refusal_written(h2o_socket_t *sock, const char *err)
{
    struct conn *c = sock->on_close.data;

    if (err) {
        conn_close(c);
        return;
    }
    shutdown(h2o_socket_get_fd(sock), SHUT_WR);
}

/* Writes an answer of our own; h2o hears nothing more of this request. `allowed`: for 405. */
static void refuse_with(struct conn *c, int status, unsigned allowed, const char *type,
                        const char *body)
{
    char header[120] = "", methods[ROUTE_METHODS_TEXT];
    h2o_iovec_t iov;

    if (!h2o_socket_is_reading(
            c->sock)) { /* h2o is answering by itself, and its client is not reading */
        shutdown(h2o_socket_get_fd(c->sock), SHUT_RDWR);
        return;
    }
    log_event(LOG_INFO_, "http.refused", "status", LOG_NUM(status), "bytes",
              LOG_NUM(c->sock->input->size), NULL);
    if (status == 405)
        snprintf(header, sizeof(header), "Allow: %s\r\n", route_methods(allowed, methods));
    else if (status == 503)
        snprintf(header, sizeof(header), "Retry-After: 5\r\n");
    else if (status == 401)
        snprintf(header, sizeof(header), "WWW-Authenticate: Bearer realm=\"milonga\"\r\n");
    c->refusal = xasprintf("HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: %s\r\n"
                           "Content-Length: %zu\r\n%s\r\n%s",
                           status, reply_reason(status), type, strlen(body), header, body);
    iov = h2o_iovec_init(c->refusal, strlen(c->refusal));
    release(c);
    c->state = CONN_REFUSED;
    c->since = clock_mono_ms();
    h2o_socket_write(c->sock, &iov, 1, refusal_written);
}

static void refuse(struct conn *c, int status, const char *type, const char *body)
{
    refuse_with(c, status, 0, type, body);
}

static void refuse_page(struct conn *c, int status)
{
    char *page = reply_page(status);

    refuse(c, status, "text/html; charset=UTF-8", page);
    free(page);
}

/* ---- Judging a head ---- */

static bool reserve(struct conn *c, uint64_t bytes)
{
    struct server *s = c->cs->loop->server;

    if (atomic_fetch_add_explicit(&s->body_bytes, (long long)bytes, memory_order_relaxed) +
            (long long)bytes >
        s->cfg->max_body_total_bytes) {
        atomic_fetch_sub_explicit(&s->body_bytes, (long long)bytes, memory_order_relaxed);
        return false;
    }
    c->reserved += (long long)bytes;
    return true;
}

static void refuse_problem(struct conn *c, int status, const char *code, const char *detail)
{
    char *text = problem_text(status, code, detail, NULL);

    refuse(c, status, PROBLEM_TYPE, text);
    free(text);
}

/* The answer for a request whose route is `m`, in the words of its dialect. */
static void refuse_as(struct conn *c, const struct route_match *m, int status)
{
    if (m->route && m->route->scope != ROUTE_OLD)
        refuse_problem(c, status, problem_code(status), problem_sentence(status));
    else
        refuse_page(c, status);
}

/* Is the sender one of ours? Answers and returns false when not. */
static bool judge_key(struct conn *c, const struct head *h, const struct route_match *m)
{
    const struct config *cfg = c->cs->loop->server->cfg;
    const struct config_key_entry *k;
    char *key;
    long len;
    bool known;

    if (m->route->scope == ROUTE_OPEN)
        return true;
    if (m->route->scope != ROUTE_OLD) {
        k = call_bearer(cfg, h->authorization.at, h->authorization.len);
        if (k && (int)k->scope >= (int)m->route->scope - (int)ROUTE_READ + (int)SCOPE_READ)
            return true;
        refuse_as(c, m, k ? 403 : 401);
        return false;
    }
    if (!strstr(m->route->pattern, ":key")) {
        if (call_store_allowed(cfg, h->authorization.at, h->authorization.len))
            return true;
        refuse_page(c, 401);
        return false;
    }
    key = xmalloc(m->param[0].len + 1);
    len = route_decode(m->param[0], key);
    known = len >= 0 && call_tango_may(call_key(cfg, key, (size_t)len));
    free(key);
    if (!known)
        refuse(c, 200, "application/json; charset=UTF-8",
               "{\"statusId\": -1, \"statusMsg\": \"Key not recognized\"}");
    return known;
}

/* Before a body that is large or of unknown length is taken: is there such a route, and such a key?
 */
static bool judge_route(struct conn *c, const struct head *h, const struct route_match *m,
                        int status)
{
    unsigned version = 1;
    char *text;

    if (status == 200)
        return judge_key(c, h, m);
    if (!route_is_versioned(h->path.at, h->path.len, &version) &&
        !(m->route && m->route->scope != ROUTE_OLD)) {
        text = reply_page(status);
        refuse_with(c, status, m->allowed, "text/html; charset=UTF-8", text);
        free(text);
        return false;
    }
    text = problem_unrouted_text(status, version);
    refuse_with(c, status, m->allowed, PROBLEM_TYPE, text);
    free(text);
    return false;
}

/* True when h2o may have it. */
static bool judge(struct conn *c, const struct head *h, size_t have)
{
    struct server *s = c->cs->loop->server;
    uint64_t length = h->content_length_ct ? h->content_length : 0;
    struct route_match m;
    int status;

    if (!h->content_length_ct && !h->chunked)
        return true;
    if (h->length_conflict || length == UINT64_MAX || (h->content_length_ct && h->chunked)) {
        refuse_page(c, 400);
        return false;
    }
    status = route_find(s->routes, s->route_ct, h->method.at, h->method.len, h->path.at,
                        h->path.len, &m);
    c->limit = (uint64_t)s->cfg->max_body_bytes;
    if ((status != 200 || m.route->body == ROUTE_BODY_SMALL) && c->limit > ROUTE_SMALL_BYTES)
        c->limit = ROUTE_SMALL_BYTES;
    if ((h->chunked || h->expect || (length > EARLY_BYTES && length > have - h->len)) &&
        !judge_route(c, h, &m, status))
        return false;
    c->match = m;
    if (length > c->limit) {
        refuse_as(c, &m, 413);
        return false;
    }
    if (!reserve(c, length)) {
        refuse_as(c, &m, 503);
        return false;
    }
    return true;
}

/* Looks at what has come, before h2o does or, behind a pipelined request, right after. False: h2o
 * is not to be called. */
static bool guard_check(struct conn *c)
{
    size_t have = c->sock->input->size;
    struct head h;

    if (c->state == CONN_IDLE && have > 0) {
        c->state = CONN_HEAD;
        c->asked = true;
        c->since = clock_mono_ms();
    }
    if (c->state == CONN_HEAD) {
        switch (head_scan(c->sock->input->bytes, have, &h)) {
        case 0:
            return true;
        case -1:
            if (have <= HEAD_MAX)
                return true; /* h2o says 400 to what is no request */
            refuse_page(c, 400);
            return false;
        }
        c->state = CONN_BODY;
        c->since = c->pace_at = clock_mono_ms();
        c->pace_bytes = have;
        c->served = false;
        c->chunked = h.chunked;
        c->match = (struct route_match){0};
        c->head_len = h.len;
        if (!judge(c, &h, have))
            return false;
    }
    if (c->state == CONN_BODY && c->chunked) {
        uint64_t body = have > c->head_len ? have - c->head_len : 0;

        if (body > c->limit) {
            refuse_as(c, &c->match, 413);
            return false;
        }
        if (body > (uint64_t)c->reserved && !reserve(c, body - (uint64_t)c->reserved)) {
            refuse_as(c, &c->match, 503);
            return false;
        }
    }
    return true;
}

static void guard_read(h2o_socket_t *sock, const char *err)
{
    struct conn *c = sock->on_close.data;
    struct conns *cs = c->cs;

    if (c->state == CONN_REFUSED && !err) {
        h2o_buffer_consume(&sock->input, sock->input->size);
        return;
    }
    if (err == h2o_socket_error_out_of_memory && c->state == CONN_BODY) {
        /* h2o could not enlarge the buffer: the disk that it is spilled to is full */
        log_event(LOG_ERROR_, "http.no_space", "dir", cs->loop->server->cfg->data_dir, NULL);
        refuse_as(c, &c->match, 507);
        h2o_buffer_consume(&sock->input, sock->input->size);
        return;
    }
    if (!err && !guard_check(c))
        return;
    cs->current = c;
    c->inner(sock, err);
    if (cs->current && sock->_cb.read != guard_read)
        set_loose(c, true);
    cs->current = NULL;
}

void conn_serve(h2o_req_t *req)
{
    struct conn *c = req->conn->callbacks->get_socket(req->conn)->on_close.data;

    c->served = true;
    c->state = CONN_BUSY;
    c->since = clock_mono_ms();
    c->writing = false;
}

/* ---- Each turn ---- */

static void recheck(void *arg)
{
    struct conns *cs = arg;
    struct conn *c, *next;

    cs->recheck = false;
    FOREACH_SAFE(c, &cs->all, link, next)
    {
        if ((c->state == CONN_IDLE || c->state == CONN_HEAD) && c->sock->input->size > 0)
            guard_check(c);
    }
}

/* h2o reads again: from a new request, or, after "100 Continue", on in the same. */
static void take_back(struct conn *c)
{
    struct conns *cs = c->cs;

    set_loose(c, false);
    c->inner = c->sock->_cb.read;
    c->sock->_cb.read = guard_read;
    if (!c->served)
        return;
    c->served = false;
    release(c);
    c->state = CONN_IDLE;
    c->since = clock_mono_ms();
    if (!cs->listener) {
        shutdown(h2o_socket_get_fd(c->sock), SHUT_RD);
    } else if (c->sock->input->size > 0 && !cs->recheck) {
        /* Pipelined: h2o has begun with it already. Not here, since what is written outside of
         * the loop's turn is told only in the turn after the next event. */
        cs->recheck = true;
        hloop_timer_start(cs->loop->hloop, 0, recheck, cs);
    }
}

void conns_turn(struct conns *cs)
{
    struct conn *c, *next;

    FOREACH_SAFE(c, &cs->loose, loose, next)
    {
        if (h2o_socket_is_reading(c->sock) && c->sock->_cb.read != guard_read)
            take_back(c);
    }
}

/* ---- Draining ---- */

/* While draining: may an idle connection be closed with no request lost? Not when one is waiting to
 * be read, and not at once when its caller has only just connected: nobody takes a new connection
 * for one that may have been closed meanwhile, and asks again. */
static bool may_end(const struct conn *c, int64_t now)
{
    int waiting = 0;

    if (!c->asked && now - c->since < LAST_CALL_MS)
        return false;
    return ioctl(h2o_socket_get_fd(c->sock), FIONREAD, &waiting) < 0 || waiting == 0;
}

/* ---- The sweep ---- */

static uint64_t bytes_acked(h2o_socket_t *sock)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    getsockopt(h2o_socket_get_fd(sock), IPPROTO_TCP, TCP_INFO, &info, &len);
    return info.tcpi_bytes_acked;
}

/* Judged window by window, so that what went fast before is no credit for later. */
static bool too_slow(struct conn *c, int64_t now, uint64_t bytes)
{
    int64_t ms = now - c->pace_at, rate = c->cs->loop->server->cfg->slow_body_bytes_s;

    if (ms < GRACE_MS)
        return false;
    if (bytes - c->pace_bytes < (uint64_t)(ms / 1000 * rate))
        return true;
    c->pace_at = now;
    c->pace_bytes = bytes;
    return false;
}

static void sweep_busy(struct conn *c, int64_t now)
{
    bool writing = h2o_socket_is_writing(c->sock);

    if (writing && !c->writing) {
        c->pace_at = now;
        c->pace_bytes = bytes_acked(c->sock);
    } else if (writing && too_slow(c, now, bytes_acked(c->sock))) {
        log_event(LOG_INFO_, "http.cut", "why", "reads too slowly", NULL);
        shutdown(h2o_socket_get_fd(c->sock), SHUT_RDWR);
    }
    c->writing = writing;
}

static void sweep_conn(struct conn *c, int64_t now)
{
    int64_t ms = now - c->since;

    switch (c->state) {
    case CONN_IDLE:
        if (ms > c->cs->loop->server->cfg->idle_timeout_ms || (!c->cs->listener && may_end(c, now)))
            conn_close(c);
        break;
    case CONN_HEAD:
        if (ms > HEAD_MS)
            refuse_page(c, 408);
        break;
    case CONN_BODY:
        if (!c->is_loose && too_slow(c, now, c->sock->input->size))
            refuse_as(c, &c->match, 408);
        break;
    case CONN_BUSY:
        sweep_busy(c, now);
        break;
    case CONN_REFUSED:
        if (ms > LINGER_MS)
            shutdown(h2o_socket_get_fd(c->sock), SHUT_RDWR);
        break;
    }
}

static void listen_again(struct conns *cs);

static void sweep(void *arg)
{
    struct conns *cs = arg;
    int64_t now = clock_mono_ms();
    struct conn *c, *next;

    FOREACH_SAFE(c, &cs->all, link, next)
    {
        sweep_conn(c, now);
    }
    listen_again(cs);
    hloop_timer_start(cs->loop->hloop, SWEEP_MS, sweep, cs);
}

/* ---- Accepting ---- */

/* At the bound the longest idle make room, so that idle connections lock nobody out. */
static void evict_idle(struct conns *cs)
{
    int64_t now = clock_mono_ms();
    unsigned most = cs->ct / 4 + 1;
    struct conn *c, *next;

    FOREACH_SAFE(c, &cs->all, link, next)
    {
        if (c->state == CONN_IDLE && now - c->since > 1000 && most-- > 0)
            conn_close(c);
        if (most == 0)
            break;
    }
}

static void adopt(struct conns *cs, h2o_socket_t *sock)
{
    struct conn *c = xcalloc(1, sizeof(*c));
    unsigned stall = WRITE_STALL_MS;

    c->cs = cs;
    c->sock = sock;
    c->since = clock_mono_ms();
    TAILQ_INSERT_TAIL(&cs->all, c, link);
    cs->ct++;
    sock->on_close.cb = conn_closed;
    sock->on_close.data = c;
    setsockopt(h2o_socket_get_fd(sock), IPPROTO_TCP, TCP_USER_TIMEOUT, &stall, sizeof(stall));
    h2o_accept(&cs->accept, sock);
    c->inner = sock->_cb.read;
    sock->_cb.read = guard_read;
}

static void on_connect(h2o_socket_t *listener, const char *err)
{
    struct conns *cs = listener->data;
    struct server *s = cs->loop->server;

    if (err)
        return;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        h2o_socket_t *sock;

        if (atomic_fetch_add(&s->conn_ct, 1) >= s->cfg->max_connections) {
            atomic_fetch_sub(&s->conn_ct, 1);
            log_event(LOG_WARN_, "http.full", "connections", LOG_NUM(s->cfg->max_connections),
                      NULL);
            h2o_socket_read_stop(listener); /* until the sweep */
            evict_idle(cs);
            return;
        }
        errno = 0;
        sock = h2o_evloop_socket_accept(listener);
        if (!sock) {
            atomic_fetch_sub(&s->conn_ct, 1);
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                log_event(LOG_WARN_, "http.full", "error", strerror(errno), NULL);
                h2o_socket_read_stop(listener);
            }
            return;
        }
        adopt(cs, sock);
    }
}

static void listen_again(struct conns *cs)
{
    struct server *s = cs->loop->server;

    if (!cs->listener || !cs->open || h2o_socket_is_reading(cs->listener))
        return;
    if (atomic_load(&s->conn_ct) >= s->cfg->max_connections)
        evict_idle(cs);
    if (atomic_load(&s->conn_ct) < s->cfg->max_connections)
        h2o_socket_read_start(cs->listener, on_connect);
}

struct conns *conns_new(struct loop *l, int listen_fd)
{
    struct conns *cs = xcalloc(1, sizeof(*cs));

    cs->loop = l;
    TAILQ_INIT(&cs->all);
    TAILQ_INIT(&cs->loose);
    cs->accept.ctx = &l->ctx;
    cs->accept.hosts = l->server->h2o.hosts;
    cs->listener = h2o_evloop_socket_create(l->ctx.loop, listen_fd, H2O_SOCKET_FLAG_DONT_READ);
    cs->listener->data = cs;
    hloop_timer_start(l->hloop, SWEEP_MS, sweep, cs);
    return cs;
}

void conns_open(struct conns *cs)
{
    cs->open = true;
    listen_again(cs);
}

/* Who is in the queue of a listening socket that is closed would be reset. */
static void accept_waiting(struct conns *cs)
{
    struct pollfd p = {.fd = h2o_socket_get_fd(cs->listener), .events = POLLIN};
    struct server *s = cs->loop->server;

    for (int i = 0; i < BACKLOG_MAX && poll(&p, 1, 0) > 0; i += ACCEPTS_PER_TURN) {
        if (atomic_load(&s->conn_ct) >= s->cfg->max_connections)
            return;
        on_connect(cs->listener, NULL);
    }
}

void conns_drain(struct conns *cs)
{
    int64_t now = clock_mono_ms();
    struct conn *c, *next;

    if (!cs->listener)
        return;
    accept_waiting(cs);
    h2o_socket_close(cs->listener);
    cs->listener = NULL;
    h2o_context_request_shutdown(&cs->loop->ctx);
    FOREACH_SAFE(c, &cs->all, link, next)
    {
        if (c->state == CONN_IDLE && may_end(c, now))
            conn_close(c);
    }
}
