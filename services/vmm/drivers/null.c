#include "../machine.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "wire/frame.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Machines that are nowhere: a thread speaks the autodriver's part of the pipe and runs nothing.
 * For tests of everything above a driver, and to measure what everything above costs. It offers one
 * image, `null`.
 *
 * A job's files say how it goes, in a line anywhere among them:
 *
 *     # null: sleep_ms=50 output=2000 outcome=exited status=1
 *
 *   output=N    bytes of output instead of one greeting
 *   sleep_ms=N  how long it runs; its time limit, a cancel and its lease are heeded
 *   outcome=    as in the final record, status=N with it
 *   die=WHERE   the machine ends without a word: `loading`, `running`
 *   refuse=1    it says that it cannot unpack
 *   echo=1      what it prints, instead of a greeting, is the job and token of its header */

#define INPUT_KEPT (1 << 20) /* first bytes of the input that are searched for the line */
#define STACK      (256 << 10)
#define PIECE      16384

static const char greeting[] = "Hello from null\n";

struct null_machine {
    struct null_machine *next; /* backend's list */
    pthread_t thread;
    int in_fd, out_fd; /* the thread's ends */
    char name[160];
};

struct backend {
    pthread_mutex_t lock;
    struct null_machine *machines;
};

/* ---- the thread's side: frames ---- */

struct life {
    int in_fd, out_fd;
    struct buf in;
    size_t taken;
    struct buf input; /* of the job */
    uint64_t timeout_ms, lease_ms, output_bytes;
    char echo[128];
    const char *text; /* of which the output consists */
};

struct event {
    enum frame_type type;
    const char *data;
    uint32_t len;
};

static int tell(struct life *l, enum frame_type type, const void *data, size_t len)
{
    uint8_t head[FRAME_HEAD];
    struct iovec parts[2] = {{head, sizeof(head)}, {(void *)data, len}};
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};

    frame_head(head, type, (uint32_t)len);
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        ssize_t n = sendmsg(l->out_fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        for (int i = 0; i < 2; i++) {
            size_t step = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + step;
            parts[i].iov_len -= step;
            n -= (ssize_t)step;
        }
    }
    return 0;
}

static int tell_text(struct life *l, enum frame_type type, const char *text)
{
    return tell(l, type, text, strlen(text));
}

