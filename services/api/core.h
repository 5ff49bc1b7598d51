#ifndef MILONGA_API_CORE_H
#define MILONGA_API_CORE_H

/* What a frontend can ask for, whatever its dialect: labs and their files, jobs, output, lists,
 * pools, images. Each operation copies or borrows its arguments as it says, returns at once and
 * calls `done` exactly once, later, on the same loop. One core a loop; it keeps no state between
 * requests.
 *
 * Names were checked by the caller (base/name.h). Images' names are as the tenant says them, but
 * where a full one is asked for (base/image_name.h). */

#include "base/config.h"
#include "services/api/workers.h"
#include "wire/job.h"
#include "wire/rconn.h"
#include "wire/store.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct core;

/* Round trips to Redis of all cores of a process. */
#define CORE_METER_BUCKETS 8
extern const unsigned core_meter_us[CORE_METER_BUCKETS]; /* bounds of the buckets */
struct core_meter {
    atomic_ullong ct, us, failed, buckets[CORE_METER_BUCKETS]; /* each in the least that holds it */
};

struct core_env {
    const struct config *cfg;
    struct store *store;
    struct workers *workers;
    struct work_gate *gate;
    struct core_meter *meter;
    const struct rloop_ops *ops;
    void *loop;
    /* Once, when the first try to reach Redis has ended, well or not: until then nothing can be
     * answered, not even that Redis is away. */
    void (*on_tried)(void *arg);
    void *arg;
};

struct core *core_new(const struct core_env *env);

/* Of the server that is connected, "" when none is. */
const char *core_run_id(const struct core *c);

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
    CORE_MARKED,     /* cancel: its worker is told */
    CORE_OVER,       /* the job is finished, otherwise than wished */
    CORE_CONFLICT,   /* `why` is a word that says what is in the way */
    CORE_TOO_BIG,    /* and will be however often it is asked; `why` */
    CORE_MOVED,      /* accept: the image is another by now; look it up again */
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

/* Of the attempt that ended the job. Not known: it did not run, or its machine was lost. */
struct core_usage {
    bool known;
    char how; /* 'e' it exited with `status`, 's' a signal of that number, '-' it was ended */
    unsigned status;
    uint64_t wall_ms, cpu_ms, peak_kb, output_bytes;
};

/* Texts are "" and numbers 0 where nothing is known. */
struct core_job {
    uint64_t id;
    const struct job *job;
    char state; /* q a p r c f, as in docs/protocol.md */
    const char *verdict, *vmm, *machine_name, *feedback, *token;
    uint64_t feedback_size, output_len, requeue_of;
    struct core_usage usage;
    int64_t since_ms, finished_ms;
    unsigned charged;
    bool cancelling, has_callback;
    const char *callback_state, *callback_last; /* sent or failed; of the last try */
    unsigned callback_tries;
    int64_t callback_due_ms; /* 0: not in the outbox */
    const char *driver;      /* of its vmm, or of some vmm; "" when none is known */
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
    const char *image; /* lookup: its full name */
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
    const struct core_idle *out; /* pools: VMM/HOST of hosts that are not used */
    size_t out_ct;
    const char *text;   /* jobs: what render() wrote; page: the next cursor */
    const char *detail; /* lookup, accept (CORE_SAME): digest of the request that was accepted */
    const struct core_job *job;
    const redisReply *tree; /* ask */
};

/* Element i of a list: as text, "" when there is none; as a list, empty when it is none. */
const char *core_text(const redisReply *list, size_t i);
size_t core_text_len(const redisReply *list, size_t i);
int64_t core_number(const redisReply *list, size_t i);
const redisReply *core_list(const redisReply *list, size_t i);

typedef void core_done_fn(void *arg, const struct core_answer *a);

/* ---- Labs (core_lab.c) ---- */

/* OK: made or not, files; FULL: `why`, and a->slots is in how many ms there can be room. */
void core_open(struct core *c, const char *tenant, const char *lab, core_done_fn *done, void *arg);

/* OK, SAME (a file of that name and MD5 is there): *a->files is it; NO_LAB, FULL (without `why`).
 * Borrows `data` until done. */
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
/* Before the first core_read_next(): only these bytes, in pieces of at most `piece`, 0 as it comes.
 */
void core_read_part(struct core_reader *r, uint64_t from, uint64_t len, size_t piece);
uint64_t core_read_size(const struct core_reader *r);
void core_read_close(struct core_reader *r);

/* Stores bytes. OK: a->files is them. Borrows `data`. */
void core_store(struct core *c, const void *data, size_t len, core_done_fn *done, void *arg);

/* Does the store have all of a job's input? OK; NOT_FOUND. Borrows. What it has is spared for the
 * store's grace. */
void core_have(struct core *c, const struct job *job, core_done_fn *done, void *arg);

/* ---- Submitting (core_submit.c) ---- */

/* What the check of a job needs to know. OK, or SAME: `dup` was accepted as a->id a moment ago. */
void core_lookup(struct core *c, const char *tenant, const char *lab, const char *dup,
                 const char *image, const char *const *files, size_t file_ct, core_done_fn *done,
                 void *arg);

/* What makes the same request again the same request. */
struct core_once {
    const char *dup;    /* hash of what identifies it, or "" */
    const char *digest; /* of all of it, or "": told with CORE_SAME */
    int64_t ms;         /* for so long */
    uint64_t repeats;   /* the finished job that this one repeats, or 0 */
};

