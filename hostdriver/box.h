#ifndef HOSTDRIVER_BOX_H
#define HOSTDRIVER_BOX_H

/* The inside of a machine that runs directly on a host: namespaces of its own (pids, mounts, IPC,
 * and the network unless it may have the host's), the host's files read-only, and one tmpfs for all
 * that may be written: /tmp, /var/tmp, /dev/shm and the job's home. */

#include "base/cgroup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct box {
    const char *dir;        /* DIR/m/NAME: the tmpfs is mounted there, for the box alone */
    const char *autodriver; /* path */
    const struct cgroup *group;
    uint64_t disk_bytes; /* 0: half of the memory, as tmpfs has it */
    uint64_t disk_files;
    bool network;
};

/* Starts the autodriver in the box on our stdin and stdout; returns when its exec has succeeded.
 * *ret_pid is our child and pid 1 of the box. Leaves our own next children in a new pid namespace:
 * once a process. */
int box_start(const struct box *b, pid_t *ret_pid, struct error *err);

#endif
