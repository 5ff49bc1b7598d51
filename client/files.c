/* labs, images */

#include "client/client.h"

#include "base/mem.h"
#include "client/show.h"
#include "client/table.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define IMAGE_WAIT_S 25

static void show_labs(const struct client *c, const json_t *answer)
{
    size_t i;
    json_t *lab;

    (void)c;
    json_array_foreach(json_object_get(answer, "labs"), i, lab)
        show_line(json_string_value(lab), "%s", "");
    if (show_flag(answer, "truncated"))
        puts("and more");
}

static void show_lab(const struct client *c, const json_t *answer)
{
    struct table *t = table_new(">SIZE SHA256 NAME");
    char size[HUMAN_MAX];
    size_t i;
    json_t *f;

    (void)c;
    json_array_foreach(json_object_get(answer, "files"), i, f)
    {
        table_cell(t, "%s", human_bytes(show_number(f, "size"), size));
        table_cell(t, "%.12s", show_text(f, "sha256"));
        table_cell(t, "%s", show_text(f, "name"));
    }
    table_print(t, stdout, terminal_width(), "no files");
    table_free(t);
}

int cmd_labs(struct client *c, int argc, char **argv)
{
    int count = args_take(argc, argv, NULL, 0);
    cleanup_free char *lab = count == 1 ? rest_quote(argv[0]) : NULL;
    cleanup_free char *path = lab != NULL ? xasprintf("/v1/labs/%s", lab) : NULL;

    if (count < 0 || count > 1)
        return EXIT_USE;
    return path != NULL ? client_show(c, "GET", path, NULL, show_lab)
                        : client_show(c, "GET", "/v1/labs", NULL, show_labs);
}

/* ---- images ---- */

static void show_images(const struct client *c, const json_t *answer)
{
    struct table *t = table_new("IMAGE OF DIGEST VMMS STATE");
    struct buf words = BUF_INIT(65536);
    size_t i;
    json_t *m;

    (void)c;
    json_array_foreach(json_object_get(answer, "images"), i, m)
    {
        const json_t *build = json_object_get(m, "build");
        const char *digest = json_string_value(json_array_get(json_object_get(m, "digests"), 0));
        const char *short_of = digest != NULL ? strchr(digest, ':') : NULL;

        table_cell(t, "%s", show_text(m, "name"));
        table_cell(t, "%s", show_flag(m, "shared") ? "all" : "tenant");
        table_cell(t, "%.12s", short_of != NULL ? short_of + 1 : digest != NULL ? digest : "-");
        table_cell(t, "%s", show_words(json_object_get(m, "vmms"), &words));
        if (json_is_object(build) && strcmp(show_text(build, "state"), "done") != 0)
            table_cell(t, "%s: %s", show_text(build, "state"), show_text(build, "detail"));
        else
            table_cell(t, "%s", digest != NULL ? "there" : "no vmm has it");
    }
    table_print(t, stdout, terminal_width(), "no images");
    table_free(t);
    buf_free(&words);
}

static int push(struct client *c, const char *file, const char *name, const char *shared)
{
    struct error err = ERROR_INIT;
    struct rest *r = client_rest(c, &err);
    cleanup_free char *quoted = rest_quote(name);
    cleanup_free char *path = xasprintf("/v1/images/%s?wait_s=%d%s%s", quoted, IMAGE_WAIT_S,
                                        shared ? "&shared=" : "", shared ? shared : "");
    FILE *in = fopen(file, "re");
    struct stat st;
    json_t *answer = NULL;
    int rc;

    if (r == NULL) {
        rc = -EINVAL;
    } else if (in == NULL || fstat(fileno(in), &st) < 0) {
        rc = err_set_errno(&err, ERR_REFUSED, errno, "cannot read %s", file);
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(&err, ERR_REFUSED, EINVAL, "%s is not a regular file", file);
    } else {
        rc = rest_upload(r, path, in, (uint64_t)st.st_size, isatty(STDERR_FILENO), &answer, &err);
    }
    if (rc == 0 && c->json && answer != NULL) {
        show_json(answer);
    } else if (rc == 0) {
        printf("%s: %s\n", name,
               strcmp(show_text(answer, "state"), "done") == 0
                   ? "a vmm has it"
                   : "stored; the vmms are told (milonga images shows how it goes)");
    }
    json_decref(answer);
    if (in != NULL)
        fclose(in);
    return rc < 0 ? client_fail(&err) : 0;
}

static void show_removed(const struct client *c, const json_t *answer)
{
    (void)c;
    (void)answer;
    puts("forgotten; the vmms remove it");
}

int cmd_images(struct client *c, int argc, char **argv)
{
    bool shared = false, own = false;
    const struct arg args[] = {{"--shared", NULL, &shared}, {"--own", NULL, &own}};
    int count = args_take(argc, argv, args, ARRAY_SIZE(args));
    const char *whose = shared ? "true" : own ? "false" : NULL;

    if (shared && own)
        count = -1;
    if (count == 0)
        return client_show(c, "GET", "/v1/images", NULL, show_images);
    if (count == 3 && strcmp(argv[0], "push") == 0)
        return push(c, argv[1], argv[2], whose);
    if (count == 2 && strcmp(argv[0], "remove") == 0) {
        cleanup_free char *quoted = rest_quote(argv[1]);
        cleanup_free char *path =
            xasprintf("/v1/images/%s%s%s", quoted, whose ? "?shared=" : "", whose ? whose : "");

        return client_show(c, "DELETE", path, NULL, show_removed);
    }
    fputs("usage: milonga images [push FILE NAME | remove NAME] [--shared | --own]\n", stderr);
    return EXIT_USE;
}
