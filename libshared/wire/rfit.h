#ifndef MILONGA_RFIT_H
#define MILONGA_RFIT_H

/* Is a Redis one that we can work with? Judged by its answers to a connection's greeting. Each
 * borrows the reply and answers 0, or -1 with the reason, for people, in `why`. */

#include <hiredis/hiredis.h>

#define RFIT_RUN_ID 40
#define RFIT_WHY    256

/* INFO server: new enough, and says which process it is. */
int rfit_server(const redisReply *info, char ret_run_id[RFIT_RUN_ID + 1], char why[RFIT_WHY]);
/* CONFIG GET maxmemory-policy. A refusal passes: CONFIG may be forbidden to us by an ACL or by a
 * provider, and then whoever runs it is trusted. */
int rfit_policy(const redisReply *config, char why[RFIT_WHY]);
/* INFO replication: a master, who may be written to. */
int rfit_master(const redisReply *info, char why[RFIT_WHY]);

#endif
