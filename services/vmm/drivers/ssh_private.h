#ifndef MILONGA_SSH_PRIVATE_H
#define MILONGA_SSH_PRIVATE_H

/* Between ssh.c (machines, and which host gets them), ssh_host.c (a host's connection and its
 * keeper) and ssh_command.c (what is run here and there).
 *
 * A host is reached by two or more masters (lanes): OpenSSH clients, each a connection. The first
 * has one session, the keeper, `hostdriver keep`: the host's lock, its lease and whatever is asked
 * of it. It is by itself because a beat must not wait behind the megabytes that the others carry.
 * Each machine is a session of another lane, `hostdriver machine`, opened by a client that only
 * passes its descriptors to the lane's master.
 *
 *            +-- lane 0: master --- keeper            hello, beat, list, images, reap
 *   vmm -----+
 *            +-- lane 1: master --- hold              (so that it is known to be there)
 *                         \-------- machine ... (7)
 *
 * Each host has a thread of its own that connects, beats and judges:
 *
 *   OUT --connect, put programs, hello, one machine as a proof--> UP --no answer, a master ends, or
 *    ^                                                             |    machines fail in a row
 *    +---------------- backoff with jitter, reason kept -----------+
 */

#include "services/vmm/drivers/ssh_command.h"
#include "services/vmm/machine.h"

#include "base/buf.h"

#include <pthread.h>

#define SSH_LANE_MACHINES 7 /* and a session of the lane's own: 8, of sshd's 10 */

/* ---- ssh_host.c ---- */

struct ssh_image {
    char *name;
    char *digest;
};

struct ssh_images {
    struct ssh_image *list;
    size_t ct;
};

struct ssh_lane {
    struct ssh_child child;
    char *control;     /* path of the master's socket */
    unsigned sessions; /* machines; the backend's lock */
};

struct ssh_host {
    const struct config_ssh_host *spec;
    struct backend *b;
    pthread_t thread;
    unsigned number;
    int wake_fd; /* eventfd */

    /* the thread's own while it is OUT */
    struct ssh_lane *lanes;
    unsigned lane_ct;
    char *said; /* the last that a master wrote to stderr */

    pthread_mutex_t talk; /* one conversation with the keeper at a time */
    struct ssh_lines lines;
    bool open; /* the keeper may be spoken to */

    /* the backend's lock */
    bool up;
    bool doomed;       /* its connection is to be given up, for `why` */
    bool tried;        /* its first connection has come to something */
    uint64_t life;     /* counts connections */
    char why[480];     /* why it is out */
    unsigned busy;     /* machines */
    unsigned failures; /* of machines, in a row */
    bool sudo;
    char epoch[24];
    char hostdriver[64], autodriver[64]; /* names in dir */
    struct ssh_images images;
    int64_t images_at; /* when an engine was asked for them */
};

struct ssh_waiter {
    struct ssh_waiter *next;
    int fd; /* eventfd */
};

struct backend {
    const struct config *cfg;
    char *sockets; /* directory of the masters' sockets */
    char *id;      /* who we are to a host: deployment/vmm */
    int lock_fd;
    int stop_fd; /* eventfd, signalled once */
    struct ssh_host *hosts;
    size_t host_ct;

    pthread_mutex_t lock;
    pthread_cond_t tried; /* a host's first connection has come to something */
    struct ssh_waiter *waiters;
};

/* Where a machine is to be made: a copy, since its host may be connected to anew meanwhile. */
struct ssh_start {
    struct ssh_host *host;
    uint64_t life;
    unsigned lane;
    char control[128];
    bool sudo;
    char epoch[24];
    char hostdriver[64], autodriver[64];
};

/* Begins to connect. */
void ssh_host_start(struct ssh_host *h);
/* After stop_fd was signalled. */
void ssh_host_stop(struct ssh_host *h);
/* Asks the keeper; each() gets the lines of the answer but the last. `life` 0: whichever. */
int ssh_host_ask(struct ssh_host *h, uint64_t life, const char *line,
                 void (*each)(void *arg, const char *line), void *arg, int64_t deadline,
                 struct error *err);
/* Gives a connection up, if it is still that one. */
void ssh_host_doom(struct ssh_host *h, uint64_t life, const char *why);
/* Asks an engine for its images, when that is long ago. */
int ssh_host_look_images(struct ssh_host *h, struct error *err);
/* With the lock, or by its own thread while it is OUT. */
void ssh_host_place(struct ssh_host *h, unsigned lane, struct ssh_start *ret);
/* With the lock: whoever waits for room looks again. */
void ssh_wake_waiters(struct backend *b);

/* ---- ssh.c ---- */

/* What holds a lane open there; the caller's to free. */
char *ssh_hold_command(const struct ssh_start *start);
/* One machine on that host; no placing, no counting. For the proof that a host can make one. */
int ssh_machine_make(const struct ssh_start *s, const struct machine_spec *spec, int64_t deadline,
                     int cancel_fd, struct machine **ret, struct error *err);
/* Ends it. False when it is not known to be gone. */
bool ssh_machine_end(struct machine *m, int64_t deadline);

#endif
