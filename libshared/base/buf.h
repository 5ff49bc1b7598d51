#ifndef MILONGA_BUF_H
#define MILONGA_BUF_H

/* A growing byte buffer with a bound that is set when it is made. `data` is never NULL after the
 * first append and is always NUL-terminated beyond `len`, so that it may be used as a C string. The
 * owner calls buf_free(); buf_detach() is the only other exit. Not for sharing between threads. */

#include <stddef.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max; /* bytes; an append that would pass it fails and changes nothing */
};

#define BUF_INIT(max_bytes)                                                                        \
    {                                                                                              \
        .max = (max_bytes)                                                                         \
    }
#define cleanup_buf __attribute__((cleanup(buf_free)))

void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b);
void buf_clear(struct buf *b);

/* Each returns 0, or -ENOSPC with the buffer as it was. */
int buf_append(struct buf *b, const void *data, size_t len);
int buf_appends(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Room for `len` more bytes at the end; returns where to write them, NULL at the bound. The caller
 * then adds what it wrote to b->len (and buf_append()s or terminates as it needs). */
char *buf_reserve(struct buf *b, size_t len);

/* Drops the first `len` bytes. */
void buf_consume(struct buf *b, size_t len);

/* Hands the bytes to the caller, who frees them; the buffer is empty again. Never NULL. */
char *buf_detach(struct buf *b);

#endif
