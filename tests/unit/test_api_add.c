/* What addJob says to a request: the body goes in, and what would be done with it comes out. The
 * core and the answers are played here. */

#include "services/api/json.c"
#include "services/api/out.c"
#include "services/api/tango_add.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

/* ---- The core, played ---- */

static struct core_file lab_files[2] = {{.name = "Makefile", .sha256 = "aa", .size = 3},
                                        {.name = "hello.sh", .sha256 = "bb", .size = 4}};
static bool lab_there;
static char said[8192];   /* the answer's text, or the rejection's lines, "; " between */
static struct job *taken; /* what was accepted */
static unsigned moves;    /* so often the image is another by the time that it is accepted */
static char taken_dup[SHA256_HEX + 1];

void core_lookup(struct core *c, const char *tenant, const char *lab, const char *dup,
                 const char *image, const char *const *files, size_t file_ct, core_done_fn *done,
                 void *arg)
{
    struct core_file *found = xcalloc(file_ct + 1, sizeof(*found));
    struct core_answer a = {.lab = lab_there, .files = found, .file_ct = file_ct};
    char digest[] = "sha256:1";
    cleanup_free char *full = image_name_own(tenant, image);

    (void)c;
    assert_string_equal(tenant, "main");
    assert_string_equal(lab, "lab");
    assert_non_null(dup);
    for (size_t i = 0; i < file_ct; i++) {
        for (size_t k = 0; lab_there && k < ARRAY_SIZE(lab_files); k++) {
            if (strcmp(files[i], lab_files[k].name) == 0)
                found[i] = lab_files[k];
        }
    }
    if (strcmp(image, "img") == 0)
        a.digests[a.digest_ct++] = digest;
    a.image = full;
    done(arg, &a);
    free(found);
}

void core_accept(struct core *c, const struct job *job, const struct core_once *once,
                 core_done_fn *done, void *arg)
{
    struct buf b = BUF_INIT(JOB_BODY_MAX);

    (void)c;
    if (moves > 0) {
        moves--;
        done(arg, &(struct core_answer){.status = CORE_MOVED, .why = ""});
        return;
    }
    job_free(taken);
    assert_int_equal(job_encode(job, &b), 0);
    assert_int_equal(job_decode(b.data, b.len, &taken, NULL), 0);
    buf_free(&b);
    snprintf(taken_dup, sizeof(taken_dup), "%s", once->dup);
    done(arg, &(struct core_answer){.id = 7, .why = ""});
}

void core_reject(struct core *c, const struct job *job, const char *const *lines, size_t line_ct,
                 core_done_fn *done, void *arg)
{
    (void)c;
    for (size_t i = 0; i < job->file_ct; i++)
        assert_string_equal(job->files[i].sha256, "");
    said[0] = '\0';
    for (size_t i = 0; i < line_ct; i++)
        snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s%s", i ? "; " : "",
                 lines[i] + strlen("validateJob: "));
    done(arg, &(struct core_answer){.id = 7, .why = ""});
}

void core_prealloc(struct core *c, const char *tenant, const char *image, unsigned n,
                   unsigned cores_milli, unsigned memory_mb, unsigned wait_ms, core_done_fn *done,
                   void *arg)
{
    (void)c;
    assert_string_equal(tenant, "main");
    (void)wait_ms;
    snprintf(said, sizeof(said), "%s %u %u %u", image, n, cores_milli, memory_mb);
    done(arg, &(struct core_answer){.status = CORE_LATE, .why = "later"});
}

/* ---- The answers, played ---- */

static char answer[8192];

static void end(struct call *c)
{
    if (c->state)
        c->free_state(c->state);
    c->state = NULL;
}

void reply_json(struct call *c, const struct buf *b)
{
    snprintf(answer, sizeof(answer), "%s", b->data);
    end(c);
}

void reply_status(struct call *c, int status_id, const char *text)
{
    snprintf(answer, sizeof(answer), "%d %s", status_id, text);
    end(c);
}

void reply_html(struct call *c, int status)
{
    snprintf(answer, sizeof(answer), "html %d", status);
    end(c);
}

void tango_fail(struct call *c, const struct core_answer *a)
{
    reply_status(c, -1, a->why);
}

bool tango_name_ok(struct call *c, const char *what, const char *why)
{
    if (why)
        reply_status(c, -1, what);
    return !why;
}

void tango_lab_path(struct buf *b, const char *tenant, const char *lab, const char *sub,
                    const char *name)
{
    buf_printf(b, "courselabs/%s-%s/%s%s", tenant, lab, sub, name);
}

/* ---- A request ---- */

static const struct config cfg = {.job_timeout_s = 60,
                                  .job_timeout_max_s = 3600,
                                  .job_cores_max_milli = 8000,
                                  .job_memory_max_mb = 8192,
                                  .job_pids_max = 1000,
                                  .job_fsize_max_bytes = 1 << 30,
                                  .job_disk_max_bytes = 1 << 30,
                                  .job_output_max_bytes = 16 << 20,
                                  .dup_window_ms = 60000};

