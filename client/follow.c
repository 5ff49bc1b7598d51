/* logs, and what `submit --follow` does after the submission */

#include "client/client.h"

#include "base/mem.h"
#include "client/show.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIVE_UP_MS    60000
#define FEEDBACK_HEAD "0-8191"

struct following {
    char verdict[32]; /* of the end */
};

/* RFC 4648 with padding, as the stream has it. 0, or -EBADMSG. */
static int write_base64(const char *text, FILE *out)
{
    size_t len = strlen(text);
    cleanup_free unsigned char *bytes = xmalloc(len / 4 * 3 + 3);
    int n = len % 4 == 0 ? EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)len) : -1;

    if (n < 0)
        return -EBADMSG;
    for (size_t i = len; i > 0 && text[i - 1] == '='; i--)
        n--;
    fwrite(bytes, 1, (size_t)n, out);
    return 0;
}

static int take_end(struct following *f, const char *data)
{
    json_t *end = json_loads(data, 0, NULL);

    snprintf(f->verdict, sizeof(f->verdict), "%s", show_text(end, "verdict"));
    json_decref(end);
    return 1;
}

static int take(void *arg, const char *event, const char *data, struct error *err)
{
    struct following *f = arg;

    if (strcmp(event, "end") == 0)
        return take_end(f, data);
    if (strcmp(event, "reset") == 0) {
        fputs("milonga: its worker was lost; the job is tried again, from here on\n", stderr);
    } else if (strcmp(event, "output") == 0) {
        if (write_base64(data, stdout) < 0)
            return err_set(err, ERR_PERMANENT, EBADMSG, "the stream of output is not base64");
        if (fflush(stdout) != 0)
            return err_set_errno(err, ERR_PERMANENT, errno, "cannot write the output");
    }
    return 0;
}

int job_exit_status(const char *verdict, const char *feedback)
{
    static const struct {
        const char *verdict;
        int status;
    } others[] = {{"timed_out", 124}, {"memory", 137}, {"cancelled", 130}, {"infrastructure", 75}};
    static const char told[] = "\n---\nAutodriver: Job exited with status ";
    const char *at = strstr(feedback, told);

    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        if (strcmp(verdict, others[i].verdict) == 0)
            return others[i].status;
    if (strcmp(verdict, "success") == 0 && at != NULL)
        return (int)(strtoul(at + strlen(told), NULL, 10) & 0xff);
    return strcmp(verdict, "success") == 0 ? 0 : 1;
}

/* The feedback's head into `text`; why there is none is of no use to who asked for output. */
static void read_feedback(struct rest *r, long id, char **text)
{
    cleanup_free char *path = xasprintf("/v1/jobs/%ld/feedback", id);
    size_t len = 0;
    FILE *out = open_memstream(text, &len);

    if (out == NULL)
        abort(); /* out of memory */
    rest_bytes(r, path, FEEDBACK_HEAD, out, NULL);
    fclose(out);
}

int client_follow(struct client *c, long id)
{
    struct error err = ERROR_INIT;
    struct rest *r = client_rest(c, &err);
    cleanup_free char *path = xasprintf("/v1/jobs/%ld/output/stream", id);
    cleanup_free char *feedback = NULL;
    struct following f = {""};
    int status;

    if (r == NULL || rest_events(r, path, GIVE_UP_MS, take, &f, &err) < 0)
        return client_fail(&err);
    read_feedback(r, id, &feedback);
    status = job_exit_status(f.verdict, feedback);
    if (strcmp(f.verdict, "success") != 0)
        fprintf(stderr, "milonga: job %ld: %s, status %d\n", id, f.verdict, status);
    else if (status != 0)
        fprintf(stderr, "milonga: job %ld: its make ended with status %d\n", id, status);
    return status;
}

int cmd_logs(struct client *c, int argc, char **argv)
{
    bool follow = false;
    const struct arg args[] = {{"-f", NULL, &follow}, {"--follow", NULL, &follow}};
    struct error err = ERROR_INIT;
    cleanup_free char *path = NULL;
    struct rest *r;
    long id;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 1) {
        fputs("usage: milonga logs ID [-f]\n", stderr);
        return EXIT_USE;
    }
    id = client_job_id(argv[0]);
    if (id == 0)
        return EXIT_USE;
    if (follow)
        return client_follow(c, id);
    path = xasprintf("/v1/jobs/%ld/output", id);
    r = client_rest(c, &err);
    return r == NULL || rest_bytes(r, path, NULL, stdout, &err) < 0 ? client_fail(&err) : 0;
}
