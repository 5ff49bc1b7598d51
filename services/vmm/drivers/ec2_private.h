#ifndef MILONGA_EC2_PRIVATE_H
#define MILONGA_EC2_PRIVATE_H

/* Between ec2.c (when there is need of an instance, and of which), ec2_instance.c (one from the
 * wish to its end) ec2_adopt.c (those of
 * an earlier life) and ec2_sweep.c (those that nobody claims).
 *
 * Whose an instance is stands in its tags from its first moment, with the token under which it was
 * asked for. A place claims a token in Redis (ec2_ledger.h) before it asks, and until it has ended
 * what came of it. Who is left over is seen twice: what this life has asked for and no place has
 * any more, it ends itself (`owed`), with or without Redis; what nobody claims, be it from a vmm
 * that was killed or cut off, one vmm of all ends, the ledger's leader. A vmm that comes back takes
 * over what bears its name. */

#include "services/vmm/drivers/ec2_api.h"
#include "services/vmm/drivers/ec2_ledger.h"
#include "services/vmm/drivers/ssh_private.h"

#define EC2_TAG_DEPLOYMENT "milonga:deployment"
#define EC2_TAG_VMM        "milonga:vmm"
#define EC2_TAG_TOKEN      "milonga:token"
#define EC2_DIGEST_MAX     96

/* A token of this life under which an instance may be there though no place has it: its end failed,
 * or what came of asking for it was never heard. */
struct ec2_owed {
    struct ec2_owed *next;
    char token[EC2_TOKEN_MAX];
    int64_t since_ms; /* mono */
};

/* A place for an instance: what an ssh_host's `lent` is. All but `spec` with the backend's lock. */
struct ec2_place {
    struct config_ssh_host spec;
    char want[EC2_DIGEST_MAX]; /* what it is got for: AMI or AMI+TYPE; "" while it is vacant */
    char next[EC2_DIGEST_MAX]; /* what it is to be got for once it has been given back */
    char token[EC2_TOKEN_MAX]; /* claimed; "" for none */
    bool unsure;               /* what came of asking with it is not known */
    char instance[32];         /* "" while it is not known */
    char type[48];
    char spot[32]; /* the request of a spot instance; "" for one on demand */
    bool taken;    /* AWS has said that it takes it back, and when: */
    int64_t taken_ms;
    /* of the connection `life`, and still known when it is over */
    uint64_t life;
    char lived[32]; /* its instance */
    bool lived_spot, lived_taken;
    int64_t made_ms, idle_ms; /* mono */
};

struct ec2_image {
    char *name, *ami, *created;
};

struct ec2 {
    const struct config *cfg;
    struct backend *b;
    struct ec2_api *api;
    struct ec2_ledger *ledger;
    struct ec2_pace pace;
    int wake_fd;              /* the sweeper's */
    struct ec2_place *places; /* one a host */
    size_t place_ct;
    pthread_t sweeper;
    bool sweeps;

    /* the backend's lock */
    struct ec2_owed *owed;
    struct ec2_image *images;
    size_t image_ct;
    char recent[EC2_DIGEST_MAX]; /* the AMI that was last used; "" for none */
    char account[32];            /* "" while it is not known */
    int64_t images_at;           /* 0: never */
    int64_t quiet_until;         /* no instance is asked for before */
    unsigned failures;           /* of asking, in a row */
    bool capped;                 /* the last one by a bound: of money, of the account, of EC2 */
    char why[480];               /* of the last one */
};

/* ---- ec2_instance.c ---- */

/* Asks for an instance of what the host's place wants and waits until its host key is known; fills
 * in the place and the host's `reach`. What it got half-way, ec2_end() ends. */
int ec2_begin(struct ec2 *e, struct ssh_host *h, struct error *err);
void ec2_end(struct ec2 *e, struct ssh_host *h);
/* `made_ms`: mono, when it was asked for; EC2 may not know of its own instance for some time. An
 * instance that is not there any more is ended. */
int ec2_terminate(struct ec2 *e, const char *instance, int64_t made_ms, struct error *err);
/* The known_hosts lines, under `alias`, of the last keys that a console's text tells; appended to
 * out. False when it tells none (yet). */
bool ec2_console_keys(const char *text, const char *alias, struct buf *out);
/* The `*at`th word of a comma list; false when there are not so many. */
bool ec2_item(const char *list, size_t at, char out[], size_t size);

/* ---- ec2_sweep.c ---- */

/* All instances of the deployment that are there, or of this vmm alone, and then also those that
 * ended lately; each() gets an <item>. */
int ec2_list(struct ec2 *e, bool own, void (*each)(struct ec2 *e, const struct xml *i, void *arg),
             void *arg, int64_t deadline, struct error *err);
/* It has ended, or will without our doing. */
bool ec2_is_over(const struct xml *instance);
/* The value of an instance's tag; "" for none. */
const char *ec2_tag(const struct xml *instance, const char *key);
/* Somebody is to see to the end of what that token has made, if it has. */
void ec2_owe(struct ec2 *e, const char *token);
/* Looks until nothing is owed any more, or the deadline has passed; then false. */
bool ec2_settle(struct ec2 *e, int64_t deadline);
void ec2_sweep_start(struct ec2 *e);
void ec2_sweep_stop(struct ec2 *e);

/* ---- ec2_adopt.c ---- */

/* Before any host is started: places for the instances of an earlier life of this vmm. What is not
 * taken over nobody claims, and so is the reaper's. */
void ec2_adopt(struct ec2 *e);

/* ---- ec2_spot.c ---- */

/* Of the sweeper's thread: asks which spot instances AWS takes back. Those get no more jobs, and
 * are given up a little before their time. */
void ec2_spot_look(struct ec2 *e, int64_t deadline);
/* True while there is a spot instance. */
bool ec2_spot_any(struct ec2 *e);
/* Whether AWS has ended, or is about to end, the instance of that connection. */
bool ec2_excused(struct ssh_host *h, uint64_t life);

/* ---- ec2_reap.c: of the sweeper's thread ---- */

struct ec2_reaper;
struct ec2_reaper *ec2_reaper_new(void);
void ec2_reaper_free(struct ec2_reaper *r);
/* Tells a Redis that is new to us what there is. */
int ec2_reap_tell(struct ec2 *e, int64_t deadline, struct error *err);
/* Ends what nobody claims, if this vmm is the one to do so. */
int ec2_reap(struct ec2 *e, struct ec2_reaper *r, int64_t deadline, struct error *err);

#endif