static void ask(void (*handler)(struct call *c), const char *body, char *second, char *third)
{
    static struct server server;
    static struct loop loop = {.server = &server};
    h2o_req_t req = {.entity = {(char *)body, strlen(body)}};
    struct call c = {.req = &req, .loop = &loop, .tenant = "main"};

    server.cfg = &cfg;
    c.param[1] = second;
    c.param_len[1] = strlen(second);
    c.param[2] = third;
    answer[0] = said[0] = '\0';
    handler(&c);
    assert_null(c.state);
}

static void add(const char *body)
{
    char lab[] = "lab", none[] = "";

    ask(tango_add_job, body, lab, none);
}

#define FILES "\"files\": [{\"localFile\": \"Makefile\", \"destFile\": \"Makefile\"}]"
#define REST  "\"output_file\": \"o\", \"jobName\": \"j\", \"image\": \"img\""

/* A good job with more members; they say what is wrong with it. */
static void rejected_for(const char *members, const char *want)
{
    char *body = xasprintf("{%s}", members);

    add(body);
    if (strncmp(said, want, strlen(want)) != 0 || !strstr(said, "Job rejected: "))
        fail_msg("%s: \"%s\" instead of \"%s\"", members, *said ? said : answer, want);
    assert_non_null(strstr(answer, "{\"statusId\": -1, \"statusMsg\": [\""));
    assert_non_null(strstr(answer, "|validateJob: "));
    free(body);
}

static const struct job *accepted_with(const char *members)
{
    char *body = xasprintf("{%s}", members);

    add(body);
    free(body);
    assert_string_equal(answer,
                        "{\"statusId\": 0, \"statusMsg\": \"Job added\", \"jobId\": \"7\"}");
    return taken;
}

static int setup(void **state)
{
    (void)state;
    lab_there = true;
    return 0;
}

static void test_missing_fields_in_order(void **state)
{
    (void)state;
    add("{}");
    assert_string_equal(answer, "-1 'jobName'");
    add("{\"jobName\": \"j\"}");
    assert_string_equal(answer, "-1 'output_file'");
    add("{\"jobName\": \"j\", \"output_file\": \"o\"}");
    assert_string_equal(answer, "-1 'timeout'");
    add("{\"jobName\": \"j\", \"output_file\": \"o\", \"timeout\": 1, \"files\": [{}]}");
    assert_string_equal(answer, "-1 'localFile'");
    add("{\"jobName\": \"j\", \"output_file\": \"o\", \"timeout\": 1, \"files\": []}");
    assert_string_equal(answer, "-1 'image'");
    add("{\"jobName\": \"j\", \"output_file\": \"o\", \"timeout\": 1, \"image\": \"img\"}");
    assert_string_equal(answer, "-1 'files'");
}

static void test_problems_in_order(void **state)
{
    (void)state;
    rejected_for("\"image\": \"no\", \"files\": [], \"timeout\": 0, \"output_file\": \"\", "
                 "\"jobName\": \"\"",
                 "Missing job.name; Image not found: no; Missing job.outputFile; "
                 "Missing Makefile in input files.; Job rejected: 4 errors");
    rejected_for("\"image\": \"\", " FILES
                 ", \"timeout\": 0, \"output_file\": \"a/b\", \"jobName\": \"j\"",
                 "Missing job.vm.image; Bad output path: courselabs/main-lab/output/a/b; "
                 "Job rejected: 2 errors");
    rejected_for("\"timeout\": 0, " REST
                 ", \"files\": [{\"localFile\": \"nofile\", \"destFile\": \"Makefile\"},"
                 "{\"localFile\": \"../x|\", \"destFile\": \"/y\"}, {\"localFile\": null, "
                 "\"destFile\": \"z\"}]",
                 "Input file not found: nofile; Bad inputFile.localFile: ../x? contains a slash; "
                 "Bad inputFile.destFile: /y contains a slash; Missing inputFile.localFile; "
                 "Job rejected: 4 errors");
    lab_there = false;
    rejected_for("\"timeout\": 0, " REST ", " FILES,
                 "Bad output path: courselabs/main-lab/output/o; "
                 "Bad output path: courselabs/main-lab/output/o; Job rejected: 2 errors");
}

static void test_ceilings(void **state)
{
    (void)state;
    rejected_for("\"timeout\": 4000, " REST ", " FILES,
                 "timeout is 4000, this server allows at most 3600; ");
    rejected_for(
        "\"timeout\": 0, " REST ", " FILES
        ", \"limits\": {\"cores\": 9, \"memory\": 1e300, \"pids\": "
        "1001, \"output\": 1e9}",
        "limits.cores is 9, this server allows at most 8; limits.memory is 1e+300, this server "
        "allows at most 8192; limits.pids is 1001, this server allows at most 1000; "
        "limits.output is 1000000000, this server allows at most 16777216; Job rejected: 4");
    rejected_for("\"timeout\": 0, " REST ", " FILES ", \"labels\": [\"A\"]", "Bad label: it ");
    rejected_for("\"timeout\": 0, " REST ", " FILES ", \"callback_url\": \"file:///x\"",
                 "Bad callback_url: ");
    rejected_for("\"timeout\": 0, " REST ", " FILES ", \"callback_url\": \"http://a\\nb\"",
                 "Bad callback_url: ");
}

