#ifndef MILONGA_API_PROBLEM_H
#define MILONGA_API_PROBLEM_H

/* Errors of the native API: application/problem+json (RFC 9457). docs/openapi.yaml lists the codes.
 * Every problem_* that takes a call ends it. */

#include "services/api/call.h"

#define PROBLEM_TYPE "application/problem+json"

/* The document; `errors` is a JSON array or NULL. The caller frees it. */
char *problem_text(int status, const char *code, const char *detail, const char *errors);
/* What a bare status is called, and a sentence for it. */
const char *problem_code(int status);
const char *problem_sentence(int status);

__attribute__((format(printf, 4, 5))) void problem(struct call *c, int status, const char *code,
                                                   const char *fmt, ...);
/* 429 with an honest Retry-After (at least 1 s). */
__attribute__((format(printf, 4, 5))) void problem_later(struct call *c, uint64_t wait_s,
                                                         const char *code, const char *fmt, ...);

/* 404 or 405 of a path below /v... */
char *problem_unrouted_text(int status, unsigned version); /* the caller frees it */
void problem_unrouted(struct call *c, int status, unsigned version, unsigned allowed);

/* May this key (NULL: none that is known) use the call's route? Answers 401 or 403 when not. */
bool problem_allowed(struct call *c, const struct config_key_entry *k);

/* What an operation of the core could not do, `what` being what it was about: "job 7". Redis or the
 * store are away: 503. */
void problem_core(struct call *c, const struct core_answer *a, const char *what);

/* ---- What is wrong with a body, field by field ---- */

#define PROBLEMS_MAX 32
struct problems {
    struct buf list; /* JSON, without its brackets */
    unsigned ct;
};
__attribute__((format(printf, 3, 4))) void problems_add(struct problems *p, const char *pointer,
                                                        const char *fmt, ...);
/* Answers 422 and returns true when there are any. */
bool problems_reply(struct problems *p, struct call *c);

#endif
