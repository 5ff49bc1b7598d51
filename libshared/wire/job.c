/* The table of keys is docs/protocol.md, "The job body". A key, once given, keeps its meaning for
 * ever: a Redis may hold bodies of every version that is still running somewhere. */

#include "wire/job.h"

#include "base/mem.h"
#include "wire/mp.h"

#include <errno.h>
#include <msgpack.h>
#include <stdio.h>
#include <string.h>

#define SHA256_BYTES (SHA256_HEX / 2)

enum job_key {
    KEY_VERSION,
    KEY_TENANT,
    KEY_LAB,
    KEY_NAME,
    KEY_OUTPUT_FILE,
    KEY_IMAGE,
    KEY_DIGESTS,
    KEY_FILES,
    KEY_TIMEOUT,
    KEY_CALLBACK,
    KEY_NETWORK,
    KEY_LIMITS,
    KEY_LABELS,
    KEY_CLASS,
    KEY_ACCEPTED,
    KEY_SECRET,
    KEY_CT,
};

enum limit_key {
    LIMIT_CORES,
    LIMIT_MEMORY,
    LIMIT_PIDS,
    LIMIT_FSIZE,
    LIMIT_DISK,
    LIMIT_OUTPUT,
};

struct job *job_new(void)
{
    struct job *job = xcalloc(1, sizeof(*job));

    job->class = JOB_CLASS_DEFAULT;
    return job;
}

void job_free(struct job *job)
{
    if (!job)
        return;
    free(job->tenant);
    free(job->lab);
    free(job->name);
    free(job->output_file);
    free(job->image);
    free(job->callback_url);
    free(job->callback_secret);
    for (size_t i = 0; i < job->digest_ct; i++)
        free(job->digests[i]);
    for (size_t i = 0; i < job->label_ct; i++)
        free(job->labels[i]);
    for (size_t i = 0; i < job->file_ct; i++) {
        free(job->files[i].local);
        free(job->files[i].dest);
    }
    free(job->files);
    free(job);
}

void job_freep(struct job **job)
{
    job_free(*job);
}

/* ---- Writing
 * ------------------------------------------------------------------------------------- */

/* msgpack-c hands on failures of its sink only as a return value of each call, so the sink
 * remembers. */
struct sink {
    struct buf *out;
    size_t max; /* out->len may not pass it */
    bool failed;
};

static int sink_write(void *data, const char *bytes, size_t len)
{
    struct sink *s = data;

    if (s->failed || len > s->max - s->out->len || buf_append(s->out, bytes, len) < 0) {
        s->failed = true;
        return -1;
    }
    return 0;
}

static void pack_text(msgpack_packer *pk, const char *s)
{
    size_t len = s ? strlen(s) : 0;

    msgpack_pack_str(pk, len);
    msgpack_pack_str_body(pk, s ? s : "", len);
}

static void pack_key_text(msgpack_packer *pk, enum job_key key, const char *s)
{
    msgpack_pack_uint64(pk, key);
    pack_text(pk, s);
}

static void pack_key_number(msgpack_packer *pk, unsigned key, uint64_t n)
{
    msgpack_pack_uint64(pk, key);
    msgpack_pack_uint64(pk, n);
}

static void pack_key_texts(msgpack_packer *pk, enum job_key key, char *const *texts, size_t ct)
{
    msgpack_pack_uint64(pk, key);
    msgpack_pack_array(pk, ct);
    for (size_t i = 0; i < ct; i++)
        pack_text(pk, texts[i]);
}

static unsigned hex_value(char c)
{
    return c >= 'a' ? (unsigned)(c - 'a') + 10 : (unsigned)(c - '0');
}

static void pack_file(msgpack_packer *pk, const struct job_file *f)
{
    unsigned char digest[SHA256_BYTES];
    size_t len = f->sha256[0] ? sizeof(digest) : 0;

    for (size_t i = 0; i < len; i++)
        digest[i] =
            (unsigned char)(hex_value(f->sha256[2 * i]) << 4 | hex_value(f->sha256[2 * i + 1]));
    msgpack_pack_array(pk, 4);
    pack_text(pk, f->local);
    pack_text(pk, f->dest);
    msgpack_pack_bin(pk, len);
    msgpack_pack_bin_body(pk, digest, len);
    msgpack_pack_uint64(pk, f->size);
}

