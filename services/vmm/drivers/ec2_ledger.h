#ifndef MILONGA_EC2_LEDGER_H
#define MILONGA_EC2_LEDGER_H

/* What the vmms of a deployment have to agree on about one account and region, in Redis (keys
 * P:ec2:SCOPE, docs/protocol.md): who claims which instance and what it costs, who ends those that
 * nobody claims, and how long EC2 is to be left alone.
 *
 * A claim is made before EC2 is asked and dropped when the instance has ended: it is the
 * reservation of its price and the right to it at once. Its token is EC2's ClientToken and a tag of
 * the instance, and holds the ledger's id and a number that only grows:
 *
 *      m1.LEDGER.NUMBER.RANDOM
 *
 * So what exists at EC2 tells whether Redis has lost its past: an instance of another ledger, or of
 * a number that this one has not come to. Then it `stands still`: nothing is ended that nobody
 * claims, until a person says go.
 *
 * One thread beats, renews the claims and leads or stands by; leases are judged by who watches, by
 * its own clock. Any thread may call. */

#include "base/config.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define EC2_TOKEN_MAX 65 /* EC2's bound, and the end of a string */

struct ec2_ledger;

/* What the leader has been told at its last beat. */
struct ec2_claims {
    struct ec2_claim {
        char *token;
        int64_t cost; /* millionths an hour */
        bool held;    /* somebody has it */
    } * list;
    size_t ct;
    char id[40];     /* of the ledger */
    int64_t serial;  /* the last number given */
    char still[200]; /* why nothing is to be ended; "" when it may */
    char trust[512]; /* ids of ledgers that may be judged by this one */
};

/* `wake_fd`: an eventfd, signalled when there is something for ec2_ledger_* callers to look at: it
 * came to lead, or a Redis that is new wants to be told (ec2_ledger_wants_look). Begins to work
 * when the account is known. */
int ec2_ledger_new(const struct config *cfg, const char *region, int wake_fd,
                   struct ec2_ledger **ret, struct error *err);
/* Whoever waits for a claim gives up, and no further one is made; what is claimed can be dropped.
 */
void ec2_ledger_end(struct ec2_ledger *l);
/* Leaves, and frees; NULL is fine. No call may be under way. */
void ec2_ledger_free(struct ec2_ledger *l);
/* The account's number; the first that is told stays. */
void ec2_ledger_account(struct ec2_ledger *l, const char *account);

/* Reserves `cost` under a new token, by ec2_cost_max. ENOSPC: above the ceiling; the sentence says
 * what is reserved. */
int ec2_ledger_claim(struct ec2_ledger *l, int64_t cost, int64_t deadline,
                     char token[EC2_TOKEN_MAX], struct error *err);
/* Takes over a token that stands in an instance's tags. */
void ec2_ledger_adopt(struct ec2_ledger *l, const char *token, int64_t cost);
/* It is over with it. Without Redis, it is told later. */
void ec2_ledger_drop(struct ec2_ledger *l, const char *token);

/* The ledger and number of a token; false when it is none of ours. */
bool ec2_token_parse(const char *token, char ledger[40], int64_t *ret_number);

/* True when this Redis has to be told what is at EC2 before anything is claimed there. */
bool ec2_ledger_wants_look(struct ec2_ledger *l);
/* Tells it: tokens of all instances of the deployment (NULL-ended). Of those, too, that make one
 * doubt. */
int ec2_ledger_tell(struct ec2_ledger *l, const char *const *tokens, struct error *err);

bool ec2_ledger_leads(struct ec2_ledger *l);
/* Beats, and what the leader is told then; -EAGAIN when we do not lead (any more). */
int ec2_ledger_claims(struct ec2_ledger *l, struct ec2_claims *ret, struct error *err);
void ec2_claims_done(struct ec2_claims *c);
/* What the leader has found: instances in no claim cost so much, and these void claims are over
 * (NULL-ended). */
int ec2_ledger_reaped(struct ec2_ledger *l, int64_t strays, const char *const *over,
                      struct error *err);

/* Of struct ec2_pace, with the ledger as arg. */
int64_t ec2_ledger_quiet(void *ledger);
int64_t ec2_ledger_throttled(void *ledger, unsigned times);

#endif
