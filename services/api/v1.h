#ifndef MILONGA_API_V1_H
#define MILONGA_API_V1_H

/* The native API (docs/openapi.yaml): its routes, and what its files share. */

#include "services/api/call.h"
#include "services/api/problem.h"
#include "services/api/reply.h"

#include <jansson.h>

extern const struct route v1_routes[];
extern const size_t v1_route_ct;

/* v1_lab.c */
void v1_labs(struct call *c);
void v1_lab_get(struct call *c);
void v1_lab_put(struct call *c);
void v1_lab_delete(struct call *c);
void v1_file_get(struct call *c);
void v1_file_put(struct call *c);
void v1_file_delete(struct call *c);
/* v1_job.c */
void v1_jobs(struct call *c);
void v1_job(struct call *c);
void v1_cancel(struct call *c);
void v1_callbacks(struct call *c);
void v1_callback_retry(struct call *c);
void v1_feedback(struct call *c);
void v1_output(struct call *c);
/* v1_submit.c */
void v1_submit(struct call *c);
void v1_requeue(struct call *c);
/* v1_stream.c */
void v1_output_stream(struct call *c);
void v1_job_events(struct call *c);
void v1_events(struct call *c);
/* v1_fleet.c */
void v1_vmms(struct call *c);
void v1_vmm(struct call *c);
void v1_drain(struct call *c);
void v1_resume(struct call *c);
void v1_machines(struct call *c);
/* v1_pool.c */
void v1_pools(struct call *c);
void v1_pool_put(struct call *c);
void v1_pool_delete(struct call *c);
void v1_images(struct call *c);
void v1_image(struct call *c);
void v1_image_put(struct call *c);
void v1_image_delete(struct call *c);
/* v1_why.c */
void v1_why(struct call *c);
void v1_stats(struct call *c);
void v1_metrics(struct call *c);
void v1_readyz(struct call *c);

/* ---- Parameters; each answers and returns false when it is not good ---- */

/* Parameter 0 as a job's id: 404 when it is none. */
bool v1_id(struct call *c, uint64_t *ret);
/* Asks a question about the job of parameter 0 whose script takes tenant, id and the time. */
void v1_ask_job(struct call *c, enum core_question q, core_done_fn *done);
/* A whole number of the query within bounds: 400 otherwise; `def` when it is absent. */
bool v1_query_number(struct call *c, const char *name, uint64_t low, uint64_t high, uint64_t def,
                     uint64_t *ret);
/* The body as a JSON object: 400, 422. *ret is the caller's to json_decref(). An empty body is
 * NULL. */
bool v1_body(struct call *c, json_t **ret);

/* ---- Bodies; each adds to `p` what is wrong ---- */

/* Members that are not in `known` (words with spaces between). */
void v1_known(struct problems *p, const json_t *object, const char *at, const char *known);
/* NULL when it is absent or wrong. `check` is one of base/name.h or NULL. */
const char *v1_string(struct problems *p, const json_t *object, const char *at, const char *key,
                      bool required, size_t max, const char *(*check)(const char *s, size_t len));
/* 0 when it is absent or wrong; `most_is` says whose bound it is. */
double v1_number(struct problems *p, const json_t *object, const char *at, const char *key,
                 bool whole, double low, double high);

/* ---- Answers ---- */

void v1_json(struct call *c, int status, struct buf *b); /* frees b */
/* {, "key": value with its comma where it is not the first */
void v1_text(struct buf *b, const char *key, const char *value);     /* null when value is NULL */
void v1_text_or_null(struct buf *b, const char *key, const char *s); /* null when it is empty */
void v1_int(struct buf *b, const char *key, int64_t value);
void v1_int_or_null(struct buf *b, const char *key, int64_t value, bool there);
/* {"timeout_s": ..., "cores": ..., ...} */
void v1_limits(struct buf *b, const char *key, int64_t timeout_s, const struct job_limits *l);
void v1_bool(struct buf *b, const char *key, bool value);
/* "a,b" as ["a", "b"] */
void v1_split(struct buf *b, const char *key, const char *text, size_t len, char comma);
/* The key alone, with its comma. */
void v1_key(struct buf *b, const char *key);
void v1_comma(struct buf *b); /* unless it is the first of its list */

const char *v1_state_name(char letter);
void v1_render_summary(const struct core_job *j, struct buf *b);
void v1_render_job(const struct core_job *j, struct buf *b);
/* text of a problem's `what`: "job 7"; one a thread. */
const char *v1_what(const char *kind, const char *name);

#endif
