#include "docker_http.h"

#include "base/clock.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* What is spoken is the engine's own version within these: older ones lack what we ask of a
 * container, newer ones we have not seen. */
#define REMOVE_GRACE_MS 1500
#define API_MINOR_MIN   40
#define API_MINOR_MAX   47

#define IDLE_MAX        16 /* connections kept for later calls */
#define REPLY_MAX       (1 << 20)
#define ATTACH_HEAD_MAX 4096

/* A connection: curl keeps it in the multi, so both stay together. */
struct channel {
    struct channel *next;
    CURLM *multi;
    CURL *easy;
};

struct engine {
    char *socket_path;
    int stop_fd; /* -1: none */
    atomic_uint api_minor;
    pthread_mutex_t lock; /* of what follows */
    struct channel *idle;
    unsigned idle_ct;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int engine_new(const char *url, struct engine **ret, struct error *err)
{
    static const char scheme[] = "unix://";
    struct sockaddr_un addr;

    if (strncmp(url, scheme, strlen(scheme)) != 0)
        return err_set(
            err, ERR_PERMANENT, EPROTONOSUPPORT,
            "docker_url = %s: only unix:///path is spoken; for an engine on another host set "
            "driver = docker-hosts and a line docker_host = NAME URL",
            url);
    const char *path = url + strlen(scheme);
    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, ERR_PERMANENT, ENAMETOOLONG,
                       "docker_url = %s: the path is over %zu bytes; give a shorter one", url,
                       sizeof(addr.sun_path) - 1);
    pthread_once(&curl_once, curl_start);
    struct engine *e = xcalloc(1, sizeof(*e));
    e->socket_path = xstrdup(path);
    e->stop_fd = -1;
    e->api_minor = API_MINOR_MIN;
    pthread_mutex_init(&e->lock, NULL);
    *ret = e;
    return 0;
}

void engine_stop_fd(struct engine *e, int fd)
{
    e->stop_fd = fd;
}

static void channel_free(struct channel *c)
{
    if (c->easy)
        curl_easy_cleanup(c->easy);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    free(c);
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    while (e->idle) {
        struct channel *c = e->idle;
        e->idle = c->next;
        channel_free(c);
    }
    pthread_mutex_destroy(&e->lock);
    free(e->socket_path);
    free(e);
}

static struct channel *channel_take(struct engine *e)
{
    pthread_mutex_lock(&e->lock);
    struct channel *c = e->idle;
    if (c) {
        e->idle = c->next;
        e->idle_ct--;
    }
    pthread_mutex_unlock(&e->lock);
    if (c)
        return c;
    c = xcalloc(1, sizeof(*c));
    c->multi = curl_multi_init();
    c->easy = curl_easy_init();
    if (!c->multi || !c->easy)
        abort(); /* out of memory: mem.h */
    return c;
}

static void channel_give(struct engine *e, struct channel *c, bool sound)
{
    if (sound) {
        curl_easy_reset(c->easy);
        pthread_mutex_lock(&e->lock);
        sound = e->idle_ct < IDLE_MAX;
        if (sound) {
            c->next = e->idle;
            e->idle = c;
            e->idle_ct++;
        }
        pthread_mutex_unlock(&e->lock);
    }
    if (!sound)
        channel_free(c);
}

/* ---- a call ---- */

struct transfer {
    const struct engine_call *call;
    struct engine_reply reply;
    int64_t sent; /* of an upload */
    bool too_long;
};

static size_t on_body(char *data, size_t one, size_t len, void *arg)
{
    struct transfer *t = arg;

    if (buf_append(&t->reply.body, data, one * len) == 0)
        return one * len;
    t->too_long = true;
    return 0;
}

static size_t on_header(char *data, size_t one, size_t len, void *arg)
{
    static const char name[] = "api-version: 1.";
    struct transfer *t = arg;
    char line[40];

    if (len > strlen(name) && len < sizeof(line) && strncasecmp(data, name, strlen(name)) == 0) {
        memcpy(line, data, len);
        line[len] = '\0';
        t->reply.api_minor = (unsigned)strtoul(line + strlen(name), NULL, 10);
    }
    return one * len;
}

/* By offset, so that curl can begin anew on a fresh connection. */
static size_t on_upload(char *data, size_t one, size_t len, void *arg)
{
    struct transfer *t = arg;
    ssize_t n;

    do
        n = pread(t->call->upload->fd, data, one * len, t->sent);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return CURL_READFUNC_ABORT;
    t->sent += n;
    return (size_t)n;
}

