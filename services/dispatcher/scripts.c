#include "services/dispatcher/scripts.h"

const struct script script_lead = {
    "lead",
#include "dispatcher/lua/lead.inc"
};

const struct script script_resign = {
    "resign",
#include "dispatcher/lua/resign.inc"
};

const struct script script_generation = {
    "generation",
#include "dispatcher/lua/generation.inc"
};

const struct script script_observe = {
    "observe",
#include "dispatcher/lua/observe.inc"
};

const struct script script_assign = {
    "assign",
#include "dispatcher/lua/assign.inc"
};

const struct script script_reclaim = {
    "reclaim",
#include "dispatcher/lua/reclaim.inc"
};

const struct script script_due = {
    "due",
#include "dispatcher/lua/due.inc"
};

const struct script script_close = {
    "close",
#include "dispatcher/lua/close.inc"
};

const struct script script_want = {
    "want",
#include "dispatcher/lua/want.inc"
};

const struct script script_outbox = {
    "outbox",
#include "dispatcher/lua/outbox.inc"
};

const struct script script_outbox_done = {
    "outbox_done",
#include "dispatcher/lua/outbox_done.inc"
};

const struct script script_retain = {
    "retain",
#include "dispatcher/lua/retain.inc"
};

const struct script script_expire = {
    "expire",
#include "dispatcher/lua/expire.inc"
};

const struct script script_tidy = {
    "tidy",
#include "dispatcher/lua/tidy.inc"
};

const struct script script_refs = {
    "refs",
#include "dispatcher/lua/refs.inc"
};
