#ifndef AUTODRIVER_UTIL_H
#define AUTODRIVER_UTIL_H

/* What every part of the autodriver uses: why something failed, a clock, descriptors. libc only, no
 * NSS, no allocation that grows without a bound. The program has one thread. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Why it cannot go on, for people. Functions that take one fill it when they return < 0. */
struct why {
    char text[256];
};

/* Formats the reason and returns -1, so that `return why_set(...)` is a whole error path. */
int why_set(struct why *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Milliseconds of CLOCK_MONOTONIC: nothing in here knows what time of day it is. */
int64_t now_ms(void);

/* All bytes, over EINTR and short writes. 0 or -errno. */
int write_all(int fd, const void *data, size_t len);

/* Reads a small file of /etc or /proc; at most cap - 1 bytes, NUL-terminated. Length or -errno. */
ssize_t read_file(const char *path, char *buf, size_t cap);

/* Makes sure that 0, 1 and 2 are open, so that no descriptor of ours can be taken for one. */
int stdio_ensure(void);

/* Opens /dev/null; where an image has none, something that reads as end of file. fd or -errno. */
int null_open(int flags);

/* Closes every descriptor from `first` on. */
void close_from(int first);

#endif
