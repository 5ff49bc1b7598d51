#ifndef MILONGA_HOSTS_H
#define MILONGA_HOSTS_H

/* A set of hosts that machines are made on: which of them are used and why not, who gets a machine,
 * who waits. The drivers ssh (and with it ec2) and docker-hosts are each a `struct host_kind`: how
 * one is connected to, watched, and made a machine on.
 *
 * Each host has a thread of its own that connects, watches and judges:
 *
 *        connect, and what that proves
 *   OUT ------------------------------------> UP <--- a machine made as a proof ---+
 *    ^                                        | |                                  |
 *    |  no answer, the connection ends        | | machines failed in a row     DOUBTED
 *    +---- backoff with jitter, reason kept --+ +----------------------------------+
 *    |                                                                             |
 *    +----------------- nor can a machine be made as a proof ----------------------+
 *
 * Room: a host has so many slots, and a machine has one from before it is made until it is gone,
 * warm or not. A job goes to the emptiest, by its share, of the hosts that are up and have its
 * image and its labels; one on which it could not be made costs it nothing as long as there is
 * another.
 *
 * Machines that fail in a row may be an image's own fault. So a host is given up for them only when
 * it cannot make a machine of the kind's own either.
 *
 * Threads: hosts' own, and any that wants a machine. What is said to be so is with `lock`. */

#include "services/vmm/machine.h"

#include <pthread.h>

struct hosts;
struct host_kind;

enum host_state { HOST_OUT, HOST_UP, HOST_DOUBTED };

struct host_image {
    char *name;
    char *digest;
};

struct host_images {
    struct host_image *list;
    size_t ct;
};

/* First member of a kind's own. */
struct host {
    struct hosts *set;
    const struct config_ssh_host *spec; /* of it: name, slots, labels, exclusive */
    const char *address;                /* for the log; NULL: that of spec */
    pthread_t thread;
    bool started;
    int wake_fd; /* eventfd: its thread is to look at once */

    /* the lock */
    enum host_state state;
    bool doomed;       /* its connection is to be given up, for `why` */
    bool tried;        /* its first connection has come to something */
    uint64_t life;     /* counts connections */
    char why[480];     /* why it is not up */
    unsigned busy;     /* machines of this life, from before they are made until they are gone */
    unsigned failures; /* of machines, in a row */
    struct host_images images; /* the last known */
    bool images_fixed;         /* not asked for: the kind knows them */
    bool images_known;         /* it has told them once */
    int64_t images_at;         /* when it was asked for them; 0: it is to be */
};

/* A place for a machine; first member of a kind's own. A copy, since its host may be connected to
 * anew meanwhile. */
struct host_place {
    struct host *host;
    uint64_t life;
    unsigned lane; /* the kind's */
};

struct host_waiter {
    struct host_waiter *next;
    int fd;             /* eventfd */
    const char *digest; /* what it waits for */
};

struct host_kind {
    size_t place_size;
    /* ---- by the host's own thread ---- */
    int (*connect)(struct host *h, struct error *err);
    /* Until the connection is over. True: it ended as it should, which is no reason to wait. */
    bool (*serve)(struct host *h);
    /* After either of them. `why`: why it never came up, NULL when it did or was stopped. */
    void (*disconnect)(struct host *h, bool kindly, const struct error *why);
    /* A machine of nothing of the jobs', made and ended. ERR_REFUSED: there is no telling. */
    int (*prove)(struct host *h, struct error *err);
    /* ---- by any thread ---- */
    int (*make)(struct host_place *at, const struct machine_spec *spec, int64_t deadline,
                int cancel_fd, struct machine **ret, struct error *err);
    /* What an engine there has. */
    int (*ask_images)(struct host *h, struct host_images *ret, struct error *err);
    /* ---- with the lock; each may be NULL ---- */
    bool (*holds)(const struct host *h, const struct machine_shape *s); /* limits */
    bool (*closed)(const struct host *h); /* it is up, but gets no more machines */
    void (*occupied)(struct host_place *at);
    void (*vacated)(const struct host_place *at);
    void (*came)(struct host *h); /* it is up */
};

