#ifndef HOSTDRIVER_HOST_H
#define HOSTDRIVER_HOST_H

/* The hostdriver runs as root on a host that a vmm reaches over ssh. It is one static program with
 * three verbs, each a session of a connection of the vmm's:
 *
 *   keep DIR               one a host: holds the host's lock, sweeps, answers, ends all with its
 *                          lease (keep.c)
 *   machine DIR key=value  one a machine: makes the box, runs the autodriver in it on its own stdin
 *                          and stdout, and cleans up (machine.c)
 *   hold DIR EPOCH         one a further connection: says its lines back, and ends with the keeper
 *                          (main.c)
 *
 * DIR is a directory of root's own:
 *
 *   lock     flock of the keeper, for its life: one vmm at a time uses the host
 *   gate     flock, shared by a machine while it comes into being, exclusive by a keeper that
 *            sweeps: no machine of an earlier owner can slip in behind the sweep
 *   owner    "epoch pid id": the keeper's; a machine of another epoch is refused
 *   m/NAME   an empty directory for each machine; its files are on a tmpfs that only its own mount
 *            namespace sees
 *
 * and each machine has a control group of its name, so that a machine that nobody owns any more is
 * found and ended by the two alone. */

#include "base/cgroup.h"
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

#define EPOCH_MAX 17
#define WAIT_MS   10000 /* for the gate, and to end a machine */

struct host {
    char *path;
    int fd;
    int machines_fd;
    struct cgroup_tree *groups; /* NULL: containers have their engine's */
};

struct owner {
    char epoch[EPOCH_MAX];
    pid_t pid;
    char id[200];
};

/* What runs on it. An engine is the name of its client, too. */
#define MODE_DIRECT "direct"
bool mode_is_engine(const char *mode);

/* Opens DIR and makes what belongs there. Refuses one that others may write, since what is run from
 * it is run as root. With `direct`, control groups too. */
int host_open(const char *path, bool direct, struct host *ret, struct error *err);
/* The lock file `name`, open and locked as flock(2)'s `how`; waits wait_ms for it. The descriptor,
 * or -EWOULDBLOCK. */
int host_lock(const struct host *h, const char *name, int how, int64_t wait_ms, struct error *err);
int host_read_owner(const struct host *h, struct owner *ret, struct error *err);
/* A pidfd of the keeper of that epoch, alive and the lock's owner; with the gate held, or it may be
 * another's by the time. */
int host_find_keeper(const struct host *h, const char *epoch, int *ret_pidfd, struct error *err);
int host_write_owner(const struct host *h, const struct owner *o, struct error *err);
/* Ends one machine, in whatever state, and forgets it. An unknown name is no error. */
int host_end_machine(const struct host *h, const char *name, struct error *err);
/* Calls each() for every machine of which there is a trace, some twice. */
int host_each(const struct host *h, void (*each)(void *arg, const char *name), void *arg,
              struct error *err);
/* What can name a machine here: letters, digits, _ . and -, not first a dot or a dash. */
bool host_name_ok(const char *name);

#endif
