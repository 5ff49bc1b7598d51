#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int why_set(struct why *why, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why->text, sizeof(why->text), fmt, ap);
    va_end(ap);
    return -1;
}

int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int write_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

ssize_t read_file(const char *path, char *buf, size_t cap)
{
    size_t len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    while (len < cap - 1) {
        ssize_t n = read(fd, buf + len, cap - 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    buf[len] = '\0';
    return (ssize_t)len;
}

int null_open(int flags)
{
    int ends[2];
    int fd = open("/dev/null", flags);

    if (fd >= 0)
        return fd;
    if (pipe2(ends, flags & O_CLOEXEC) < 0)
        return -errno;
    /* Without its other end, the read end is at its end of file and the write end is EPIPE. */
    close((flags & O_ACCMODE) == O_RDONLY ? ends[1] : ends[0]);
    return (flags & O_ACCMODE) == O_RDONLY ? ends[0] : ends[1];
}

int stdio_ensure(void)
{
    for (int want = 0; want < 3; want++) {
        int fd;

        if (fcntl(want, F_GETFD) >= 0)
            continue;
        fd = null_open(want == 0 ? O_RDONLY : O_WRONLY);
        if (fd < 0)
            return fd;
        if (fd != want) {
            if (dup2(fd, want) < 0)
                return -errno;
            close(fd);
        }
    }
    return 0;
}

void close_from(int first)
{
    struct rlimit limit;
    rlim_t last = 65536;

    if (syscall(SYS_close_range, (unsigned)first, ~0U, 0U) == 0)
        return;
    /* An old kernel or a filter without close_range. The bound is for a limit of "infinity": we
     * are called early or in a child whose open descriptors we know, all of them low. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < last)
        last = limit.rlim_cur;
    for (int fd = first; fd < (int)last; fd++)
        close(fd);
}