/* Where hosts are had as there is need of them: with the lock, each. */
struct host_supply {
    /* Whether one for that digest could be had, by all that is known now. */
    bool (*could)(struct hosts *s, const char *digest, bool *ret_hopes);
    const char *(*why)(struct hosts *s); /* none could be had */
};

struct hosts {
    const struct config *cfg;
    const struct host_kind *kind;
    const struct host_supply *supply; /* NULL: there are those of the configuration */
    char *dir;                        /* for sockets; ours alone */
    int lock_fd;
    int stop_fd;  /* eventfd, signalled once */
    int tried_fd; /* eventfd: a host's first connection has come to something */
    struct host **list;
    size_t ct;

    pthread_mutex_t lock;
    struct host_waiter *waiters; /* in the order in which they came */
};

/* ---- the set; hosts.c ---- */

/* hosts_done() it also when this fails. */
int hosts_init(struct hosts *s, const struct config *cfg, const struct host_kind *kind,
               struct error *err);
/* Makes DATA_DIR/name/..., a directory that is locked to be this vmm's alone, and empties it.
 * `room`: the longest that a socket's name there can be, with its slash and all that is added to
 * it. */
int hosts_open_dir(struct hosts *s, const char *name, size_t room, struct error *err);
/* Before hosts_start(). The host is the caller's, and outlives the set. */
int hosts_add(struct hosts *s, struct host *h, const struct config_ssh_host *spec,
              struct error *err);
int hosts_start(struct hosts *s, struct error *err);
/* Ends the hosts' threads, and with them all connections. Also of one that was not started. */
void hosts_stop(struct hosts *s);
void hosts_done(struct hosts *s);
/* Until each host's first connection has come to something, or cancel_fd is readable. */
void hosts_await_first(struct hosts *s, int64_t deadline, int cancel_fd);

/* ---- machines ---- */

/* As `initialize` of a driver. The place is kept by the kind's make(), for hosts_vacate(). */
int hosts_initialize(struct hosts *s, const struct machine_spec *spec, int64_t deadline,
                     int cancel_fd, struct machine **ret, struct error *err);
/* The machine is known to be gone. */
void hosts_vacate(const struct host_place *at);
bool host_has_labels(const struct host *h, const struct machine_spec *spec);
/* With the lock. */
bool host_has_image(const struct host *h, const char *digest);
/* With the lock: whoever waits for room looks again. */
void hosts_wake(struct hosts *s);

/* ---- of struct driver ---- */

unsigned hosts_slots(const struct hosts *s);
void hosts_labels(const struct hosts *s, struct buf *out);
void hosts_tell(struct hosts *s, void (*each)(void *arg, const char *name, const char *why),
                void *arg);
int hosts_health(struct hosts *s, struct error *err);
/* A name has one digest: that of the first host in the configuration which has it. Of hosts that
 * are away, and of engines that do not tell, the last known. */
void hosts_images(struct hosts *s, void (*each)(void *arg, const struct image_entry *e), void *arg);

/* ---- one host; hosts_life.c ---- */

int host_start(struct host *h, struct error *err);
void host_stop(struct host *h);
bool host_is_stopping(const struct host *h);
bool host_is_up(struct host *h);
/* Counts a connection; for a kind that tries several in one connect(). */
void host_begin_life(struct host *h);
/* Gives a connection up, if it is still that one. */
void host_doom(struct host *h, uint64_t life, const char *why);
/* By its thread, in serve(), again and again: false when the connection is to be given up. Makes a
 * machine as a proof where there is doubt. */
bool host_is_good(struct host *h);
/* How a machine there went; three that failed in a row are a doubt. */
void host_judge(const struct host_place *at, bool made, const char *why);

int host_ask_images(struct host *h, struct error *err);
/* Those that it has have changed. */
void host_forget_images(struct host *h);
void host_images_add(struct host_images *l, const char *name, size_t name_len, const char *digest);
void host_images_done(struct host_images *l);

#endif
