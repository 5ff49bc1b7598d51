#include "scripts.h"

const struct script script_register = {
    "register",
#include "vmm/lua/register.inc"
};

const struct script script_renew = {
    "renew",
#include "vmm/lua/renew.inc"
};

const struct script script_images = {
    "images",
#include "vmm/lua/images.inc"
};

const struct script script_hosts = {
    "hosts",
#include "vmm/lua/hosts.inc"
};

const struct script script_pool = {
    "pool",
#include "vmm/lua/pool.inc"
};

const struct script script_machine_id = {
    "machine_id",
#include "vmm/lua/machine_id.inc"
};

const struct script script_step = {
    "step",
#include "vmm/lua/step.inc"
};

const struct script script_output = {
    "output",
#include "vmm/lua/output.inc"
};

const struct script script_commit = {
    "commit",
#include "vmm/lua/commit.inc"
};

const struct script script_giveback = {
    "giveback",
#include "vmm/lua/giveback.inc"
};

const struct script script_unregister = {
    "unregister",
#include "vmm/lua/unregister.inc"
};

const struct script script_drain = {
    "drain",
#include "vmm/lua/drain.inc"
};

const struct script script_kept = {
    "kept",
#include "vmm/lua/kept.inc"
};

const struct script script_build_done = {
    "build_done",
#include "vmm/lua/build_done.inc"
};

const struct script script_ec2_look = {
    "ec2_look",
#include "vmm/lua/ec2_look.inc"
};

const struct script script_ec2_doubt = {
    "ec2_doubt",
#include "vmm/lua/ec2_doubt.inc"
};

const struct script script_ec2_claim = {
    "ec2_claim",
#include "vmm/lua/ec2_claim.inc"
};

const struct script script_ec2_drop = {
    "ec2_drop",
#include "vmm/lua/ec2_drop.inc"
};

const struct script script_ec2_void = {
    "ec2_void",
#include "vmm/lua/ec2_void.inc"
};

const struct script script_ec2_reaped = {
    "ec2_reaped",
#include "vmm/lua/ec2_reaped.inc"
};

const struct script script_ec2_leave = {
    "ec2_leave",
#include "vmm/lua/ec2_leave.inc"
};

const struct script script_ec2_pace = {
    "ec2_pace",
#include "vmm/lua/ec2_pace.inc"
};