static int on_rewind(void *arg, curl_off_t offset, int origin)
{
    struct transfer *t = arg;

    if (origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    t->sent = offset;
    return CURL_SEEKFUNC_OK;
}

static void set_up(CURL *c, struct engine *e, struct transfer *t, const char *url, char *body,
                   struct curl_slist *headers)
{
    const struct engine_call *call = t->call;

    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, e->socket_path);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*"); /* the environment has no say */
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    int left = clock_until_ms(call->deadline);
    if (left >= 0) /* the loop ends it sooner; this is the net below, with the grace on top */
        curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)left + call->grace_ms + 1000);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    if (call->upload) {
        curl_easy_setopt(c, CURLOPT_POST, 1L);
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->upload->len);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_upload);
        curl_easy_setopt(c, CURLOPT_READDATA, t);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_rewind);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, t);
        curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 256L << 10);
        if (strcmp(call->method, "POST") != 0)
            curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, call->method);
    } else if (strcmp(call->method, "POST") == 0) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body ? body : "");
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)(body ? strlen(body) : 0));
    } else if (strcmp(call->method, "GET") != 0) {
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, call->method);
    }
}

static int ended(CURLM *multi, const struct transfer *t, struct engine *e, struct error *err)
{
    int left;
    CURLMsg *msg = curl_multi_info_read(multi, &left);

    if (msg && msg->msg == CURLMSG_DONE && msg->data.result == CURLE_OK)
        return 0;
    if (t->too_long)
        return err_set(err, ERR_TEMPORARY, EFBIG, "engine's answer to %s is over %zu bytes",
                       t->call->path, t->reply.body.max);
    CURLcode code = msg ? msg->data.result : CURLE_RECV_ERROR;
    return err_set(err, ERR_TEMPORARY, code == CURLE_OPERATION_TIMEDOUT ? ETIMEDOUT : EIO,
                   "engine at %s: %s", e->socket_path, curl_easy_strerror(code));
}

static int drive(CURLM *multi, struct transfer *t, struct engine *e, struct error *err)
{
    const struct engine_call *call = t->call;
    int cancel_fd = call->cancel_fd >= 0 ? call->cancel_fd : e->stop_fd;
    bool removes = call->cancel_fd < 0 && strcmp(call->method, "DELETE") == 0;
    int64_t deadline = call->deadline, grace_ms = removes ? REMOVE_GRACE_MS : call->grace_ms;
    bool cancelled = false;

    for (;;) {
        int running = 0;
        CURLMcode rc = curl_multi_perform(multi, &running);
        if (rc != CURLM_OK)
            return err_set(err, ERR_TEMPORARY, EIO, "engine at %s: %s", e->socket_path,
                           curl_multi_strerror(rc));
        if (!running)
            break;
        int wait_ms = clock_until_ms(deadline);
        if (wait_ms == 0)
            return err_set(err, ERR_TEMPORARY, cancelled ? ECANCELED : ETIMEDOUT,
                           "engine did not answer %s %s in time", call->method, call->path);
        struct curl_waitfd extra = {.fd = cancel_fd, .events = CURL_WAIT_POLLIN};
        bool watch = cancel_fd >= 0 && !cancelled;
        curl_multi_poll(multi, &extra, watch ? 1 : 0, wait_ms < 0 ? 60000 : wait_ms, NULL);
        if (watch && extra.revents) {
            int64_t until = clock_mono_ms() + grace_ms;
            if (grace_ms == 0)
                return err_set(err, ERR_TEMPORARY, ECANCELED, "%s %s was cancelled", call->method,
                               call->path);
            cancelled = true;
            if (until < deadline)
                deadline = until;
        }
    }
    return ended(multi, t, e, err);
}

int engine_call(struct engine *e, const struct engine_call *c, struct engine_reply *ret,
                struct error *err)
{
    struct transfer t = {.call = c};
    cleanup_free char *url = xasprintf("http://engine/v1.%u%s", e->api_minor, c->path);
    cleanup_free char *body = c->json ? json_dumps(c->json, JSON_COMPACT) : NULL;
    const char *type =
        c->upload ? "Content-Type: application/x-tar" : "Content-Type: application/json";
    struct curl_slist *headers = curl_slist_append(NULL, type);

