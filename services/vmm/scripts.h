#ifndef MILONGA_VMM_SCRIPTS_H
#define MILONGA_VMM_SCRIPTS_H

/* The transitions that a vmm makes in Redis, one file each in lua/ (docs/protocol.md, "Scripts").
 */

#include "wire/script.h"

extern const struct script script_register;
extern const struct script script_renew;
extern const struct script script_images;
extern const struct script script_hosts;
extern const struct script script_pool;
extern const struct script script_machine_id;
extern const struct script script_step;
extern const struct script script_output;
extern const struct script script_commit;
extern const struct script script_giveback;
extern const struct script script_unregister;
extern const struct script script_drain;
extern const struct script script_kept;
extern const struct script script_build_done;
extern const struct script script_ec2_look;
extern const struct script script_ec2_doubt;
extern const struct script script_ec2_claim;
extern const struct script script_ec2_drop;
extern const struct script script_ec2_void;
extern const struct script script_ec2_reaped;
extern const struct script script_ec2_leave;
extern const struct script script_ec2_pace;

#endif
