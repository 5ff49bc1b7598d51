#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static _Noreturn void out_of_memory(void)
{
    static const char text[] = "out of memory\n";

    /* no stdio: it may want memory itself */
    ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)n;
    abort();
}

void *xmalloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);

    if (!p)
        out_of_memory();
    return p;
}

void *xcalloc(size_t count, size_t bytes)
{
    void *p = count && bytes ? calloc(count, bytes) : calloc(1, 1);

    if (!p)
        out_of_memory();
    return p;
}

void *xrealloc(void *p, size_t bytes)
{
    void *q = realloc(p, bytes ? bytes : 1);

    if (!q)
        out_of_memory();
    return q;
}

char *xstrdup(const char *s)
{
    return xmemdup(s, strlen(s) + 1);
}

char *xstrndup(const char *s, size_t len)
{
    len = strnlen(s, len);
    char *p = xmalloc(len + 1);

    memcpy(p, s, len);
    p[len] = '\0';
    return p;
}

void *xmemdup(const void *p, size_t len)
{
    void *q = xmalloc(len);

    if (len)
        memcpy(q, p, len);
    return q;
}

char *xasprintf(const char *fmt, ...)
{
    char *s;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        out_of_memory();
    return s;
}

int write_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int read_file(const char *path, size_t max, char **ret, size_t *ret_len)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;

    /* Sizes of files in /proc are 0 and others grow while we look, so it is read to its end. */
    cleanup_free char *text = NULL;
    size_t len = 0, cap = 0;
    for (;;) {
        if (len == cap) {
            if (cap > SIZE_MAX / 4)
                return -EFBIG;
            cap = cap ? cap * 2 : 4096;
            text = xrealloc(text, cap + 1);
        }
        ssize_t n = read(fd, text + len, cap - len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0)
            break;
        len += (size_t)n;
        if (len > max)
            return -EFBIG;
    }
    text[len] = '\0';
    *ret = TAKE_PTR(text);
    if (ret_len)
        *ret_len = len;
    return 0;
}
