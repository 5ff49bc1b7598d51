#ifndef MILONGA_OCI_PRIVATE_H
#define MILONGA_OCI_PRIVATE_H

/* Between oci.c (machines), oci_spec.c (config.json), oci_seccomp.c (its filter), oci_run.c (mounts
 * and crun), oci_net.c (the network) and oci_host.c (the built-in image). */

#include "base/cgroup.h"
#include "services/vmm/image.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A bundle: <base>/<machine name>/ with config.json, rootfs (the overlay), rw (the tmpfs below it)
 * and state (crun's). */
struct oci_bundle {
    char *path; /* absolute */
    int fd;
};

struct oci_spec {
    const char *bundle;     /* path */
    const char *autodriver; /* path on this host */
    const char *hosts;      /* path of what becomes /etc/hosts */
    const char *resolv;     /* and /etc/resolv.conf; NULL: as the image has it */
    bool host_image;
};

/* The text of config.json; the caller's to free. */
char *oci_spec_text(const struct oci_spec *s);
/* linux.seccomp of it. */
json_t *oci_seccomp(void);

/* ---- oci_host.c ---- */

#define OCI_HOST "host"

/* Makes `name` below base_fd afresh: the root directory of the built-in image without /usr. Refuses
 * where this machine's layout does not allow for it. */
int oci_host_make(int base_fd, const char *name, struct error *err);
/* Appends the mounts that complete it. */
void oci_host_mounts(json_t *mounts);
json_t *oci_bind(const char *from, const char *to, bool read_only, bool no_exec);
/* A file with `text`, made anew. */
int oci_put_file(int dir_fd, const char *name, const char *text, struct error *err);

/* ---- oci_run.c ---- */

/* Leaves the host's mount namespace for good, before there are threads. */
int oci_private_mounts(struct error *err);
/* Takes a mount out of the namespace. */
int oci_hide(const char *mount, struct error *err);
/* How much a machine may write: 0 bytes is the kernel's default. */
struct oci_room {
    uint64_t bytes;
    uint64_t inodes;
};

/* Mounts the tmpfs and the overlay on the layers, lowest first. */
int oci_mount(const struct oci_bundle *b, const int *layer_fds, size_t layer_ct,
              const struct oci_room *room, struct error *err);
/* Both of them, in whatever state; lazily. */
void oci_unmount(const char *bundle_path);
/* Starts crun in the group with these ends as stdin and stdout and waits until the container's
 * program runs. -ETIMEDOUT, -ECANCELED: then crun may still be there, in the group. */
int oci_run(const char *crun, const struct oci_bundle *b, const char *name,
            const struct cgroup *group, int in_fd, int out_fd, int64_t deadline, int cancel_fd,
            struct error *err);
/* A program with its three descriptors and nothing else open, started without a copy of this
 * process. *ret_pidfd is the caller's. */
struct oci_launch {
    const char *path;
    const char *const *argv;
    const struct cgroup *group; /* may be NULL */
    int in_fd, out_fd, err_fd;
    pid_t parent; /* set by oci_launch, as what follows */
    /* set by the child, in memory that it shares */
    volatile int code;
    const char *volatile step;
};
int oci_launch(struct oci_launch *l, pid_t *ret_pid, int *ret_pidfd, struct error *err);

#define OCI_PID_FILE "pid" /* in the bundle: of the container's first process */

/* Runs `crun --version` and says what it lacks. */
int oci_check_crun(const char *crun, struct error *err);

/* ---- oci_net.c ---- */

/* What the name server is inside a machine with a network. */
#define OCI_RESOLV "nameserver 10.0.2.3\n"

/* The program that is a machine's network. Both -1 when there is none. */
struct oci_net {
    int hold_fd; /* it ends when this is closed */
    int pidfd;
};
/* Starts slirp4netns (path) for the machine that runs in the bundle and waits until the network is
 * there. In the machine's group, so that it is killed with it and its work is charged to the job.
 */
int oci_net_start(const char *slirp, const struct oci_bundle *b, const struct cgroup *group,
                  int64_t deadline, int cancel_fd, struct oci_net *ret, struct error *err);
/* Ends and reaps it. */
void oci_net_stop(struct oci_net *n);

#endif