    buf_init(&t.reply.body, c->reply_max ? c->reply_max : REPLY_MAX);
    struct channel *channel = channel_take(e);
    set_up(channel->easy, e, &t, url, body, headers);
    curl_multi_add_handle(channel->multi, channel->easy);
    int rc = drive(channel->multi, &t, e, err);
    if (rc == 0)
        curl_easy_getinfo(channel->easy, CURLINFO_RESPONSE_CODE, &t.reply.status);
    curl_multi_remove_handle(channel->multi, channel->easy);
    channel_give(e, channel, rc == 0);
    curl_slist_free_all(headers);
    if (rc < 0)
        buf_free(&t.reply.body);
    else
        *ret = t.reply;
    return rc;
}

void engine_reply_done(struct engine_reply *r)
{
    buf_free(&r->body);
}

/* ---- answers ---- */

/* {"message": "..."} as one line; what is not that, as it stands. */
static void engine_message(const struct buf *body, char *out, size_t size)
{
    json_t *doc = body->len ? json_loadb(body->data, body->len, 0, NULL) : NULL;
    const char *text = json_string_value(json_object_get(doc, "message"));

    if (!text)
        text = body->len ? body->data : "no reason given";
    snprintf(out, size, "%s", text);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = ' ';
    /* Not in the middle of a character. */
    size_t len = strlen(out);
    if (len == size - 1)
        while (len > 0 && (out[--len] & 0x80))
            out[len] = '\0';
    json_decref(doc);
}

int engine_refusal(const struct engine_reply *r, struct error *err, const char *fmt, ...)
{
    char what[200], message[220];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    engine_message(&r->body, message, sizeof(message));
    bool refused = r->status == 400 || r->status == 404;
    return err_set(err, refused ? ERR_REFUSED : ERR_TEMPORARY,
                   r->status == 404   ? ENOENT
                   : r->status == 409 ? EEXIST
                   : refused          ? EINVAL
                                      : EIO,
                   "%s: engine says %ld: %s", what, r->status, message);
}

int engine_get(struct engine *e, const char *path, int64_t deadline, int cancel_fd, json_t **ret,
               struct error *err)
{
    struct engine_call c = {.method = "GET",
                            .path = path,
                            .deadline = deadline,
                            .cancel_fd = cancel_fd,
                            .reply_max = 32 << 20};
    struct engine_reply r;
    json_error_t why;

    int rc = engine_call(e, &c, &r, err);
    if (rc < 0)
        return rc;
    if (r.status != 200) {
        rc = engine_refusal(&r, err, "GET %s", path);
    } else {
        json_t *doc = json_loadb(r.body.len ? r.body.data : "", r.body.len, 0, &why);
        if (doc)
            *ret = doc;
        else
            rc = err_set(err, ERR_TEMPORARY, EPROTO, "engine's answer to %s is not JSON: %s", path,
                         why.text);
    }
    engine_reply_done(&r);
    return rc;
}

int engine_ping(struct engine *e, int64_t deadline, struct error *err)
{
    struct engine_call c = {
        .method = "GET", .path = "/_ping", .deadline = deadline, .cancel_fd = -1};
    struct engine_reply r;

    int rc = engine_call(e, &c, &r, err);
    if (rc < 0)
        return rc;
    /* Asked with a version that it does not speak, a new engine says 400, and its own in the
     * header. */
    if (r.status != 200 && !(r.status == 400 && r.api_minor > e->api_minor)) {
        rc = engine_refusal(&r, err, "ping");
        if (err && err->class == ERR_REFUSED)
            err->class = ERR_TEMPORARY;
    } else if (r.api_minor < API_MINOR_MIN) {
        rc = err_set(err, ERR_PERMANENT, EPROTONOSUPPORT,
                     "engine at %s speaks API 1.%u and 1.%d is needed; use Docker 19.03 or newer",
                     e->socket_path, r.api_minor, API_MINOR_MIN);
    } else {
        e->api_minor = r.api_minor < API_MINOR_MAX ? r.api_minor : API_MINOR_MAX;
    }
    engine_reply_done(&r);
    return rc;
}

/* ---- attach ---- */

