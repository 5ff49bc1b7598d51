#ifndef MILONGA_MEM_H
#define MILONGA_MEM_H

/* Memory and descriptors with an owner: allocation that cannot fail (it aborts, stated once here)
 * and `cleanup` attributes for locals. `TAKE_PTR` and `TAKE_FD` hand a local on. */

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t bytes);
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t len);
void *xmemdup(const void *p, size_t len);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static inline void cleanup_freep(void *pp)
{
    free(*(void **)pp);
}

static inline void cleanup_closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#define cleanup_free  __attribute__((cleanup(cleanup_freep)))
#define cleanup_close __attribute__((cleanup(cleanup_closep)))

#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) take_ptr_ = (p);                                                             \
        (p) = NULL;                                                                                \
        take_ptr_;                                                                                 \
    })

static inline int take_fd(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}
#define TAKE_FD(fd) take_fd(&(fd))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Writes all of it, through EINTR and short writes. Returns 0 or -errno. */
int write_all(int fd, const void *data, size_t len);

/* Reads a whole file of at most max bytes; *ret is NUL-terminated beyond *ret_len and the caller's
 * to free. Returns 0 or -errno (-EFBIG when it is longer). */
int read_file(const char *path, size_t max, char **ret, size_t *ret_len);

#endif
