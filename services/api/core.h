#ifndef MILONGA_API_CORE_H
#define MILONGA_API_CORE_H

/* What a frontend can ask for, whatever its dialect: labs and their files, jobs, output, lists,
 * pools, images. Each operation copies or borrows its arguments as it says, returns at once and
 * calls `done` exactly once, later, on the same loop. One core a loop; it keeps no state between
 * requests.
 *
 * Names were checked by the caller (base/name.h). */

#include "base/config.h"
#include "services/api/workers.h"
#include "wire/job.h"
#include "wire/rconn.h"
#include "wire/store.h"

#include <stdbool.h>
#include <stdint.h>

struct core;

struct core_env {
    const struct config *cfg;
    struct store *store;
    struct workers *workers;
    struct work_gate *gate;
    const struct rloop_ops *ops;
    void *loop;
};

struct core *core_new(const struct core_env *env);

/* Can Redis be asked right now; why not. */
bool core_is_up(const struct core *c, const char **ret_why);

enum core_status {
    CORE_OK,
    CORE_FAILED, /* `why` is a sentence */
    CORE_NO_LAB,
    CORE_NOT_FOUND,  /* no such file, output, job or image */
    CORE_SAME,       /* it was there already: file, job */
    CORE_FULL,       /* a bound of the server is reached */
    CORE_QUEUED,     /* the job is not assigned yet */
    CORE_NO_MACHINE, /* the job has no machine yet */
    CORE_LATE,       /* wished, but not there within wish_wait_ms; `why` */
};

struct core_file {
    const char *name;
    size_t name_len;
    char sha256[SHA256_HEX + 1]; /* empty when there is no such file */
    char md5[MD5_HEX + 1];
    uint64_t size;
};

struct core_idle { /* a vmm that takes no jobs */
    const char *vmm;
    const char *why;
};

struct core_pool {
    const char *image;
    unsigned *total, *free; /* machine ids */
    size_t total_ct, free_ct;
};

struct core_counter {
    const char *name;
    int64_t value;
};

struct core_job {
    uint64_t id;
    const struct job *job;
    const char *driver; /* of its vmm, or of some vmm; "" when none is known */
    bool assigned, rejected;
    unsigned attempts; /* begun */
    int64_t machine;   /* id, or -1 */
    int64_t accepted_ms;
    const char *const *trace; /* "code ms arg" */
    size_t trace_ct;
};

/* What an operation tells; each fills what it says and leaves the rest 0. Valid until done()
 * returns. */
struct core_answer {
    enum core_status status;
    const char *why;
    bool made;               /* open: the lab is new */
    bool lab;                /* lookup: the lab exists */
    struct core_file *files; /* open: all; lookup: as asked, in order */
    size_t file_ct;
    char *digests[JOB_MAX_DIGESTS]; /* lookup: of the image; none: it is unknown */
    size_t digest_ct;
    uint64_t id;       /* lookup (CORE_SAME), accept, reject */
    const char *bytes; /* partial */
    size_t len;
    uint64_t slots; /* info: of the vmms that are up; pools: how many are up */
    const struct core_counter *counters;
    size_t counter_ct;
    const struct core_pool *pools;
    size_t pool_ct;
    const struct core_idle *idle; /* pools: vmms that are up and take no jobs */
    size_t idle_ct;
    const char *text; /* jobs: what render() wrote */
};
typedef void core_done_fn(void *arg, const struct core_answer *a);

/* ---- Labs (core_lab.c) ---- */

/* OK: made or not, files. */
void core_open(struct core *c, const char *tenant, const char *lab, core_done_fn *done, void *arg);

/* OK, SAME (a file of that name and MD5 is there), NO_LAB, FULL. Borrows `data` until done. */
void core_put(struct core *c, const char *tenant, const char *lab, const char *name,
              const void *data, size_t len, core_done_fn *done, void *arg);

/* Feedback of the last finished job with that output file. OK: *a->files is it; NOT_FOUND. */
void core_find_output(struct core *c, const char *tenant, const char *lab, const char *name,
                      core_done_fn *done, void *arg);

/* Reading a file of the store, piece by piece, on workers. */
struct core_reader;
/* OK: open and positioned at 0; NOT_FOUND. *ret is the caller's to core_read_close() after done. */
struct core_reader *core_read_open(struct core *c, const char *sha256, core_done_fn *done,
                                   void *arg);
/* OK: a->bytes, a->len (0 at the end), valid until the next call. Only after the one before is
 * done. */
void core_read_next(struct core_reader *r, core_done_fn *done, void *arg);
uint64_t core_read_size(const struct core_reader *r);
void core_read_close(struct core_reader *r);

/* Stores bytes. OK: a->files is them. Borrows `data`. */
void core_store(struct core *c, const void *data, size_t len, core_done_fn *done, void *arg);

/* ---- Submitting (core_submit.c) ---- */

/* What the check of a job needs to know. OK, or SAME: `dup` was accepted as a->id a moment ago. */
void core_lookup(struct core *c, const char *tenant, const char *lab, const char *dup,
                 const char *image, const char *const *files, size_t file_ct, core_done_fn *done,
                 void *arg);

/* Puts the job into the queue. OK or SAME: a->id; FULL. `dup` may be "". Copies. */
void core_accept(struct core *c, const struct job *job, const char *dup, core_done_fn *done,
                 void *arg);

/* Gives a refused job an id and puts it among the dead, with these lines as its trace. OK: a->id.
 */
void core_reject(struct core *c, const struct job *job, const char *const *lines, size_t line_ct,
                 core_done_fn *done, void *arg);

/* ---- Looking (core_look.c) ---- */

/* OK: a->bytes so far; NOT_FOUND (unknown, finished, not this tenant's), QUEUED, NO_MACHINE. */
void core_partial(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg);

/* At most list_max jobs by rising id, each given to render() on a worker, which appends to `out`.
 * OK: a->text, a->len is what it wrote. */
typedef void core_render_fn(const struct core_job *j, const struct config *cfg, struct buf *out);
void core_jobs(struct core *c, const char *tenant, bool dead, core_render_fn *render,
               core_done_fn *done, void *arg);

void core_info(struct core *c, core_done_fn *done, void *arg);
void core_pools(struct core *c, core_done_fn *done, void *arg);

/* ---- Wishing (core_wish.c) ---- */

/* Wishes n warm machines and waits for them. OK, NOT_FOUND (no such image), LATE. */
void core_prealloc(struct core *c, const char *image, unsigned n, unsigned cores_milli,
                   unsigned memory_mb, core_done_fn *done, void *arg);

/* Stores an image archive, wishes that it be made an image and waits. OK, FAILED, LATE. Borrows
 * `data`. */
void core_build(struct core *c, const char *name, const void *data, size_t len, core_done_fn *done,
                void *arg);

#endif
