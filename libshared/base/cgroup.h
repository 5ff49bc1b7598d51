#ifndef MILONGA_CGROUP_H
#define MILONGA_CGROUP_H

/* Control groups of our own, the same on v1, v2 and hybrid machines. A tree is one group below the
 * mount of each hierarchy that we need ("milonga/<what>"); a group is a machine's directory in each
 * of them.
 *
 * A controller is used where it lives: in v1 when it is mounted there, else in v2. All of memory,
 * pids and cpu must be had, or the tree is refused: no machine ever runs with a limit that nobody
 * enforces.
 *
 * A tree may be used by any number of threads, a group by one at a time. */

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct cgroup_tree;
struct cgroup;

/* 0 in a field: no such limit. */
struct cgroup_limits {
    uint32_t cores_milli;
    uint64_t memory_bytes; /* of RAM and swap together */
    uint32_t pids;
};

/* Finds the hierarchies in /proc/self/mountinfo and makes `path` (relative, one or more names) in
 * each. */
int cgroup_tree_open(const char *path, struct cgroup_tree **ret, struct error *err);
/* Removes the tree's own directories when they are empty. */
void cgroup_tree_close(struct cgroup_tree *t);
/* "v1", "v2" or "hybrid". */
const char *cgroup_tree_mode(const struct cgroup_tree *t);
/* Where a v2 hierarchy is mounted beside v1 controllers that we use, else NULL: what makes crun
 * refuse. */
const char *cgroup_tree_beside(const struct cgroup_tree *t);
/* Calls each() with the name of every group of the tree. */
int cgroup_tree_each(struct cgroup_tree *t, void (*each)(void *arg, const char *name), void *arg,
                     struct error *err);

/* Makes a group with its limits set. The name is a file name. -EEXIST when there is one. Nothing is
 * left on failure. */
int cgroup_new(struct cgroup_tree *t, const char *name, const struct cgroup_limits *limits,
               struct cgroup **ret, struct error *err);
/* One that exists, of an earlier life perhaps; -ENOENT when no hierarchy knows it. */
int cgroup_open(struct cgroup_tree *t, const char *name, struct cgroup **ret, struct error *err);
/* Forgets it; the group itself stays. */
void cgroup_free(struct cgroup *g);

/* Puts the calling process into the group. Async-signal-safe: for a child between fork and exec. 0
 * or -errno. */
int cgroup_enter(const struct cgroup *g);
int cgroup_add(const struct cgroup *g, pid_t pid, struct error *err);

/* For a process in a mount namespace of its own: lays the group's own directories over the mounts
 * of the hierarchies, so that it sees what a container sees, its own group and no other. 0 or
 * -errno.
 */
int cgroup_show_own(const struct cgroup *g);

/* Kills every process of the group and waits until they are gone, reaping those that are our
 * children. -ETIMEDOUT at the deadline. */
int cgroup_kill(struct cgroup *g, int64_t deadline, struct error *err);
/* Removes the emptied group from all hierarchies. */
int cgroup_remove(struct cgroup *g, int64_t deadline, struct error *err);

/* Kills and removes the group of that name; 0 also when there is none. */
int cgroup_end(struct cgroup_tree *t, const char *name, int64_t deadline, struct error *err);

/* CPU time and the most memory ever in use (page cache and tmpfs count). Either may be NULL. */
int cgroup_usage(const struct cgroup *g, uint64_t *ret_cpu_us, uint64_t *ret_peak_bytes);
/* True when the kernel killed a process of the group for its memory limit. */
bool cgroup_oom(const struct cgroup *g);

#endif
