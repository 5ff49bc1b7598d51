#ifndef MILONGA_API_REPLY_H
#define MILONGA_API_REPLY_H

/* Answers. Every reply_* ends the call. */

#include "services/api/call.h"
#include "services/api/out.h"

/* `type` of an answer without a body is NULL. */
/* 200 with JSON. */
void reply_json(struct call *c, const struct buf *b);
/* 200 with {"statusId": ..., "statusMsg": ...}. */
void reply_status(struct call *c, int status_id, const char *text);
/* An error page, as Tornado's: 400, 404, 405, 413, 500, 503. */
void reply_html(struct call *c, int status);
/* `etag` "": none; NULL: the quoted SHA-1 of a GET's body; an If-None-Match of it gets a 304. */
void reply_bytes(struct call *c, int status, const char *type, const char *etag, const void *data,
                 size_t len);

/* The same page for a connection whose request h2o has not handed on: *ret is the caller's to free.
 */
const char *reply_reason(int status);
char *reply_page(int status);

/* An answer in pieces. Once begun, the call is over for its handler and its own state is kept until
 * stream->stop is called: after the last piece, or when the client is gone. */
struct reply_stream {
    h2o_generator_t generator; /* first */
    h2o_req_t *req;
    void (*next)(struct reply_stream *s); /* wants reply_stream_send() */
    void (*stop)(struct reply_stream *s); /* the last call; frees it */
};
/* len SIZE_MAX: it is not known. 1: begun, and `next` was called; 0: answered 304, `stop` was
 * called. */
int reply_stream_begin(struct call *c, struct reply_stream *s, int status, const char *type,
                       const char *etag, size_t len);
/* `data` must live until the next call of `next` or `stop`. */
void reply_stream_send(struct reply_stream *s, const void *data, size_t len, bool last);
/* What was promised can not be sent: cuts the connection. */
void reply_stream_fail(struct reply_stream *s);

#endif
