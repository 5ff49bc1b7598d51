#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Invariant: data is NULL with cap 0, or holds cap + 1 bytes, so that the NUL always has its place
 * and `cap` counts payload only. len <= cap <= max. */

#define FIRST_CAP 120

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf)BUF_INIT(max);
}

void buf_free(struct buf *b)
{
    free(b->data);
    buf_init(b, b->max);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

char *buf_reserve(struct buf *b, size_t len)
{
    if (len > b->max - b->len)
        return NULL;
    size_t need = b->len + len;
    if (!b->data || need > b->cap) {
        size_t cap = b->cap > SIZE_MAX / 4 ? need : b->cap * 2;
        if (cap < FIRST_CAP)
            cap = FIRST_CAP;
        if (cap < need)
            cap = need;
        if (cap > b->max)
            cap = b->max;
        if (cap == SIZE_MAX)
            return NULL;
        b->data = xrealloc(b->data, cap + 1);
        b->cap = cap;
        b->data[b->len] = '\0';
    }
    return b->data + b->len;
}

int buf_append(struct buf *b, const void *data, size_t len)
{
    char *to = buf_reserve(b, len);

    if (!to)
        return -ENOSPC;
    if (len)
        memcpy(to, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return 0;
}

int buf_appends(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return to ? 0 : -ENOSPC;
}

void buf_consume(struct buf *b, size_t len)
{
    if (len >= b->len) {
        buf_clear(b);
        return;
    }
    b->len -= len;
    memmove(b->data, b->data + len, b->len + 1);
}

char *buf_detach(struct buf *b)
{
    char *data = b->data ? b->data : xstrdup("");

    buf_init(b, b->max);
    return data;
}
