/* The JSON writer, and a job as /jobs shows it. */

#include "services/api/out.c"
#include "services/api/tango_jobs.c"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

void tango_lab_path(struct buf *b, const char *tenant, const char *lab, const char *sub,
                    const char *name)
{
    buf_printf(b, "courselabs/%s-%s/%s%s", tenant, lab, sub, name);
}

static void writes(const char *in, size_t len, const char *want)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    out_str(&b, in, len);
    assert_string_equal(b.data, want);
    buf_free(&b);
}

static void test_strings(void **state)
{
    (void)state;
    writes("", 0, "\"\"");
    writes("plain/x", 7, "\"plain/x\"");
    writes("a\"b\\c", 5, "\"a\\\"b\\\\c\"");
    writes("\b\t\n\f\r\x01\x7f", 7, "\"\\b\\t\\n\\f\\r\\u0001\x7f\"");
    writes("a\0b", 3, "\"a\\u0000b\"");
    writes("</b></", 6, "\"<\\/b><\\/\"");
    writes("/<", 2, "\"/<\"");
    writes("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\\u00e9\\u20ac\\ud83d\\ude00\"");
    writes("\xff\xc3", 2, "\"\\ufffd\\ufffd\"");
    writes("\xe2\x82", 2, "\"\\ufffd\\ufffd\"");
    writes("\xc3(", 2, "\"\\ufffd(\"");
    writes("\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"");
}

static const char *const trace[] = {
    "dispatched 1000 0", "machine 1000 1000 local-1000-img",
    "waiting 1000 ",     "ready 1000 ",
    "copied 2000 0",     "executed 3000 2",
    "output 3000 0",     "failed 4000 a b",
    "lost 4000 v1",      "final 5000 Error: </x>",
    "future 5000 tell",  "broken",
};

static struct job_file files[] = {{.local = (char[]){"m"}, .dest = (char[]){"Makefile"}}};
static struct job job = {.tenant = (char[]){"main"},
                         .lab = (char[]){"l"},
                         .name = (char[]){"j"},
                         .output_file = (char[]){"o"},
                         .image = (char[]){"img"},
                         .files = files,
                         .file_ct = 1,
                         .timeout_s = 60,
                         .limits = {.cores_milli = 1500, .memory_mb = 512}};

/* The second of 1970 in which it was, and the text. */
static const struct {
    int second;
    const char *text;
} told[] = {
    {0, "Added job j:7 to queue"},
    {1, "Dispatched job j:7 [try 0]"},
    {1, "Assigned job j:7 existing VM local-1000-img"},
    {1, "Job j:7 waiting for VM local-1000-img"},
    {1, "VM local-1000-img ready for job j:7"},
    {2, "Input copied for job j:7 [status=0]"},
    {3, "Job j:7 executed [status=2]"},
    {3, "Output copied for job j:7 [status=0]"},
    {4, "Job j:7 failed: a b"},
    {4, "Job j:7 failed: Internal error: worker v1 was lost"},
    {5, "Error: <\\/x>"},
    {5, "future tell"},
};

static const char before_trace[] =
    "{\"retries\": 2, \"outputFile\": \"courselabs/main-l/output/o\", \"name\": \"j\", "
    "\"notifyURL\": null, \"maxOutputFileSize\": 1024000, \"assigned\": true, \"timeout\": 60, "
    "\"id\": 7, \"trace\": [";
static const char after_trace[] =
    "], \"vm\": {\"network\": null, \"resume\": null, \"image\": \"img\", \"memory\": 512, "
    "\"vmms\": \"localDocker\", \"cores\": 1.500, \"disk\": null, \"id\": 1000, "
    "\"name\": \"img\"}, \"input\": [{\"destFile\": \"Makefile\", "
    "\"localFile\": \"courselabs/main-l/m\"}]}";

static void test_job(void **state)
{
    struct config cfg = {.job_output_bytes = 1024000};
    struct core_job j = {.id = 7,
                         .job = &job,
                         .driver = "docker",
                         .assigned = true,
                         .attempts = 3,
                         .machine = 1000,
                         .trace = trace,
                         .trace_ct = ARRAY_SIZE(trace)};
    struct buf b = BUF_INIT(SIZE_MAX), want = BUF_INIT(SIZE_MAX);

    (void)state;
    buf_appends(&want, before_trace);
    for (size_t i = 0; i < ARRAY_SIZE(told); i++)
        buf_printf(&want, "%s\"Thu Jan  1 00:00:0%d 1970|%s\"", i ? ", " : "", told[i].second,
                   told[i].text);
    buf_appends(&want, after_trace);
    tango_render_job(&j, &cfg, &b);
    assert_string_equal(b.data, want.data);
    buf_free(&b);
    buf_free(&want);
}

static void test_rejected_job(void **state)
{
    static const char *const lines[] = {"line 0 validateJob: Missing job.name"};
    struct config cfg = {.job_output_bytes = 5};
    struct core_job j = {.id = 8,
                         .job = &job,
                         .driver = "oci",
                         .rejected = true,
                         .machine = -1,
                         .trace = lines,
                         .trace_ct = 1};
    struct buf b = BUF_INIT(SIZE_MAX);

    (void)state;
    tango_render_job(&j, &cfg, &b);
    assert_non_null(strstr(
        b.data, "\"trace\": [\"Thu Jan  1 00:00:00 1970|validateJob: Missing job.name\"], "));
    assert_non_null(strstr(b.data, "\"vmms\": \"oci\""));
    assert_non_null(strstr(b.data, "\"id\": null, \"name\""));
    tango_render_job(&j, &cfg, &b);
    assert_non_null(strstr(b.data, "]}, {\"retries\": 0"));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_job),
        cmocka_unit_test(test_rejected_job),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
