#ifndef MILONGA_API_TANGO_H
#define MILONGA_API_TANGO_H

/* The dialect of Tango (docs/tango.md): its routes, and what its files share. */

#include "services/api/call.h"
#include "services/api/reply.h"

extern const struct route tango_routes[];
extern const size_t tango_route_ct;

void tango_add_job(struct call *c);  /* tango_add.c */
void tango_prealloc(struct call *c); /* tango_add.c */

/* Appends one job as an element of the list in /jobs. */
void tango_render_job(const struct core_job *j, const struct config *cfg, struct buf *out);

/* Where Tango would have kept a file; frontends look for "courselabs/<tenant>-" in it. */
void tango_lab_path(struct buf *b, const char *tenant, const char *lab, const char *sub,
                    const char *name);

/* What an operation of the core could not do, said as Tango says errors. */
void tango_fail(struct call *c, const struct core_answer *a);

/* True when `why` is NULL; else answers "Bad <what>: <why>". */
bool tango_name_ok(struct call *c, const char *what, const char *why);

#endif
