#ifndef MILONGA_DISPATCHER_SCRIPTS_H
#define MILONGA_DISPATCHER_SCRIPTS_H

/* The transitions that the dispatcher makes in Redis, one file each in lua/ (docs/protocol.md,
 * "Scripts"). */

#include "wire/script.h"

extern const struct script script_lead;
extern const struct script script_resign;
extern const struct script script_generation;
extern const struct script script_observe;
extern const struct script script_assign;
extern const struct script script_reclaim;
extern const struct script script_due;
extern const struct script script_close;
extern const struct script script_want;
extern const struct script script_outbox;
extern const struct script script_outbox_done;
extern const struct script script_retain;
extern const struct script script_expire;
extern const struct script script_tidy;
extern const struct script script_refs;

#endif
