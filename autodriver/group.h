#ifndef AUTODRIVER_GROUP_H
#define AUTODRIVER_GROUP_H

/* What the machine's own control group tells about the job, seen from inside: engines mount it,
 * read-only, at /sys/fs/cgroup. So a vmm need not ask an engine, which may be far away and tells
 * some of it only of a container that has ended. */

#include <stdbool.h>
#include <stdint.h>

struct group_figures {
    bool known;          /* there is a group with a memory limit of its own */
    uint64_t oom_kills;  /* processes that the kernel killed at that limit */
    uint64_t peak_bytes; /* the most ever in use, page cache and tmpfs counted; 0 not told */
};

/* `root` is /sys/fs/cgroup. Tells nothing where that is the host's own tree. */
void group_read(const char *root, struct group_figures *ret);

#endif