/* 1 with the next frame, -ETIMEDOUT, -EPIPE when the vmm has gone, -EPROTO. */
static int hear(struct life *l, int64_t deadline, struct event *ret)
{
    buf_consume(&l->in, l->taken);
    l->taken = 0;
    for (;;) {
        int rc =
            l->in.len > 0 ? frame_peek((uint8_t *)l->in.data, l->in.len, &ret->type, &ret->len) : 0;
        if (rc < 0)
            return rc;
        if (rc > 0) {
            ret->data = l->in.data + FRAME_HEAD;
            l->taken = FRAME_HEAD + ret->len;
            return 1;
        }
        struct pollfd p = {.fd = l->in_fd, .events = POLLIN};
        int n = poll(&p, 1, clock_until_ms(deadline));
        if (n == 0 && clock_mono_ms() >= deadline)
            return -ETIMEDOUT;
        if (n <= 0)
            continue;
        ssize_t got = recv(l->in_fd, buf_reserve(&l->in, PIECE), PIECE, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return -EPIPE;
        if (got > 0)
            l->in.len += (size_t)got;
    }
}

/* ---- the thread's side: a job ---- */

/* Finds a word of the line that steers us: its length, or -ENOENT. */
static int wish(const struct life *l, const char *key, const char **ret)
{
    static const char mark[] = "# null:";
    const char *at = l->input.len ? memmem(l->input.data, l->input.len, mark, strlen(mark)) : NULL;
    size_t key_len = strlen(key);

    if (!at)
        return -ENOENT;
    const char *end = memchr(at, '\n', (size_t)(l->input.data + l->input.len - at));
    if (!end)
        end = l->input.data + l->input.len;
    for (const char *p = at + strlen(mark); p < end;) {
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        const char *word = p;
        while (p < end && *p != ' ' && *p != '\t' && *p != '\0')
            p++;
        if ((size_t)(p - word) > key_len && word[key_len] == '=' &&
            memcmp(word, key, key_len) == 0) {
            *ret = word + key_len + 1;
            return (int)(p - *ret);
        }
        if (p < end && *p == '\0') /* what pads a file in a tar */
            break;
    }
    return -ENOENT;
}

static uint64_t wish_number(const struct life *l, const char *key, uint64_t otherwise)
{
    const char *text;

    return wish(l, key, &text) > 0 ? strtoull(text, NULL, 10) : otherwise;
}

static bool wish_is(const struct life *l, const char *key, const char *value)
{
    const char *text;
    int len = wish(l, key, &text);

    return len == (int)strlen(value) && memcmp(text, value, (size_t)len) == 0;
}

static uint64_t header_number(const struct event *e, const char *key)
{
    uint64_t v = 0;

    return frame_field_u64(e->data, e->len, key, &v) == 0 ? v : 0;
}

/* For who wants to know whose output it was that became feedback. */
static void note_echo(struct life *l, const struct event *e)
{
    const char *id = "", *token = "";
    int id_len = frame_field(e->data, e->len, "job", &id);
    int token_len = frame_field(e->data, e->len, "token", &token);

    snprintf(l->echo, sizeof(l->echo), "job %.*s token %.*s\n", id_len > 0 ? id_len : 0, id,
             token_len > 0 ? token_len : 0, token);
}

/* `len` bytes of lines, of which the first is at `from`. */
static int emit(struct life *l, uint64_t from, uint64_t len)
{
    char piece[PIECE];
    size_t text_len = strlen(l->text);

    while (len > 0) {
        size_t n = len < sizeof(piece) ? (size_t)len : sizeof(piece);
        for (size_t i = 0; i < n; i++)
            piece[i] = l->text[(from + i) % text_len];
        int rc = tell(l, FRAME_OUTPUT, piece, n);
        if (rc < 0)
            return rc;
        from += n;
        len -= n;
    }
    return 0;
}

/* Waits as long as the job runs, and says how it ended. NULL when nobody wants to know. */
static const char *run(struct life *l, int64_t started)
{
    int64_t end = started + (int64_t)wish_number(l, "sleep_ms", 0);
    const char *outcome = "exited";
    int64_t heard = started;

    if (l->timeout_ms > 0 && end > started + (int64_t)l->timeout_ms) {
        end = started + (int64_t)l->timeout_ms;
        outcome = "timed_out";
    }
    for (;;) {
        struct event e;
        int64_t lease = l->lease_ms > 0 ? heard + (int64_t)l->lease_ms : CLOCK_NEVER;
        int rc = hear(l, end < lease ? end : lease, &e);
        if (rc == -ETIMEDOUT)
            return clock_mono_ms() >= end ? outcome : NULL;
        if (rc < 0)
            return NULL;
        if (e.type == FRAME_CANCEL)
            return "cancelled";
        heard = clock_mono_ms();
    }
}

static void job(struct life *l)
{
    l->text = wish_is(l, "echo", "1") ? l->echo : greeting;
    uint64_t total = wish_number(l, "output", strlen(l->text));
    uint64_t half = l->output_bytes / 2;
    uint64_t head = total <= half || l->output_bytes == 0 ? total : half;
    uint64_t tail = total - head < half ? total - head : half;
    int64_t started = clock_mono_ms();
    char text[400], wished[32];
    const char *word;

    if (tell(l, FRAME_STARTED, NULL, 0) < 0 || emit(l, 0, head) < 0)
        return;
    const char *outcome = run(l, started);
    if (!outcome || wish_is(l, "die", "running") || emit(l, total - tail, tail) < 0)
        return;
    int len = wish(l, "outcome", &word);
    if (strcmp(outcome, "exited") == 0 && len > 0 && len < (int)sizeof(wished)) {
        memcpy(wished, word, (size_t)len);
        wished[len] = '\0';
        outcome = wished;
    }
    uint64_t status = wish_number(l, "status", 0);
    if (strcmp(outcome, "timed_out") == 0 || strcmp(outcome, "cancelled") == 0)
        status = 9;
    snprintf(text, sizeof(text),
             "outcome=%s\nstatus=%llu\noutput_total=%llu\nhead=%llu\nelided=%llu\nwall_ms=%lld\n"
             "cpu_ms=0\nmaxrss_kb=0\nkilled=0\n",
             outcome, (unsigned long long)status, (unsigned long long)total,
             (unsigned long long)head, (unsigned long long)(total - head - tail),
             (long long)(clock_mono_ms() - started));
    tell_text(l, FRAME_FINAL, text);
}

/* The input is complete. True when the machine goes on. */
static bool take_input(struct life *l)
{
    if (wish_is(l, "die", "loading"))
        return false;
    if (wish_is(l, "refuse", "1")) {
        tell_text(l, FRAME_ERROR, "the job says that its input is bad");
        return false;
    }
    return tell(l, FRAME_LOADED, NULL, 0) == 0;
}

/* Up to the job. True when it is to run. */
static bool load(struct life *l)
{
    struct event e;
    bool headed = false, loaded = false;
    int64_t heard = CLOCK_NEVER;

    if (tell_text(l, FRAME_READY, "version=1\n") < 0)
        return false;
    for (;;) {
        bool leased = headed && l->lease_ms > 0;
        if (hear(l, leased ? heard + (int64_t)l->lease_ms : CLOCK_NEVER, &e) < 0)
            return false;
        heard = clock_mono_ms();
        if (e.type == FRAME_HEADER && !headed) {
            headed = true;
            l->timeout_ms = header_number(&e, "timeout_ms");
            l->lease_ms = header_number(&e, "lease_ms");
            l->output_bytes = header_number(&e, "output_bytes");
            note_echo(l, &e);
        } else if (e.type == FRAME_TAR && headed && !loaded) {
            buf_append(&l->input, e.data, e.len); /* what does not fit is not searched */
        } else if (e.type == FRAME_TAR_END && headed && !loaded) {
            loaded = take_input(l);
            if (!loaded)
                return false;
        } else if (e.type == FRAME_GO && loaded) {
            return true;
        } else if (e.type == FRAME_CANCEL) {
            tell_text(l, FRAME_FINAL,
                      "outcome=cancelled\nstatus=0\noutput_total=0\nhead=0\nelided=0\n"
                      "wall_ms=0\ncpu_ms=0\nmaxrss_kb=0\nkilled=0\n");
            return false;
        } else if (e.type != FRAME_HEARTBEAT) {
            tell_text(l, FRAME_ERROR, "a frame out of turn");
            return false;
        }
    }
}

static void *null_thread(void *arg)
{
    struct null_machine *n = arg;
    struct life l = {.in_fd = n->in_fd, .out_fd = n->out_fd};

    buf_init(&l.in, FRAME_HEAD + FRAME_MAX + 2 * PIECE);
    buf_init(&l.input, INPUT_KEPT);
    if (load(&l))
        job(&l);
    buf_free(&l.in);
    buf_free(&l.input);
    /* The end of the machine, which the vmm reads as the end of the pipe; the numbers stay taken
     * until destroy. */
    shutdown(n->in_fd, SHUT_RDWR);
    shutdown(n->out_fd, SHUT_RDWR);
    return NULL;
}

/* ---- the driver ---- */

static int null_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    (void)cfg;
    (void)err;
    struct backend *b = xcalloc(1, sizeof(*b));
    pthread_mutex_init(&b->lock, NULL);
    *ret = b;
    return 0;
}

