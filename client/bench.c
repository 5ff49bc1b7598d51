/* bench: trivial jobs through a running installation, as many threads submit and wait as are asked
 * for */

#include "client/client.h"

#include "base/mem.h"
#include "client/show.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAB          "milonga-bench"
#define MAKEFILE     "all:\n\t@echo hello\n"
#define GIVE_UP_MS   120000
#define PARALLEL_MAX 256

struct bench {
    const char *url, *key, *image;
    long jobs, parallel;
    atomic_long next;
    double *took_ms; /* of each job; negative: failed */
    pthread_mutex_t lock;
    struct error err; /* the first; under lock */
};

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int is_end(void *arg, const char *event, const char *data, struct error *err)
{
    char *verdict = arg;
    json_t *job;

    (void)err;
    if (strcmp(event, "end") != 0)
        return 0;
    job = json_loads(data, 0, NULL);
    snprintf(verdict, 32, "%s", show_text(job, "verdict"));
    json_decref(job);
    return 1;
}

static int one_job(struct bench *b, struct rest *r, long number, struct error *err)
{
    cleanup_free char *output = xasprintf("bench%ld", number), *path = NULL;
    json_t *body =
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:[{s:s}]}", "lab", LAB, "name", output, "image",
                  b->image, "output_file", output, "network", 0, "files", "name", "Makefile");
    json_t *answer = NULL;
    char verdict[32] = "";
    int rc = rest_json(r, "POST", "/v1/jobs", body, &answer, NULL, err);

    json_decref(body);
    if (rc == 0) {
        path = xasprintf("/v1/jobs/%lld/output/stream", (long long)show_number(answer, "id"));
        rc = rest_events(r, path, GIVE_UP_MS, is_end, verdict, err);
    }
    json_decref(answer);
    if (rc == 0 && strcmp(verdict, "success") != 0)
        rc = err_set(err, ERR_PERMANENT, EPROTO, "a job of the bench ended as %s", verdict);
    return rc;
}

static void *worker(void *arg)
{
    struct bench *b = arg;
    struct rest *r = rest_new(b->url, b->key);

    for (long n; (n = atomic_fetch_add(&b->next, 1)) < b->jobs;) {
        struct error err = ERROR_INIT;
        int64_t begun = now_us();

        if (one_job(b, r, n, &err) == 0) {
            b->took_ms[n] = (double)(now_us() - begun) / 1000;
            continue;
        }
        b->took_ms[n] = -1;
        pthread_mutex_lock(&b->lock);
        if (b->err.code == 0)
            b->err = err;
        pthread_mutex_unlock(&b->lock);
    }
    rest_free(r);
    return NULL;
}

static int prepare(struct rest *r, struct error *err)
{
    FILE *in = fmemopen((char *)MAKEFILE, strlen(MAKEFILE), "r");
    int rc;

    if (in == NULL)
        abort(); /* out of memory */
    rc = rest_json(r, "PUT", "/v1/labs/" LAB, NULL, NULL, NULL, err);
    if (rc == 0)
        rc = rest_upload(r, "/v1/labs/" LAB "/files/Makefile", in, strlen(MAKEFILE), false, NULL,
                         err);
    fclose(in);
    return rc;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int report(const struct client *c, struct bench *b, double seconds)
{
    long failed = 0, done;
    const double *ok;

    qsort(b->took_ms, (size_t)b->jobs, sizeof(double), ascending);
    while (failed < b->jobs && b->took_ms[failed] < 0)
        failed++;
    done = b->jobs - failed;
    if (done == 0)
        return client_fail(&b->err);
    ok = b->took_ms + failed;
    printf(c->json ? "{\"jobs\": %ld, \"failed\": %ld, \"per_second\": %.2f, \"p50_ms\": %.1f, "
                     "\"p95_ms\": %.1f, "
                     "\"max_ms\": %.1f}\n"
                   : "%ld jobs, %ld failed, %.2f a second; submit to end: median %.1f ms, 95 %% "
                     "within %.1f ms, "
                     "slowest %.1f ms\n",
           done, failed, (double)done / seconds, ok[done / 2], ok[done * 95 / 100], ok[done - 1]);
    return failed > 0 ? client_fail(&b->err) : 0;
}

static int run(struct client *c, struct bench *b)
{
    pthread_t threads[PARALLEL_MAX];
    int64_t begun = now_us();
    int status;

    b->took_ms = xcalloc((size_t)b->jobs, sizeof(double));
    pthread_mutex_init(&b->lock, NULL);
    for (long i = 0; i < b->parallel; i++)
        if (pthread_create(&threads[i], NULL, worker, b) != 0)
            abort(); /* out of memory */
    for (long i = 0; i < b->parallel; i++)
        pthread_join(threads[i], NULL);
    status = report(c, b, (double)(now_us() - begun) / 1e6);
    pthread_mutex_destroy(&b->lock);
    free(b->took_ms);
    return status;
}

int cmd_bench(struct client *c, int argc, char **argv)
{
    const char *jobs = "20", *parallel = "1";
    struct bench b = {0};
    const struct arg args[] = {
        {"--image", &b.image, NULL}, {"--jobs", &jobs, NULL}, {"--parallel", &parallel, NULL}};
    struct error err = ERROR_INIT;
    struct rest *r;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 0 || b.image == NULL) {
        fputs("usage: milonga bench --image IMAGE [--jobs N] [--parallel N]\n", stderr);
        return EXIT_USE;
    }
    r = client_rest(c, &err);
    if (r == NULL || args_number("--jobs", jobs, 1, 1000000, &b.jobs, &err) < 0 ||
        args_number("--parallel", parallel, 1, PARALLEL_MAX, &b.parallel, &err) < 0 ||
        prepare(r, &err) < 0)
        return client_fail(&err);
    b.url = rest_url(r);
    b.key = rest_key(r);
    return run(c, &b);
}
