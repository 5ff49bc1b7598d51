#ifndef MILONGA_CLIENT_SSE_H
#define MILONGA_CLIENT_SSE_H

/* A parser of text/event-stream (HTML, section 9.2.6): bytes in, events out. Lines end with LF, CR
 * or CRLF, wherever the pieces are cut. */

#include "base/buf.h"

#include <stdbool.h>

#define SSE_LINE_MAX (1024 * 1024)

struct sse {
    struct buf line;
    struct buf data;
    char event[64];
    char id[256]; /* of the last event that had one; where to go on from */
    bool after_cr;
    bool has_data;
};

void sse_init(struct sse *s);
void sse_done(struct sse *s);

/* A new connection: half an event is forgotten, the id is kept. */
void sse_restart(struct sse *s);

/* 0; or the first non-zero that `take` returned (the rest is not read then); -EMSGSIZE for a line
 * or event over SSE_LINE_MAX. */
int sse_feed(struct sse *s, const char *bytes, size_t len,
             int (*take)(void *arg, const char *event, const char *data), void *arg);

#endif