/* Puts the job into the queue; its image's name is the full one. OK or SAME: a->id; MOVED; FULL:
 * a->slots is how many ms there are between the ends of two jobs, 0 when it is not known; TOO_BIG.
 * Copies. */
void core_accept(struct core *c, const struct job *job, const struct core_once *once,
                 core_done_fn *done, void *arg);

/* Appends what decides where a job can run: docs/protocol.md, P:pl. */
void core_place(const struct job *job, struct buf *b);

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

/* One page of a tenant's jobs, newest first. `query` borrows until done. OK: what render() wrote is
 * a->text up to a->len, a->detail the next cursor or "". */
struct core_query {
    const char *cursor, *states, *verdict, *lab, *image; /* "" any; states as letters */
    unsigned most;
};
void core_page(struct core *c, const char *tenant, const struct core_query *query,
               core_render_fn *render, core_done_fn *done, void *arg);

/* OK: a->job, with its trace; NOT_FOUND. */
void core_get(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg);

/* OK: finished as cancelled, now or before; MARKED; OVER; NOT_FOUND. */
void core_cancel(struct core *c, const char *tenant, uint64_t id, core_done_fn *done, void *arg);

/* A question that a script answers with a tree of texts. OK: a->tree behind its first element;
 * NOT_FOUND; CONFLICT. Copies. */
enum core_question {
    ASK_LABS,
    ASK_LAB,
    ASK_LAB_DROP,
    ASK_FILE_DROP,
    ASK_FILE,
    ASK_VMMS,
    ASK_DRAIN,
    ASK_POOLS,
    ASK_UNWISH,
    ASK_IMAGES,
    ASK_IMAGE_DROP,
    ASK_WHY,
    ASK_STATS,
    ASK_READY,
    ASK_CALLBACKS,
    ASK_CALLBACK_RETRY,
    ASK_OUTPUT,
    ASK_EVENTS,
    ASK_QUESTIONS
};
void core_ask(struct core *c, enum core_question q, int argc, const char *const *argv,
              core_done_fn *done, void *arg);

/* ---- Watching (core_watch.c, core_feed.c) ---- */

/* Output as it comes. All watchers of a job on this loop share one subscription and one copy of
 * what is live. */
enum core_watch_state {
    WATCH_LOOKING,
    WATCH_FAILED, /* Redis is away; it looks again when that is back */
    WATCH_NONE,   /* no such job of this tenant */
    WATCH_LIVE,
    WATCH_OVER,
};
struct core_view {
    enum core_watch_state state;
    const char *token; /* of the attempt whose output it is; "" before there is one */
    const char *bytes; /* live: all so far */
    size_t len;
    const char *feedback; /* over: sha256 of the feedback, "" when there is none */
    uint64_t begin, end;  /* over: the output in it */
    const char *verdict;
    const char *why; /* failed */
};
struct core_watcher {
    void (*news)(void *arg); /* the view has changed; may core_unwatch() */
    void *arg;
    TAILQ_ENTRY(core_watcher) link; /* the rest is the core's own */
    struct watch *watch;
};
void core_watch(struct core *c, const char *tenant, uint64_t id, struct core_watcher *w);
void core_unwatch(struct core *c, struct core_watcher *w);
struct core_view core_watch_view(const struct core_watcher *w);
/* A place for something that all watchers of this job share; *ret_free is called with it at its
 * end. */
void **core_watch_memo(struct core_watcher *w, void (***ret_free)(void *memo));

/* What happens. */
struct core_event {
    const char *id;                              /* in the stream: where to go on from */
    const char *kind;                            /* job, vmm, pool, image */
    const char *tenant, *state, *verdict, *step; /* job */
    uint64_t job;
    unsigned attempt;
    const char *what, *name; /* the others */
    int64_t at_ms;
};
struct core_listener {
    void (*event)(void *arg, const struct core_event *e); /* may core_unlisten() */
    void (*look)(void *arg);                              /* some may have been missed */
    void *arg;
    TAILQ_ENTRY(core_listener) link;
    struct feed *feed;
};
void core_listen(struct core *c, struct core_listener *l);
void core_unlisten(struct core_listener *l);
/* The words of the stream's entry; false when it is none. Cuts `text` up. */
bool core_event_parse(char *text, struct core_event *ret);

void core_info(struct core *c, core_done_fn *done, void *arg);
void core_pools(struct core *c, const char *tenant, core_done_fn *done, void *arg);

/* ---- Wishing (core_wish.c) ---- */

/* Wishes n warm machines and waits for them, wait_ms at most. OK, NOT_FOUND (no such image), LATE.
 */
void core_prealloc(struct core *c, const char *tenant, const char *image, unsigned n,
                   unsigned cores_milli, unsigned memory_mb, unsigned wait_ms, core_done_fn *done,
                   void *arg);

/* Stores an image archive, wishes that it be made the image of that full name and waits, wait_ms at
 * most. OK, FAILED, LATE, FULL (tenant_images_max; `why`); a->files is the archive once it is
 * stored. Borrows `data`. */
void core_build(struct core *c, const char *name, const void *data, size_t len, unsigned wait_ms,
                core_done_fn *done, void *arg);

#endif