static void pack_limits(msgpack_packer *pk, const struct job_limits *l)
{
    const uint64_t values[] = {
        [LIMIT_CORES] = l->cores_milli, [LIMIT_MEMORY] = l->memory_mb,
        [LIMIT_PIDS] = l->pids,         [LIMIT_FSIZE] = l->fsize_bytes,
        [LIMIT_DISK] = l->disk_bytes,   [LIMIT_OUTPUT] = l->output_bytes,
    };
    size_t ct = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
        ct += values[i] != 0;
    msgpack_pack_uint64(pk, KEY_LIMITS);
    msgpack_pack_map(pk, ct);
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
        if (values[i])
            pack_key_number(pk, i, values[i]);
}

int job_encode(const struct job *job, struct buf *out)
{
    size_t start = out->len;
    struct sink sink = {.out = out, .max = start + JOB_BODY_MAX};
    msgpack_packer pk;

    if (job->file_ct > JOB_MAX_FILES)
        return -ENOSPC;
    msgpack_packer_init(&pk, &sink, sink_write);
    msgpack_pack_map(&pk, KEY_CT - !job->callback_url - !job->callback_secret);
    pack_key_number(&pk, KEY_VERSION, JOB_BODY_VERSION);
    pack_key_text(&pk, KEY_TENANT, job->tenant);
    pack_key_text(&pk, KEY_LAB, job->lab);
    pack_key_text(&pk, KEY_NAME, job->name);
    pack_key_text(&pk, KEY_OUTPUT_FILE, job->output_file);
    pack_key_text(&pk, KEY_IMAGE, job->image);
    pack_key_texts(&pk, KEY_DIGESTS, job->digests, job->digest_ct);
    msgpack_pack_uint64(&pk, KEY_FILES);
    msgpack_pack_array(&pk, job->file_ct);
    for (size_t i = 0; i < job->file_ct; i++)
        pack_file(&pk, &job->files[i]);
    pack_key_number(&pk, KEY_TIMEOUT, job->timeout_s);
    if (job->callback_url)
        pack_key_text(&pk, KEY_CALLBACK, job->callback_url);
    msgpack_pack_uint64(&pk, KEY_NETWORK);
    if (job->network)
        msgpack_pack_true(&pk);
    else
        msgpack_pack_false(&pk);
    pack_limits(&pk, &job->limits);
    pack_key_texts(&pk, KEY_LABELS, job->labels, job->label_ct);
    pack_key_number(&pk, KEY_CLASS, job->class);
    msgpack_pack_uint64(&pk, KEY_ACCEPTED);
    msgpack_pack_int64(&pk, job->accepted_ms);
    if (job->callback_secret)
        pack_key_text(&pk, KEY_SECRET, job->callback_secret);
    if (!sink.failed)
        return 0;
    out->len = start;
    if (out->data)
        out->data[start] = '\0';
    return -ENOSPC;
}

/* ---- Reading
 * ------------------------------------------------------------------------------------- */

/* All that is refused here marks the cursor as failed, so that job_decode() looks once. */

static char *read_text(struct mp *m)
{
    size_t len;
    const char *s = mp_str(m, &len);

    if (memchr(s, '\0', len)) /* it would read as another name than it is */
        m->failed = true;
    return m->failed ? NULL : xstrndup(s, len);
}

static uint64_t read_number(struct mp *m, uint64_t max)
{
    uint64_t n = mp_uint(m);

    if (n > max)
        m->failed = true;
    return m->failed ? 0 : n;
}

/* A key of another kind than ours is an unknown key. */
static uint64_t read_map_key(struct mp *m)
{
    if (mp_peek(m) == MP_UINT)
        return mp_uint(m);
    mp_skip(m);
    return UINT64_MAX;
}

static void read_texts(struct mp *m, char **texts, size_t *ct, size_t max)
{
    uint32_t n = mp_array(m);

    if (n > max)
        m->failed = true;
    for (uint32_t i = 0; i < n && !m->failed; i++) {
        char *s = read_text(m);

        if (s)
            texts[(*ct)++] = s;
    }
}

/* Elements that a newer version may add at the end are skipped, as its keys are. */
static void read_file_entry(struct mp *m, struct job_file *f)
{
    uint32_t n = mp_array(m);
    const char *digest;
    size_t len;

    if (n < 4)
        m->failed = true;
    f->local = read_text(m);
    f->dest = read_text(m);
    digest = mp_str(m, &len);
    if (len != 0 && len != SHA256_BYTES)
        m->failed = true;
    for (size_t i = 0; i < len && !m->failed; i++)
        snprintf(f->sha256 + 2 * i, 3, "%02x", (unsigned)(unsigned char)digest[i]);
    f->size = read_number(m, UINT64_MAX);
    for (uint32_t i = 4; i < n && !m->failed; i++)
        mp_skip(m);
}

