#ifndef MILONGA_API_SSE_H
#define MILONGA_API_SSE_H

/* An answer of Server-Sent Events. What a stream is about is its user's; here is what all have in
 * common: one event is under way at a time and the rest waits where it came from (so a slow client
 * costs no memory), a comment line keeps it alive, a client that is gone is noticed within a
 * second, one that takes nothing any more by the kernel, and a server that drains ends its streams.
 * One loop; a stream is freed after stop(). */

#include "services/api/reply.h"

#include <sys/queue.h>

/* Text that several streams may be sending at once; one loop, so no lock. */
struct sse_text {
    unsigned refs;
    size_t len;
    char data[];
};
struct sse_text *sse_text_new(const char *data, size_t len); /* one reference */
struct sse_text *sse_text_ref(struct sse_text *t);
void sse_text_unref(struct sse_text *t);

struct sse {
    struct reply_stream stream; /* first */
    struct loop *loop;
    /* The client can take something: calls sse_send(), sse_end(), or nothing and sse_poke() later.
     */
    void (*pump)(struct sse *s);
    void (*stop)(struct sse *s); /* it is over, whoever ended it; the user frees it */
    bool
        busy; /* the user's: what it will send is on its way, so no comment may be sent meanwhile */
    TAILQ_ENTRY(sse) link; /* the rest is sse.c's */
    struct sse_text *sending;
    bool begun, greeted, ready, pumping, ending;
    int64_t sent_ms;
};

/* Before anything is promised: is there room for another one? Then it is held for this call until
 * sse_begin() or the call's end. Answers 429 and returns false when not. */
bool sse_room(struct call *c);
/* For the call's end. */
void sse_leave(struct call *c);

/* Begins the answer, which ends the call; pump() is called at once. When the client is gone, stop()
 * is. */
void sse_begin(struct sse *s, struct call *c);

/* In pump() only. Takes the reference. */
void sse_send(struct sse *s, struct sse_text *t);
/* The same for one event; `id` may be NULL. */
void sse_event(struct sse *s, const char *name, const char *id, const char *data, size_t len);
/* The last event was sent. In pump() only, whose last act it is: then it ends in stop(). */
void sse_end(struct sse *s);

/* There may be something to send: pump() is called when the client is ready. May end in stop(). */
void sse_poke(struct sse *s);

struct streams *streams_new(struct loop *l);

#endif