static void null_close(struct backend *b)
{
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static int null_health(struct backend *b, struct error *err)
{
    (void)b;
    (void)err;
    return 0;
}

static int null_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                       void *arg, struct error *err)
{
    (void)b;
    (void)err;
    each(arg, &(struct image_entry){"null", "null:1"});
    return 0;
}

static int begin_thread(struct null_machine *n)
{
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    int rc = pthread_create(&n->thread, &attr, null_thread, n);
    pthread_attr_destroy(&attr);
    return rc;
}

static int null_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                           int cancel_fd, struct machine **ret, struct error *err)
{
    (void)deadline;
    (void)cancel_fd;
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    int type = SOCK_STREAM | SOCK_CLOEXEC;

    if (socketpair(AF_UNIX, type, 0, in) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "socketpair");
    struct machine *m = machine_new(&driver_null, b, spec);
    struct null_machine *n = xcalloc(1, sizeof(*n));
    m->priv = n;
    m->in_fd = in[0];
    n->in_fd = in[1];
    n->out_fd = -1;
    snprintf(n->name, sizeof(n->name), "%s", spec->name);
    int rc = socketpair(AF_UNIX, type, 0, out) < 0 ? errno : 0;
    if (rc == 0) {
        m->out_fd = out[0];
        n->out_fd = out[1];
        rc = begin_thread(n);
    }
    if (rc != 0) {
        close(n->in_fd);
        if (n->out_fd >= 0)
            close(n->out_fd);
        free(n);
        machine_free(m);
        return err_set_errno(err, ERR_TEMPORARY, rc, "a machine's thread");
    }
    pthread_mutex_lock(&b->lock);
    n->next = b->machines;
    b->machines = n;
    pthread_mutex_unlock(&b->lock);
    m->made_ms = clock_mono_ms();
    *ret = m;
    return 0;
}