static void read_files(struct mp *m, struct job *job)
{
    uint32_t n = mp_array(m);

    if (n > JOB_MAX_FILES)
        m->failed = true;
    if (m->failed || n == 0)
        return;
    job->files = xcalloc(n, sizeof(*job->files));
    for (uint32_t i = 0; i < n && !m->failed; i++) {
        job->file_ct++; /* first: a half-read one is freed with the others */
        read_file_entry(m, &job->files[i]);
    }
}

static void read_limits(struct mp *m, struct job_limits *l)
{
    uint32_t n = mp_map(m);

    for (uint32_t i = 0; i < n && !m->failed; i++) {
        switch (read_map_key(m)) {
        case LIMIT_CORES:
            l->cores_milli = (uint32_t)read_number(m, UINT32_MAX);
            break;
        case LIMIT_MEMORY:
            l->memory_mb = (uint32_t)read_number(m, UINT32_MAX);
            break;
        case LIMIT_PIDS:
            l->pids = (uint32_t)read_number(m, UINT32_MAX);
            break;
        case LIMIT_FSIZE:
            l->fsize_bytes = read_number(m, UINT64_MAX);
            break;
        case LIMIT_DISK:
            l->disk_bytes = read_number(m, UINT64_MAX);
            break;
        case LIMIT_OUTPUT:
            l->output_bytes = read_number(m, UINT64_MAX);
            break;
        default:
            mp_skip(m);
        }
    }
}

static void read_key_text(struct mp *m, struct job *job, uint64_t key)
{
    char **place = key == KEY_TENANT        ? &job->tenant
                   : key == KEY_LAB         ? &job->lab
                   : key == KEY_NAME        ? &job->name
                   : key == KEY_OUTPUT_FILE ? &job->output_file
                   : key == KEY_IMAGE       ? &job->image
                   : key == KEY_SECRET      ? &job->callback_secret
                                            : &job->callback_url;

    if (key == KEY_CALLBACK && mp_peek(m) == MP_NIL)
        mp_skip(m);
    else
        *place = read_text(m);
}

static void read_key(struct mp *m, struct job *job, uint64_t key)
{
    switch (key) {
    case KEY_TENANT:
    case KEY_LAB:
    case KEY_NAME:
    case KEY_OUTPUT_FILE:
    case KEY_IMAGE:
    case KEY_CALLBACK:
    case KEY_SECRET:
        read_key_text(m, job, key);
        break;
    case KEY_DIGESTS:
        read_texts(m, job->digests, &job->digest_ct, JOB_MAX_DIGESTS);
        break;
    case KEY_FILES:
        read_files(m, job);
        break;
    case KEY_TIMEOUT:
        job->timeout_s = (uint32_t)read_number(m, UINT32_MAX);
        break;
    case KEY_NETWORK:
        job->network = mp_bool(m);
        break;
    case KEY_LIMITS:
        read_limits(m, &job->limits);
        break;
    case KEY_LABELS:
        read_texts(m, job->labels, &job->label_ct, JOB_MAX_LABELS);
        break;
    case KEY_CLASS:
        job->class = (uint8_t)read_number(m, UINT8_MAX);
        break;
    case KEY_ACCEPTED:
        job->accepted_ms = mp_int(m);
        break;
    default: /* KEY_VERSION was looked at before */
        mp_skip(m);
    }
}

/* Before anything else, wherever it stands: what the other keys hold follows from it. 0 when there
 * is none or the body is malformed. */
static uint64_t read_version(const void *data, size_t len)
{
    uint64_t version = 0;
    struct mp m;
    uint32_t n;

    mp_init(&m, data, len);
    n = mp_map(&m);
    for (uint32_t i = 0; i < n && !m.failed; i++) {
        if (read_map_key(&m) == KEY_VERSION) {
            version = mp_uint(&m);
            break;
        }
        mp_skip(&m);
    }
    return m.failed ? 0 : version;
}

