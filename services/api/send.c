#include "services/api/send.h"

#include "base/mem.h"
#include "services/api/problem.h"
#include "services/api/range.h"
#include "services/api/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WHOLE_BYTES (256u << 10) /* a file up to this is answered in one piece */
#define BYTES_TYPE  "application/octet-stream"

struct sending {
    struct reply_stream stream; /* first */
    struct core_reader *reader;
    struct call *call; /* until it is answered or streams */
    void (*failed)(struct call *c, const struct core_answer *a);
    char etag[SHA256_HEX + 32];
    bool reading, stopped;
    bool part; /* of it, and ranges are heeded */
    uint64_t begin, end;
    int status;
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
        reply_bytes(s->call, s->status, BYTES_TYPE, s->etag, a->bytes, a->len);
    else
        s->failed(s->call, a->status == CORE_OK ? &cut : a);
    sending_free(s);
}

/* The range that the client asks for, of `total` bytes, as in range.h; its headers are added. */
static int take_range(struct call *c, const char *etag, uint64_t total, uint64_t *from,
                      uint64_t *len)
{
    size_t text_len = 0, if_len = 0;
    const char *text = call_header(c, "range", &text_len);
    const char *only = call_header(c, "if-range", &if_len);
    char value[100], size[24] = "*";
    int r = 0;

    if (etag)
        snprintf(size, sizeof(size), "%" PRIu64, total);
    if (text && c->method == ROUTE_GET &&
        (!only || (etag && if_len == strlen(etag) && memcmp(only, etag, if_len) == 0)))
        r = range_parse(text, text_len, total, from, len);
    call_add_header(c, "accept-ranges", "bytes");
    if (r == 1)
        snprintf(value, sizeof(value), "bytes %" PRIu64 "-%" PRIu64 "/%s", *from, *from + *len - 1,
                 size);
    else
        snprintf(value, sizeof(value), "bytes */%" PRIu64, total);
    if (r != 0)
        call_add_header(c, "content-range", value);
    if (r < 0)
        problem(c, 416, "range-not-satisfiable",
                "The range begins behind the end: there are %" PRIu64 " bytes", total);
    return r;
}

void send_growing(struct call *c, const void *data, size_t len)
{
    uint64_t from = 0, part = len;
    int r = c->req ? take_range(c, NULL, len, &from, &part) : 0;

    if (r >= 0)
        reply_bytes(c, r ? 206 : 200, BYTES_TYPE, "", (const char *)data + from, part);
}

/* What of the file is to be sent; false when that was answered. */
static bool choose(struct sending *s)
{
    uint64_t size = core_read_size(s->reader), from = 0, len;
    int r;

    s->end = s->end < size ? s->end : size;
    s->begin = s->begin < s->end ? s->begin : s->end;
    len = s->end - s->begin;
    r = s->call->req ? take_range(s->call, s->etag, len, &from, &len) : 0;
    if (r < 0)
        return false;
    s->status = r ? 206 : 200;
    core_read_part(s->reader, s->begin + from, len, 0);
    s->left = len;
    return true;
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
    if (s->part && !choose(s)) {
        sending_free(s);
        return;
    }
    if (s->call->method == ROUTE_HEAD) {
        reply_bytes(s->call, 200, BYTES_TYPE, s->etag, "", s->left);
        sending_free(s);
    } else if (s->left <= WHOLE_BYTES) {
        core_read_next(s->reader, send_whole, s);
    } else {
        s->stream.next = stream_next;
        s->stream.stop = stream_stop;
        reply_stream_begin(TAKE_PTR(s->call), &s->stream, s->status, BYTES_TYPE, s->etag, s->left);
    }
}

static struct sending *sending_new(struct call *c, const char *sha256,
                                   void (*failed)(struct call *c, const struct core_answer *a))
{
    struct sending *s = xcalloc(1, sizeof(*s));

    s->call = c;
    s->failed = failed;
    s->status = 200;
    snprintf(s->etag, sizeof(s->etag), "\"%s\"", sha256);
    return s;
}

void send_stored(struct call *c, const char *sha256,
                 void (*failed)(struct call *c, const struct core_answer *a))
{
    struct sending *s = sending_new(c, sha256, failed);

    s->reader = core_read_open(c->loop->core, sha256, send_opened, s);
}

void send_stored_part(struct call *c, const char *sha256, uint64_t begin, uint64_t end,
                      void (*failed)(struct call *c, const struct core_answer *a))
{
    struct sending *s = sending_new(c, sha256, failed);

    s->part = true;
    s->begin = begin;
    s->end = end;
    if (begin > 0)
        snprintf(s->etag, sizeof(s->etag), "\"%s-%" PRIu64 "\"", sha256, begin);
    s->reader = core_read_open(c->loop->core, sha256, send_opened, s);
}
