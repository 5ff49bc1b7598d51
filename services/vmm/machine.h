#ifndef MILONGA_MACHINE_H
#define MILONGA_MACHINE_H

/* A machine is a byte pipe to an autodriver, whatever the backend. A driver is one C file with one
 * exported `struct driver`; drivers/registry.c lists them. A driver makes machines, lends their
 * pipe, destroys them, and can tell which machines of ours exist. Everything that runs over the
 * pipe (copyIn, run, copyOut) is written once, in attempt.c.
 *
 * Threads: every slot and the pool keeper call from their own threads at the same time; a machine
 * is used by one thread at a time. Functions read top to bottom and block, within a monotonic
 * deadline and until `cancel_fd` (an eventfd, -1 for none) becomes readable: then they return
 * ERR_TEMPORARY/ECANCELED with nothing left behind.
 *
 * Errors: TEMPORARY is the backend's trouble (retried, not charged to the student), REFUSED the
 * job's (an image that is not there, a limit that cannot be had: never run weaker), PERMANENT needs
 * an operator; from initialize it counts as TEMPORARY does. */

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct backend; /* a driver's own state, one a vmm */

/* What a machine is to be like. A warm machine is made before its job is known, from the defaults,
 * and fits a job only if machine_shape_equal(). 0 in a limit: none given by anyone. */
struct machine_shape {
    char *image;  /* name, for messages */
    char *digest; /* what runs */
    uint32_t cores_milli;
    uint32_t memory_mb;
    uint32_t pids;        /* of the job; the driver adds room for its own */
    uint64_t fsize_bytes; /* set by the autodriver from its header, too */
    uint64_t disk_bytes;
    bool network;
};

struct machine_spec {
    struct machine_shape shape; /* borrowed */
    const char *const *labels;  /* what the job asks for; for the call of initialize only */
    size_t label_ct;
    /* Where there are only so many machines: called, now and then, while initialize waits for the
     * end of another; whoever can spare a warm one then gives it up. NULL: do not wait, but fail
     * with EBUSY (a warm machine is not worth a wait). */
    void (*full)(void *arg);
    void *full_arg;
    uint32_t id;    /* 1000..9999 (spec/tango 2.2) */
    char name[160]; /* machine_name(): deterministic, safe as file and container name */
};

struct machine {
    const struct driver *driver;
    struct backend *backend;
    struct machine_spec spec; /* shape deep-copied */
    int in_fd;       /* write frames here (blocking or not: callers poll first); -1 when closed */
    int out_fd;      /* poll this for reading, then call driver->read */
    bool ready;      /* READY was read */
    int64_t made_ms; /* mono */
    void *priv;      /* driver's */
};

/* What a job has used. */
struct machine_usage {
    uint64_t cpu_us;
    uint64_t peak_bytes; /* the most memory, page cache counted */
    bool memory_hit;     /* the kernel killed a process of it at the memory limit */
};

/* Why the backend ended a machine. */
enum machine_limit { MACHINE_LIMIT_NONE, MACHINE_LIMIT_MEMORY, MACHINE_LIMIT_DISK };

struct image_entry {
    const char *name;   /* as a job would say it, e.g. "autograding_image", "reg:5000/a/b:1.2" */
    const char *digest; /* "sha256:..." or another stable id without spaces or commas */
};