static void read_map(struct mp *m, struct job *job)
{
    uint32_t seen = 0, n = mp_map(m);

    for (uint32_t i = 0; i < n && !m->failed; i++) {
        uint64_t key = read_map_key(m);

        if (key < KEY_CT) {
            if (seen & 1U << key)
                m->failed = true;
            seen |= 1U << key;
        }
        if (!m->failed)
            read_key(m, job, key);
    }
}

static char *or_empty(char *s)
{
    return s ? s : xstrdup("");
}

int job_decode(const void *data, size_t len, struct job **ret, struct error *err)
{
    cleanup_job struct job *job = job_new();
    uint64_t version;
    struct mp m;

    if (len > JOB_BODY_MAX)
        return err_set(err, ERR_PERMANENT, EPROTO, "job body of %zu bytes: at most %d are allowed",
                       len, JOB_BODY_MAX);
    version = read_version(data, len);
    if (version > JOB_BODY_VERSION)
        return err_set(err, ERR_PERMANENT, EPROTO,
                       "job body is of version %llu and this program reads up to %d; update it",
                       (unsigned long long)version, JOB_BODY_VERSION);
    mp_init(&m, data, len);
    read_map(&m, job);
    if (version == 0 || mp_end(&m) < 0)
        return err_set(err, ERR_PERMANENT, EPROTO, "job body of %zu bytes is malformed at byte %zu",
                       len, len - (size_t)(m.end - m.at));
    job->tenant = or_empty(job->tenant);
    job->lab = or_empty(job->lab);
    job->name = or_empty(job->name);
    job->output_file = or_empty(job->output_file);
    job->image = or_empty(job->image);
    *ret = TAKE_PTR(job);
    return 0;
}

void job_set_image(struct job *job, const char *image, const char *const *digests, size_t ct)
{
    char *name = xstrdup(image);

    free(job->image);
    job->image = name;
    while (job->digest_ct > 0) {
        free(job->digests[--job->digest_ct]);
        job->digests[job->digest_ct] = NULL;
    }
    while (job->digest_ct < ct && job->digest_ct < JOB_MAX_DIGESTS) {
        job->digests[job->digest_ct] = xstrdup(digests[job->digest_ct]);
        job->digest_ct++;
    }
}

struct job *job_copy(const struct job *job)
{
    cleanup_buf struct buf body = BUF_INIT(JOB_BODY_MAX);
    struct job *copy = NULL;

    if (job_encode(job, &body) == 0)
        job_decode(body.data, body.len, &copy, NULL);
    return copy;
}

/* ---- Tokens and verdicts
 * ------------------------------------------------------------------------- */

void job_token_format(struct job_token t, char out[JOB_TOKEN_TEXT])
{
    snprintf(out, JOB_TOKEN_TEXT, "%u.%u", t.generation, t.attempt);
}

/* In the one form that job_token_format() writes: scripts compare tokens as text. */
static int token_number(const char *s, size_t len, uint32_t *ret)
{
    uint64_t n = 0;

    if (len == 0 || len > 10 || (s[0] == '0' && len > 1))
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -EINVAL;
        n = n * 10 + (uint64_t)(s[i] - '0');
    }
    if (n > UINT32_MAX)
        return -EINVAL;
    *ret = (uint32_t)n;
    return 0;
}

int job_token_parse(const char *s, size_t len, struct job_token *ret)
{
    const char *dot = len ? memchr(s, '.', len) : NULL;
    struct job_token t;

    if (!dot || token_number(s, (size_t)(dot - s), &t.generation) < 0 ||
        token_number(dot + 1, len - (size_t)(dot - s) - 1, &t.attempt) < 0)
        return -EINVAL;
    *ret = t;
    return 0;
}

static const char *const verdict_names[] = {
    [VERDICT_SUCCESS] = "success",
    [VERDICT_FAILED] = "failed",
    [VERDICT_TIMED_OUT] = "timed_out",
    [VERDICT_MEMORY] = "memory",
    [VERDICT_CANCELLED] = "cancelled",
    [VERDICT_REJECTED] = "rejected",
    [VERDICT_INFRASTRUCTURE] = "infrastructure",
    [VERDICT_DISK] = "disk",
};

const char *job_verdict_name(enum job_verdict v)
{
    return verdict_names[v];
}

int job_verdict_parse(const char *s, size_t len, enum job_verdict *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(verdict_names); i++) {
        if (strlen(verdict_names[i]) == len && memcmp(s, verdict_names[i], len) == 0) {
            *ret = (enum job_verdict)i;
            return 0;
        }
    }
    return -EINVAL;
}
