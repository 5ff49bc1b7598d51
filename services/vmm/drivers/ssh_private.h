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
 */

#include "services/vmm/drivers/hosts.h"
#include "services/vmm/drivers/ssh_command.h"
#include "services/vmm/machine.h"

#include "base/buf.h"

#include <pthread.h>

#define SSH_LANE_MACHINES 7 /* and a session of the lane's own: 8, of sshd's 10 */

/* ---- ssh_host.c ---- */

struct ssh_lane {
    struct ssh_child child;
    char *control;     /* path of the master's socket */
    unsigned sessions; /* machines; the set's lock */
};

struct ssh_host {
    struct host at;
    struct backend *b;
    unsigned number;

    /* the thread's own while it is OUT */
    struct ssh_lane *lanes;
    unsigned lane_ct;
    char *said; /* the last that a master wrote to stderr */
    struct ssh_reach reach;

    pthread_mutex_t talk; /* one conversation with the keeper at a time */
    struct ssh_lines lines;
    bool open; /* the keeper may be spoken to */

    /* the set's lock */
    bool sudo;
    char epoch[24];
    char hostdriver[64], autodriver[64]; /* names in dir */
    char good[96];                       /* digest of an image of which a machine was made last */
    void *lent;                          /* the provider's */
};

/* Where hosts come from that are not in the configuration: rented for as long as there is work. A
 * host is then a place for one, and mostly empty. All are called by the host's own thread. */
struct ssh_provider {
    /* Waits until there is need of one more, gets it, and fills in `reach` and `images`.
     * -ECANCELED: the backend stops. */
    int (*acquire)(struct ssh_host *h, struct error *err);
    /* With the lock: it is up. */
    void (*came)(struct ssh_host *h);
    /* Gives it back; also one that acquire has got half-way. `err`: why it never came up, NULL when
     * it did. */
    void (*release)(struct ssh_host *h, const struct error *err);
    /* With the lock: why a host that is up and without machines is to go, NULL when it is to stay.
     */
    const char *(*tired)(struct ssh_host *h);
    /* With the lock: a host that is up and gets no more machines, since it is to go. */
    bool (*closed)(const struct ssh_host *h);
    /* With the lock: a machine of the host has come or gone. */
    void (*touched)(struct ssh_host *h);
    /* Whether what was lost with that connection was taken by whom it was rented from. By a slot's
     * thread; may take some seconds. */
    bool (*excused)(struct ssh_host *h, uint64_t life);
};

struct backend {
    struct hosts set;
    const struct config *cfg;
    const struct driver *driver;
    const struct ssh_provider *provider; /* NULL: the hosts are the configuration's */
    void *provided;                      /* the provider's own */
    char *id;                            /* who we are to a host: deployment/vmm */
    struct ssh_host *hosts;              /* those of the set */
    size_t host_ct;
};

/* The set's backend, and the host behind one of its. */
static inline struct backend *ssh_backend(struct hosts *s)
{
    return (struct backend *)(void *)s;
}

static inline struct ssh_host *ssh_host(struct host *h)
{
    return (struct ssh_host *)(void *)h;
}

/* With what is needed for a machine of that life. */
struct ssh_start {
    struct host_place at;
    char control[128];
    bool sudo;
    char epoch[24];
    char hostdriver[64], autodriver[64];
};

/* Before any host is started: what other threads may look at. */
void ssh_host_prepare(struct ssh_host *h);
/* After the set was stopped. */
void ssh_host_done(struct ssh_host *h);
/* Of struct host_kind. */
int ssh_host_connect(struct host *h, struct error *err);
bool ssh_host_serve(struct host *h);
void ssh_host_disconnect(struct host *h, bool kindly, const struct error *why);
int ssh_host_prove(struct host *h, struct error *err);
int ssh_host_images(struct host *h, struct host_images *ret, struct error *err);
/* Asks the keeper; each() gets the lines of the answer but the last. `life` 0: whichever. `ms`: for
 * the answer, from when it is this one's turn to ask. */
int ssh_host_ask(struct ssh_host *h, uint64_t life, const char *line,
                 void (*each)(void *arg, const char *line), void *arg, int64_t ms,
                 struct error *err);
/* With the lock, or by its own thread while it is OUT. */
void ssh_host_place(struct ssh_host *h, unsigned lane, struct ssh_start *ret);
/* ---- ssh.c ---- */

/* A backend with room for so many hosts, whose `at.spec` is to be set. ssh_close() it also when
 * this or a later step fails. */
int ssh_backend_new(const struct config *cfg, const struct driver *d, size_t host_ct,
                    struct backend **ret, struct error *err);
int ssh_backend_start(struct backend *b, struct error *err);
/* Of struct driver, for a driver whose hosts are rented. */
void ssh_close(struct backend *b);
int ssh_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                   int cancel_fd, struct machine **ret, struct error *err);
ssize_t ssh_read(struct machine *m, void *data, size_t len);
void ssh_destroy(struct machine *m, int64_t deadline);
enum machine_limit ssh_limit_hit(struct machine *m);
bool ssh_excused(struct machine *m);
bool ssh_fits(struct machine *m, const struct machine_spec *spec);
unsigned ssh_slots(struct backend *b);
int ssh_list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
             struct error *err);
int ssh_reap(struct backend *b, const char *name, struct error *err);

/* What holds a lane open there; the caller's to free. */
char *ssh_hold_command(const struct ssh_start *start);
/* One machine on that host; no placing, no counting. For the proof that a host can make one. */
int ssh_machine_make(const struct ssh_start *s, const struct machine_spec *spec, int64_t deadline,
                     int cancel_fd, struct machine **ret, struct error *err);
/* Ends it. False when it is not known to be gone. */
bool ssh_machine_end(struct machine *m, int64_t deadline);

#endif