static ssize_t null_read(struct machine *m, void *data, size_t len)
{
    ssize_t n = recv(m->out_fd, data, len, MSG_DONTWAIT);

    return n < 0 ? -errno : n;
}

static void null_destroy(struct machine *m, int64_t deadline)
{
    struct null_machine *n = m->priv;
    struct backend *b = m->backend;

    (void)deadline;
    pthread_mutex_lock(&b->lock);
    for (struct null_machine **at = &b->machines; *at; at = &(*at)->next)
        if (*at == n) {
            *at = n->next;
            break;
        }
    pthread_mutex_unlock(&b->lock);
    /* Wakes the thread from whatever it waits for. */
    shutdown(n->in_fd, SHUT_RDWR);
    shutdown(n->out_fd, SHUT_RDWR);
    pthread_join(n->thread, NULL);
    close(n->in_fd);
    close(n->out_fd);
    free(n);
    machine_free(m);
}

static int null_list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                     struct error *err)
{
    (void)err;
    pthread_mutex_lock(&b->lock);
    for (const struct null_machine *n = b->machines; n; n = n->next)
        each(arg, n->name);
    pthread_mutex_unlock(&b->lock);
    return 0;
}

/* It ends; who holds it still destroys it. */
static int null_reap(struct backend *b, const char *name, struct error *err)
{
    (void)err;
    pthread_mutex_lock(&b->lock);
    for (const struct null_machine *n = b->machines; n; n = n->next)
        if (strcmp(n->name, name) == 0) {
            shutdown(n->in_fd, SHUT_RDWR);
            shutdown(n->out_fd, SHUT_RDWR);
        }
    pthread_mutex_unlock(&b->lock);
    return 0;
}

const struct driver driver_null = {
    .name = "null",
    .open = null_open,
    .close = null_close,
    .health = null_health,
    .images = null_images,
    .initialize = null_initialize,
    .read = null_read,
    .destroy = null_destroy,
    .list = null_list,
    .reap = null_reap,
};
