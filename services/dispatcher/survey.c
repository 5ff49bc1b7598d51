#include "services/dispatcher/survey.h"

#include "base/buf.h"
#include "base/digest.h"
#include "base/mem.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "wire/job.h"

#include <errno.h>
#include <string.h>

#define SCAN_COUNT "500"
#define REFS_MAX   50 /* bodies of one call: they may be large */

struct survey {
    struct dispatcher *d;
    struct bell *bell;
    struct keepset *keep;
    struct error *err;
};

typedef int survey_fn(struct survey *s, const redisReply *items);

/* A cursor command to its end: argv[at] is where the cursor goes. */
static int scan(struct survey *s, int argc, const char **argv, int at, survey_fn *fn)
{
    cleanup_free char *cursor = xstrdup("0");

    do {
        cleanup_reply redisReply *r = NULL;
        int rc;

        if (bell_is_quitting(s->bell))
            return err_set(s->err, ERR_TEMPORARY, ECANCELED, "this service is stopping");
        argv[at] = cursor;
        rc = rlink_command(s->d->link, argc, argv, NULL, &r, s->err);
        if (rc < 0)
            return rc;
        if (r->type != REDIS_REPLY_ARRAY || r->elements != 2)
            return err_set(s->err, ERR_BUG, EPROTO, "Redis %s: not the answer of a scan", argv[0]);
        rc = fn(s, reply_list(r, 1));
        if (rc < 0)
            return rc;
        free(cursor);
        cursor = xstrdup(reply_str(r, 0));
    } while (strcmp(cursor, "0") != 0);
    return 0;
}

/* Every word that has a digest's form: "sha256 md5 size", "id sha256 size", "wanted sha256 text".
 */
static void add_words(struct survey *s, const char *text)
{
    while (*text) {
        size_t len = strcspn(text, " ");
        keepset_add(s->keep, text, len);
        text += len + strspn(text + len, " ");
    }
}

static int on_fields(struct survey *s, const redisReply *items)
{
    for (size_t i = 1; i < items->elements; i += 2)
        add_words(s, reply_str(items, i));
    return 0;
}

static int scan_hash(struct survey *s, const char *key)
{
    const char *argv[] = {"HSCAN", key, NULL, "COUNT", SCAN_COUNT};

    return scan(s, ARRAY_SIZE(argv), argv, 2, on_fields);
}

static int on_keys(struct survey *s, const redisReply *items)
{
    for (size_t i = 0; i < items->elements; i++) {
        int rc = scan_hash(s, reply_str(items, i));
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The prefix is a name, not a pattern. */
static char *pattern(const char *prefix, const char *kind)
{
    struct buf b = BUF_INIT(4096);

    for (const char *p = prefix; *p; p++) {
        if (strchr("*?[]\\", *p))
            buf_appends(&b, "\\");
        buf_append(&b, p, 1);
    }
    buf_printf(&b, ":%s:*", kind);
    return buf_detach(&b);
}

static int scan_keys(struct survey *s, const char *kind)
{
    cleanup_free char *match = pattern(s->d->cfg->redis_prefix, kind);
    const char *argv[] = {"SCAN", NULL, "MATCH", match, "COUNT", SCAN_COUNT, "TYPE", "hash"};

    return scan(s, ARRAY_SIZE(argv), argv, 1, on_keys);
}

static int add_body(struct survey *s, const redisReply *body)
{
    cleanup_job struct job *job = NULL;
    int rc;

    if (!body || body->len == 0)
        return 0;
    rc = job_decode(body->str, body->len, &job, s->err);
    if (rc < 0) /* of a newer version, perhaps: its files must not go */
        return err_wrap(s->err, "a live job's body");
    for (size_t i = 0; i < job->file_ct; i++)
        keepset_add(s->keep, job->files[i].sha256, strlen(job->files[i].sha256));
    return 0;
}

static int on_refs(struct survey *s, const char *const *ids, size_t ct)
{
    const char *argv[REFS_MAX + 1];
    cleanup_reply redisReply *r = NULL;
    int rc;

    memcpy(argv + 1, ids, ct * sizeof(*ids));
    rc = dispatcher_ask(s->d, &script_refs, (int)ct + 1, argv, NULL, &r, s->err);
    for (size_t i = 1; rc == 0 && i + 1 < r->elements; i += 2) {
        add_words(s, reply_str(r, i));
        rc = add_body(s, reply_bytes(r, i + 1));
    }
    return rc;
}

static int on_ids(struct survey *s, const redisReply *items)
{
    const char *ids[REFS_MAX];
    size_t ct = 0;
    int rc = 0;

    for (size_t i = 0; i < items->elements && rc == 0; i += 2) {
        ids[ct++] = reply_str(items, i);
        if (ct == REFS_MAX || i + 2 >= items->elements) {
            rc = on_refs(s, ids, ct);
            ct = 0;
        }
    }
    return rc;
}

static int scan_ids(struct survey *s, const char *name)
{
    cleanup_free char *key = xasprintf("%s:%s", s->d->cfg->redis_prefix, name);
    const char *argv[] = {"ZSCAN", key, NULL, "COUNT", SCAN_COUNT};

    return scan(s, ARRAY_SIZE(argv), argv, 2, on_ids);
}

int survey_run(struct dispatcher *d, struct bell *bell, struct keepset *ret, struct error *err)
{
    struct survey s = {d, bell, ret, err};
    cleanup_free char *build = xasprintf("%s:build", d->cfg->redis_prefix);
    int rc = scan_keys(&s, "lab");

    if (rc == 0)
        rc = scan_hash(&s, build);
    if (rc == 0)
        rc = scan_ids(&s, "alive");
    if (rc == 0)
        rc = scan_ids(&s, "dead");
    if (rc == 0)
        rc = scan_keys(&s, "res");
    return rc;
}
