/* submit: the files of a directory into a lab, then one job of them */

#include "client/client.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/mem.h"
#include "client/show.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uuid/uuid.h>

#define FILES_MAX 1024
#define TRIES_MAX 8
#define BACK_MS   200
#define BACK_CAP  3000

struct submission {
    const char *dir, *image, *lab, *name, *makefile, *timeout, *cores, *memory, *labels, *class,
        *callback, *output_file, *idempotency_key;
    bool no_network, follow;
    char *names[FILES_MAX];
    size_t name_ct;
};

/* ---- the files ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(struct submission *s, int dir_fd, const char *name, struct error *err)
{
    struct stat st;

    if (fstatat(dir_fd, name, &st, 0) < 0)
        return err_set_errno(err, ERR_REFUSED, errno, "cannot read %s/%s", s->dir, name);
    if (S_ISDIR(st.st_mode))
        return err_set(
            err, ERR_REFUSED, EISDIR,
            "%s/%s is a directory, and a job's files are flat: pack it (tar -C %s -cf %s.tar %s) "
            "and have the Makefile unpack it",
            s->dir, name, s->dir, name, name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_REFUSED, EINVAL, "%s/%s is not a regular file", s->dir, name);
    if (s->name_ct == FILES_MAX)
        return err_set(err, ERR_REFUSED, E2BIG, "%s has more than %d files", s->dir, FILES_MAX);
    s->names[s->name_ct++] = xstrdup(name);
    return 0;
}

static int list_files(struct submission *s, struct error *err)
{
    DIR *dir = opendir(s->dir);
    struct dirent *e;
    int rc = 0;

    if (dir == NULL)
        return err_set_errno(err, ERR_REFUSED, errno, "cannot read the directory %s", s->dir);
    while (rc == 0 && (e = readdir(dir)) != NULL)
        if (e->d_name[0] != '.')
            rc = add_name(s, dirfd(dir), e->d_name, err);
    closedir(dir);
    qsort(s->names, s->name_ct, sizeof(s->names[0]), by_name);
    return rc;
}

static bool has_file(const struct submission *s, const char *name)
{
    for (size_t i = 0; i < s->name_ct; i++)
        if (strcmp(s->names[i], name) == 0)
            return true;
    return false;
}

static int choose_makefile(struct submission *s, struct error *err)
{
    if (s->makefile == NULL)
        s->makefile = has_file(s, "Makefile") ? "Makefile" : "autograde-Makefile";
    if (has_file(s, s->makefile))
        return 0;
    return err_set(err, ERR_REFUSED, ENOENT,
                   "%s has no %s; name the job's makefile with --makefile FILE", s->dir,
                   s->makefile);
}

/* ---- into the lab ---- */

static bool lab_has(const json_t *lab, const char *name, const char *sha256)
{
    size_t i;
    json_t *f;

    json_array_foreach(json_object_get(lab, "files"), i,
                       f) if (strcmp(show_text(f, "name"), name) ==
                              0) return strcmp(show_text(f, "sha256"), sha256) == 0;
    return false;
}

static int digest_of(FILE *in, char hex[SHA256_HEX + 1])
{
    struct digest *d = digest_new(DIGEST_SHA256);
    char piece[65536];
    size_t n;

    while ((n = fread(piece, 1, sizeof(piece), in)) > 0)
        digest_update(d, piece, n);
    digest_final(d, hex);
    if (ferror(in))
        return -1;
    rewind(in);
    return 0;
}

static int put_file(struct rest *r, const struct submission *s, const json_t *lab, const char *name,
                    struct error *err)
{
    cleanup_free char *file = xasprintf("%s/%s", s->dir, name);
    cleanup_free char *lab_quoted = rest_quote(s->lab), *quoted = rest_quote(name);
    cleanup_free char *path = xasprintf("/v1/labs/%s/files/%s", lab_quoted, quoted);
    char hex[SHA256_HEX + 1];
    FILE *in = fopen(file, "re");
    struct stat st;
    int rc = 0;

    if (in == NULL || fstat(fileno(in), &st) < 0 || digest_of(in, hex) < 0)
        rc = err_set_errno(err, ERR_REFUSED, errno, "cannot read %s", file);
    else if (!lab_has(lab, name, hex))
        rc = rest_upload(r, path, in, (uint64_t)st.st_size, isatty(STDERR_FILENO), NULL, err);
    if (in != NULL)
        fclose(in);
    return rc;
}

static int put_files(struct rest *r, const struct submission *s, struct error *err)
{
    cleanup_free char *lab_quoted = rest_quote(s->lab);
    cleanup_free char *path = xasprintf("/v1/labs/%s", lab_quoted);
    json_t *lab = NULL;
    int rc = rest_json(r, "PUT", path, NULL, &lab, NULL, err);

    for (size_t i = 0; rc == 0 && i < s->name_ct; i++)
        rc = put_file(r, s, lab, s->names[i], err);
    json_decref(lab);
    return rc;
}

/* ---- the job ---- */

static int add_limits(const struct submission *s, json_t *body, struct error *err)
{
    json_t *limits = json_object();
    long n;

    json_object_set_new(body, "limits", limits);
    if (s->timeout != NULL) {
        if (args_number("--timeout", s->timeout, 1, 1 << 24, &n, err) < 0)
            return -err->code;
        json_object_set_new(limits, "timeout_s", json_integer(n));
    }
    if (s->memory != NULL) {
        if (args_number("--memory", s->memory, 1, 1 << 24, &n, err) < 0)
            return -err->code;
        json_object_set_new(limits, "memory_mb", json_integer(n));
    }
    if (s->cores != NULL) {
        char *end;
        double cores = strtod(s->cores, &end);

        if (*end != '\0' || !(cores > 0))
            return err_set(err, ERR_REFUSED, EINVAL, "--cores \"%s\" is not a number above 0",
                           s->cores);
        json_object_set_new(limits, "cores", json_real(cores));
    }
    if (s->class != NULL) {
        if (args_number("--class", s->class, 0, 9, &n, err) < 0)
            return -err->code;
        json_object_set_new(body, "class", json_integer(n));
    }
    return 0;
}