struct driver {
    const char *name;
    /* True when its machines have no network but the loopback whatever a job asks for, so that the
     * wish makes no difference to their shape. NULL: they have one. */
    bool (*loopback_only)(const struct backend *b);
    /* Reads what it needs from cfg (lives as long as the backend). Makes its directories; checks
     * that each isolation layer can be had and refuses with the remedy if not. */
    int (*open)(const struct config *cfg, struct backend **ret, struct error *err);
    void (*close)(struct backend *b);
    /* Waits, after open, until it is known which hosts can be used; until the deadline, or
     * cancel_fd is readable. NULL: it is known at once. */
    void (*settle)(struct backend *b, int64_t deadline, int cancel_fd);
    /* 0 while the backend can make machines, as far as can be told at once. */
    int (*health)(struct backend *b, struct error *err);
    /* Makes a machine of nothing but the autodriver, and ends it: the proof. NULL: machines need an
     * image; health.c then makes one of some image. One call at a time. */
    int (*probe)(struct backend *b, struct error *err);
    /* Calls each() for every name of every image. */
    int (*images)(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err);
    /* initialize + wait: creates and starts; on return the pipe is open and the autodriver is
     * starting (its READY comes over the pipe). On failure nothing is left (or the reaper gets it
     * by name). */
    int (*initialize)(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err);
    /* As read(2) on what the autodriver wrote; the driver takes its backend's own framing off. 0 is
     * the end of the machine. -EAGAIN when only framing came. Negative errno. */
    ssize_t (*read)(struct machine *m, void *data, size_t len);
    /* Ends and removes all of it, whatever state it is in, and frees m. Bounded by deadline; what
     * could not be removed is the reaper's. */
    void (*destroy)(struct machine *m, int64_t deadline);
    /* The limit that a machine died of, when it has ended without a final record (or with one that
     * says that it was told to end). May take a round trip, and ends the machine. Before destroy.
     */
    enum machine_limit (*limit_hit)(struct machine *m);
    /* Whether a machine that was lost was taken away, as may happen where it was rented: then its
     * job is not charged. May take some seconds. Before destroy. NULL: never. */
    bool (*excused)(struct machine *m);
    /* 0 when it can be had at once; before destroy. NULL: only the autodriver can tell. */
    int (*usage)(struct machine *m, struct machine_usage *ret);
    /* Every machine of this deployment and this vmm that exists at the backend, also of earlier
     * lives. */
    int (*list)(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                struct error *err);
    /* Removes one of them by name; an unknown name is no error. */
    int (*reap)(struct backend *b, const char *name, struct error *err);
    /* Whether a machine (warm, by its shape the right one) has the labels of the spec; false, too,
     * when it is not to be used any more. NULL: all machines of a vmm are alike. */
    bool (*fits)(struct machine *m, const struct machine_spec *spec);
    /* How many machines there can be at once: what `slots = 0` stands for. NULL: it is this host's
     * cores that count. */
    unsigned (*slots)(struct backend *b);
    /* Adds the labels that its machines have to a comma list of the vmm's own. May be NULL. */
    void (*labels)(struct backend *b, struct buf *out);
    /* Calls each() for every host that its machines may be on; `why` is NULL for one that is used,
     * else the reason why not. NULL: there is none but this one. */
    void (*hosts)(struct backend *b, void (*each)(void *arg, const char *name, const char *why),
                  void *arg);
    /* Takes a `docker save` archive (path) into the backend under `name` (":latest" where it
     * matters). What had that name is to be kept as image_name_kept(). NULL: not offered. */
    int (*import)(struct backend *b, const char *path, const char *name, struct error *err);
    /* Takes an image's name away, and the image with its last one. 0 also when there is none;
     * -EBUSY while a machine uses it. NULL where that cannot be done. */
    int (*remove_image)(struct backend *b, const char *name, struct error *err);
};

extern const struct driver driver_null;
extern const struct driver driver_docker;
extern const struct driver driver_docker_hosts;
extern const struct driver driver_oci;
extern const struct driver driver_ssh;
extern const struct driver driver_ec2;

/* drivers/registry.c; NULL when there is none of that name. */
const struct driver *driver_find(const char *name);

/* "PREFIX-ID-NAME" as Tango's instanceName (spec/tango 4.1), NAME being the image's with what a
 * container name cannot hold made '_'. */
void machine_name(char out[160], const char *prefix, uint32_t id, const char *image);

/* How large a tmpfs may be that holds all that a machine's job writes, and which counts against its
 * memory, too: never larger than what leaves a quarter of the memory (32 MB at least) to programs,
 * and with no more files than fit half of that, so that a full disk is an error that the job sees,
 * not a machine without memory. 0: the kernel's default. */
void machine_room(const struct machine_shape *s, uint64_t *ret_bytes, uint64_t *ret_files);

bool machine_shape_equal(const struct machine_shape *a, const struct machine_shape *b);
void machine_shape_copy(struct machine_shape *to, const struct machine_shape *from);
void machine_shape_done(struct machine_shape *s);

/* Allocates a machine with the spec copied and fds -1; for drivers. machine_free() closes the fds
 * and frees, not priv. */
struct machine *machine_new(const struct driver *d, struct backend *b,
                            const struct machine_spec *spec);
void machine_free(struct machine *m);

/* Where the static autodriver lies: cfg->autodriver, else beside the running program, else in
 * ../libexec/milonga. *ret is the caller's to free(). */
int machine_autodriver(const struct config *cfg, char **ret, struct error *err);

#endif
