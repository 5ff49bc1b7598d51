#ifndef MILONGA_JOB_H
#define MILONGA_JOB_H

/* A job's body: what a frontend asked for, immutable once accepted; a versioned msgpack map with
 * short integer keys (docs/protocol.md, "The job body"). Keys that this version does not know are
 * skipped on reading; bodies are never re-encoded. The id is not in it: the accept script gives it.
 */

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOB_BODY_VERSION 1
#define JOB_BODY_MAX     (256 * 1024)
#define JOB_MAX_FILES    1024
#define JOB_MAX_LABELS   16
#define JOB_MAX_DIGESTS  8

struct job_file {
    char *local;                 /* name in the lab */
    char *dest;                  /* name in the job's directory */
    char sha256[SHA256_HEX + 1]; /* empty in a rejected job */
    uint64_t size;               /* bytes */
};

/* 0 means "not given": the vmm's default applies. */
struct job_limits {
    uint32_t cores_milli; /* thousandths of a core */
    uint32_t memory_mb;
    uint32_t pids;
    uint64_t fsize_bytes;
    uint64_t disk_bytes;
    uint64_t output_bytes;
};

struct job {
    char *tenant;
    char *lab;
    char *name;
    char *output_file;
    char *image;                    /* as asked for */
    char *callback_url;             /* NULL when there is none */
    char *callback_secret;          /* NULL: Tango's form; else "whsec_...", Standard Webhooks */
    char *digests[JOB_MAX_DIGESTS]; /* what `image` resolved to when it was accepted */
    size_t digest_ct;
    char *labels[JOB_MAX_LABELS]; /* sorted */
    size_t label_ct;
    struct job_file *files;
    size_t file_ct;
    struct job_limits limits;
    uint32_t timeout_s;  /* wall clock, already defaulted */
    bool network;        /* false: none at all */
    uint8_t class;       /* 0 first; default JOB_CLASS_DEFAULT */
    int64_t accepted_ms; /* wall */
};

#define JOB_CLASS_DEFAULT 4

struct job *job_new(void);      /* all empty but the class, which is the default */
void job_free(struct job *job); /* NULL is fine; frees what it points to */
void job_freep(struct job **job);
#define cleanup_job __attribute__((cleanup(job_freep)))

/* Appends the encoding to out. Strings that are NULL are written as empty. 0, or -ENOSPC (at the
 * bound of `out`, over JOB_BODY_MAX, over JOB_MAX_FILES) with out as it was. */
int job_encode(const struct job *job, struct buf *out);

/* *ret is the caller's to job_free(). Refuses (ERR_PERMANENT, EPROTO) what is cut short, of a newer
 * major version, over JOB_BODY_MAX, has a key twice, or is of wrong kinds. Strings but the callback
 * URL are never NULL; a class that is absent is the default. */
int job_decode(const void *data, size_t len, struct job **ret, struct error *err);

/* The caller's to job_free(); NULL when it is over the bounds of job_encode(). */
struct job *job_copy(const struct job *job);

/* Copies; what was there goes. */
void job_set_image(struct job *job, const char *image, const char *const *digests, size_t ct);

/* A token, what fences a write: "<generation>.<attempt>". */
struct job_token {
    uint32_t generation;
    uint32_t attempt;
};
#define JOB_TOKEN_TEXT 24
void job_token_format(struct job_token t, char out[JOB_TOKEN_TEXT]);
int job_token_parse(const char *s, size_t len, struct job_token *ret); /* 0 or -EINVAL */

/* Verdicts; the text is what Redis, logs and APIs carry. */
enum job_verdict {
    VERDICT_SUCCESS, /* the autodriver ran it to its end, whatever make returned */
    VERDICT_FAILED,  /* the job could not be run as asked (no make, usage) */
    VERDICT_TIMED_OUT,
    VERDICT_MEMORY, /* killed at the memory limit */
    VERDICT_CANCELLED,
    VERDICT_REJECTED,
    VERDICT_INFRASTRUCTURE,
    VERDICT_DISK, /* killed at the disk limit */
};
const char *job_verdict_name(enum job_verdict v); /* "success", "failed", "timed_out", ... */
int job_verdict_parse(const char *s, size_t len, enum job_verdict *ret);

#endif
