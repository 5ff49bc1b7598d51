#ifndef MILONGA_CGROUP_PRIVATE_H
#define MILONGA_CGROUP_PRIVATE_H

/* Between cgroup.c (groups) and cgroup_tree.c (where the hierarchies are). */

#include "base/cgroup.h"

#include <stddef.h>

enum cgroup_controller {
    CGROUP_MEMORY,
    CGROUP_PIDS,
    CGROUP_CPU,
    CGROUP_CPUACCT,
    CGROUP_CONTROLLERS
};
#define CGROUP_TREES_MAX (CGROUP_CONTROLLERS + 1)

struct cgroup_hierarchy {
    char *mount; /* where it is mounted */
    bool v2;
    int base_fd; /* our directory in it, open */
};

struct cgroup_tree {
    char *path; /* below each mount */
    struct cgroup_hierarchy trees[CGROUP_TREES_MAX];
    size_t count;
    int home[CGROUP_CONTROLLERS]; /* index into trees; -1 (CPUACCT only): cpu.stat of v2 tells */
    char *beside;
    const char *mode;
};

struct cgroup {
    struct cgroup_tree *tree;
    char *name;
    int dir[CGROUP_TREES_MAX];
    int procs[CGROUP_TREES_MAX]; /* cgroup.procs, open, so that a child needs only to write */
};

/* One file of a group in one write or read. 0 or -errno. */
int cgroup_put(int dir, const char *file, const char *text);
int cgroup_get(int dir, const char *file, size_t max, char **ret);

#endif
