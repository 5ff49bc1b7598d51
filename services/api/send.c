#include "services/api/send.h"

#include "base/mem.h"
#include "services/api/reply.h"

#include <stdio.h>

#define WHOLE_BYTES (256u << 10) /* a file up to this is answered in one piece */
#define BYTES_TYPE  "application/octet-stream"

struct sending {
    struct reply_stream stream; /* first */
    struct core_reader *reader;
    struct call *call; /* until it is answered or streams */
    void (*failed)(struct call *c, const struct core_answer *a);
    char etag[SHA256_HEX + 3];
    bool reading, stopped;
    uint64_t left;
};

static void sending_free(struct sending *s)
{
    core_read_close(s->reader);
    free(s);
}

static void stream_piece(void *arg, const struct core_answer *a)
{
    struct sending *s = arg;

    s->reading = false;
    if (s->stopped) {
        sending_free(s);
    } else if (a->status != CORE_OK || a->len == 0 || a->len > s->left) {
        reply_stream_fail(&s->stream);
    } else {
        s->left -= a->len;
        reply_stream_send(&s->stream, a->bytes, a->len, s->left == 0);
    }
}

static void stream_next(struct reply_stream *stream)
{
    struct sending *s = (struct sending *)stream;

    s->reading = true;
    core_read_next(s->reader, stream_piece, s);
}

static void stream_stop(struct reply_stream *stream)
{
    struct sending *s = (struct sending *)stream;

    s->stopped = true;
    if (!s->reading)
        sending_free(s);
}

static void send_whole(void *arg, const struct core_answer *a)
{
    struct sending *s = arg;
    struct core_answer cut = {.status = CORE_FAILED, .why = "The file is cut short in the store"};

    if (a->status == CORE_OK && a->len == s->left)
        reply_bytes(s->call, 200, BYTES_TYPE, s->etag, a->bytes, a->len);
    else
        s->failed(s->call, a->status == CORE_OK ? &cut : a);
    sending_free(s);
}

static void send_opened(void *arg, const struct core_answer *a)
{
    struct sending *s = arg;

    if (a->status != CORE_OK) {
        s->failed(s->call, a);
        sending_free(s);
        return;
    }
    s->left = core_read_size(s->reader);
    if (s->call->method == ROUTE_HEAD) {
        reply_bytes(s->call, 200, BYTES_TYPE, s->etag, "", s->left);
        sending_free(s);
    } else if (s->left <= WHOLE_BYTES) {
        core_read_next(s->reader, send_whole, s);
    } else {
        s->stream.next = stream_next;
        s->stream.stop = stream_stop;
        reply_stream_begin(TAKE_PTR(s->call), &s->stream, BYTES_TYPE, s->etag, s->left);
    }
}

void send_stored(struct call *c, const char *sha256,
                 void (*failed)(struct call *c, const struct core_answer *a))
{
    struct sending *s = xcalloc(1, sizeof(*s));

    s->call = c;
    s->failed = failed;
    snprintf(s->etag, sizeof(s->etag), "\"%s\"", sha256);
    s->reader = core_read_open(c->loop->core, sha256, send_opened, s);
}