static void add_labels(const struct submission *s, json_t *body)
{
    cleanup_free char *copy = s->labels != NULL ? xstrdup(s->labels) : NULL;
    json_t *labels = json_array();
    char *save = NULL;

    for (char *w = copy != NULL ? strtok_r(copy, ",", &save) : NULL; w != NULL;
         w = strtok_r(NULL, ",", &save))
        json_array_append_new(labels, json_string(w));
    json_object_set_new(body, "labels", labels);
}

static json_t *job_body(const struct submission *s, struct error *err)
{
    json_t *files = json_array();
    json_t *body = json_pack("{s:s, s:s, s:s, s:o, s:b}", "lab", s->lab, "name", s->name, "image",
                             s->image, "files", files, "network", !s->no_network);

    if (body == NULL) {
        err_set(err, ERR_REFUSED, EINVAL, "lab, name and image must be UTF-8");
        return NULL;
    }
    for (size_t i = 0; i < s->name_ct; i++) {
        bool make = strcmp(s->names[i], s->makefile) == 0;

        json_array_append_new(files, json_pack("{s:s, s:s}", "name", s->names[i], "dest",
                                               make ? "Makefile" : s->names[i]));
    }
    if (s->output_file != NULL)
        json_object_set_new(body, "output_file", json_string(s->output_file));
    if (s->callback != NULL)
        json_object_set_new(body, "callback", json_pack("{s:s}", "url", s->callback));
    add_labels(s, body);
    if (add_limits(s, body, err) < 0) {
        json_decref(body);
        return NULL;
    }
    return body;
}

/* Under one idempotency key, so that what got lost may be said again. */
static int post_job(struct rest *r, const struct submission *s, const json_t *body, json_t **ret,
                    struct error *err)
{
    cleanup_free char *header = NULL;
    char fresh[UUID_STR_LEN];
    uuid_t uuid;
    int rc;

    uuid_generate(uuid);
    uuid_unparse_lower(uuid, fresh);
    header =
        xasprintf("Idempotency-Key: %s", s->idempotency_key != NULL ? s->idempotency_key : fresh);
    for (unsigned i = 0;; i++) {
        rest_header(r, header);
        rc = rest_json(r, "POST", "/v1/jobs", body, ret, NULL, err);
        if (rc == 0 || err->class != ERR_TEMPORARY || i == TRIES_MAX)
            return rc;
        poll(NULL, 0, (int)clock_backoff_ms(i, BACK_MS, BACK_CAP));
    }
}

static int submit(struct client *c, struct submission *s, json_t **ret, struct error *err)
{
    struct rest *r = client_rest(c, err);
    json_t *body;
    int rc;

    if (r == NULL || (rc = list_files(s, err)) < 0 || (rc = choose_makefile(s, err)) < 0)
        return -EINVAL;
    body = job_body(s, err);
    if (body == NULL)
        return -EINVAL;
    rc = put_files(r, s, err);
    if (rc == 0)
        rc = post_job(r, s, body, ret, err);
    json_decref(body);
    return rc;
}

/* The last part of the path, for a name that nobody chose. */
static char *base_name(const char *dir)
{
    cleanup_free char *real = realpath(dir, NULL);
    const char *slash = real != NULL ? strrchr(real, '/') : NULL;

    return xstrdup(slash != NULL && slash[1] != '\0' ? slash + 1 : "lab");
}

static int run(struct client *c, struct submission *s)
{
    struct error err = ERROR_INIT;
    cleanup_free char *base = base_name(s->dir);
    json_t *answer = NULL;
    int status = 0;

    s->lab = s->lab != NULL ? s->lab : base;
    s->name = s->name != NULL ? s->name : base;
    if (submit(c, s, &answer, &err) < 0)
        return client_fail(&err);
    if (c->json && !s->follow) {
        show_json(answer);
    } else {
        fprintf(s->follow ? stderr : stdout, "job %lld\n", (long long)show_number(answer, "id"));
    }
    if (s->follow)
        status = client_follow(c, (long)show_number(answer, "id"));
    json_decref(answer);
    return status;
}

int cmd_submit(struct client *c, int argc, char **argv)
{
    struct submission s = {0};
    const struct arg args[] = {{"--image", &s.image, NULL},
                               {"--lab", &s.lab, NULL},
                               {"--name", &s.name, NULL},
                               {"--makefile", &s.makefile, NULL},
                               {"--timeout", &s.timeout, NULL},
                               {"--cores", &s.cores, NULL},
                               {"--memory", &s.memory, NULL},
                               {"--label", &s.labels, NULL},
                               {"--class", &s.class, NULL},
                               {"--callback", &s.callback, NULL},
                               {"--output", &s.output_file, NULL},
                               {"--idempotency-key", &s.idempotency_key, NULL},
                               {"--no-network", NULL, &s.no_network},
                               {"--follow", NULL, &s.follow},
                               {"-f", NULL, &s.follow}};
    int status;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 1 || s.image == NULL) {
        fputs("usage: milonga submit DIR --image IMAGE [OPTION...] (milonga help names them)\n",
              stderr);
        return EXIT_USE;
    }
    s.dir = argv[0];
    status = run(c, &s);
    for (size_t i = 0; i < s.name_ct; i++)
        free(s.names[i]);
    return status;
}
