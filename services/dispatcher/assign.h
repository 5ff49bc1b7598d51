#ifndef MILONGA_DISPATCHER_ASSIGN_H
#define MILONGA_DISPATCHER_ASSIGN_H

#include "base/err.h"
#include "services/dispatcher/plan.h"

struct dispatcher;

/* Executes a plan, in batches; 0 or negative. Moves that do not hold any more are left out. */
int assign_plan(struct dispatcher *d, const struct world *w, const struct plan *plan,
                struct error *err);

#endif