static void test_defaults(void **state)
{
    const struct job *job = accepted_with("\"timeout\": null, " REST ", " FILES);

    (void)state;
    assert_int_equal(job->timeout_s, 60);
    assert_true(job->network);
    assert_null(job->callback_url);
    assert_int_equal(job->limits.output_bytes, 0);
    assert_int_equal(job->file_ct, 1);
    assert_int_equal(job->files[0].size, 3);
    assert_int_equal(job->digest_ct, 1);
    assert_string_equal(taken_dup, "");
    assert_int_equal(accepted_with("\"timeout\": -5, " REST ", " FILES)->timeout_s, 60);
    assert_int_equal(accepted_with("\"timeout\": 2.1, " REST ", " FILES)->timeout_s, 3);
    assert_int_equal(accepted_with("\"timeout\": 3600, " REST ", " FILES)->timeout_s, 3600);
}

static void test_what_is_asked_for(void **state)
{
    const struct job *job = accepted_with(
        "\"timeout\": 5, " REST ", " FILES
        ", \"disable_network\": true, \"max_kb\": 3, \"notifyURL\": "
        "\"https://h/x\", \"labels\": [\"b\", \"a\", \"b\"], \"limits\": {\"cores\": 0.5, "
        "\"memory\": 64, "
        "\"pids\": 9, \"file_size\": 100, \"disk\": 200}, \"accessKey\": 7, \"unknown\": []");

    (void)state;
    assert_false(job->network);
    assert_string_equal(job->callback_url, "https://h/x");
    assert_int_equal(job->limits.output_bytes, 3072);
    assert_int_equal(job->limits.cores_milli, 500);
    assert_int_equal(job->limits.memory_mb, 64);
    assert_int_equal(job->limits.pids, 9);
    assert_int_equal(job->limits.fsize_bytes, 100);
    assert_int_equal(job->limits.disk_bytes, 200);
    assert_int_equal(job->label_ct, 2);
    assert_string_equal(job->labels[0], "a");
    assert_int_equal(strlen(taken_dup), SHA256_HEX);
    job = accepted_with("\"timeout\": 5, " REST ", " FILES
                        ", \"max_kb\": 1e12, \"disable_network\": \"true\"");
    assert_int_equal(job->limits.output_bytes, 16 << 20);
    assert_true(job->network);
    job = accepted_with("\"timeout\": 5, " REST ", " FILES
                        ", \"max_kb\": 3, \"limits\": {\"output\": 10}");
    assert_int_equal(job->limits.output_bytes, 10);
}

/* The image gets another content between the look and the acceptance: it is looked up again. */
static void test_moved(void **state)
{
    const struct job *job;

    (void)state;
    moves = 2;
    job = accepted_with("\"timeout\": 5, " REST ", " FILES ", \"labels\": [\"b\", \"a\"]");
    assert_int_equal(moves, 0);
    assert_string_equal(job->image, "main.tenant.milonga.invalid/img");
    assert_int_equal(job->digest_ct, 1);
    assert_int_equal(job->label_ct, 2);
    assert_string_equal(job->labels[1], "b");
}

static void test_prealloc(void **state)
{
    char image[] = "img", bad[] = "--x", n[] = "3", many[] = "99999999999999999999";

    (void)state;
    ask(tango_prealloc, "", image, n);
    assert_string_equal(said, "img 3 0 0");
    assert_string_equal(
        answer,
        "{\"statusId\": -1, \"statusMsg\": \"Preallocate VM failed\", \"reason\": \"later\"}");
    ask(tango_prealloc, "{\"vmms\": \"x\", \"cores\": 1.5, \"memory\": 512}", image, n);
    assert_string_equal(said, "img 3 1500 512");
    ask(tango_prealloc, "{\"cores\": 1.5}", image, n);
    assert_string_equal(said, "img 3 0 0");
    ask(tango_prealloc, "{\"cores\": 100, \"memory\": 1}", image, n);
    assert_string_equal(answer, "-1 cores is 100, this server allows at most 8");
    ask(tango_prealloc, "{x", image, n);
    assert_memory_equal(answer, "-1 Malformed JSON", 17);
    ask(tango_prealloc, "5", image, n);
    assert_memory_equal(answer, "-1 ", 3);
    ask(tango_prealloc, "", bad, n);
    assert_string_equal(answer, "-1 Invalid image name");
    ask(tango_prealloc, "", image, many);
    assert_string_equal(answer, "-1 Invalid prealloc size");
}

static int teardown(void **state)
{
    (void)state;
    job_free(taken);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_missing_fields_in_order, setup),
        cmocka_unit_test_setup(test_problems_in_order, setup),
        cmocka_unit_test_setup(test_ceilings, setup),
        cmocka_unit_test_setup(test_defaults, setup),
        cmocka_unit_test_setup(test_what_is_asked_for, setup),
        cmocka_unit_test_setup(test_moved, setup),
        cmocka_unit_test_setup(test_prealloc, setup),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