static int dial(struct engine *e, int *ret, struct error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval most = {.tv_sec = 5}, none = {0};

    /* engine_new() saw that it fits. */
    memcpy(addr.sun_path, e->socket_path, strlen(e->socket_path) + 1);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "socket");
    /* A listener whose queue is full would hold us for ever. */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "connect to the engine at %s",
                             e->socket_path);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
    *ret = TAKE_FD(fd);
    return 0;
}

/* Waits for fd within the deadline and until cancelled. */
static int await(int fd, int64_t deadline, int cancel_fd, struct error *err)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    int n = poll(fds, 2, clock_until_ms(deadline));

    if (n > 0 && fds[1].revents)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "attach was cancelled");
    if (n == 0 && clock_mono_ms() >= deadline)
        return err_set(err, ERR_TEMPORARY, ETIMEDOUT, "engine did not answer attach in time");
    return 0;
}

/* Up to the empty line and not a byte further, for what follows is the stream's. A byte a call:
 * there are about 200. */
static int read_head(int fd, int64_t deadline, int cancel_fd, struct buf *head, struct error *err)
{
    while (head->len < 4 || memcmp(head->data + head->len - 4, "\r\n\r\n", 4) != 0) {
        char c;
        ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return err_set(err, ERR_TEMPORARY, EPIPE, "engine closed the connection on attach");
        if (n < 0) {
            int rc = await(fd, deadline, cancel_fd, err);
            if (rc < 0)
                return rc;
        } else if (buf_append(head, &c, 1) < 0) {
            return err_set(err, ERR_TEMPORARY, EPROTO, "engine's answer to attach has no end");
        }
    }
    return 0;
}

/* What it says instead of attaching; a piece of it will do. */
static int attach_refused(int fd, long status, int64_t deadline, int cancel_fd, struct error *err)
{
    struct engine_reply r = {.status = status, .body = BUF_INIT(2048)};
    int rc = await(fd, deadline, cancel_fd, err);

    if (rc == 0) {
        ssize_t n = recv(fd, buf_reserve(&r.body, 1024), 1024, MSG_DONTWAIT);
        r.body.len = n > 0 ? (size_t)n : 0;
        if (r.body.data)
            r.body.data[r.body.len] = '\0';
        rc = engine_refusal(&r, err, "attach");
    }
    buf_free(&r.body);
    return rc;
}

int engine_attach(struct engine *e, const char *container, int64_t deadline, int cancel_fd,
                  int *ret_fd, struct error *err)
{
    cleanup_buf struct buf head = BUF_INIT(ATTACH_HEAD_MAX);
    cleanup_close int fd = -1;
    unsigned status = 0;

    int rc = dial(e, &fd, err);
    if (rc < 0)
        return rc;
    buf_printf(&head,
               "POST /v1.%u/containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
               "Host: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
               e->api_minor, container);
    /* A fresh socket takes so little whole. */
    if (send(fd, head.data, head.len, MSG_NOSIGNAL) != (ssize_t)head.len)
        return err_set_errno(err, ERR_TEMPORARY, errno, "write to the engine");
    buf_clear(&head);
    rc = read_head(fd, deadline, cancel_fd, &head, err);
    if (rc < 0)
        return rc;
    if (sscanf(head.data, "HTTP/1.%*1[01] %3u", &status) != 1)
        return err_set(err, ERR_TEMPORARY, EPROTO, "engine's answer to attach is not HTTP");
    if (status != 101 && status != 200)
        return attach_refused(fd, (long)status, deadline, cancel_fd, err);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "fcntl");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

ssize_t engine_strip(struct engine_demux *d, uint8_t *data, size_t len)
{
    uint8_t *out = data;
    const uint8_t *in = data, *end = data + len;

    while (in < end) {
        if (d->left == 0) {
            d->head[d->have++] = *in++;
            if (d->have < sizeof(d->head))
                continue;
            d->have = 0;
            d->left = (uint32_t)d->head[4] << 24 | (uint32_t)d->head[5] << 16 |
                      (uint32_t)d->head[6] << 8 | d->head[7];
            if (d->head[0] > 2 || d->head[1] || d->head[2] || d->head[3])
                return -EPROTO;
            continue;
        }
        size_t n = (size_t)(end - in) < d->left ? (size_t)(end - in) : d->left;
        if (d->head[0] == 1) {
            memmove(out, in, n);
            out += n;
        }
        in += n;
        d->left -= (uint32_t)n;
    }
    return out - data;
}
